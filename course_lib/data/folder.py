"""Image folders: PATH/{train,test}/<class>/*, with an optional PATH/validation/<class>/*."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from course_lib.data.dataset import Dataset, DatasetError, Split, cut_validation

_LAYOUT = (
    "The layout is PATH/{train,test}/<class>/<image>, and PATH/validation/<class>/<image> if there is one."
)
# A re-encoded set has a name of its own, since its figures are not those of the original; with its images by split.
_RE_ENCODED = {"cifar10-jpeg": ("CIFAR-10 (JPEG)", {"train": 50_000, "test": 10_000})}
_GREY = {"1", "L", "LA"}  # Pillow's modes of up to 8 bits
_DEEP = ("I", "F")  # 16 and 32 bits


@dataclass(frozen=True)
class _Listing:
    """The files of an image folder in reading order, each with its size and time of change."""

    name: str
    classes: tuple[str, ...]
    splits: tuple[str, ...]  # train, validation if there is one, test
    counts: tuple[int, ...]  # of images in each split
    paths: tuple[str, ...]  # of all splits, one after the other
    labels: tuple[int, ...]
    stamps: tuple[tuple[int, int], ...]


def find(given: str, data_root: Path, kind: str = "folder", layout: str = _LAYOUT) -> Path:
    """Find the folder meant by `folder:PATH`: PATH if absolute, else under the working folder, else under data_root.

    Args:
        given: PATH.
        data_root: the folder of data sets.
        kind: what stands in front of the colon.
        layout: what the folder must hold, for the message.

    Raises:
        DatasetError: it is in neither place.

    Example:
        >>> find("my-images", Path("data"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        course_lib.data.dataset.DatasetError: folder:my-images: there is no folder ...
    """
    path = Path(given).expanduser()
    candidates = [path] if path.is_absolute() else [Path.cwd() / path, data_root / path]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate.resolve()
    tried = " nor ".join(str(candidate) for candidate in candidates)
    raise DatasetError(f"{kind}:{given}: there is no folder {tried}. {layout}")


def re_encoded_cifar10(data_root: Path) -> str | None:
    """Name the JPEG re-encoding of CIFAR-10 for `load_dataset`, if it lies under `data_root` and the original does not.

    Example:
        >>> re_encoded_cifar10(Path("nowhere")) is None
        True
    """
    place = data_root / "cifar10-jpeg"
    original = data_root / "cifar-10-batches-py", data_root / "cifar-10-python.tar.gz"
    if place.is_dir() and not any(path.exists() for path in original):
        return f"folder:{place.resolve()}"
    return None


def listing(path: Path) -> _Listing:
    """List the images under `path`, sorted by class and file name; hidden files and folders are passed over.

    Raises:
        DatasetError: train or test is absent or empty, a class is empty, the splits do not have the same classes,
            train holds a single image and there is no validation folder, or a re-encoded set is not whole; a link leads
            nowhere or in a circle; something among the images is no file.
    """
    splits = [
        split for split in ("train", "validation", "test") if split != "validation" or (path / split).is_dir()
    ]
    classes: tuple[str, ...] = ()
    counts, paths, labels, stamps = [], [], [], []
    for split in splits:
        if not (path / split).is_dir():
            raise DatasetError(f"{path} holds no folder {split!r}. {_LAYOUT}")
        found = tuple(entry.name for entry in _entries(path / split) if _status(entry).is_dir)
        if not found:
            raise DatasetError(f"{path / split} holds no class folders. {_LAYOUT}")
        classes = classes or found
        if found != classes:
            raise DatasetError(
                f"the classes of {path / split} differ from those of {path / splits[0]}: "
                f"only in {splits[0]}: {_names(set(classes) - set(found))}; only in {split}: "
                f"{_names(set(found) - set(classes))}. Every split needs the same class folders."
            )
        before = len(paths)
        for label, name in enumerate(classes):
            entries = _entries(path / split / name)
            if not entries:
                raise DatasetError(
                    f"{path / split / name} holds no images. Fill it, or remove the class from every split."
                )
            for entry in entries:
                status = _status(entry)
                if not status.is_file:
                    raise DatasetError(f"{entry.path} is no file: a folder, a pipe or a device. Remove it.")
                paths.append(entry.path)
                labels.append(label)
                stamps.append(status.stamp)
        counts.append(len(paths) - before)
    if counts[0] == 1 and "validation" not in splits:
        raise DatasetError(
            f"{path / 'train'} holds one image; with no validation folder it needs two or more."
        )
    name, whole = _RE_ENCODED.get(path.name, (path.name, None))
    found = dict(zip(splits, counts, strict=True))
    if whole is not None and found != whole:
        raise DatasetError(
            f"{path} is half unpacked: it holds {found} images, {name} has {whole}. Delete the folder and unpack it "
            "again."
        )
    return _Listing(name, classes, tuple(splits), tuple(counts), tuple(paths), tuple(labels), tuple(stamps))


def read(files: _Listing) -> Dataset:
    """Decode every image. Without a validation folder a tenth of train is cut off for it, with a fixed seed.

    Images are grey ([N, 1, H, W]) if all of them are, else RGB ([N, 3, H, W]); transparency is dropped.

    Raises:
        DatasetError: an image cannot be read, has more than 8 bits a channel, or another size than the first.
    """
    with decoded(files.paths[0]) as first:
        width, height = first.size
    pixels = np.empty((len(files.paths), height, width, 3), dtype=np.uint8)
    grey = np.empty(len(files.paths), dtype=bool)

    def decode(start: int) -> None:
        for index in range(start, min(start + 256, len(files.paths))):
            with decoded(files.paths[index]) as image:
                if image.size != (width, height):
                    raise DatasetError(
                        f"{files.paths[index]} is {image.size[0]}x{image.size[1]} pixels and {files.paths[0]} "
                        f"{width}x{height}; all images of a set need one size. Resize or remove it."
                    )
                grey[index] = image.mode in _GREY
                pixels[index] = (
                    np.asarray(image.convert("L"))[..., None] if grey[index] else image.convert("RGB")
                )

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode, range(0, len(files.paths), 256)):
            pass  # in order, so that the first bad image is the one named

    images = torch.from_numpy(pixels[..., :1] if grey.all() else pixels).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(files.labels, dtype=torch.int64)
    parts = zip(images.split(files.counts), labels.split(files.counts), strict=True)
    splits = {name: Split(*part) for name, part in zip(files.splits, parts, strict=True)}
    if "validation" not in splits:
        count = max(1, round(len(splits["train"]) / 10))
        splits["train"], splits["validation"] = cut_validation(splits["train"], count)
    return Dataset(name=files.name, classes=files.classes, **splits)


def _entries(folder: Path) -> list[os.DirEntry]:
    """List what a folder holds, by name, without hidden files."""
    with os.scandir(folder) as entries:
        return sorted(
            (entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name
        )


class _Status(NamedTuple):
    is_dir: bool
    is_file: bool
    stamp: tuple[int, int]  # size and time of change


def _status(entry: os.DirEntry) -> _Status:
    """Look up what an entry is, links followed; to open a pipe would wait for ever."""
    try:
        found = entry.stat()
    except OSError as error:  # a link that leads nowhere or in a circle, or a file that went away
        raise DatasetError(
            f"{entry.path} cannot be read ({error.strerror}). Mend the link, or remove it."
        ) from error
    return _Status(
        stat.S_ISDIR(found.st_mode), stat.S_ISREG(found.st_mode), (found.st_size, found.st_mtime_ns)
    )


def _names(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def decoded(path: str):
    """Decode an image, upright; it is to be used as a context.

    Raises:
        DatasetError: it cannot be read, or has more than 8 bits a channel.
    """
    from PIL import ExifTags, Image, ImageOps

    try:
        image = Image.open(path)
        depth = f"{image.mode} {image.tile[0][3] if image.tile else ''}"  # Pillow cuts RGB of 16 bits without a word
        image.load()
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # a camera was held on its side
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # a damaged file can raise nearly anything
        raise DatasetError(f"{path} cannot be read as an image ({error}). Replace or remove it.") from error
    if image.mode.startswith(_DEEP) or ";16" in depth:
        raise DatasetError(
            f"{path} has more than 8 bits a channel (mode {depth.strip()}). Convert it to 8 bits."
        )
    return image
