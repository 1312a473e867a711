import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from course_lib import files
from course_lib.data import DatasetError, fetch, glyphs, load_dataset

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def dataset():
    return load_dataset()


@pytest.fixture(scope="module")
def redrawn():
    return glyphs.draw()


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A copy of the data folder that tests may damage."""
    (tmp_path / "data").mkdir()
    for name in ("glyphs.npz", "SHA256SUMS"):
        shutil.copy(files.root() / "data" / name, tmp_path / "data" / name)
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    return tmp_path / "data"


def test_the_generator_reproduces_the_shipped_file(redrawn):
    shipped, drawn_with = glyphs.read(glyphs._path())
    found = glyphs._differences(redrawn, shipped)
    if found and drawn_with != glyphs._versions():
        pytest.skip(
            f"{found} differ: the shipped file is drawn with {drawn_with}, here are {glyphs._versions()}"
        )
    assert not found


def test_drawing_depends_on_the_seed_alone_and_each_split_has_a_stream_of_its_own():
    small = glyphs.draw(seed=7, counts={"train": 12, "validation": 3, "test": 5})
    again = glyphs.draw(seed=7, counts={"train": 2, "validation": 3, "test": 5})
    other = glyphs.draw(seed=8, counts={"train": 12, "validation": 3, "test": 5})
    for split in ("validation", "test"):
        assert np.array_equal(small[f"{split}_images"], again[f"{split}_images"])
    assert all(not np.array_equal(small[f"{split}_images"], other[f"{split}_images"]) for split in SPLITS)


def test_the_sizes_are_those_of_the_datasheet(dataset):
    assert dataset.name == "glyphs"
    assert dataset.classes == ("B", "D", "G", "O", "Q", "R", "S", "E", "5", "8")
    for split, count in zip(SPLITS, (10_000, 2_000, 4_000), strict=True):
        assert getattr(dataset, split).images.shape == (count, 1, 16, 16)


def test_every_class_is_drawn_equally_often_in_every_split(dataset):
    for split in SPLITS:
        labels = getattr(dataset, split).labels
        assert labels.bincount(minlength=10).tolist() == [len(labels) // 10] * 10
        assert labels[:100].unique().numel() == 10  # shuffled, not sorted


def test_no_image_stands_twice_in_one_split_or_in_two(dataset):
    images = [image.tobytes() for split in SPLITS for image in getattr(dataset, split).images.numpy()]
    assert len(set(images)) == len(images)


def test_every_image_carries_ink_and_noise(dataset):
    flat = dataset.train.images.flatten(1).float()
    assert flat.std(dim=1).min() > 10  # a blank image would have the noise alone
    inverted = (dataset.train.images[:, 0, 0].float().mean(dim=1) > 127).float().mean()
    assert 0.35 < inverted < 0.65


def test_differences_counts_images_and_names_what_lacks():
    arrays = glyphs.draw(counts={"train": 4})
    changed = {key: value.copy() for key, value in arrays.items()}
    assert glyphs._differences(arrays, changed) == {}
    changed["train_images"][[1, 3], 0, 2] ^= 1
    assert glyphs._differences(arrays, changed) == {"train_images": 2}
    del changed["train_labels"]
    changed["train_images"] = changed["train_images"][:3]
    assert glyphs._differences(arrays, changed) == {"train_images": -1, "train_labels": -1}


def test_saving_twice_gives_the_same_bytes_and_reading_gives_the_arrays_back(tmp_path):
    arrays = glyphs.draw(counts={"train": 4})
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    glyphs.save(arrays, first)
    glyphs.save(arrays, second)
    assert first.read_bytes() == second.read_bytes()
    back, drawn_with = glyphs.read(first)
    assert glyphs._differences(arrays, back) == {}
    assert drawn_with == glyphs._versions()
    assert all(name in drawn_with for name in ("Pillow", "FreeType", "matplotlib", "NumPy"))


@pytest.mark.bad_input
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", b"no archive at all"])
def test_reading_a_damaged_file_names_it(tmp_path, content):
    (tmp_path / "glyphs.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"glyphs\.npz is no whole glyphs file"):
        glyphs.read(tmp_path / "glyphs.npz")


def truncate(path):
    path.write_bytes(path.read_bytes()[:100_000])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.bad_input
@pytest.mark.parametrize("use", [load_dataset, fetch])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"glyphs\.npz is not as recorded: its sha256 is [0-9a-f]{64}, data/SHA256SUMS records"),
        (flip_a_bit, r"glyphs\.npz is not as recorded: its sha256 is"),
        (lambda path: path.unlink(), r"glyphs\.npz is absent"),
        (
            lambda path: (path.parent / "SHA256SUMS").write_text(""),
            r"glyphs\.npz is not as recorded: data/SHA256SUMS has no line for it",
        ),
        (
            lambda path: (path.parent / "SHA256SUMS").unlink(),
            r"glyphs\.npz is not as recorded: data/SHA256SUMS has no line for it",
        ),
    ],
)
def test_a_damaged_or_absent_file_is_named_with_the_remedy(house, use, damage, message):
    damage(house / "glyphs.npz")
    with pytest.raises(DatasetError, match=message) as caught:
        use("glyphs")
    assert "git checkout -- data/glyphs.npz" in str(caught.value)
    assert "python -m course_lib.data.glyphs --write" in str(caught.value)


def test_fetching_glyphs_verifies_them_and_names_their_folder(house):
    assert fetch("glyphs") == house


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["glyphs", *arguments])
    return glyphs._main(), capsys.readouterr().out


def test_the_command_compares_and_writes(house, monkeypatch, capsys):
    monkeypatch.setattr(glyphs, "draw", lambda: glyphs.read(house / "glyphs.npz")[0])
    assert command(monkeypatch, capsys) == (
        0,
        f"identical to the shipped glyphs.npz ({glyphs._versions()})\n",
    )

    changed = glyphs.read(house / "glyphs.npz")[0]
    changed["test_images"] = 255 - changed["test_images"]
    monkeypatch.setattr(glyphs, "draw", lambda: changed)
    status, said = command(monkeypatch, capsys)
    assert status == 1
    assert "differs from the shipped glyphs.npz in {'test_images': 4000}" in said
    assert "shipped: Pillow" in said

    status, said = command(monkeypatch, capsys, "--write")
    assert status == 0
    assert "wrote glyphs.npz" in said
    assert (
        load_dataset().test.images.numpy().tobytes() == changed["test_images"].tobytes()
    )  # and the checksum fits

    for damage in (truncate, Path.unlink):
        damage(house / "glyphs.npz")
        status, said = command(monkeypatch, capsys)
        assert status == 1
        assert "nothing to compare with" in said


def test_importing_the_package_imports_neither_the_generator_nor_heavy_libraries():
    code = "import sys, course_lib.data; print(*sys.modules, sep='\\n')"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    # the generator: `python -m course_lib.data.glyphs` would warn of finding itself imported
    assert not {"course_lib.data.glyphs", "torchvision", "PIL", "matplotlib"} & set(found)


def test_the_look_alikes_are_the_pairs_that_a_nearest_neighbour_confuses_most(dataset):
    """The figures of data/README.md."""

    def directions(split):
        pixels = split.images.flatten(1).float()
        return torch.nn.functional.normalize(pixels - pixels.mean(dim=1, keepdim=True))

    some = dataset.test.subset(torch.arange(1000))
    likeness = (directions(some) @ directions(dataset.train).T).abs()  # the sign is the inversion
    truth, answer = some.labels, dataset.train.labels[likeness.argmax(dim=1)]
    assert (truth == answer).float().mean().item() == pytest.approx(0.70, abs=0.02)
    errors = Counter(
        frozenset((dataset.classes[t], dataset.classes[a]))
        for t, a in zip(truth.tolist(), answer.tolist(), strict=True)
        if t != a
    )
    assert [pair for pair, _ in errors.most_common(3)] == [frozenset("8B"), frozenset("OQ"), frozenset("5S")]
