"""Checkpoints: what is saved comes back bit for bit, every damage is named, and the shipped ones are what they say."""

import functools
import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from course_lib import checkpoints, data, files, models, training
from course_lib.checkpoints import Blueprint, CheckpointError
from course_lib.data import Dataset, Split
from course_lib.provenance import provenance
from course_lib.pruning.slimming import add_sparsity_gradient
from course_lib.training import Recipe

TINY = Blueprint(
    "vgg", {"widths": [3, "M", 4], "classes": 2}, recipe=Recipe(2, 8, learning_rate=0.05, seed=3), seed=7
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty course folder, a checkpoint "tiny" in the catalogue, and a data set of 24 images for it."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    monkeypatch.setitem(checkpoints.CATALOGUE, "tiny", TINY)
    monkeypatch.setattr(checkpoints, "NAMES", (*checkpoints.NAMES, "tiny"))
    rng = np.random.default_rng(0)
    splits = [
        Split(
            torch.from_numpy(rng.integers(0, 256, (n, 1, 8, 8), dtype=np.uint8)),
            (torch.arange(n) < zeros).long(),
        )
        for n, zeros in ((24, 12), (10, 3), (10, 4))  # no two splits alike, whatever a network answers
    ]
    dataset = Dataset("glyphs", *splits, ("a", "b"))
    monkeypatch.setattr(data, "load_dataset", lambda name: dataset)
    return tmp_path


@pytest.fixture
def saved(home):
    """The weights and the record of a saved "tiny"."""
    model = models.build("vgg", seed=1, **TINY.options)
    path = checkpoints.save("tiny", model, TINY, {"test_accuracy": 0.5})
    return path, path.with_suffix(".json")


def assert_same_weights(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert list(first) == list(second)
    for name in first:
        assert first[name].dtype == second[name].dtype
        assert torch.equal(first[name], second[name])


# Save and load


def test_what_is_saved_comes_back_bit_for_bit(home):
    model = models.build("vgg", seed=1, **TINY.options)
    model(torch.rand(4, 1, 8, 8))  # running statistics and the counter of batches move
    path = checkpoints.save("tiny", model, TINY, {"test_accuracy": 0.25})
    assert path == home / "data" / "checkpoints" / "tiny.safetensors"
    loaded = checkpoints.load("tiny")
    assert_same_weights(loaded, model)
    assert not any(module.training for module in loaded.modules())
    assert model.training  # the one passed in is left alone


def test_weights_in_any_memory_order_are_saved(home):
    model = models.build("vgg", seed=1, **TINY.options).to(memory_format=torch.channels_last)
    checkpoints.save("tiny", model, TINY, {})
    assert_same_weights(checkpoints.load("tiny"), model)


@pytest.mark.usefixtures("home")
def test_the_record_says_how_the_network_was_made(saved):
    record = checkpoints.info("tiny")
    assert record["architecture"] == {"name": "vgg", "options": TINY.options}
    assert Recipe(**record["recipe"]) == TINY.recipe
    assert record["seed"] == 7
    assert record["dataset"] == "glyphs"
    assert record["metrics"] == {"test_accuracy": 0.5}
    made = record["provenance"]
    assert made == provenance() | {"threads": torch.get_num_threads()}
    assert {"date", "commit", "device", "cpu"} <= made.keys()
    assert made["versions"]["torch"] == torch.__version__
    assert record["sha256"] == files.sha256(saved[0])


def test_both_files_are_entered_into_the_checksums(saved, home):
    recorded = files.checksums()
    assert recorded == {path.relative_to(home / "data").as_posix(): files.sha256(path) for path in saved}


def test_loading_leaves_the_global_random_state_alone(saved):
    before = torch.get_rng_state()
    checkpoints.load("tiny")
    assert torch.equal(torch.get_rng_state(), before)


def test_retrain_follows_the_blueprint_and_records_what_it_measured(home):
    path = checkpoints.retrain("tiny")
    loaded, record = checkpoints.load("tiny"), checkpoints.info("tiny")
    expected = models.build("vgg", seed=7, **TINY.options)
    dataset = data.load_dataset("glyphs")
    training.fit(expected, dataset, TINY.recipe)
    for ours, theirs in zip(loaded.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for split in ("validation", "test"):
        measured = training.evaluate(loaded, getattr(dataset, split))
        assert record["metrics"][f"{split}_accuracy"] == pytest.approx(measured)
    assert record["recipe"] == asdict(TINY.recipe)
    assert 0 <= record["provenance"]["minutes"] < 10
    assert path.parent == home / "data" / "checkpoints"


def test_a_penalty_in_the_blueprint_is_trained_with_and_recorded(home, monkeypatch):
    sparse = replace(TINY, sparsity=0.02)
    monkeypatch.setitem(checkpoints.CATALOGUE, "tiny", sparse)
    checkpoints.retrain("tiny")
    loaded, expected = checkpoints.load("tiny"), models.build("vgg", seed=7, **TINY.options)
    penalty = functools.partial(add_sparsity_gradient, strength=0.02)
    training.fit(expected, data.load_dataset("glyphs"), TINY.recipe, after_backward=penalty)
    for ours, theirs in zip(loaded.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert checkpoints.info("tiny")["sparsity"] == 0.02


# Nothing is lost


def failing(function, *, at, times=None):
    """`function`, which runs out of disk at its call number `at`."""
    calls = []

    def wrapper(*arguments, **keywords):
        calls.append(1)
        if len(calls) == at:
            raise OSError(28, "No space left on device")
        return function(*arguments, **keywords)

    return wrapper


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("writer", ["write_bytes", "write_text", "open"])
def test_an_interrupted_save_leaves_the_old_checkpoint_whole(saved, monkeypatch, writer, at):
    old = checkpoints.load("tiny")
    contents = [path.read_bytes() for path in saved]
    other = models.build("vgg", seed=2, **TINY.options)
    place = type(saved[0])
    with monkeypatch.context() as patch:
        patch.setattr(place, writer, failing(getattr(place, writer), at=at))
        try:
            checkpoints.save("tiny", other, TINY, {})
        except OSError as error:
            assert "Free some disk space" in str(error) or "No space left" in str(error)  # noqa: PT017
            interrupted = True
        else:
            interrupted = False
    if interrupted and [path.read_bytes() for path in saved] == contents:
        assert_same_weights(checkpoints.load("tiny"), old)
    else:  # it failed later, at the checksums, or not at all: then the new one is whole
        assert_same_weights(checkpoints.load("tiny"), other)
    assert not list(saved[0].parent.glob("*.part")) + list(saved[0].parent.glob(".*"))


def test_a_training_that_fails_leaves_the_old_checkpoint(saved, monkeypatch):
    contents = [path.read_bytes() for path in saved]

    def diverge(*_, **__):
        raise FloatingPointError("the loss became nan")

    monkeypatch.setattr(training, "fit", diverge)
    with pytest.raises(FloatingPointError, match="nan"):
        checkpoints.retrain("tiny")
    assert [path.read_bytes() for path in saved] == contents
    checkpoints.verify("tiny")


# Damage


def flip(path, position=-1):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def empty(path):
    path.write_bytes(b"")


def no_text(path):
    path.write_bytes(b"\xff\xfe" + path.read_bytes())


def another_digit(path):
    """JSON as before, and a number that nobody measured."""
    text = path.read_text()
    path.write_text(
        re.sub(r"(accuracy\": 0\.)(\d)", lambda found: found[1] + str((int(found[2]) + 1) % 10), text)
    )
    assert path.read_text() != text


def a_number(path):
    path.write_text("3")


DAMAGES = [
    ("weights", flip),
    ("weights", truncate),
    ("weights", empty),
    ("weights", lambda path: path.unlink()),
    ("record", truncate),
    ("record", empty),
    ("record", no_text),
    ("record", a_number),
    ("record", another_digit),
    ("record", lambda path: path.unlink()),
]


@pytest.mark.parametrize("call", [checkpoints.verify, checkpoints.load])
@pytest.mark.parametrize(("which", "damage"), DAMAGES)
def test_damage_is_named_with_the_file_and_the_command_that_mends_it(saved, call, which, damage):
    checkpoints.verify("tiny")
    path = saved[which == "record"]
    damage(path)
    with pytest.raises(CheckpointError) as caught:
        call("tiny")
    assert str(path) in str(caught.value)
    assert "`course train tiny`" in str(caught.value)


def test_what_is_no_safetensors_file_is_said_so_even_where_the_digest_agrees(saved):
    weights, record = saved
    weights.write_bytes(b"these are not weights")
    content = json.loads(record.read_text()) | {"sha256": files.sha256(weights)}
    files.write_verified({record: json.dumps(content).encode()})
    with pytest.raises(
        CheckpointError, match=r"tiny\.safetensors is not a safetensors file.*`course train tiny`"
    ):
        checkpoints.verify("tiny")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "architecture",
    [
        None,
        {},
        {"name": "vggg", "options": {}},
        {"name": "vgg", "options": {"depth": 3}},
        {"name": "vgg", "options": {"widths": [4, "M", 4], "classes": 2}},
        {"name": "vgg", "options": {"widths": []}},
        {"name": "mlp", "options": {}},
    ],
    ids=str,
)
def test_a_record_of_another_network_is_damage_too(saved, architecture):
    content = json.loads(saved[1].read_text()) | {"architecture": architecture}
    files.write_verified({saved[1]: json.dumps(content).encode()})
    with pytest.raises(
        CheckpointError, match=r"(?s)tiny\.json does not describe .*tiny\.safetensors.*`course train tiny`"
    ):
        checkpoints.load("tiny")


@pytest.mark.parametrize(
    "call",
    [checkpoints.load, checkpoints.info, checkpoints.verify, checkpoints.retrain],
    ids=lambda f: f.__name__,
)
def test_an_unknown_name_is_answered_with_the_nearest(call):
    with pytest.raises(KeyError, match=r"unknown checkpoint 'glyphs-resnt'\. Did you mean 'glyphs-resnet'"):
        call("glyphs-resnt")


# The shipped checkpoints


@pytest.fixture(scope="module")
def glyphs():
    return data.load_dataset("glyphs")


@pytest.mark.parametrize("name", [name for name in checkpoints.NAMES if name.startswith("glyphs")])
def test_a_shipped_checkpoint_is_whole_and_as_accurate_as_recorded(name, glyphs):
    model, record = checkpoints.load(name), checkpoints.info(name)
    assert training.evaluate(model, glyphs.test) == pytest.approx(
        record["metrics"]["test_accuracy"], abs=0.002
    )


@pytest.mark.parametrize("name", checkpoints.NAMES)
def test_the_record_of_a_shipped_checkpoint_is_its_blueprint(name):
    record, blueprint = checkpoints.info(name), checkpoints.CATALOGUE[name]
    trained, fresh = checkpoints.load(name), models.build(blueprint.model, seed=0, **blueprint.options)
    assert str(trained) == str(fresh.eval())
    assert not any(torch.equal(a, b) for a, b in zip(trained.parameters(), fresh.parameters(), strict=True))
    assert record["architecture"] == {"name": blueprint.model, "options": blueprint.options}
    assert record["recipe"] == asdict(blueprint.recipe)
    titles = {"glyphs": ["glyphs"], "cifar10": ["CIFAR-10", "CIFAR-10 (JPEG)"]}
    assert record["dataset"] in titles[blueprint.dataset]
    assert record["seed"] == blueprint.seed
    assert record.get("sparsity", 0.0) == blueprint.sparsity  # not recorded before there was one
    listed = files.checksums()
    for suffix in ("safetensors", "json"):
        assert listed[f"checkpoints/{name}.{suffix}"] == files.sha256(
            checkpoints.folder() / f"{name}.{suffix}"
        )


# Another network by the same recipe


def test_another_seed_gives_another_network_and_the_same_seed_the_same(saved):
    dataset = data.load_dataset("glyphs")
    first, again = (checkpoints.another("tiny", 1, dataset) for _ in range(2))
    assert_same_weights(first, again)
    assert not torch.equal(first[0].weight, checkpoints.another("tiny", 2, dataset)[0].weight)
    assert not first.training


def test_another_is_the_checkpoint_where_nothing_differs(saved):
    dataset = data.load_dataset("glyphs")
    own = checkpoints.load("tiny")
    assert_same_weights(checkpoints.another("tiny", TINY.seed, dataset), own)
    assert_same_weights(checkpoints.another("tiny", TINY.seed, dataset, epochs=2), own)
    for change in ({"epochs": 1}, {"augment": "shift"}):
        assert not torch.equal(
            checkpoints.another("tiny", TINY.seed, dataset, **change)[0].weight, own[0].weight
        )
    wider = checkpoints.another("tiny", TINY.seed, dataset, options={"widths": [5, "M", 4]})
    assert wider[0].out_channels == 5
    renamed = replace(dataset, name="other")
    assert not torch.equal(checkpoints.another("tiny", TINY.seed, renamed)[0].weight, own[0].weight)


def test_another_fits_the_data_set_and_keeps_the_penalty(saved, monkeypatch):
    dataset = data.load_dataset("glyphs")
    three = replace(
        dataset,
        train=Split(dataset.train.images.repeat(1, 3, 1, 1), dataset.train.labels + 1),
        classes=("a", "b", "c"),
    )
    network = checkpoints.another("tiny", 1, three)
    assert network[0].in_channels == 3
    assert network[-1].out_features == 3
    plain = checkpoints.another("tiny", 1, dataset)
    monkeypatch.setitem(checkpoints.CATALOGUE, "tiny", replace(TINY, sparsity=0.5))
    assert checkpoints.another("tiny", 1, dataset)[1].weight.sum() < plain[1].weight.sum()


def test_another_keeps_channels_innermost_but_in_a_mobilenet(home):
    """Of three-channel images, so that the first layer's weights differ in the two layouts of memory."""
    dataset = data.load_dataset("glyphs")
    coloured = replace(dataset, train=Split(dataset.train.images.repeat(1, 3, 1, 1), dataset.train.labels))
    for name in ("tiny", "glyphs-vgg", "glyphs-resnet", "glyphs-mobilenet"):
        network = checkpoints.another(name, 1, coloured, epochs=1)
        weight = next(p for p in network.parameters() if p.ndim == 4)
        innermost = weight.is_contiguous(memory_format=torch.channels_last)
        assert weight.is_contiguous() != innermost
        assert innermost == (name != "glyphs-mobilenet"), name


def test_another_does_not_validate(home, monkeypatch):
    scored = []
    monkeypatch.setattr(training, "evaluate", lambda model, split: scored.append(split) or 0.0)
    checkpoints.another("tiny", 1, data.load_dataset("glyphs"))
    assert not scored


@pytest.mark.bad_input
def test_another_says_what_it_does_not_know(saved):
    dataset = data.load_dataset("glyphs")
    with pytest.raises(KeyError, match="unknown checkpoint 'tinny'"):
        checkpoints.another("tinny", 0, dataset)
    with pytest.raises(TypeError, match="unknown option of vgg 'width'"):
        checkpoints.another("tiny", 0, dataset, options={"width": [3]})
    with pytest.raises(TypeError, match="epoch"):
        checkpoints.another("tiny", 0, dataset, epoch=3)
