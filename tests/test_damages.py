"""Two hundred and fifty damages of files under data/: each is named, and the command that the error gives mends it."""

import json
import random
import re
import shutil
import subprocess

import numpy as np
import pytest

from course_lib import checkpoints, data, files, models
from course_lib.checkpoints import Blueprint
from course_lib.data import glyphs
from course_lib.data.dataset import DatasetError
from course_lib.experiments import records
from course_lib.training import Recipe

pytestmark = [pytest.mark.bad_input, pytest.mark.skipif(shutil.which("git") is None, reason="needs git")]

TINY = Blueprint("vgg", {"widths": [3, "M", 4], "classes": 2}, recipe=Recipe(2, 8), seed=7)
READERS = {
    "results/01-one.json": lambda: records.load("01-one"),
    "results/02-two.json": lambda: records.load("02-two"),
    "checkpoints/tiny.json": lambda: checkpoints.load("tiny"),
    "checkpoints/tiny.safetensors": lambda: checkpoints.load("tiny"),
    "glyphs.npz": lambda: data.load_dataset("glyphs"),
}
TYPES = (b"3", b"null", b"[]", b'"text"', b"{}", b'[{"rows": []}]', b"true")


def flipped(chooser, content):
    place = chooser.randrange(len(content) - 1)  # the last end of a line may be any space
    return content[:place] + bytes([content[place] ^ (1 << chooser.randrange(8))]) + content[place + 1 :]


DAMAGES = {
    "flipped": flipped,
    "cut": lambda chooser, content: content[: chooser.randrange(len(content) - 2)],
    "cut at the start": lambda chooser, content: content[chooser.randrange(1, len(content) - 1) :],
    "emptied": lambda chooser, content: b"",
    "of another type": lambda chooser, content: chooser.choice(TYPES),
    "no UTF-8": lambda chooser, content: b"\xff\xfe" + content,
    "lines of Windows": lambda chooser, content: content.replace(b"\n", b"\r\n") + b"\r\n",
    "zeros": lambda chooser, content: bytes(len(content)),
    "twice": lambda chooser, content: 2 * content,
    "a page of a server": lambda chooser, content: b"<!doctype html><title>404</title>",
    "a pointer": lambda chooser, content: b"version https://git-lfs.github.com/spec/v1\n",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A small checkout under git: two records, a checkpoint, a data set, and the list of their digests."""
    root = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_HOME", str(root))
        patch.setitem(checkpoints.CATALOGUE, "tiny", TINY)
        patch.setattr(checkpoints, "NAMES", (*checkpoints.NAMES, "tiny"))
        (root / "data").mkdir()
        for name in ("01-one", "02-two"):
            records.save(name, [{"seed": seed, "test": 0.5 + seed / 10} for seed in range(3)], {"epochs": 2})
        checkpoints.save("tiny", models.build("vgg", seed=1, **TINY.options), TINY, {"test_accuracy": 0.5})
        parts = {"images": np.zeros((4, 1, 16, 16), np.uint8), "labels": np.zeros(4, np.int64)}
        splits = {f"{split}_{part}": array for split in glyphs.COUNTS for part, array in parts.items()}
        glyphs.save(splits, root / "data" / "glyphs.npz")
        files.record_checksum(root / "data" / "glyphs.npz")
        (root / ".gitattributes").write_text("data/** -text\n")
        for words in (["init", "-q"], ["add", ".gitattributes", "data"],
                      ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all"]):  # fmt: skip
            subprocess.run(["git", *words], cwd=root, check=True)
        yield root


def cases(home):
    """(file under data/, what happens to it, what it holds then; None where it is gone), from one seed."""
    chooser = random.Random(0)
    names = [*READERS, "SHA256SUMS"]
    held = {name: (home / "data" / name).read_bytes() for name in names}
    for number in range(265):
        name, kind = names[number % len(names)], chooser.choice([*DAMAGES, "swapped", "gone"])
        if kind == "swapped":
            damaged = held[chooser.choice([other for other in names if other != name])]
        else:
            damaged = None if kind == "gone" else DAMAGES[kind](chooser, held[name])
        if damaged == held[name] or (kind in ("lines of Windows", "twice") and name == "SHA256SUMS"):
            continue  # such a list says the same
        yield name, kind, damaged


def read_all(names):
    """The errors of reading files, by file."""
    found = {}
    for name in names:
        try:
            READERS[name]()
        except Exception as error:
            found[name] = error
    return found


def mended(home, message):
    """Run the first command of git that an error gives."""
    command = re.search(r"git checkout -- ((?:data/\S+?)(?: data/\S+?)*)(?=[,.;`)]*(?:\s|$))", message)
    assert command, message
    subprocess.run(["git", "checkout", "--", *command[1].split()], cwd=home, check=True, capture_output=True)


def test_every_damage_is_named_and_the_command_that_is_given_mends_it(home):
    every = list(cases(home))
    assert not read_all(READERS)
    unnamed = []
    for name, kind, damaged in every:
        path = home / "data" / name
        content = path.read_bytes()
        path.unlink() if damaged is None else path.write_bytes(damaged)
        errors = read_all(READERS if name == "SHA256SUMS" else [name])
        if not errors:
            unnamed.append(f"{name} {kind}: believed")
        for other, error in errors.items():
            if not isinstance(error, (files.DamagedFile, checkpoints.CheckpointError, DatasetError)):
                unnamed.append(f"{name} {kind}: {error!r}")
            elif not any(
                place in str(error) for place in (str(home / "data" / other), str(path), f"data/{name}")
            ):
                unnamed.append(f"{name} {kind}: not named by {error}")
            else:
                mended(home, str(error))
        if left := read_all(READERS):
            unnamed.append(f"{name} {kind}: not mended, {left}")
        path.write_bytes(content)
    assert not unnamed, f"{len(unnamed)} of {len(every)}\n" + "\n".join(unnamed)
    assert len(every) >= 250


@pytest.mark.parametrize("content", TYPES, ids=repr)
def test_a_record_of_another_form_is_named_even_where_its_digest_is_listed(home, content):
    path = home / "data" / "results" / "01-one.json"
    files.write_verified({path: content})
    with pytest.raises(files.DamagedFile, match=r"01-one\.json .*Restore it") as caught:
        records.load("01-one")
    mended(home, str(caught.value))
    assert records.load("01-one")["name"] == "01-one"
    assert json.loads(path.read_bytes())["rows"]
