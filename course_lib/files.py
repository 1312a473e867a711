"""The folders of the course, and how it writes files: to a temporary name first, then renamed."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from filelock import FileLock, Timeout

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
"""What the operating system says when there is no room, or no working disk, for the rest of a file."""
DISTRIBUTION = "small-and-fast"
"""Name of the course for pip."""
_CARRIED = (
    "_book"  # folder in the package where a wheel puts data/ and notebooks/; pyproject.toml names it too
)
_SUMS = "SHA256SUMS"
_PATIENCE = 60.0  # seconds that one writer waits for another


def root() -> Path:
    """Find the folder that holds data/ and notebooks/: $COURSE_HOME, else the checkout, else what the wheel brought.

    Raises:
        FileNotFoundError: that folder holds no data folder.
    """
    package = Path(__file__).resolve().parent
    override = os.environ.get("COURSE_HOME")
    places = [Path(override).expanduser()] if override else [package.parent, package / _CARRIED]
    for place in places:
        if (place / "data").is_dir():
            return place.resolve()
    raise FileNotFoundError(
        f"{places[0]} holds no data folder. Install the course from its checkout (pip install -e .) or from its "
        "wheel, or set COURSE_HOME to the checkout."
    )


def installed() -> bool:
    """Whether the course came as a wheel: `root()` then lies in the package, belongs to pip and is only read.

    Example:
        >>> installed()
        False
    """
    return root() == Path(__file__).resolve().parent / _CARRIED


def work() -> Path:
    """Find the folder below which build/ and data/downloads/ are written: `root()`, of a wheel the working folder.

    Example:
        >>> work() == (Path.cwd() if installed() else root())
        True
    """
    return Path.cwd() if installed() else root()


def require_own(what: str) -> None:
    """Refuse to change the course's own files where they came as a wheel.

    Args:
        what: would change them, to begin the message with.

    Raises:
        OSError: the course came as a wheel.

    Example:
        >>> require_own("`course train`")
    """
    if installed():
        raise OSError(
            errno.EROFS,
            f"{what} changes the course's own files, and those of a wheel belong to pip. Do it in a checkout of the "
            "course, or in a folder that COURSE_HOME names and that holds its data and notebooks",
        )


def remedy(*names: str, again: str = "") -> str:
    """Write the command that brings files of the course back as they were published.

    Args:
        names: of the files, relative to `root()`.
        again: a command that makes the first one again; where the course came as a wheel there is none.

    Example:
        >>> remedy("data/glyphs.npz")
        'git checkout -- data/glyphs.npz'
    """
    if installed():
        return f"python -m pip install --force-reinstall --no-deps {shlex.quote(_wheel())}"
    return f"git checkout -- {' '.join(names)}" + (f", or make it again: {again}" if again else "")


def installation() -> str:
    """Write the command that installs the course with what it needs, as it is installed here.

    Example:
        >>> installation().split(" (or")[0]
        "python -m pip install -e '.[learn,pretrained]' -c constraints.txt"
    """
    if installed():
        return (
            f"python -m pip install -c {shlex.quote(str(pins()))} {shlex.quote(_wheel('[learn,pretrained]'))}"
        )
    return "python -m pip install -e '.[learn,pretrained]' -c constraints.txt (or: make course)"


def pins() -> Path:
    """Find constraints.txt, the versions that the course is tested with: in `root()`; a wheel has it in its metadata.

    Example:
        >>> pins().name
        'constraints.txt'
    """
    listed = (metadata.files(DISTRIBUTION) or []) if installed() else []
    carried = (Path(path.locate()) for path in listed if path.name == "constraints.txt")
    return next(carried, root() / "constraints.txt")


def _wheel(extras: str = "") -> str:
    """Name the wheel that was installed for pip: by its address where pip has kept it, else by its version."""
    found = metadata.distribution(DISTRIBUTION)
    address = json.loads(found.read_text("direct_url.json") or "{}").get("url")
    return f"{DISTRIBUTION}{extras}" + (f" @ {address}" if address else f"=={found.version}")


def data_root(given: str | Path | None = None) -> Path:
    """Find the folder of downloaded data sets: the argument, else $COURSE_DATA, else data/downloads under `work()`.

    Example:
        >>> data_root("my-data-sets").name
        'my-data-sets'
    """
    if given is not None:
        return Path(given).expanduser()
    if os.environ.get("COURSE_DATA"):
        return Path(os.environ["COURSE_DATA"]).expanduser()
    return work() / "data" / "downloads"


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


class DamagedFile(ValueError):
    """A file under data/ is not what data/SHA256SUMS records; the message names it and what to do."""


def checksums() -> dict[str, str]:
    """Read the digests that data/SHA256SUMS records: {path relative to data/: digest}; {} if there is no such file.

    Raises:
        DamagedFile: a line has another form than that of `sha256sum`.
    """
    return {name: digest for digest, name in _listed()}


def read_verified(path: Path, again: str = "") -> bytes:
    """Read a file under data/ and compare it with its digest in data/SHA256SUMS.

    Args:
        path: of the file.
        again: a command that makes it again, named beside the one that restores it.

    Raises:
        OSError: it cannot be read.
        DamagedFile: its digest is another one, or is not listed.
    """
    content, name = Path(path).read_bytes(), _name(path)
    digests = [digest for digest, listed in _listed() if listed == name]
    found = hashlib.sha256(content).hexdigest()
    if found in digests:
        return content
    fault = (
        f"its sha256 is {found}, data/{_SUMS} records {digests[-1]}"
        if digests
        else f"data/{_SUMS} has no line for it"
    )
    back = remedy(f"data/{name}", f"data/{_SUMS}", again=again)
    raise DamagedFile(f"{path} is not as recorded: {fault}. Restore it: {back}.")


def write_verified(contents: Mapping[Path, bytes]) -> None:
    """Write files under data/ together with their digests in data/SHA256SUMS.

    Two writers wait for each other. While files are replaced, the list holds their old and their new digests, so that
    a kill at any moment leaves each file with a digest that is listed.

    Args:
        contents: {path: what it will hold}.

    Raises:
        OSError: as `atomic_path`; another process has been writing for more than a minute; or data/ came with a
            wheel.
        DamagedFile: a line of data/SHA256SUMS has another form than that of `sha256sum`.
    """
    new = {(hashlib.sha256(content).hexdigest(), _name(path)) for path, content in contents.items()}
    with _locked():
        old = set(_listed())
        with contextlib.ExitStack() as stack:
            for path, content in contents.items():
                stack.enter_context(atomic_path(path)).write_bytes(content)
            _list(old | new)
        names = {name for _, name in new}
        _list({line for line in old if line[1] not in names} | new)


def record_checksum(path: Path) -> None:
    """Enter the digest of a file under data/ into data/SHA256SUMS (in the form that `sha256sum -c` reads).

    Raises:
        OSError, DamagedFile: as `write_verified`.
    """
    with _locked():
        name = _name(path)
        _list({line for line in _listed() if line[1] != name} | {(sha256(path), name)})


def _name(path: Path) -> str:
    """Name a file as data/SHA256SUMS does: relative to data/, with slashes."""
    return Path(path).resolve().relative_to(root() / "data").as_posix()


def _listed() -> list[tuple[str, str]]:
    """Read (digest, name) of each line of data/SHA256SUMS."""
    listing = root() / "data" / _SUMS
    if not listing.exists():
        return []
    lines = listing.read_bytes().decode("utf-8", errors="replace").splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if match is None:
            raise DamagedFile(
                f"line {number} of {listing} is damaged: {line[:80]!r} is no sha256, two spaces and a name. Restore "
                f"it: {remedy(f'data/{_SUMS}')}"
            )
        found.append((match[1], match[2]))
    return found


def _list(lines: Iterable[tuple[str, str]]) -> None:
    by_name = sorted(lines, key=lambda line: line[::-1])
    write_text(root() / "data" / _SUMS, "".join(f"{digest}  {name}\n" for digest, name in by_name))


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Let one process at a time change data/SHA256SUMS; a killed one holds nothing."""
    require_own("this")
    lock = FileLock(root() / "data" / f".{_SUMS}.lock")
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout as error:
        raise OSError(
            errno.ETIMEDOUT,
            f"another process has been writing into {root() / 'data'} for {_PATIENCE:g} s; wait for it",
        ) from error
    try:
        yield
    finally:
        lock.release()
