"""How to talk to a Dask cluster over TLS: with credentials made for a cluster of our own, or read from files.

Whoever reaches a scheduler without TLS can run code as the one who started it; on this machine that is every user.
"""

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from distributed.security import Security

__all__ = ["ClusterError", "TlsFiles", "exposure", "read", "temporary"]

_INSTALL = "pip install 'small-and-fast[cluster]'"
_CONFIGURATION = {  # of Dask, where a file is not given
    "--tls-ca-file": "DASK_DISTRIBUTED__COMM__TLS__CA_FILE",
    "--tls-cert": "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT",
    "--tls-key": "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY",
}


class ClusterError(ValueError):
    """The cluster cannot be used; the message says why and what to do."""


class TlsFiles(NamedTuple):
    """Files in PEM form, as `dask scheduler` and `dask worker` take them; None for the one in Dask's configuration.

    `ca_file` is the certificate of the authority that signed those of the cluster, `cert` the certificate of whoever
    connects, and `key` its private key, which is not needed where it stands in the same file.
    """

    ca_file: Path | None = None
    cert: Path | None = None
    key: Path | None = None


def temporary() -> "Security":
    """Make credentials for a cluster that this process starts; they are gone with it.

    They stay in memory, but Python's ssl reads a key from a file only: Dask writes one into a folder that no other user
    can enter, and deletes it at once.

    Raises:
        ClusterError: cryptography is not installed.

    Example:
        >>> temporary().require_encryption
        True
    """
    from distributed.security import Security

    try:
        return Security.temporary()
    except ImportError as error:
        raise ClusterError(
            f"a Dask cluster of our own is locked with TLS, which needs cryptography: {_INSTALL}"
        ) from error


def exposure(address: str) -> str:
    """Say what the address of a scheduler leaves open; empty where TLS protects it.

    Example:
        >>> exposure("tls://10.0.0.1:8786")
        ''
    """
    if _has_tls(address):
        return ""
    return (
        f"the cluster at {address} has no TLS: whoever reaches it can run code there and read what is sent. Start it "
        "with credentials and give its address as tls://..."
    )


def read(address: str, files: TlsFiles | None = None) -> "Security":
    """Read the credentials for a scheduler that somebody has started.

    Args:
        address: of the scheduler, as it was typed.
        files: what is not given is taken from Dask's own configuration, in ~/.config/dask or the environment.

    Raises:
        ClusterError: the address needs credentials and there are none, or has no use for them; a file is missing,
            unreadable or no PEM, its key has a password, or belongs to another certificate.

    Example:
        >>> read("tcp://10.0.0.1:8786").require_encryption
        False
    """
    from distributed.security import Security

    fields = ("tls_ca_file", "tls_client_cert", "tls_client_key")
    given = {
        field: str(path) for field, path in zip(fields, files or TlsFiles(), strict=True) if path is not None
    }
    if not _has_tls(address):
        if given:
            raise ClusterError(f"{', '.join(_CONFIGURATION)} are for an address tls://...; {address} is none")
        return Security()
    security = Security(require_encryption=True, **given)
    found = (security.tls_ca_file, security.tls_client_cert, security.tls_client_key)
    if not (found[0] and found[1]):
        raise ClusterError(
            f"{address} asks for credentials. Give {', '.join(_CONFIGURATION)}, as for dask scheduler and dask worker, "
            f"or set {', '.join(_CONFIGURATION.values())}"
        )
    _check(*found)
    return security


def _has_tls(address: str) -> bool:
    from distributed.comm.addressing import parse_address

    try:
        return parse_address(address)[0] in ("tls", "wss")
    except ValueError:  # no address at all: whoever connects will say so
        return False


def _check(ca_file: str, cert: str, key: str | None) -> None:
    """Raise ClusterError at the first thing that is wrong with the files; Dask's own messages name none."""
    if any("\n" in text for text in (ca_file, cert, key or "")):
        return  # not paths: Dask also takes the contents
    for option, path in zip(_CONFIGURATION, (ca_file, cert, key), strict=True):
        if path is not None:
            _require_file(option, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for option, path in (("--tls-ca-file", ca_file), ("--tls-cert", cert)):
        try:
            context.load_verify_locations(path)
        except ssl.SSLError as error:
            raise ClusterError(f"{option}: {path} holds no certificate in PEM form") from error
    option, path = ("--tls-key", key) if key else ("--tls-cert", cert)

    def asked() -> NoReturn:  # or OpenSSL would ask on the terminal
        raise ClusterError(
            f"{option}: the key in {path} has a password, which Dask cannot use. Give a key without"
        )

    try:
        context.load_cert_chain(cert, key, asked)
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
            raise ClusterError(
                f"{option}: the key in {path} is not that of the certificate in {cert}"
            ) from error
        if (error.reason or "").endswith(("TOO_SMALL", "TOO_WEAK")):
            raise ClusterError(f"--tls-cert: {cert} is too weak for OpenSSL ({error.reason})") from error
        missing = "" if key else ". Give the file that does with --tls-key"
        raise ClusterError(f"{option}: {path} holds no private key in PEM form{missing}") from error


def _require_file(option: str, path: str) -> None:
    try:
        if not os.path.isfile(path) and os.path.exists(path):
            raise ClusterError(f"{option}: {path} is not a file")
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ClusterError(f"{option}: cannot read {path} ({error.strerror})") from error
