"""Wrong arguments of every public function of distillation: the message says what is wrong and what to do."""

# ruff: noqa: E501  (tables read better with a case in a line)

import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import course_lib
from course_lib import distillation
from course_lib.distillation import TopK, _checks, cache, captured, top_k

pytestmark = pytest.mark.bad_input

Z = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0]])
LABELS = torch.tensor([2, 0])
MAPS = torch.tensor([[[[1.0, 2.0]], [[0.0, 1.0]]]]).repeat(2, 1, 1, 1)
MODEL = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))


def one(logits):
    return [Z, logits]


def capture(model, names):
    with captured(model, names) as features:
        model(Z)
    return features


def round_trip(path, images, classes=None):
    cache.save(Path(path) if not isinstance(path, str | Path) else path, Z, images)
    return cache.load(path, images, classes=classes)


RIGHT = {
    "soften": (distillation.soften, {"logits": Z, "temperature": 4.0, "class_axis": None}),
    "distillation_loss": (
        distillation.distillation_loss,
        {
            "student_logits": Z,
            "teacher_logits": Z,
            "labels": LABELS,
            "temperature": 4.0,
            "alpha": 0.3,
            "ignore_index": None,
            "class_axis": None,
        },
    ),
    "ensemble_probabilities": (
        distillation.ensemble_probabilities,
        {"logits_list": [Z, Z], "temperature": 4.0, "mean": "geometric", "class_axis": None},
    ),
    "decoupled_terms": (
        distillation.decoupled_terms,
        {
            "student_logits": Z,
            "teacher_logits": Z,
            "labels": LABELS,
            "temperature": 4.0,
            "ignore_index": None,
            "class_axis": None,
        },
    ),
    "decoupled_loss": (
        distillation.decoupled_loss,
        {
            "student_logits": Z,
            "teacher_logits": Z,
            "labels": LABELS,
            "temperature": 4.0,
            "alpha": 1.0,
            "beta": 8.0,
            "ignore_index": None,
            "class_axis": None,
        },
    ),
    "top_k": (distillation.top_k, {"logits": Z, "k": 2, "temperature": 4.0, "class_axis": None}),
    "top_k_loss": (
        distillation.top_k_loss,
        {
            "student_logits": Z,
            "teacher": top_k(Z, 2, temperature=4.0),
            "labels": LABELS,
            "alpha": 0.3,
            "ignore_index": None,
            "class_axis": None,
        },
    ),
    "TopK": (
        TopK,
        {
            "values": Z[:, :2],
            "indices": torch.tensor([[2, 1], [0, 1]]),
            "rest": Z[:, 2],
            "temperature": 4.0,
            "classes": 3,
        },
    ),
    "hint_adapter": (distillation.hint_adapter, {"student_channels": 2, "teacher_channels": 3, "bias": True}),
    "hint_loss": (
        distillation.hint_loss,
        {"student_features": MAPS, "teacher_features": MAPS, "adapter": nn.Identity()},
    ),
    "attention_map": (distillation.attention_map, {"features": MAPS}),
    "attention_loss": (
        distillation.attention_loss,
        {"student_features": MAPS, "teacher_features": MAPS},
    ),
    "captured": (capture, {"model": MODEL, "names": ["0"]}),
    "cache.ask": (
        cache.ask,
        {
            "teacher": MODEL,
            "images": Z,
            "k": 2,
            "temperature": 4.0,
            "dtype": "float16",
            "class_axis": None,
            "batch_size": 1,
        },
    ),
    "cache.digest": (cache.digest, {"images": Z}),
}

# Whatever a caller might pass by mistake, for any argument.
HOSTILE = {
    "None": None,
    "a bool": True,
    "a text": "4",
    "an unknown name": "nothing",
    "an object": object(),
    "a class": nn.ReLU,
    "a function": lambda *a: a,
    "an iterator": iter([Z]),
    "an empty list": [],
    "a list of numbers": [1.0, 2.0],
    "a dict": {"a": 1},
    "a set": {1},
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "zero": 0,
    "a negative": -3,
    "a fraction": 0.5,
    "a large int": 10**400,
    "a large float": 1e300,
    "complex": 1j,
    "numpy": np.ones((2, 3)),
    "a numpy scalar": np.float64(2.0),
    "scalar tensor": torch.tensor(3.0),
    "learned": torch.tensor(3.0, requires_grad=True),
    "empty": torch.zeros(0, 3),
    "no class": torch.zeros(2, 0),
    "one axis": torch.zeros(3),
    "three axes": torch.zeros(2, 3, 1),
    "five axes": torch.zeros(2, 3, 1, 1, 1),
    "another batch": torch.zeros(5, 3),
    "integers": torch.ones(2, 3, dtype=torch.int64),
    "bytes": torch.ones(2, 3, dtype=torch.uint8),
    "booleans": torch.ones(2, 3, dtype=torch.bool),
    "complex tensor": torch.ones(2, 3, dtype=torch.complex64),
    "float8": torch.ones(2, 3).to(torch.float8_e4m3fn),
    "sparse": torch.eye(3)[:2].to_sparse(),
    "sparse rows": torch.eye(3)[:2].to_sparse_csr(),
    "quantized": torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8),
    "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "meta": torch.ones(2, 3, device="meta"),
    "integers on meta": torch.ones(2, dtype=torch.int64, device="meta"),
    "lazy": nn.LazyLinear(3).weight,
    "NaN inside": torch.tensor([[1.0, math.nan, 0.0], [0.0, 0.0, 0.0]]),
    "inf inside": torch.tensor([[1.0, math.inf, 0.0], [0.0, 0.0, 0.0]]),
    "a mask inside": torch.tensor([[1.0, -math.inf, 0.0], [0.0, 0.0, 0.0]]),
    "huge inside": torch.full((2, 3), 3e38),
    "NaN in a map": MAPS * math.nan,
    "labels out of range": torch.tensor([0, 9]),
    "negative labels": torch.tensor([0, -100]),
    "one label": torch.tensor([1]),
    "int32 labels": LABELS.int(),
    "a layer that does not fit": nn.Linear(7, 7),
    "a layer without values": nn.Linear(3, 3, device="meta"),
    "a lazy layer": nn.LazyLinear(3),
    "a layer that answers with two": nn.LSTM(3, 3),
    "a layer that loses the batch": nn.Flatten(0, 1),
    "a scripted layer": torch.jit.script(nn.Linear(3, 3)),
}

WORDS = {  # what a message may call an argument
    "logits_list": ("logits_list", "mean"),
    "labels": ("labels",),
    "mean": ("mean",),
    "teacher": ("teacher", "model"),
    "names": ("names", "layer"),
    "class_axis": ("class_axis",),
    "adapter": ("adapter",),
    "k": ("k is", "temperature"),
    "model": ("model", "layer"),
    "images": ("images", "teacher"),
}


def own(error):
    """Whether an exception was raised by a line of this library, and not by one that it called."""
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return Path(trace.tb_frame.f_code.co_filename).is_relative_to(Path(course_lib.__file__).parent)


def outcome(function, arguments):
    try:
        function(**arguments)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_arguments_are_accepted_and_are_all_there(name):
    function, right = RIGHT[name]
    assert outcome(function, right) is None
    assert set(right) == set(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("name", "argument"), [(name, arg) for name, (_, right) in RIGHT.items() for arg in right]
)
def test_no_value_gives_an_error_that_is_not_ours(name, argument):
    """TypeError, ValueError or KeyError from our own line, with the argument in it; or a finite result."""
    function, right = RIGHT[name]
    refused = 0
    for kind, value in HOSTILE.items():
        found = outcome(function, right | {argument: value})
        if found is None:
            continue
        refused += 1
        where = f"{name}({argument}={kind}): {type(found).__name__}: {found}"
        assert type(found) in (TypeError, ValueError, KeyError), where
        assert own(found), where
        assert any(word in str(found) for word in WORDS.get(argument, (argument,))), where
        assert len(str(found)) > 30, where
    assert refused > 15


@pytest.mark.parametrize(
    ("name", "argument", "value", "error", "message"),
    [
        ("soften", "class_axis", 0, ValueError, r"class_axis is 0 and logits has shape \[2, 3\]; it must be from 1 to 1"),
        ("soften", "class_axis", 2, ValueError, "class_axis is 2"),
        ("soften", "class_axis", -2, ValueError, "class_axis is -2 .* Axis 0 counts the images"),
        ("soften", "class_axis", 1.0, TypeError, r"class_axis is 1\.0 \(float\); it must be a whole number"),
        ("soften", "logits", torch.zeros(2, 3, 4), ValueError, r"class_axis=2 for \[N, L, K\], class_axis=1 for \[N, K, L\]"),
        ("soften", "logits", HOSTILE["float8"], TypeError, r"logits has dtype torch\.float8_e4m3fn; .* Call \.float\(\)"),
        ("soften", "logits", HOSTILE["sparse"], TypeError, r"logits is sparse .* Call \.to_dense\(\)"),
        ("soften", "logits", HOSTILE["a mask inside"], ValueError, r"logits holds -infinity, as a mask over classes does"),
        ("soften", "logits", HOSTILE["inf inside"], ValueError, "logits holds infinity. Look for a diverged network"),
        ("soften", "logits", HOSTILE["huge inside"], ValueError, r"logits holds 3e\+38 in size; .* up to 1e\+30"),
        ("soften", "temperature", HOSTILE["learned"], TypeError, r"temperature is a tensor that requires a gradient; .* Pass float\(temperature\)"),
        ("soften", "temperature", 10**400, ValueError, "temperature is inf"),
        ("distillation_loss", "alpha", HOSTILE["learned"], TypeError, "alpha is a tensor that requires a gradient"),
        ("distillation_loss", "teacher_logits", HOSTILE["a mask inside"], ValueError, "teacher_logits holds -infinity"),
        ("distillation_loss", "labels", Z.softmax(1) * 2, ValueError, "labels are probabilities and the sum .* differs from 1 by up to 1; .* Divide them by their sum"),
        ("distillation_loss", "labels", Z, ValueError, "the sum over the classes differs from 1"),
        ("distillation_loss", "labels", Z - 2, ValueError, "labels are probabilities and run from -2 to 1; .* soften"),
        ("distillation_loss", "labels", Z[:, :2], TypeError, r"labels has dtype torch.float32; .* in the shape of the logits, \[2, 3\]"),
        ("distillation_loss", "labels", torch.tensor([-100, 0]), ValueError, "labels run from -100 to 0; .* is named by ignore_index"),
        ("distillation_loss", "ignore_index", 1.5, TypeError, r"ignore_index is 1\.5 \(float\)"),
        ("distillation_loss", "ignore_index", 2**70, ValueError, "ignore_index is 1180591620717411303424"),
        ("ensemble_probabilities", "logits_list", None, TypeError, r"logits_list is None \(NoneType\); it must be a list of tensors"),
        ("ensemble_probabilities", "logits_list", (z for z in [Z]), TypeError, r"\(generator\); .* list\(\.\.\.\) around an iterator"),
        ("ensemble_probabilities", "logits_list", {"a": Z}, TypeError, r"logits_list is \{'a': tensor"),
        ("decoupled_loss", "labels", None, TypeError, "labels is None; it must be an int64 tensor"),
        ("decoupled_loss", "labels", Z.softmax(1), TypeError, r"labels has dtype torch\.float32; .* labels\.argmax"),
        ("decoupled_loss", "temperature", 1e5, ValueError, r"temperature is 100000\.0; it must be a finite number in \[0\.001, 10000\]"),
        ("decoupled_loss", "beta", -1, ValueError, r"beta is -1\.0; it must be a finite number in \[0, inf\).* the paper has alpha = 1"),
        ("top_k", "k", 4, ValueError, "k is 4; it must be from 1 to 3"),
        ("top_k", "k", 0, ValueError, "k is 0; it must be from 1 to 3"),
        ("top_k", "k", 2.0, TypeError, r"k is 2\.0 \(float\); it must be a whole number"),
        ("top_k", "temperature", 1e-4, ValueError, r"temperature is 0\.0001; it must be a finite number in \[0\.001"),
        ("top_k_loss", "teacher", Z, TypeError, "teacher is a Tensor; it must be a TopK. .* whole logits go to distillation_loss"),
        ("top_k_loss", "teacher", top_k(Z[:1], 2, temperature=4.0), ValueError, r"3 classes at the positions \[2\], and teacher 3 at \[1\]; .* teacher\[batch\.indices\]"),
        ("top_k_loss", "teacher", top_k(torch.zeros(2, 4), 2, temperature=4.0), ValueError, r"3 classes .* teacher 4 at \[2\]"),
        ("TopK", "indices", torch.tensor([[2, 2], [0, 1]]), ValueError, r"indices run from 0 to 2; they must lie in \[0, 2\], each once in a row"),
        ("TopK", "indices", torch.tensor([[2, 3], [0, 1]]), ValueError, "indices run from 0 to 3"),
        ("TopK", "rest", Z, ValueError, r"have the shapes \[2, 2\], \[2, 2\] and \[2, 3\]; .* top_k"),
        ("TopK", "classes", 1, ValueError, "k is 2; it must be from 1 to 1"),
        ("TopK", "classes", 2, ValueError, "indices run from 0 to 2; they must lie in .0, 1."),
        ("hint_loss", "adapter", distillation.hint_adapter(7, 2), ValueError, r"the adapter does not run on student_features of shape \[2, 2, 1, 2\].*RuntimeError"),
        ("hint_loss", "adapter", distillation.hint_adapter(2, 7), ValueError, r"what the adapter makes of student_features has shape \[2, 7, 1, 2\] and teacher_features \[2, 2, 1, 2\]"),
        ("hint_loss", "adapter", None, None, ""),
        ("hint_loss", "teacher_features", MAPS[:, :1], ValueError, r"hint_adapter\(C of the student, C of the teacher\)|must agree"),
        ("hint_loss", "student_features", MAPS * 1e16, ValueError, r"student_features holds 2e\+16 in size; accepted are numbers up to 1e\+15"),
        ("attention_loss", "teacher_features", MAPS[..., :1], ValueError, r"\[2, 2, 1, 2\] and teacher_features \[2, 2, 1, 1\]; .*adaptive_avg_pool2d"),
        ("attention_loss", "student_features", MAPS[:1], ValueError, "same images and positions"),
        ("attention_map", "features", Z, ValueError, r"features has shape \[2, 3\]; it must be \[N, C, H, W\]"),
        ("captured", "names", "0", TypeError, r"names is '0' \(str\); it must be a list of names"),
        ("captured", "names", ["9"], KeyError, "unknown layer '9'.* Known: 0, 1, 2"),
        ("captured", "names", ["0", "0"], ValueError, "each once"),
        ("captured", "names", [""], KeyError, "unknown layer ''"),
        ("cache.ask", "temperature", None, ValueError, "k is 2 and temperature is None; give both or none"),
        ("cache.ask", "k", None, ValueError, r"k is None and temperature is 4\.0; give both or none"),
        ("cache.ask", "dtype", "float61", ValueError, "unknown dtype 'float61'. Did you mean 'float16'"),
        ("cache.ask", "dtype", "int8", ValueError, "unknown dtype 'int8'.* Known: float32, float16, bfloat16"),
        ("cache.ask", "images", torch.zeros(2, 5), ValueError, r"the teacher does not run on images of shape \[1, 5\].*RuntimeError"),
        ("cache.ask", "images", torch.zeros(3), ValueError, r"images has shape \[3\]; it must be \[N, \.\.\.\]"),
        ("cache.ask", "teacher", nn.LSTM(3, 3), TypeError, r"what the teacher puts out \(its logits\) is a tuple"),
        ("cache.ask", "batch_size", 0, ValueError, "batch_size is 0; it must be at least 1"),
    ],
)  # fmt: skip
def test_the_message_says_what_was_given_and_what_to_do(name, argument, value, error, message):
    function, right = RIGHT[name]
    if error is None:
        function(**right | {argument: value})
        return
    with pytest.raises(error, match=message):
        function(**right | {argument: value})


def test_a_label_to_ignore_needs_labels_that_are_indices():
    options = {"temperature": 4, "alpha": 0, "ignore_index": -100}
    with pytest.raises(ValueError, match=r"ignore_index is -100 and labels are missing; .* Pass labels"):
        distillation.distillation_loss(Z, Z, **options)
    with pytest.raises(ValueError, match=r"ignore_index is -100 and labels are probabilities"):
        distillation.distillation_loss(Z, Z, Z.softmax(1), **options)


def test_labels_are_checked_where_they_weigh_nothing():
    with pytest.raises(ValueError, match="labels run from 2 to 9"):
        distillation.distillation_loss(Z, Z, torch.tensor([2, 9]), temperature=4, alpha=0)


def test_one_class_cannot_be_taken_apart():
    with pytest.raises(
        ValueError, match=r"student_logits has shape \[2, 1\] with one class; there must be 2"
    ):
        distillation.decoupled_loss(Z[:, :1], Z[:, :1], torch.zeros(2, dtype=torch.int64), temperature=4)


def test_tensors_on_two_devices_are_named():
    with pytest.raises(ValueError, match=r"a is on cpu and b is on meta; they must be on one device"):
        _checks.check_devices(a=Z, b=Z.to("meta"))


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (0, TypeError, r"index is 0 \(int\); .* answers\[i : i \+ 1\]"),
        ([0, 1], TypeError, r"index is \[0, 1\] \(list\)"),
        (torch.tensor([0.0]), TypeError, "index is tensor"),
        (torch.tensor(0), TypeError, "index is tensor"),
        (torch.tensor([5]), IndexError, "5"),
    ],
)
def test_a_wrong_index_is_named(index, error, message):
    with pytest.raises(error, match=message):
        top_k(Z, 2, temperature=4.0)[index]


def test_layers_without_one_tensor_to_note_are_named():
    relu = nn.ReLU()
    twice = nn.Sequential(nn.Linear(3, 3), relu, nn.Linear(3, 3), relu)
    with pytest.raises(ValueError, match="the layer '1' is called more than once in one call of the model"):
        capture(twice, ["1"])
    with pytest.raises(TypeError, match="the layer '0' puts out a tuple; it must be a tensor"):
        capture(nn.Sequential(nn.LSTM(3, 3), nn.Identity()), ["0"])
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in twice.modules())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"path": None}, TypeError, r"path is None \(NoneType\); it must be the path of a file"),
        ({"path": "."}, ValueError, r"path is '\.', a folder"),
        ({"answers": None}, TypeError, "answers is a NoneType"),
        ({"answers": Z[:1]}, ValueError, "answers are for 1 images and images holds 2"),
        ({"answers": Z * math.nan}, ValueError, "answers holds NaN"),
        ({"answers": torch.zeros(2, 3, 4)}, ValueError, r"answers has shape \[2, 3, 4\]; .* class_axis=2"),
        ({"class_axis": 5}, ValueError, "class_axis is 5"),
        ({"images": None}, TypeError, "images is a NoneType"),
        ({"images": torch.zeros(0, 3)}, ValueError, r"images has shape \[0, 3\]"),
        ({"images": Z.to_sparse()}, TypeError, "images is sparse"),
    ],
)
def test_nothing_is_saved_from_wrong_arguments(tmp_path, monkeypatch, changes, error, message):
    monkeypatch.chdir(tmp_path)
    right = {"path": "teacher.safetensors", "answers": Z, "images": Z}
    with pytest.raises(error, match=message):
        cache.save(**right | changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"path": 3}, TypeError, r"path is 3 \(int\)"),
        ({"path": "a\0b"}, ValueError, "which holds a NUL"),
        ({"images": "images"}, TypeError, "images is a str"),
        ({"classes": 0}, ValueError, "classes is 0; it must be at least 1"),
        ({"classes": 3.0}, TypeError, r"classes is 3\.0 \(float\)"),
    ],
)
def test_wrong_arguments_of_load_are_named(tmp_path, changes, error, message):
    path = cache.save(tmp_path / "t", Z, Z)
    with pytest.raises(error, match=message):
        cache.load(**{"path": path, "images": Z, "classes": 3} | changes)


def test_logits_beyond_float16_are_not_kept_in_it():
    large = nn.Linear(1, 2)
    nn.init.constant_(large.weight, 1e6)
    with pytest.raises(
        ValueError, match=r"the teacher's logits reach 1e\+06 .* Keep them with dtype=.bfloat16."
    ):
        cache.ask(large, torch.ones(2, 1), dtype="float16")


def test_a_name_that_distillation_has_not():
    with pytest.raises(AttributeError, match=r"module 'course_lib\.distillation' has no attribute 'softn'"):
        distillation.softn  # noqa: B018
    assert set(distillation.__all__) <= set(dir(distillation))
    assert all(getattr(distillation, name).__name__ == name for name in distillation.__all__)
