"""Each check of chapter 00 expects what PyTorch does, and refuses typical wrong answers with a hint of its own."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch

from course_lib import cost, models, training
from course_lib.checks import NotYet, chapter00
from tests.checks import solutions

RIGHT = solutions.of("00")
conv_parameters, conv_macs, chain_peak = RIGHT["conv-parameters"], RIGHT["conv-macs"], RIGHT["chain-peak"]

CHECKS = {
    "conv_parameters": (chapter00.check_conv_parameters, conv_parameters),
    "conv_macs": (chapter00.check_conv_macs, conv_macs),
    "chain_peak": (chapter00.check_chain_peak, chain_peak),
}


def parameters_by_pytorch(in_channels, out_channels, kernel_size, groups=1, bias=True):
    conv = torch.nn.Conv2d(in_channels, out_channels, kernel_size, groups=groups, bias=bias)
    return sum(p.numel() for p in conv.parameters())


def macs_by_cost(in_channels, out_channels, kernel_size, height, width, stride=1, padding=0, groups=1):
    conv = torch.nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups)
    return cost.measure(conv, torch.zeros(1, in_channels, height, width)).macs


class Chain(torch.nn.Module):
    """Linear layers of the given widths on one row; step j of shortcut=(i, j) is an addition."""

    def __init__(self, sizes, shortcut):
        super().__init__()
        self.shortcut = shortcut or (0, 0)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(a, b, bias=False) for a, b in pairwise(sizes))

    def forward(self, x):
        kept = x if self.shortcut[0] == 0 else None
        for step, layer in enumerate(self.layers, start=1):
            x = x + kept if step == self.shortcut[1] else layer(x)
            if step == self.shortcut[0]:
                kept = x
        return x


def peak_by_cost(sizes, shortcut=None):
    return cost.measure(Chain(sizes, shortcut), torch.zeros(1, sizes[0])).peak_activation_bytes


@pytest.mark.parametrize("number", [np.int64, torch.tensor])
@pytest.mark.parametrize("name", CHECKS)
def test_accepts_whole_numbers_of_numpy_and_torch(name, number):
    check, solution = CHECKS[name]
    check(lambda **case: number(solution(**case)))


def test_the_expected_parameters_are_those_of_pytorch():
    chapter00.check_conv_parameters(parameters_by_pytorch)


def test_the_expected_macs_are_those_of_cost_measure():
    chapter00.check_conv_macs(macs_by_cost)


def test_the_expected_peaks_are_those_of_cost_measure():
    chapter00.check_chain_peak(peak_by_cost)


WRONG = {
    "conv_parameters": [
        (lambda groups=1, **c: conv_parameters(**c), "as long as groups is 1"),
        (lambda **c: conv_parameters(**{**c, "bias": False}), "biases are missing"),
        (lambda **c: conv_parameters(**{**c, "bias": True}), "even when bias=False"),
        (
            lambda bias=True, **c: conv_parameters(**c, bias=False) + (c["in_channels"] if bias else 0),
            "not for each input channel",
        ),
        (
            lambda bias=True, **c: conv_parameters(**c, bias=False) + int(bias),
            "One bias is counted for the whole",
        ),
        (
            lambda in_channels, out_channels, kernel_size, groups=1, bias=True: (
                out_channels * in_channels // groups * kernel_size + (out_channels if bias else 0)
            ),
            "A kernel is a square",
        ),
        (
            lambda in_channels, out_channels, kernel_size, groups=1, bias=True: (
                out_channels // groups * (in_channels // groups) * kernel_size**2
                + (out_channels // groups) * bias
            ),
            "divided out twice",
        ),
    ],
    "conv_macs": [
        (lambda **c: 2 * conv_macs(**c), "These are FLOPs"),
        (
            lambda in_channels, out_channels, kernel_size, height, width, stride=1, padding=0, groups=1: (
                out_channels * in_channels // groups * kernel_size**2 * height * width
            ),
            "pixels of the input",
        ),
        (lambda stride=1, **c: conv_macs(**c), "as long as stride is 1"),
        (lambda padding=0, **c: conv_macs(**c), "padding is missing"),
        (lambda groups=1, **c: conv_macs(**c), "as long as groups is 1"),
        (lambda **c: conv_macs(**c) // c["out_channels"], "That is one filter"),
        (
            lambda **c: (
                conv_macs(**c) + conv_macs(**{**c, "in_channels": 1, "groups": 1}) // c["kernel_size"] ** 2
            ),
            "a bias is no MAC",
        ),
        (
            lambda in_channels, out_channels, kernel_size, height, width, stride=1, padding=0, groups=1: (
                out_channels * in_channels // groups * kernel_size**2
            ),
            "These are the weights",
        ),
    ],
    "chain_peak": [
        (lambda **c: chain_peak(**c) // 4, "a float32 takes 4"),
        (lambda sizes, shortcut=None: 4 * sum(sizes), "All tensors are added up"),
        (lambda sizes, shortcut=None: 4 * max(sizes), "largest single tensor"),
        (lambda sizes, shortcut=None: chain_peak(sizes), "right for a plain chain"),
        (
            lambda sizes, shortcut=None: (
                4
                * max(
                    sizes[j - 1]
                    + sizes[j]
                    + (sizes[shortcut[0]] if shortcut and shortcut[0] < j <= shortcut[1] else 0)
                    for j in range(1, len(sizes))
                )
            ),
            "counted twice",
        ),
        (
            lambda sizes, shortcut=None: chain_peak(sizes, shortcut and (shortcut[0], len(sizes))),
            "kept to the end",
        ),
        (
            lambda sizes, shortcut=None: chain_peak(sizes, shortcut and (shortcut[0], shortcut[1] - 1)),
            "freed too early",
        ),
    ],
}
WRONG_ANSWERS = [(name, wrong, words) for name, answers in WRONG.items() for wrong, words in answers]


@pytest.mark.parametrize(
    ("name", "wrong", "words"), WRONG_ANSWERS, ids=[f"{n}: {w}" for n, _, w in WRONG_ANSWERS]
)
def test_refuses_a_typical_mistake_with_its_own_hint(name, wrong, words):
    with pytest.raises(NotYet, match=words):
        CHECKS[name][0](wrong)


def test_no_two_mistakes_share_a_hint():
    hints = []
    for name, wrong, _ in WRONG_ANSWERS:
        with pytest.raises(NotYet) as refusal:
            CHECKS[name][0](wrong)
        hints.append(str(refusal.value))
    assert len(set(hints)) == len(hints)


@pytest.mark.parametrize("name", CHECKS)
def test_an_unknown_mistake_is_shown_on_one_case_with_what_it_should_be(name):
    with pytest.raises(NotYet, match=r"\w+=.*\) returns 7; it should be [\d,]+\. Do this one by hand"):
        CHECKS[name][0](lambda **case: 7)


def test_two_mistakes_at_once_are_told_apart_case_by_case():
    def neither_bias_nor_groups(in_channels, out_channels, kernel_size, groups=1, bias=True):
        return in_channels * out_channels * kernel_size**2

    def groups_only_are_missing(in_channels, out_channels, kernel_size, groups=1, bias=True):
        return in_channels * out_channels * kernel_size**2 + (out_channels if bias and groups < 6 else 0)

    with pytest.raises(
        NotYet, match=r"kernel_size=3\) returns 216; it should be 224\. The biases are missing"
    ):
        chapter00.check_conv_parameters(neither_bias_nor_groups)
    with pytest.raises(NotYet, match=r"groups=4\) returns .* as long as groups is 1"):
        chapter00.check_conv_parameters(groups_only_are_missing)


@pytest.mark.parametrize("name", CHECKS)
def test_a_forgotten_return_is_named(name):
    def silent(**case):
        CHECKS[name][1](**case)

    with pytest.raises(NotYet, match="returned None"):
        CHECKS[name][0](silent)


@pytest.mark.parametrize("name", CHECKS)
def test_an_error_in_the_function_is_shown(name):
    with pytest.raises(NotYet, match="ZeroDivisionError"):
        CHECKS[name][0](lambda **case: 1 // 0)


@pytest.mark.parametrize("name", CHECKS)
def test_a_float_is_refused_with_the_way_to_a_whole_number(name):
    with pytest.raises(NotYet, match=r"float.*Divide with //"):
        CHECKS[name][0](lambda **case: float(CHECKS[name][1](**case)))


@pytest.mark.parametrize("answer", [True, "20", [20], torch.tensor([20, 20])])
def test_what_is_no_number_is_refused(answer):
    with pytest.raises(NotYet, match="a count is a whole number"):
        chapter00.check_conv_parameters(lambda **case: answer)


# The network to be built


def vgg(*widths):
    return models.build("vgg", widths=widths, seed=0)


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ((16, 16, "M", 32), ["7,514 parameters, 14 more", "921,920 MACs, 601,920 more", "32,768 bytes"]),
        ((4, "M", 8, "M", 16, "M", 64), ["more than the 7,500", "narrow the last layers"]),
        ((8, 16, "M", 8, "M", 8), ["MACs, ", "pool earlier", "32,768 bytes", "narrow the first layer"]),
    ],
)
def test_each_budget_that_is_broken_is_named_with_the_layers_to_look_at(widths, said):
    with pytest.raises(NotYet) as refusal:
        chapter00.check_build_network(vgg(*widths))
    for words in said:
        assert words in str(refusal.value)


def test_a_network_that_learns_too_little_is_told_which_budget_is_left(monkeypatch):
    monkeypatch.setattr(chapter00, "_trained_accuracy", lambda network: 0.655)
    with pytest.raises(
        NotYet, match=r"right on 65\.5%.* 4\.5% short of 70%. Of the parameters it uses 18%: spend more"
    ):
        chapter00.check_build_network(lambda: vgg(8, "M", 8, "M", 8))


def test_the_check_trains_a_copy_of_the_network_that_it_is_given(monkeypatch):
    given = vgg(8, 8, "M", 16, "M", 32)
    before = copy.deepcopy(given.state_dict())
    trained = []
    monkeypatch.setattr(
        training, "fit", lambda network, glyphs, recipe: trained.append((network, recipe.epochs))
    )
    monkeypatch.setattr(training, "evaluate", lambda network, split: 0.7)
    chapter00.check_build_network(given)
    assert [epochs for _, epochs in trained] == [3]
    assert trained[0][0] is not given
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (3, "This is a int"),
        (lambda: "vgg", "A str was returned"),
        (lambda: torch.nn.Conv2d(3, 4, 3), "cannot answer for images of shape"),
        (lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 4)), r"shape \[2, 4\]"),
    ],
)
def test_what_is_no_network_for_glyphs_is_refused(answer, said):
    with pytest.raises(NotYet, match=said):
        chapter00.check_build_network(answer)
