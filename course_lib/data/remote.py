"""MNIST, Fashion-MNIST and CIFAR-10: downloaded whole or not at all, then read by torchvision's own classes."""

import contextlib
import gzip
import http.client
import io
import os
import shlex
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from course_lib import files
from course_lib.data.dataset import Dataset, DatasetError, Split, cut_validation
from course_lib.progress import progress, shows_bars

_VALIDATION_COUNT = 5_000  # of 60,000 or 50,000 original training images
_PATIENCE = 30  # seconds without an answer before a download is given up

# torchvision lists the digests of the archives; these are those of the unpacked files.
# The images of Fashion-MNIST are checked by the size that their header announces.
_UNPACKED_MD5 = {
    "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    "FashionMNIST/raw/train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "FashionMNIST/raw/t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}


@dataclass(frozen=True)
class _Archive:
    """One file to download, and what it holds; all paths are under the root."""

    path: str
    urls: tuple[str, ...]
    md5: str
    contents: dict[str, str | None]  # path of each unpacked file: its md5 where known


@dataclass(frozen=True)
class _Remote:
    """A data set that torchvision reads.

    Args:
        key: the name in `load_dataset`.
        title: the name to print.
        reader_name: of torchvision's class.
    """

    key: str
    title: str
    reader_name: str

    @property
    def reader(self) -> type:
        from torchvision import datasets

        return getattr(datasets, self.reader_name)

    def archives(self) -> list[_Archive]:
        """List what torchvision's class downloads, in the layout it expects under the root."""
        reader = self.reader
        if hasattr(reader, "resources"):  # MNIST and its kin: four gzipped files
            folder = f"{self.reader_name}/raw"
            return [
                _Archive(
                    path=f"{folder}/{name}",
                    urls=tuple(mirror + name for mirror in reader.mirrors),
                    md5=md5,
                    contents={unpacked: _UNPACKED_MD5.get(unpacked)},
                )
                for name, md5 in reader.resources
                for unpacked in [f"{folder}/{name.removesuffix('.gz')}"]
            ]
        listed = [*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])]
        contents = {f"{reader.base_folder}/{name}": md5 for name, md5 in listed}
        return [_Archive(reader.filename, (reader.url,), reader.tgz_md5, contents)]

    def paths(self, root: Path) -> list[Path]:
        """List the unpacked files, whether they are there or not."""
        return [root / path for archive in self.archives() for path in archive.contents]

    def folder(self, root: Path) -> Path:
        """Find the folder of the unpacked files."""
        return self.paths(root)[0].parent


REMOTES = {
    remote.key: remote
    for remote in (
        _Remote("mnist", "MNIST", "MNIST"),
        _Remote("fashion_mnist", "Fashion-MNIST", "FashionMNIST"),
        _Remote("cifar10", "CIFAR-10", "CIFAR10"),
    )
}


def obtain(remote: _Remote, root: Path, *, download: bool) -> None:
    """Make every unpacked file of the set lie under `root`; those that do are left as they are.

    Archives placed by hand are unpacked; the others are downloaded if `download` allows it. All of it happens in a
    temporary folder under `root`; files move into place once all of them are whole.

    Raises:
        DatasetError: files are absent and may not or cannot be downloaded, or a file is truncated or corrupted.
        OSError: `root` cannot be written to.
    """
    lacking = [a for a in remote.archives() if not all((root / path).is_file() for path in a.contents)]
    if not lacking:
        return
    verify(remote, root)  # what is there, before anything is brought
    absent = [archive for archive in lacking if not (root / archive.path).is_file()]
    if absent and not download:
        missing = [path for a in absent for path in a.contents if not (root / path).is_file()]
        raise DatasetError(
            f"{remote.title} is not whole under {root}: {', '.join(missing)} not found. {_remedy(remote, root)}"
        )
    with _workshop(root) as workshop:
        with progress(f"archives of {remote.title}", len(lacking)) as shown:
            for archive in lacking:
                placed = root / archive.path
                if archive in absent:
                    _download(remote, archive, root, workshop)
                    placed = workshop / archive.path
                _unpack(remote, archive, root, placed, workshop)
                shown.step()
        for archive in lacking:
            for path in archive.contents:
                if not (root / path).is_file():
                    (root / path).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(workshop / path, root / path)


def verify(remote: _Remote, root: Path) -> None:
    """Check the unpacked files that lie under `root`.

    Raises:
        DatasetError: a file is truncated or corrupted; the message names the first.
    """
    for archive in remote.archives():
        for path, md5 in archive.contents.items():
            if (root / path).is_file() and (fault := _fault(root / path, md5)):
                raise DatasetError(f"{root / path} {fault}. Delete it. {_remedy(remote, root)}")


def read(remote: _Remote, root: Path) -> Dataset:
    """Read the files, which must be there, and cut the validation split from the original training images.

    Raises:
        DatasetError: a file is truncated or corrupted, or images and labels do not fit together.
    """
    verify(remote, root)
    wholes = []
    for train in (True, False):
        source = remote.reader(root, train=train)
        images, labels = torch.as_tensor(source.data), torch.as_tensor(source.targets, dtype=torch.int64)
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        fitting = 0 < len(images) == len(labels) and int(labels.max()) < len(source.classes)
        if not fitting:
            raise DatasetError(
                f"{remote.folder(root)}: the {'training' if train else 'test'} files of {remote.title} hold "
                f"{len(images)} images and {len(labels)} labels that do not fit together. Delete the folder. "
                f"{_remedy(remote, root)}"
            )
        wholes.append(Split(images, labels))
    train_split, validation = cut_validation(wholes[0], min(_VALIDATION_COUNT, len(wholes[0]) // 10))
    return Dataset(remote.title, train_split, validation, wholes[1], tuple(source.classes))


def _fault(path: Path, md5: str | None) -> str | None:
    """Describe what is wrong with an unpacked file; None if nothing is."""
    from torchvision.datasets.utils import calculate_md5

    size = path.stat().st_size
    if path.name.endswith("-ubyte"):
        # the header: two zero bytes, 8 for unsigned bytes, the number of dimensions, each size in four bytes
        with open(path, "rb") as stream:
            header = stream.read(4 + 4 * 3)
        dimensions = 3 if "idx3" in path.name else 1
        if header[:4] != bytes([0, 0, 8, dimensions]) or len(header) < 4 + 4 * dimensions:
            return "is truncated or corrupted: its first bytes are not the header of an IDX file"
        sizes = np.frombuffer(header, dtype=">u4", count=dimensions, offset=4)
        expected = 4 + 4 * dimensions + int(np.prod(sizes.astype(np.int64)))
        if size != expected:
            fault = "truncated" if size < expected else "corrupted"
            return f"is {fault}: {size:,} bytes, its header announces {expected:,}"
    if md5 is not None and (found := calculate_md5(path)) != md5:
        return f"is truncated or corrupted: {size:,} bytes with md5 {found}, it should be {md5}"
    return None


def _remedy(remote: _Remote, root: Path) -> str:
    """Write the command that downloads the files, and how to place them by hand."""
    elsewhere = root.resolve() != files.data_root().resolve()
    command = f"{f'COURSE_DATA={shlex.quote(str(root))} ' if elsewhere else ''}course data fetch {remote.key}"
    lines = [f"Run `{command}`, or place these files by hand, packed or unpacked:"]
    for archive in remote.archives():
        unpacked = ", ".join(Path(path).name for path in archive.contents)
        lines.append(f"  {root / archive.path} from {archive.urls[0]}")
        lines.append(f"    (unpacked: {unpacked} in {(root / next(iter(archive.contents))).parent})")
    return "\n".join(lines)


@contextlib.contextmanager
def _workshop(root: Path) -> Iterator[Path]:
    """Make a temporary folder under `root`, so that files move from it in one step; it is deleted in the end."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".fetch.", suffix=".part", dir=root)
        with temporary as name:
            yield Path(name)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"cannot write into {root} ({error.strerror}). Free space and rights there, or set COURSE_DATA to "
            "another folder",
        ) from error


def _download(remote: _Remote, archive: _Archive, root: Path, workshop: Path) -> None:
    """Download one archive into the workshop, from the first mirror that has it whole."""
    from torchvision.datasets.utils import download_url

    target = workshop / archive.path
    failures = []
    earlier = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        for url in archive.urls:
            try:
                # torchvision's bar knows only terminals
                with contextlib.nullcontext() if shows_bars() else contextlib.redirect_stderr(io.StringIO()):
                    download_url(url, target.parent, target.name, archive.md5)
                return
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                failures.append(f"{url}: {error or type(error).__name__}")
    finally:
        socket.setdefaulttimeout(earlier)
    raise DatasetError(
        f"{remote.title} could not be downloaded, and {root} is as it was ({'; '.join(failures)}). Check the network "
        f"and the free disk space. {_remedy(remote, root)}"
    )


def _unpack(remote: _Remote, archive: _Archive, root: Path, packed: Path, workshop: Path) -> None:
    """Unpack one archive into the workshop and check what comes out."""
    from torchvision.datasets.utils import extract_archive

    target = workshop / Path(archive.path).parent
    target.mkdir(parents=True, exist_ok=True)
    problem = None
    try:
        extract_archive(packed, target)
    except (EOFError, zlib.error, tarfile.TarError, gzip.BadGzipFile) as error:
        problem = f"is truncated or corrupted: {error}"
    else:
        for path, md5 in archive.contents.items():
            if not (workshop / path).is_file():
                problem = f"does not hold {Path(path).name}"
            elif fault := _fault(workshop / path, md5):
                problem = f"holds {Path(path).name}, which {fault}"
            if problem:
                break
    if problem:
        raise DatasetError(f"{root / archive.path} {problem}. Delete it. {_remedy(remote, root)}")
