"""Every check passes on what is right, and says of what is wrong: what it is, what is accepted, what to do."""

import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from course_lib.validation import (
    check_choice,
    check_count,
    check_dense,
    check_file,
    check_function,
    check_layer,
    check_layers,
    check_model,
    check_number,
    described,
    unknown_name,
)

pytestmark = pytest.mark.bad_input  # each check is called with wrong types on purpose


# Numbers


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_finite_number_passes_where_no_bound_is_set(value):
    assert check_number(value, "x") == value


@pytest.mark.parametrize(
    "value",
    [
        2,
        2.0,
        np.float32(2),
        np.int64(2),
        np.array(2.0),
        torch.tensor(2),
        torch.tensor([2.0], requires_grad=True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_number_becomes_a_float(value):
    checked = check_number(value, "x", low=0, high=4)
    assert type(checked) is float
    assert checked == 2


def test_the_bounds_belong_to_the_range_unless_they_are_open():
    assert check_number(0, "x", low=0, high=1) == 0
    assert check_number(1, "x", low=0, high=1, low_open=True) == 1
    with pytest.raises(ValueError, match=r"x is 0.0; it must be a finite number in \(0, 1\]"):
        check_number(0, "x", low=0, high=1, low_open=True)
    assert check_number(0, "x", low=0, high=1, high_open=True) == 0
    with pytest.raises(ValueError, match=r"x is 1.0; it must be a finite number in \[0, 1\)"):
        check_number(1, "x", low=0, high=1, high_open=True)


@pytest.mark.parametrize(
    "value", [-0.1, 1.1, math.nan, math.inf, -math.inf, torch.tensor(math.nan), np.float32(7)]
)
def test_what_is_out_of_range_or_not_finite_is_named(value):
    with pytest.raises(
        ValueError, match=rf"x is {float(value)}.*; it must be a finite number in \[0, 1\]. Try 0.5"
    ):
        check_number(value, "x", low=0, high=1, hint="Try 0.5.")


def test_infinity_is_refused_even_without_bounds():
    with pytest.raises(ValueError, match="x is inf; it must be a finite number"):
        check_number(math.inf, "x")


def test_a_value_just_outside_is_shown_with_the_digits_that_matter():
    with pytest.raises(ValueError, match=r"x is 1\.0000001;"):
        check_number(1.0000001, "x", low=0, high=1)


def test_a_number_too_large_for_a_float_is_out_of_range():
    with pytest.raises(ValueError, match="x is inf"):
        check_number(10**400, "x", low=0, high=1)
    with pytest.raises(ValueError, match="x is -inf"):
        check_number(-(10**400), "x")


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.bool_(True),
        torch.tensor(True),
        "4",
        np.str_("4"),
        None,
        1j,
        np.complex64(1),
        torch.tensor(1j),
        [1.0],
        np.array([1.0, 2.0]),
        torch.tensor([1.0, 2.0]),
        np.datetime64("2020-01-01"),
        Decimal("1"),
    ],
    ids=lambda value: f"{type(value).__name__} {value}",
)
def test_what_is_no_number_is_named_with_its_type(value):
    with pytest.raises(
        TypeError, match=rf"(?s)x is .*\({type(value).__name__}\); it must be a number. Try 0.5."
    ):
        check_number(value, "x", low=0, high=9, hint="Try 0.5.")


# Counts


@settings(deadline=None)
@given(st.integers(1, 10**9))
def test_any_count_passes(value):
    assert check_count(value, "n") == value


def test_a_count_may_start_and_end_elsewhere():
    assert check_count(0, "n", low=0) == 0
    assert check_count(8, "n", low=1, high=8) == 8
    with pytest.raises(ValueError, match="n is 9; it must be from 1 to 8"):
        check_count(9, "n", low=1, high=8)
    with pytest.raises(ValueError, match="n is -1; it must be at least 0"):
        check_count(-1, "n", low=0)


@pytest.mark.parametrize("value", [2.0, True, "2", None, torch.tensor(2)])
def test_what_is_no_whole_number_is_named_with_its_type(value):
    with pytest.raises(TypeError, match=rf"n is .*\({type(value).__name__}\); it must be a whole number"):
        check_count(value, "n")


# Names


def test_a_known_name_passes():
    assert check_choice("b", "letter", ("a", "b")) == "b"
    assert check_choice("b", "letter", iter("ab")) == "b"


def test_an_unknown_name_raises_the_error_asked_for():
    with pytest.raises(ValueError, match="unknown letter 'x'"):
        check_choice("x", "letter", "ab")
    with pytest.raises(ValueError, match=r"Known: a, b\."):
        check_choice("x", "letter", iter("ab"))
    with pytest.raises(KeyError, match="unknown letter"):
        check_choice("x", "letter", "ab", error=KeyError)


@pytest.mark.parametrize("value", [None, 1, ["a"], {}, float("nan")])
def test_what_is_no_name_is_unknown(value):
    with pytest.raises(ValueError, match="unknown letter"):
        check_choice(value, "letter", ("a", "b"))


def test_the_nearest_names_are_offered_and_all_are_listed():
    known = ("mnist", "fashion_mnist", "cifar10")
    assert unknown_name("mnits", "data set", known) == (
        "unknown data set 'mnits'. Did you mean 'mnist'? Known: mnist, fashion_mnist, cifar10."
    )
    assert "Did you mean 'cifar10'?" in unknown_name("cifar-10", "data set", known)


def test_capitals_do_not_hide_the_nearest_name():
    assert "Did you mean 'mnist'" in unknown_name("MNIST", "data set", ["glyphs", "mnist"])
    assert "Did you mean 'VGG'" in unknown_name("vgg", "model", ["VGG", "MLP"])


def test_where_nothing_is_near_nothing_is_offered():
    assert unknown_name("zzz", "model", ["mlp"]) == "unknown model 'zzz'. Known: mlp."
    assert unknown_name("zzz", "chapter", []) == "unknown chapter 'zzz'. Known: none."


# Logits and labels


# Layers


class Derived(nn.Linear):
    pass


def test_layers_pass_in_the_order_of_the_model():
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Conv2d(3, 4, 1)), nn.Linear(4, 5))
    assert check_model(model) is model
    assert check_layer(model[0], "x", (nn.Linear,)) is model[0]
    found = check_layers(model, {"2": 1, "1.0": 1}, (nn.Linear, nn.Conv2d), "plan")
    assert list(found.items()) == [("1.0", model[1][0]), ("2", model[2])]
    assert check_layers(model, {}, (nn.Linear,), "plan") == {}


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (
            Derived(2, 3),
            TypeError,
            "x is a Derived; it must be a Linear or Conv1d, and none of a class derived",
        ),
        (nn.Linear, TypeError, "x is the class Linear"),
        (None, TypeError, "x is a NoneType"),
        (
            prune.identity(nn.Linear(2, 3), "weight"),
            ValueError,
            "weight of x is computed at each call",
        ),
        (nn.Linear(2, 3, dtype=torch.complex64), TypeError, r"weight of x has dtype torch\.complex64"),
        (nn.Linear(2, 3, device="meta"), ValueError, r"shape \[3, 2\] on meta, which holds no values"),
    ],
)
def test_a_layer_that_cannot_be_replaced_is_named(layer, error, message):
    with pytest.raises(error, match=message):
        check_layer(layer, "x", (nn.Linear, nn.Conv1d))


@pytest.mark.parametrize(("value", "word"), [(math.nan, "NaN"), (math.inf, "infinity")])
def test_a_weight_that_is_not_finite_is_named(value, word):
    layer = nn.Linear(2, 3)
    with torch.no_grad():
        layer.weight[1, 1] = value
    with pytest.raises(ValueError, match=f"weight of x holds {word}; it must be finite"):
        check_layer(layer, "x", (nn.Linear,))


def test_layers_that_share_a_weight_are_both_named():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    with pytest.raises(ValueError, match="layers 'a' and 'b' share one weight"):
        check_layers(model, {"b": 1}, (nn.Linear,), "plan")


def test_a_wrong_plan_of_layers_is_named():
    model = nn.ModuleDict({"head": nn.Linear(3, 3), "norm": nn.BatchNorm1d(3)})
    with pytest.raises(KeyError, match=r"unknown layer 'haed'\. Did you mean 'head'\? Known: head\."):
        check_layers(model, {"haed": 1}, (nn.Linear,), "plan")
    with pytest.raises(TypeError, match="plan is a list; it must be a mapping"):
        check_layers(model, ["head"], (nn.Linear,), "plan")
    with pytest.raises(TypeError, match="model is a dict"):
        check_layers({}, {}, (nn.Linear,), "plan")


# Functions, files, tensors


def test_functions_pass_and_so_does_none_where_it_may():
    assert check_function(len, "evaluate") is len
    assert check_function(None, "evaluate", optional=True) is None
    with pytest.raises(TypeError, match=r"evaluate is None .*a function\. Pass the function itself"):
        check_function(None, "evaluate")
    with pytest.raises(TypeError, match=r"evaluate is 0\.5 \(float\); it must be a function or None\. Pass"):
        check_function(0.5, "evaluate", optional=True)


def test_a_file_may_be_there_or_be_written_later(tmp_path):
    there = tmp_path / "there.txt"
    there.write_text("x")
    assert check_file(str(there), "path") == there
    assert check_file(tmp_path / "new" / "folder" / "x.txt", "path").name == "x.txt"
    for value, error, message in (
        (3, TypeError, r"path is 3 \(int\); it must be the path of a file\. Give a name"),
        (b"x", TypeError, "path is b'x'"),
        (tmp_path, ValueError, "a folder; it must be the path of a file"),
        (there / "x.txt", ValueError, r"there\.txt' is a file; it must be a folder"),
        ("a\0b", ValueError, "holds a NUL"),
    ):
        with pytest.raises(error, match=message):
            check_file(value, "path")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_dense_tensor_passes_and_others_are_named():
    weight = torch.ones(2, 3, dtype=torch.int8)
    assert check_dense(weight, "weight") is weight
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    empty_of_values = torch.ones(2, device="meta")
    assert check_dense(quantized, "weight", values=False) is quantized
    assert check_dense(empty_of_values, "weight", values=False) is empty_of_values
    for value, error, message in (
        ([1.0], TypeError, r"a list; it must be a torch\.Tensor, such as layer\.weight"),
        (nn.LazyLinear(3).weight, ValueError, "no shape yet; .* Call the model"),
        (torch.eye(2).to_sparse(), TypeError, r"sparse \(torch\.sparse_coo\); it must be dense"),
        (torch.nested.nested_tensor([torch.ones(2)]), TypeError, "a nested tensor; it must be dense"),
        (torch.ones(0, 2), ValueError, r"shape \[0, 2\], which holds nothing"),
        (quantized, TypeError, r"quantized \(torch\.qint8\).*dequantize"),
        (empty_of_values, ValueError, "on the device meta.*Build the model on the CPU"),
    ):
        with pytest.raises(error, match=rf"weight (is|has) .*{message}|weight has {message}"):
            check_dense(value, "weight")


def test_a_class_is_told_from_its_instances():
    assert described(nn.ReLU()) == "a ReLU"
    assert described(nn.ReLU) == "the class ReLU"
