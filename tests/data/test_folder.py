import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib.data import DatasetError, folder, load_dataset


def paint(path, value=0, *, size=(6, 4), mode="L"):
    """An image of one value, width by height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


@pytest.fixture
def pictures(tmp_path):
    """20 grey training images and 4 test images in two classes; the value of an image is its number."""
    root = tmp_path / "pictures"
    for number in range(20):
        paint(root / "train" / ("left" if number < 10 else "right") / f"{number:02}.png", number)
    for number in range(4):
        paint(root / "test" / ("left" if number < 2 else "right") / f"{number}.png", 100 + number)
    return root


def load(path):
    return load_dataset(f"folder:{path}", root=path.parent / "no data root")


def values(split):
    """The number that `paint` put into each image."""
    return split.images[:, 0, 0, 0].tolist()


def test_the_images_of_a_folder_become_grey_tensors_with_sorted_classes(pictures):
    dataset = load(pictures)
    assert dataset.name == "pictures"
    assert dataset.classes == ("left", "right")
    assert dataset.test.images.shape == (4, 1, 4, 6)
    assert values(dataset.test) == [100, 101, 102, 103]
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]


def test_a_tenth_of_train_becomes_validation_and_no_image_stands_in_both(pictures):
    dataset = load(pictures)
    assert (len(dataset.train), len(dataset.validation)) == (18, 2)
    assert sorted(values(dataset.train) + values(dataset.validation)) == list(range(20))
    for split in (dataset.train, dataset.validation):
        assert split.labels.tolist() == [int(value >= 10) for value in values(split)]


def test_a_validation_folder_is_used_as_it_stands(pictures):
    paint(pictures / "validation" / "left" / "a.png", 50)
    paint(pictures / "validation" / "right" / "b.png", 51)
    dataset = load(pictures)
    assert values(dataset.train) == list(range(20))
    assert values(dataset.validation) == [50, 51]
    assert dataset.validation.labels.tolist() == [0, 1]


def test_at_least_one_image_is_kept_for_validation(tmp_path):
    for split, name, value in (("train", "a", 1), ("train", "b", 2), ("test", "a", 3)):
        paint(tmp_path / "tiny" / split / "only" / f"{name}.png", value)
    dataset = load(tmp_path / "tiny")
    assert (len(dataset.train), len(dataset.validation)) == (1, 1)


def test_hidden_and_stray_files_are_passed_over(pictures):
    (pictures / ".complete").touch()
    (pictures / "train" / ".cache").mkdir()
    (pictures / "train" / "notes.txt").write_text("beside the class folders")
    (pictures / "train" / "left" / ".DS_Store").write_bytes(b"\0")
    dataset = load(pictures)
    assert dataset.classes == ("left", "right")
    assert len(dataset.train) + len(dataset.validation) == 20


def test_the_order_does_not_depend_on_the_file_system(pictures, monkeypatch):
    expected = load(pictures)
    scandir = os.scandir

    class Backwards:
        def __init__(self, folder):
            self.entries = scandir(folder)

        def __enter__(self):
            return reversed(list(self.entries))

        def __exit__(self, *_):
            self.entries.close()

    monkeypatch.setattr(os, "scandir", Backwards)
    os.utime(
        pictures / "test" / "left" / "0.png", ns=(1, 1)
    )  # a changed file, so that the folder is read again
    found = load(pictures)
    assert found.classes == expected.classes
    assert values(found.train) == values(expected.train)
    assert values(found.test) == values(expected.test)


def test_colours_keep_their_channels_and_one_colour_image_makes_all_of_them_colour(pictures):
    paint(pictures / "test" / "left" / "1.png", (10, 20, 30), mode="RGB")
    dataset = load(pictures)
    assert dataset.train.images.shape == (18, 3, 4, 6)
    assert dataset.test.images[:2, :, 0, 0].tolist() == [[100, 100, 100], [10, 20, 30]]


def test_pixels_stand_where_they_stood(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for split in ("train", "test"):
        for number in range(2):
            path = tmp_path / "set" / split / "only" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    found = load(tmp_path / "set").test.images[0]
    assert torch.equal(found, torch.from_numpy(pixels).permute(2, 0, 1))
    assert found.is_contiguous()


@pytest.mark.parametrize(
    ("mode", "value", "expected"), [("1", 1, [255]), ("LA", (9, 0), [9]), ("P", 0, [0] * 3)]
)
def test_other_modes_of_eight_bits_are_converted(tmp_path, mode, value, expected):
    for name in ("train/only/a.png", "train/only/b.png", "test/only/a.png"):
        paint(tmp_path / "set" / name, value, mode=mode)
    assert load(tmp_path / "set").test.images[0, :, 0, 0].tolist() == expected


@pytest.fixture
def re_encoded(pictures, monkeypatch):
    """The twenty pictures under the name of the re-encoded CIFAR-10, as if that had no more."""
    known = {"cifar10-jpeg": ("CIFAR-10 (JPEG)", {"train": 20, "test": 4})}
    monkeypatch.setattr(folder, "_RE_ENCODED", known)
    return pictures.rename(pictures.parent / "cifar10-jpeg")


def test_the_re_encoded_cifar_is_named_so(re_encoded):
    assert load(re_encoded).name == "CIFAR-10 (JPEG)"


def test_cifar_is_the_re_encoded_one_where_that_alone_lies_under_the_root(re_encoded):
    dataset = load_dataset("cifar10", root=re_encoded.parent)
    assert dataset.name == "CIFAR-10 (JPEG)"
    assert values(dataset.test) == [100, 101, 102, 103]
    (re_encoded.parent / "cifar-10-batches-py").mkdir()
    with pytest.raises(DatasetError, match=r"CIFAR-10 is not whole under .*data_batch_1"):
        load_dataset("cifar10", root=re_encoded.parent, download=False)


@pytest.mark.bad_input
def test_without_either_cifar_the_original_is_what_is_missed(tmp_path):
    with pytest.raises(DatasetError, match="CIFAR-10 is not whole under"):
        load_dataset("cifar10", root=tmp_path, download=False)


@pytest.mark.bad_input
def test_a_re_encoded_cifar_that_is_half_unpacked_is_refused_with_both_counts(re_encoded):
    (re_encoded / "train" / "left" / "03.png").unlink()
    with pytest.raises(
        DatasetError,
        match=r"half unpacked: it holds \{'train': 19, 'test': 4\} images, .*\{'train': 20, 'test': 4\}",
    ):
        load_dataset("cifar10", root=re_encoded.parent)


def test_the_whole_re_encoded_cifar_has_the_counts_of_cifar():
    assert folder._RE_ENCODED["cifar10-jpeg"] == ("CIFAR-10 (JPEG)", {"train": 50_000, "test": 10_000})


def test_more_images_than_one_thread_takes_at_a_time_keep_their_order(tmp_path):
    root = tmp_path / "many"
    for number in range(600):
        paint(root / "test" / "only" / f"{number:03}.png", number % 251, size=(1, 1))
    for number in range(2):
        paint(root / "train" / "only" / f"{number}.png", 0, size=(1, 1))
    assert values(load(root).test) == [number % 251 for number in range(600)]


@pytest.mark.bad_input
def test_the_first_image_of_another_size_is_named_with_both_sizes(pictures):
    for number in (3, 7):
        paint(pictures / "train" / "left" / f"{number:02}.png", 0, size=(8, 5))
    with pytest.raises(
        DatasetError, match=r"03\.png is 8x5 pixels and .*00\.png 6x4; all images of a set need one size"
    ):
        load(pictures)


@pytest.mark.bad_input
@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_an_image_that_cannot_be_read_is_named(pictures, damage):
    path = pictures / "train" / "right" / "15.png"
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) - 25], "text": b"no image", "empty": b""}[damage])
    with pytest.raises(
        DatasetError, match=r"right.15\.png cannot be read as an image \(.+\)\. Replace or remove it"
    ):
        load(pictures)


@pytest.mark.bad_input
def test_sixteen_bits_are_refused_rather_than_clipped(pictures):
    paint(pictures / "test" / "left" / "0.png", 1000, mode="I;16")
    with pytest.raises(DatasetError, match=r"0\.png has more than 8 bits a channel"):
        load(pictures)


@pytest.mark.bad_input
def deep_png(path):
    """A PNG of 16 bits a channel in colour, which Pillow reads as one of 8 bits without a word."""
    rows = b"".join(b"\0" + bytes(range(36)) for _ in range(4))  # 6 pixels of 3 channels of 2 bytes
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 6, 4, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.bad_input
def test_sixteen_bits_in_colour_are_refused_too(pictures):
    deep_png(pictures / "test" / "left" / "0.png")
    with pytest.raises(DatasetError, match=r"0\.png has more than 8 bits a channel \(mode RGB RGB;16B\)"):
        load(pictures)


def test_a_photograph_of_a_camera_on_its_side_is_turned_upright(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(6, 4)
    for part in ("train", "validation", "test"):
        place = tmp_path / "pictures" / part / "a"
        place.mkdir(parents=True)
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned to the left: the picture wants a quarter turn to the right
        Image.fromarray(pixels).save(place / "0.png", exif=exif)
    found = load(tmp_path / "pictures").test.images[0, 0].numpy()
    assert np.array_equal(found, np.rot90(pixels, -1))


@pytest.mark.bad_input
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a POSIX system")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, r"0x\.png is no file"),
        (os.mkdir, r"0x\.png is no file"),
        (lambda path: os.symlink("nowhere", path), r"0x\.png cannot be read \(No such file or directory\)"),
        (
            lambda path: os.symlink("0x.png", path),
            r"0x\.png cannot be read \(Too many levels of symbolic links\)",
        ),
    ],
)
def test_what_is_no_file_is_named_and_waits_for_nobody(pictures, make, said):
    make(pictures / "train" / "left" / "0x.png")
    with pytest.raises(DatasetError, match=said):
        load(pictures)


def test_the_classes_of_all_splits_must_agree(pictures):
    paint(pictures / "test" / "middle" / "0.png")
    (pictures / "test" / "right").rename(pictures / "test" / "wrong")
    with pytest.raises(DatasetError, match="only in train: right; only in test: middle, wrong"):
        load(pictures)


@pytest.mark.bad_input
def test_the_classes_of_validation_must_agree_too(pictures):
    paint(pictures / "validation" / "left" / "0.png")
    with pytest.raises(DatasetError, match="only in train: right; only in validation: none"):
        load(pictures)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ((), r"there is no folder .*pictures"),
        (("test",), r"holds no folder 'train'. The layout is PATH/\{train,test\}/<class>/<image>"),
        (("train",), r"holds no folder 'test'"),
    ],
)
def test_an_absent_folder_is_named_with_the_layout(tmp_path, keep, message):
    for split in keep:
        paint(tmp_path / "pictures" / split / "only" / "a.png")
        paint(tmp_path / "pictures" / split / "only" / "b.png")
    with pytest.raises(DatasetError, match=message):
        load(tmp_path / "pictures")


@pytest.mark.bad_input
def test_a_relative_folder_that_is_nowhere_is_named_in_both_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError) as caught:
        load_dataset("folder:nowhere", root=tmp_path / "root")
    assert str(Path.cwd() / "nowhere") in str(caught.value)
    assert str(tmp_path / "root" / "nowhere") in str(caught.value)


@pytest.mark.bad_input
def test_empty_folders_are_named(pictures, tmp_path):
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(DatasetError, match="train holds no class folders"):
        load(tmp_path / "empty")
    for image in (pictures / "test" / "right").iterdir():
        image.unlink()
    with pytest.raises(DatasetError, match=r"test.right holds no images"):
        load(pictures)


@pytest.mark.bad_input
def test_a_single_training_image_is_too_few_to_cut_validation_from(tmp_path):
    for split in ("train", "test"):
        paint(tmp_path / "one" / split / "only" / "a.png")
    with pytest.raises(
        DatasetError, match="train holds one image; with no validation folder it needs two or more"
    ):
        load(tmp_path / "one")


@pytest.mark.skipif(
    not (Path(os.environ.get("COURSE_DATA", "nowhere")) / "cifar10-jpeg").is_dir(),
    reason="$COURSE_DATA holds no cifar10-jpeg",
)
def test_the_re_encoded_cifar_is_whole():
    dataset = load_dataset("folder:cifar10-jpeg", root=COURSE_DATA)
    assert dataset.name == "CIFAR-10 (JPEG)"
    assert dataset.train.images.shape == (45_000, 3, 32, 32)
    assert dataset.test.labels.bincount().tolist() == [1000] * 10


COURSE_DATA = os.environ.get("COURSE_DATA")  # read here: the tests themselves run without it
