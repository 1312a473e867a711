"""Certificates in PEM files, as the administrator of a cluster would make them."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from distributed.security import Security

DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates; its own is `ca_file`."""

    def __init__(self, folder: Path, name: str = "ca"):
        self.folder, self.name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.ca_file = folder / f"{name}.pem"
        self._write(self.ca_file, self._certificate(name, self._key, DAY, authority=True))

    def sign(
        self, owner: str, *, valid: datetime.timedelta = DAY, password: bytes = b""
    ) -> tuple[Path, Path]:
        """Make a certificate and its key: their paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert_path, key_path = (self.folder / f"{self.name}-{owner}.{ending}" for ending in ("crt", "key"))
        self._write(cert_path, self._certificate(owner, key, valid))
        locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        form = serialization.PrivateFormat.PKCS8
        key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, locked))
        return cert_path, key_path

    def cluster(self) -> Security:
        """Credentials for all of a cluster."""
        cert, key = map(str, self.sign("cluster"))
        roles = {f"tls_{role}_cert": cert for role in ("scheduler", "worker", "client")}
        roles |= {f"tls_{role}_key": key for role in ("scheduler", "worker", "client")}
        return Security(require_encryption=True, tls_ca_file=str(self.ca_file), **roles)

    def _certificate(self, owner, key, valid, *, authority=False):
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, owner)])
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, self.name)])
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now + valid)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, path, certificate):
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
