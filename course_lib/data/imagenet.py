"""Photographs with the 1,000 classes of ImageNet, in one folder, as crops of 224 x 224 pixels."""

import csv
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from course_lib.data import folder
from course_lib.data.dataset import Dataset, DatasetError, Split

_SIZE = 224
_CROP = 0.875  # of the shorter side, as EfficientNet's own evaluation cuts it
_CLASSES = 1000
_MOST = 5000  # images: 750 MB
_SEED = 20_240_503
_LABELS = "labels.csv"
_IMAGES = (".jpg", ".jpeg", ".png")
LAYOUT = (
    "The layout is PATH/<class index>_<name>.jpg, or PATH/<class>/<image> with 1,000 class folders or folders that "
    f"are named by their class index, or images and {_LABELS} with lines <file>,<class index>; indices are 0 to 999."
)
# A known collection has a name of its own; with its number of images.
_KNOWN = {"imagenet-samples": ("ImageNet samples (1,000, one a class)", 1000)}


@dataclass(frozen=True)
class _Listing:
    """The images that are read, in the order of their paths."""

    name: str
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    stamps: tuple[tuple[int, int], ...]


def listing(path: Path) -> _Listing:
    """List the images under `path` with their classes.

    Of more than 5,000 images 5,000 are drawn, with a fixed seed. Hidden files and those of other kinds are passed over.

    Raises:
        DatasetError: there is no image, or a single one; one has no class, or a class that is not 0 to 999; images lie
            beside class folders, or are merely numbered; labels.csv has a line of another form, or names a file that
            is not there, or one twice; a known collection is not whole; something among the images is no file.
    """
    found = _entries(path)
    folders = [entry for entry in found if entry.is_dir()]
    names: dict[int, str] = {}
    if (path / _LABELS).is_file():
        labelled = _from_file(path)
    elif folders:
        labelled = _from_folders(path, folders, names)
    else:
        labelled = _from_names(found, names)
    if len(labelled) < 2:
        raise DatasetError(f"{path} holds {len(labelled) or 'no'} image{'s' * (not labelled)}. {LAYOUT}")
    name, whole = _KNOWN.get(path.name, (path.name, None))
    if whole is not None and len(labelled) != whole:
        raise DatasetError(
            f"{path} is half unpacked: it holds {len(labelled)} images, {name} has {whole}. Delete the folder and "
            "unpack it again."
        )
    if len(labelled) > _MOST:
        drawn = np.random.default_rng(_SEED).permutation(len(labelled))[:_MOST]
        labelled, name = (
            [labelled[place] for place in sorted(drawn)],
            f"{name} ({_MOST:,} of {len(labelled):,})",
        )
    for file, _ in labelled:
        if not file.is_file():  # to open a pipe would wait for ever
            raise DatasetError(
                f"{file} is no file: a link that leads nowhere, a pipe or a device. Remove it."
            )
    stamps = [(status.st_size, status.st_mtime_ns) for file, _ in labelled for status in [file.stat()]]
    paths, labels = zip(*labelled, strict=True)
    classes = tuple(names.get(label, f"class {label}") for label in range(_CLASSES))
    return _Listing(name, tuple(map(str, paths)), labels, classes, tuple(stamps))


def read(files: _Listing) -> Dataset:
    """Decode every image: a half of them for test, a tenth for validation, the rest for train, by a fixed seed.

    An image of 224 x 224 pixels stays as it is. Of any other the middle square of 0.875 of its shorter side is made so
    large, bicubically.

    Raises:
        DatasetError: an image cannot be read, or has more than 8 bits a channel.
    """
    images = torch.empty(len(files.paths), 3, _SIZE, _SIZE, dtype=torch.uint8)

    def decode(index: int) -> None:
        images[index] = torch.from_numpy(_crop(files.paths[index]))

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode, range(len(images))):
            pass  # in order, so that the first bad image is the one named
    whole = Split(images, torch.tensor(files.labels, dtype=torch.int64))
    order = torch.from_numpy(np.random.default_rng(_SEED).permutation(len(whole)))
    half, tenth = len(whole) // 2, len(whole) // 10
    test, validation, train = order.split([half, tenth, len(whole) - half - tenth])
    return Dataset(
        files.name, whole.subset(train), whole.subset(validation), whole.subset(test), files.classes
    )


def _crop(path: str) -> np.ndarray:
    """uint8 [3, 224, 224]."""
    from PIL import Image

    with folder.decoded(path) as image:
        image = image.convert("RGB")
        if image.size != (_SIZE, _SIZE):
            side = max(1, int(_CROP * min(image.size)))
            left, top = ((length - side + 1) // 2 for length in image.size)
            box = (left, top, left + side, top + side)
            image = image.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC, box=box)
        return np.array(image).transpose(2, 0, 1)


def _entries(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))


def _images(entries: Sequence[Path]) -> list[Path]:
    return [entry for entry in entries if entry.suffix.lower() in _IMAGES and not entry.is_dir()]


def _from_names(entries: Sequence[Path], names: dict[int, str]) -> list[tuple[Path, int]]:
    """Files such as 017_n01580077_jay.jpg. A number alone may count photographs, and says no class."""
    labelled = []
    for entry in _images(entries):
        match = re.match(r"(\d+)_(?=.)(?:n\d{8}(?:_|$))?(.*)$", entry.stem)
        if match is None:
            raise DatasetError(
                f"{entry} does not begin with the index of its class, '_' and a name. {LAYOUT}"
            )
        label = _index(match[1], str(entry))
        names.setdefault(label, match[2].replace("_", " ") or f"class {label}")
        labelled.append((entry, label))
    return labelled


def _from_folders(path: Path, folders: Sequence[Path], names: dict[int, str]) -> list[tuple[Path, int]]:
    """A folder a class: all 1,000 of them in the order of their names, or named by their indices."""
    beside = _images(_entries(path))
    if beside:
        raise DatasetError(
            f"{beside[0]} lies beside folders, and its class is not known. Move each image into the folder of its "
            f"class, or the folders away. {LAYOUT}"
        )
    if all(entry.name.isdigit() for entry in folders):
        labels = [_index(entry.name, str(entry)) for entry in folders]
    elif len(folders) == _CLASSES:
        labels = list(range(_CLASSES))
    else:
        raise DatasetError(
            f"{path} holds {len(folders)} folders, and only 1,000 are numbered by the order of their names. {LAYOUT}"
        )
    labelled = []
    for entry, label in zip(folders, labels, strict=True):
        names[label] = entry.name
        labelled += [(file, label) for file in _images(_entries(entry))]
    return labelled


def _from_file(path: Path) -> list[tuple[Path, int]]:
    """The files that labels.csv names."""
    labelled: list[tuple[Path, int]] = []
    lines: dict[Path, int] = {}
    try:
        with open(path / _LABELS, newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.reader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path / _LABELS} cannot be read as text with commas ({error}).") from error
    for number, row in enumerate(rows, start=1):
        where = f"line {number} of {path / _LABELS}"
        if not row:
            continue
        if len(row) != 2:
            raise DatasetError(f"{where} is {_short(','.join(row))!r}; it must be <file>,<class index>.")
        name = row[0].strip()
        file = path / name
        if not os.path.isfile(file):  # Path.is_file raises where a name is too long
            raise DatasetError(f"{where} names {path / _short(name)}, and there is no such file.")
        first = lines.setdefault(file.resolve(), number)
        if first != number:
            raise DatasetError(
                f"{where} names {file}, the image of line {first}. Delete one of the two lines."
            )
        labelled.append((file, _index(row[1].strip(), where)))
    return sorted(labelled)


def _index(text: str, where: str) -> int:
    match = re.fullmatch("0*([0-9]{1,3})", text)
    if match is None:
        raise DatasetError(f"{where} gives the class {_short(text)!r}; it must be an index from 0 to 999.")
    return int(match[1])


def _short(text: str, most: int = 200) -> str:
    """What a message says of a text, however long that is.

    Example:
        >>> _short("1" * 5000, most=4)
        '1111...'
    """
    return text if len(text) <= most else f"{text[:most]}..."
