"""The folders of the course, and how it writes files: to a temporary name first, then renamed."""

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
"""What the operating system says when there is no room, or no working disk, for the rest of a file."""


def root() -> Path:
    """Find the folder that holds data/ and notebooks/: $COURSE_HOME, else the checkout of this library.

    Raises:
        FileNotFoundError: that folder holds no data folder.
    """
    override = os.environ.get("COURSE_HOME")
    candidate = Path(override).expanduser() if override else Path(__file__).resolve().parent.parent
    if not (candidate / "data").is_dir():
        raise FileNotFoundError(
            f"{candidate} holds no data folder. Install the course from its checkout (pip install -e .), or set "
            "COURSE_HOME to the checkout."
        )
    return candidate.resolve()


def data_root(given: str | Path | None = None) -> Path:
    """Find the folder of downloaded data sets: the argument, else $COURSE_DATA, else data/downloads in the checkout.

    Example:
        >>> data_root("my-data-sets").name
        'my-data-sets'
    """
    if given is not None:
        return Path(given).expanduser()
    if os.environ.get("COURSE_DATA"):
        return Path(os.environ["COURSE_DATA"]).expanduser()
    return root() / "data" / "downloads"


def sha256(path: Path) -> str:
    """Compute the SHA-256 digest of a file, in hexadecimal.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(Path(folder, "note.txt"), "abc")
        ...     sha256(Path(folder, "note.txt"))[:8]
        'ba7816bf'
    """
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place when the block ends well, delete it otherwise.

    A reader of `path` sees the old file or the new one, never half of one.

    Raises:
        OSError: the folder cannot be written to, or the disk is full. The message names the folder and the remedy.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(Path(folder, "note.txt")) as temporary:
        ...         _ = temporary.write_text("abc")
        ...     os.listdir(folder)
        ['note.txt']
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write into {path.parent} ({error.strerror}). Choose another folder, or mend its rights",
        ) from error
    temporary = Path(name)
    written = False
    try:
        yield temporary
        written = True
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        # Inside the block, any other OSError is about something else: a source to be read, or the network.
        if not written and error.errno not in _DISK_ERRORS:
            raise
        raise OSError(
            error.errno,
            f"could not finish writing {path} ({error.strerror}); the earlier file, if any, is untouched. "
            "Free some disk space or choose another folder, then run it again",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically (see `atomic_path`).

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(Path(folder, "note.txt"), "abc")
        ...     Path(folder, "note.txt").read_text()
        'abc'
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file atomically (see `atomic_path`).

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_bytes(Path(folder, "note.bin"), b"abc")
        ...     Path(folder, "note.bin").read_bytes()
        b'abc'
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def checksums() -> dict[str, str]:
    """Read the digests that data/SHA256SUMS records: {path relative to data/: digest}; {} if there is no such file."""
    listing = root() / "data" / "SHA256SUMS"
    if not listing.exists():
        return {}
    lines = listing.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines if line.strip())}


def record_checksum(path: Path) -> None:
    """Enter the digest of a file under data/ into data/SHA256SUMS (in the form that `sha256sum -c` reads)."""
    folder = root() / "data"
    recorded = checksums() | {Path(path).resolve().relative_to(folder).as_posix(): sha256(path)}
    write_text(
        folder / "SHA256SUMS", "".join(f"{digest}  {name}\n" for name, digest in sorted(recorded.items()))
    )
