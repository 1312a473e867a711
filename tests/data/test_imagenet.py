"""Photographs with the classes of ImageNet: three ways to say a class, the crop, the parts, and faults of a folder."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib.data import DatasetError, imagenet, load_dataset


def paint(path, value=0, size=(224, 224)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 255 - value, 7)).save(path)


def load(path):
    return load_dataset(f"imagenet:{path}")


def found(dataset):
    """{value that `paint` put into an image: its class}, of all parts."""
    parts = (dataset.train, dataset.validation, dataset.test)
    return {
        int(v): int(k) for part in parts for v, k in zip(part.images[:, 0, 0, 0], part.labels, strict=True)
    }


@pytest.fixture
def flat(tmp_path):
    """Ten images whose files say their class; image i has the value i and the class 100 i, but for the last."""
    for number in range(10):
        paint(tmp_path / "some" / f"{min(100 * number, 999):03}_n0144{number:04}_a_name_{number}.png", number)
    return tmp_path / "some"


CLASSES_OF_FLAT = {number: 100 * number for number in range(10)}


def test_files_say_their_class(flat):
    (flat / ".complete").touch()
    (flat / "README.txt").write_text("no image")
    dataset = load(flat)
    assert dataset.name == "some"
    assert found(dataset) == CLASSES_OF_FLAT
    assert len(dataset.classes) == 1000
    assert dataset.classes[300] == "a name 3"
    assert dataset.classes[301] == "class 301"
    assert dataset.test.images.shape == (5, 3, 224, 224)
    assert dataset.test.images[0, 1, 5, 5] == 255 - dataset.test.images[0, 0, 0, 0]


def test_a_half_is_for_test_and_no_image_stands_in_two_parts(flat):
    dataset = load(flat)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (4, 1, 5)
    assert len(found(dataset)) == 10
    assert torch.equal(load(flat).test.labels, dataset.test.labels)


def test_folders_are_named_by_their_class(tmp_path):
    for number, label in enumerate(("7", "7", "012", "999")):
        paint(tmp_path / "some" / label / f"{number}.jpeg", 20 * number)
    assert sorted(found(load(tmp_path / "some")).values()) == [7, 7, 12, 999]


def test_a_thousand_folders_are_numbered_by_the_order_of_their_names(tmp_path):
    names = [f"n{number:08}" for number in range(1000)]
    for name in reversed(names):
        (tmp_path / "whole" / name).mkdir(parents=True)
    paint(tmp_path / "whole" / names[3] / "a.png", 50)
    paint(tmp_path / "whole" / names[998] / "b.png", 60)
    assert found(load(tmp_path / "whole")) == {50: 3, 60: 998}
    os.rmdir(tmp_path / "whole" / names[5])
    with pytest.raises(
        DatasetError, match="whole holds 999 folders, and only 1,000 are numbered by the order"
    ):
        load(tmp_path / "whole")


def test_a_list_says_the_classes(tmp_path):
    paint(tmp_path / "val" / "ILSVRC2012_val_00000001.png", 10)
    paint(tmp_path / "val" / "deep" / "2.png", 20)
    paint(tmp_path / "val" / "not_listed.png", 30)
    (tmp_path / "val" / "labels.csv").write_text("ILSVRC2012_val_00000001.png,65\ndeep/2.png, 970\n\n")
    assert found(load(tmp_path / "val")) == {10: 65, 20: 970}


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])  # spreadsheets write a mark in front
def test_a_list_of_a_spreadsheet_is_read(flat, mark):
    lines = b"000_n01440000_a_name_0.png,0007\r\n100_n01440001_a_name_1.png," + b"0" * 5000 + b"12\r\n"
    (flat / "labels.csv").write_bytes(mark + lines)
    assert found(load(flat)) == {0: 7, 1: 12}


def test_a_name_may_be_that_of_wordnet_alone(tmp_path):
    for number, name in enumerate(("5_n01443537.png", "6_a.png", "6_n01443537_b_c.png")):
        paint(tmp_path / "some" / name, number)
    dataset = load(tmp_path / "some")
    assert found(dataset) == {0: 5, 1: 6, 2: 6}
    assert dataset.classes[5:7] == ("class 5", "a")


def test_of_too_many_images_some_are_drawn_and_the_name_says_so(flat, monkeypatch):
    monkeypatch.setattr(imagenet, "_MOST", 4)
    dataset = load(flat)
    assert dataset.name == "some (4 of 10)"
    assert len(found(dataset)) == 4
    assert found(dataset).items() <= CLASSES_OF_FLAT.items()


# The crop


@pytest.mark.parametrize("size", [(320, 256), (256, 320), (256, 256)])
def test_the_middle_square_of_seven_eighths_is_kept(tmp_path, size):
    """Of 256 pixels 224 are kept, so that nothing is resized and each pixel can be found again."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    for number in range(2):
        path = tmp_path / "set" / f"{number}_x.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    left, top = (size[0] - 224 + 1) // 2, (size[1] - 224 + 1) // 2
    expected = pixels[top : top + 224, left : left + 224].transpose(2, 0, 1)
    assert np.array_equal(load(tmp_path / "set").test.images[0].numpy(), expected)


def test_a_crop_of_the_right_size_stays_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(224, 224, 3), dtype=np.uint8)
    (tmp_path / "set").mkdir()
    for number in range(2):
        Image.fromarray(pixels).save(tmp_path / "set" / f"{number}_x.png")
    assert np.array_equal(load(tmp_path / "set").test.images[0].numpy(), pixels.transpose(2, 0, 1))


def test_larger_and_grey_images_are_made_crops_too(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 1024).astype(np.uint8), (512, 1))  # grey, from left to right
    (tmp_path / "set").mkdir()
    for number in range(2):
        Image.fromarray(ramp).save(tmp_path / "set" / f"{number}_x.png")
    image = load(tmp_path / "set").test.images[0].float()
    assert torch.equal(image[0], image[2])
    # The middle 448 of 1,024 columns, from 288 on
    expected = 255 * (288 + 448 * (torch.arange(224) + 0.5) / 224 - 0.5) / 1023
    assert (image[0, 100] - expected).abs().max() < 1.5


# What is wrong with a folder


def test_a_known_collection_is_named_and_must_be_whole(flat):
    known = flat.rename(flat.parent / "imagenet-samples")
    with pytest.raises(
        DatasetError, match=r"half unpacked: it holds 10 images, ImageNet samples \(1,000, one a"
    ):
        load(known)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        DatasetError, match=r"imagenet:.*nowhere: there is no folder .*nowhere\. The layout is PATH/<cl"
    ):
        load(tmp_path / "nowhere")


def broken(flat, fault):
    """Put one fault into the folder."""
    if fault == "empty":
        for file in flat.iterdir():
            file.unlink()
    elif fault == "one":
        for file in sorted(flat.iterdir())[1:]:
            file.unlink()
    elif fault == "damaged":
        (flat / "300_n01440003_a_name_3.png").write_bytes(b"no image")
    elif fault == "no class":
        paint(flat / "jay.png")
    elif fault == "class":
        paint(flat / "1000_too_many.png")
    elif fault == "link":
        (flat / "5_gone.png").symlink_to(flat / "nowhere.png")
    elif fault == "pipe":
        os.mkfifo(flat / "5_pipe.png")
    elif fault == "folder":
        for file in flat.iterdir():
            file.unlink()
        paint(flat / "1001" / "a.png")
    elif fault == "beside":
        paint(flat / "7" / "a.png")
    elif fault == "numbered":
        paint(flat / "500.png")
    else:
        (flat / "labels.csv").write_bytes(fault)


FIRST = b"000_n01440000_a_name_0.png,3\n"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("empty", "some holds no images. The layout"),
        ("one", "some holds 1 image. The layout"),
        ("damaged", r"300_n01440003_a_name_3\.png cannot be read as an image"),
        ("no class", r"jay\.png does not begin with the index of its class, '_' and a name\. The layout"),
        ("numbered", r"500\.png does not begin with the index of its class, '_' and a name\. The layout"),
        ("beside", r"000_n01440000_a_name_0\.png lies beside folders, and its class is not known\. Move"),
        ("class", r"1000_too_many\.png gives the class '1000'; it must be an index from 0 to 999"),
        ("link", r"5_gone\.png is no file: a link that leads nowhere"),
        ("pipe", r"5_pipe\.png is no file"),
        ("folder", r"1001 gives the class '1001'; it must be an index"),
        (b"a.png,3\n", r"line 1 of .*labels\.csv names .*a\.png, and there is no such file"),
        (b"\na.png\n", r"line 2 of .*labels\.csv is 'a\.png'; it must be <file>,<class index>"),
        (
            b"000_n01440000_a_name_0.png,cat\n",
            r"line 1 of .*labels\.csv gives the class 'cat'; it must be an",
        ),
        (b"000_n01440000_a_name_0.png,-1\n", r"labels\.csv gives the class '-1'"),
        (FIRST * 2, r"line 2 of .*csv names .*a_name_0\.png, the image of line 1\. Delete one of the two"),
        (FIRST + b"\n../some/" + FIRST, r"line 3 of .*csv names .*some.*, the image of line 1\. Delete"),
        pytest.param(
            FIRST.strip() + b"1" * 5000,
            r"labels\.csv gives the class '31{199}\.\.\.'; it must be an index",
            id="5,000 digits",
        ),
        pytest.param(
            b"a" * 300 + b".png,3\n",
            r"labels\.csv names .*some.a{200}\.\.\., and there is no such file",
            id="300 letters",
        ),
        pytest.param(
            b"a" * 300 + b"\n",
            r"labels\.csv is 'a{200}\.\.\.'; it must be <file>,<class index>",
            id="a long line",
        ),
        (b"\xff\xfe\x00\x01", r"labels\.csv cannot be read as text with commas"),
        (b"", "some holds no images"),
    ],
)
def test_a_fault_is_named_with_its_file(flat, fault, message):
    broken(flat, fault)
    with pytest.raises(DatasetError, match=message):
        load(flat)
