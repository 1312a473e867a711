"""Reading data sets by name."""

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from course_lib import files
from course_lib.data import folder, imagenet, remote
from course_lib.data.dataset import Dataset, DatasetError, Split
from course_lib.names import DATA_SETS, unknown_name

NAMES = DATA_SETS

_FOLDER, _IMAGENET = "folder:", "imagenet:"
_PATHS = ("folder:PATH", "imagenet:PATH")


def load_dataset(name: str = "glyphs", *, root: str | Path | None = None, download: bool = True) -> Dataset:
    """Load a data set into memory.

    The files are verified and decoded once in a process (the last two sets are kept); every call returns tensors of
    its own, so that changing them in place harms no other caller.

    Args:
        name: "glyphs" (embedded), "mnist", "fashion_mnist", "cifar10" (read by torchvision), "folder:PATH" with
            PATH/{train,test}/<class>/<image>, or "imagenet:PATH" with images of ImageNet's classes, as `data.imagenet`
            lists them. A relative PATH is looked for in the working folder, then in `root`.
            If CIFAR-10 is not under `root` but its JPEG re-encoding is (the folder cifar10-jpeg), "cifar10" is the
            latter, and says so in its name.
        root: the folder of data sets; $COURSE_DATA unless given, else data/downloads.
        download: whether absent files may be downloaded.

    Returns:
        The three splits. If a set brings no validation images of its own, they are cut from its training images
        with a fixed seed: 5,000 of MNIST, Fashion-MNIST and CIFAR-10, a tenth of an image folder. The images of
        "imagenet:PATH" are cut in three. `name` is the name to print: glyphs, MNIST, Fashion-MNIST, CIFAR-10, CIFAR-10
        (JPEG), ImageNet samples (1,000, one a class), or the folder's.

    Raises:
        KeyError: the name is unknown.
        DatasetError: a file is absent, truncated or corrupted; the message names it and what to do.
        OSError: the root cannot be written to.
    """
    _check(name, root)
    if name == "cifar10":
        name = folder.re_encoded_cifar10(files.data_root(root)) or name
    if name == "glyphs":
        dataset = _cached(_read_glyphs, _stamp([_glyphs_file()]))
    elif name.startswith(_FOLDER):
        listing = folder.listing(folder.find(name.removeprefix(_FOLDER), files.data_root(root)))
        dataset = _cached(folder.read, listing.stamps, listing)
    elif name.startswith(_IMAGENET):
        given, place = name.removeprefix(_IMAGENET), files.data_root(root)
        crops = imagenet.listing(folder.find(given, place, "imagenet", imagenet.LAYOUT))
        dataset = _cached(imagenet.read, crops.stamps, crops)
    else:
        source, place = remote.REMOTES[name], files.data_root(root)
        remote.obtain(source, place, download=download)
        dataset = _cached(remote.read, _stamp(source.paths(place)), source, place)
    copies = {
        split: Split(getattr(dataset, split).images.clone(), getattr(dataset, split).labels.clone())
        for split in ("train", "validation", "test")
    }
    return replace(dataset, **copies)


def fetch(name: str, root: str | Path | None = None) -> Path:
    """Download the files of a named set, or verify those that are there.

    Returns:
        The folder that holds them.

    Raises:
        KeyError: the name is unknown.
        ValueError: the name is that of an image folder, which cannot be downloaded.
        DatasetError: a file cannot be downloaded, or is truncated or corrupted.
    """
    _check(name, root)
    if name.startswith((_FOLDER, _IMAGENET)):
        raise ValueError(
            f"{name!r} is a folder of your own: there is nothing to fetch. Fetchable: {', '.join(NAMES)}."
        )
    if name == "glyphs":
        _verify_glyphs()
        return _glyphs_file().parent
    source, place = remote.REMOTES[name], files.data_root(root)
    remote.obtain(source, place, download=True)
    remote.verify(source, place)
    return source.folder(place)


def _check(name: object, root: object) -> None:
    if not isinstance(name, str):
        raise TypeError(
            f"name is {name!r} ({type(name).__name__}); it must be one of {', '.join(NAMES)}, or one of "
            f"{', '.join(_PATHS)}."
        )
    if name not in NAMES and not (name.startswith((_FOLDER, _IMAGENET)) and name not in (_FOLDER, _IMAGENET)):
        raise KeyError(unknown_name(name, "data set", (*NAMES, *_PATHS)))
    if not isinstance(root, str | os.PathLike | None):
        raise TypeError(f"root is {root!r} ({type(root).__name__}); it must be the path of a folder.")


def _stamp(paths: list[Path]) -> tuple[tuple[str, int, int], ...]:
    """Describe the state of the files: path, size and time of change of each."""
    return tuple(
        (str(path), status.st_size, status.st_mtime_ns)
        for path in paths
        if path.exists()
        for status in [path.stat()]
    )


@functools.lru_cache(maxsize=2)
def _cached(read: Callable[..., Dataset], stamp: tuple, *arguments: object) -> Dataset:
    """Call `read(*arguments)` once for every state of the files."""
    return read(*arguments)


def _glyphs_file() -> Path:
    return files.root() / "data" / "glyphs.npz"


def _verify_glyphs() -> None:
    path, again = _glyphs_file(), "python -m course_lib.data.glyphs --write"
    try:
        files.read_verified(path, again)
    except FileNotFoundError as error:
        back = files.remedy(f"data/{path.name}", again=again)
        raise DatasetError(f"{path} is absent. Bring it back: {back}.") from error
    except files.DamagedFile as error:
        raise DatasetError(str(error)) from error


def _read_glyphs() -> Dataset:
    from course_lib.data import (
        glyphs,
    )  # not above: `python -m course_lib.data.glyphs` would find itself imported

    _verify_glyphs()
    arrays, _ = glyphs.read(_glyphs_file())
    splits = {
        split: Split(torch.from_numpy(arrays[f"{split}_images"]), torch.from_numpy(arrays[f"{split}_labels"]))
        for split in glyphs.COUNTS
    }
    return Dataset(name="glyphs", classes=glyphs.CLASSES, **splits)
