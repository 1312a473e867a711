import os

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib.data import NAMES, fetch, load_dataset, loading


def image_folder(path, *, value=0):
    for split in ("train", "test"):
        for label in ("left", "right"):
            (path / split / label).mkdir(parents=True)
            for number in range(5):
                pixels = np.full((4, 4), value + number, dtype=np.uint8)
                Image.fromarray(pixels).save(path / split / label / f"{number}.png")
    return path


def test_the_known_names():
    assert NAMES == ("glyphs", "mnist", "fashion_mnist", "cifar10")


@pytest.mark.bad_input
@pytest.mark.parametrize("use", [load_dataset, fetch])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", "unknown data set 'mnits'. Did you mean 'mnist'"),
        ("fashion-mnist", "Did you mean 'fashion_mnist'"),
        ("CIFAR10", "Known: glyphs, mnist, fashion_mnist, cifar10, folder:PATH"),
        ("", "unknown data set ''"),
        ("folder:", "Did you mean 'folder:PATH'"),
        ("imagenet:", "Did you mean 'imagenet:PATH'"),
        ("imagnet:PATH", "Did you mean 'imagenet:PATH'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_known_ones(use, name, message):
    with pytest.raises(KeyError, match=message):
        use(name)


@pytest.mark.bad_input
@pytest.mark.parametrize("use", [load_dataset, fetch])
def test_names_and_roots_of_other_types_are_refused(use):
    with pytest.raises(TypeError, match=r"name is 10 \(int\); it must be one of glyphs, mnist"):
        use(10)
    with pytest.raises(TypeError, match=r"root is 3 \(int\); it must be the path of a folder"):
        use("mnist", root=3)


@pytest.mark.bad_input
def test_there_is_nothing_to_fetch_for_a_folder():
    with pytest.raises(
        ValueError, match=r"'folder:pictures' is a folder of your own: there is nothing to fetch"
    ):
        fetch("folder:pictures")


def test_changing_what_was_loaded_changes_no_later_load(tmp_path):
    name = f"folder:{image_folder(tmp_path / 'set')}"
    first = load_dataset(name)
    before = first.train.images.clone()
    first.train.images.zero_()
    first.train.labels.fill_(1)
    second = load_dataset(name)
    assert torch.equal(second.train.images, before)
    assert second.train.labels.unique().tolist() == [0, 1]


def test_a_set_is_decoded_once_until_its_files_change(tmp_path, monkeypatch):
    path = image_folder(tmp_path / "set")
    reads = []
    original = loading.folder.read
    monkeypatch.setattr(
        loading.folder, "read", reading := lambda files: reads.append(files) or original(files)
    )
    assert loading.folder.read is reading
    load_dataset(f"folder:{path}")
    load_dataset(f"folder:{path}")
    assert len(reads) == 1
    changed = path / "test" / "left" / "0.png"
    status = changed.stat()
    Image.fromarray(np.full((4, 4), 200, dtype=np.uint8)).save(changed)
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert int(load_dataset(f"folder:{path}").test.images[0, 0, 0, 0]) == 200
    assert len(reads) == 2


def test_the_root_argument_outranks_the_environment(tmp_path, monkeypatch):
    image_folder(tmp_path / "by_argument" / "set", value=10)
    image_folder(tmp_path / "by_environment" / "set", value=100)
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "by_environment"))
    assert int(load_dataset("folder:set").test.images.min()) == 100
    assert int(load_dataset("folder:set", root=tmp_path / "by_argument").test.images.min()) == 10
    assert int(load_dataset("folder:set", root=str(tmp_path / "by_argument")).test.images.min()) == 10


def test_a_relative_folder_is_looked_for_in_the_working_folder_first(tmp_path, monkeypatch):
    image_folder(tmp_path / "here" / "set", value=10)
    image_folder(tmp_path / "root" / "set", value=100)
    monkeypatch.chdir(tmp_path / "here")
    assert int(load_dataset("folder:set", root=tmp_path / "root").test.images.min()) == 10
