"""Each check expects what the library does, and refuses typical wrong answers, each with the hint that names it."""

import copy

import pytest
import torch
from torch import nn

from course_lib.checks import NotYet, chapter02, ratios
from course_lib.pruning import masks, storage, surgery
from tests.checks import solutions

RIGHT = solutions.of("02")
global_masks, csr_limit, remove_filters = RIGHT["global-masks"], RIGHT["csr-limit"], RIGHT["remove-filters"]

CHECKS = {
    "global_masks": chapter02.check_global_masks,
    "csr_limit": chapter02.check_csr_limit,
    "remove_filters": chapter02.check_remove_filters,
    "choose_sparsities": chapter02.check_choose_sparsities,
    "my_ratios": chapter02.check_my_ratios,
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_function_that_returns_nothing_is_said_to_do_so(name):
    with pytest.raises(NotYet, match="returned None"):
        CHECKS[name](lambda *arguments, **keywords: None)


# What the checks expect is what the library does.


def test_the_expected_masks_are_those_of_the_library():
    chapter02.check_global_masks(
        lambda weights, sparsity: list(
            masks.global_magnitude_masks({str(i): w for i, w in enumerate(weights)}, sparsity).values()
        )
    )


def test_the_expected_limit_is_where_csr_stops_being_smaller():
    def by_trial(rows, columns, index_bytes=4):
        weight = torch.zeros(rows, columns)
        for count in range(rows * columns):
            weight.view(-1)[count] = 1.0
            # the library's indices take 4 bytes; exchange them for those of the case
            indices = (storage.csr_bytes(weight) - 4 * (count + 1)) // 4
            if 4 * (count + 1) + index_bytes * indices >= storage.dense_bytes(weight):
                return count
        return rows * columns

    chapter02.check_csr_limit(by_trial)


def test_the_expected_layers_are_those_of_surgery():
    def by_surgery(conv, bn, following, indices):
        example = torch.zeros(1, conv.in_channels, 6, 6)
        return tuple(surgery.remove_channels(nn.Sequential(conv, bn, following), example, {"0": indices}))

    chapter02.check_remove_filters(by_surgery)


# Typical mistakes


def _without(part):
    """remove_filters with one part of it left as it was."""

    def wrong(conv, bn, following, indices):
        old = {"conv": conv, "bn": bn, "following": following}
        new = dict(zip(old, remove_filters(conv, bn, following, indices), strict=True))
        layer, name = part.split(".")
        value = copy.deepcopy(getattr(old[layer], name))
        setattr(new[layer], name, value)
        return tuple(new.values())

    return wrong


def _in_place(conv, bn, following, indices):
    smaller = remove_filters(conv, bn, following, indices)
    conv.weight = smaller[0].weight
    return smaller


def _next_layers_filters(conv, bn, following, indices):
    conv, bn, _ = remove_filters(conv, bn, following, indices)
    following = copy.deepcopy(following)
    following.weight = nn.Parameter(following.weight[[i for i in range(3) if i not in indices]])
    return conv, bn, following


def _wrong_channels(conv, bn, following, indices):
    smaller = remove_filters(conv, bn, following, indices)
    smaller[1].running_mean = bn.running_mean[:3].clone()
    return smaller


def _no_bias(conv, bn, following, indices):
    smaller = remove_filters(conv, bn, following, indices)
    smaller[0].bias = None
    return smaller


def _other_padding(conv, bn, following, indices):
    smaller = remove_filters(conv, bn, following, indices)
    smaller[0].padding = (0, 0)
    return smaller


def _no_relation(conv, bn, following, indices):
    smaller = remove_filters(conv, bn, following, indices)
    smaller[0].stride = (9, 9, 9)
    return smaller


def _fresh_layers(conv, bn, following, indices):
    smaller = remove_filters(conv, bn, following, indices)
    fresh = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)
    for new, old in zip(fresh, smaller, strict=True):
        new.load_state_dict(old.state_dict())
    return fresh


def _shared_bias(conv, bn, following, indices):
    smaller = remove_filters(conv, bn, following, indices)
    smaller[2].bias = following.bias
    return smaller


def _always_a_bias(conv, bn, following, indices):
    smaller = remove_filters(conv, bn, following, indices)
    smaller[0].bias = nn.Parameter(conv.bias[[i for i in range(len(conv.bias)) if i not in indices]])
    return smaller


def _first_layers_inputs(conv, bn, following, indices):
    smaller = remove_filters(conv, bn, following, indices)
    smaller[0].weight = nn.Parameter(conv.weight[:, :1])
    return smaller


def _without_both(conv, bn, following, indices):
    smaller = remove_filters(conv, bn, following, indices)
    smaller[1].running_mean, smaller[1].running_var = bn.running_mean.clone(), bn.running_var.clone()
    return smaller


def _first_two(weights, sparsity):
    return global_masks(weights[:2], sparsity)


def _each_on_its_own(weights, sparsity):
    return [global_masks([weight], sparsity)[0] for weight in weights]


def _by_threshold(weights, sparsity):
    sizes = torch.cat([weight.abs().flatten() for weight in weights]).sort().values
    threshold = sizes[max(round(sparsity * len(sizes)) - 1, 0)]
    return [weight.abs() > threshold for weight in weights]


def _last_of_equals(weights, sparsity):
    turned = global_masks([weight.flatten().flip(0) for weight in reversed(weights)], sparsity)
    return [
        mask.flip(0).reshape(weight.shape) for mask, weight in zip(reversed(turned), weights, strict=True)
    ]


def _rounded_down(weights, sparsity):
    count = int(sparsity * 10)
    return global_masks(weights, count / 10)


def _changing(weights, sparsity):
    keep = global_masks(weights, sparsity)
    for weight, mask in zip(weights, keep, strict=True):
        weight.mul_(mask)
    return keep


def _chosen(column="validation", slack=1.0, pick="max", every=True, least=0.0):
    def choose(scan, baseline, tolerance):
        chosen = dict.fromkeys(scan["layer"], 0.0) if every else {}
        good = scan[scan[column] >= baseline - slack * tolerance + least]
        return chosen | getattr(good.groupby("layer")["sparsity"], pick)().to_dict()

    return choose


def _within_the_tolerance(scan, baseline, tolerance):
    near = scan[(scan["validation"] - baseline).abs() <= tolerance]
    return dict.fromkeys(scan["layer"], 0.0) | near.groupby("layer")["sparsity"].max().to_dict()


WRONG = {
    "global_masks": [
        (lambda w, s: [~mask for mask in global_masks(w, s)], "wrong way round"),
        (_each_on_its_own, "ranked on its own"),
        (lambda w, s: [torch.ones_like(v, dtype=torch.bool) for v in w], "Not right yet"),
        (
            lambda w, s: [
                m.reshape(v.shape) for m, v in zip(global_masks([v.exp() for v in w], s), w, strict=True)
            ],
            "signs were kept",
        ),
        (lambda w, s: global_masks([1 / v for v in w], s), "The largest weights go"),
        (_by_threshold, "must be exactly 2"),
        (_last_of_equals, "those that come first"),
        (_rounded_down, r"At sparsity 0.79 7 of the 10 weights go"),
        (lambda w, s: [mask.float() for mask in global_masks(w, s)], "dtype torch.float32"),
        (lambda w, s: [mask.flatten() for mask in global_masks(w, s)], "must have the shape of its weight"),
        (lambda w, s: torch.cat([mask.flatten() for mask in global_masks(w, s)]), "Return a list of tensors"),
        (_changing, "The weights were changed"),
        (lambda w, s: w[5], "raised IndexError"),
        (_first_two, "With three weights instead of two"),
        (
            lambda w, s: [~mask for mask in _each_on_its_own(w, s)],
            "ranked on its own.* And: The masks are the wrong way round",
        ),
        (
            lambda w, s: [~mask for mask in global_masks([v.exp() for v in w], s)],
            "signs were kept.* And: The masks are the wrong way round",
        ),
    ],
    "csr_limit": [
        (lambda rows, columns, index_bytes=4: (4 * rows * columns - 1) // (4 + index_bytes), "row pointers"),
        (
            lambda rows, columns, index_bytes=4: (
                (4 * rows * columns - rows * index_bytes - 1) // (4 + index_bytes)
            ),
            "one row pointer more",
        ),
        (
            lambda rows, columns, index_bytes=4: (
                (4 * rows * columns - (rows + 1) * index_bytes) // (4 + index_bytes)
            ),
            "Smaller is meant",
        ),
        (lambda rows, columns, index_bytes=4: csr_limit(rows, columns), "as long as index_bytes is 4"),
        (
            lambda rows, columns, index_bytes=4: rows * columns - csr_limit(rows, columns, index_bytes),
            "must be zero",
        ),
        (lambda **case: csr_limit(**case) + 1, "One too many"),
        (lambda **case: csr_limit(**case) / 1, "Divide with //"),
        (lambda **case: 7, "Do this one by hand"),
    ],
    "remove_filters": [
        (_without("conv.weight"), r"conv.weight has shape \[5, 2, 3, 3\]"),
        (_without("conv.bias"), r"conv.bias has shape \[5\]"),
        (_without("bn.weight"), r"bn.weight has shape"),
        (_without("bn.running_var"), r"bn.running_var has shape"),
        (_without("following.weight"), r"following.weight has shape \[3, 5, 3, 3\]"),
        (_without("conv.out_channels"), r"\(5, 3, 3\); the layers have 3 channels now"),
        (_without("bn.num_features"), r"\(3, 5, 3\); the layers have 3 channels now"),
        (_next_layers_filters, "lost filters of its own"),
        (lambda c, b, f, i: remove_filters(c, b, f, [k for k in range(5) if k not in i]), "the ones that go"),
        (_wrong_channels, "bn.running_mean has the right shape and wrong numbers"),
        (_no_bias, "conv.bias is None"),
        (_other_padding, "stride, padding and eps"),
        (_no_relation, "do not run one after the other"),
        (_in_place, "were given have changed"),
        (lambda c, b, f, i: remove_filters(c, b, f, i)[:2], "Return three layers"),
        (_fresh_layers, "stride, padding and eps"),
        (_shared_bias, "shares a tensor with an old one"),
        (_always_a_bias, r"_always_a_bias raised TypeError"),
        (_first_layers_inputs, "The first weight lost inputs, dimension 1. Its filters are dimension 0"),
        (
            _without_both,
            r"bn.running_mean has shape \[5\].* And: bn.running_var has shape \[5\]",
        ),
    ],
    "my_ratios": [
        (lambda sizes: [0.5], "not a list"),
        (lambda sizes: {"conv1": 0.5}, r"no layer \['conv1'\]. The layers are \['0'"),
        (lambda sizes: dict.fromkeys(sizes, 90), "'0' has the ratio 90; it is a share"),
        (lambda sizes: dict.fromkeys(sizes, 0.7), "33.5% of the bytes are left, and 25% may be"),
        (lambda sizes: dict.fromkeys(sizes, 0.8), "loses 4.0% .* Layers of few weights save few bytes"),
        (
            lambda sizes: dict.fromkeys(sizes, 0.8) | {"0": 0.0, "22": 0.0, "3": 0.9},
            "loses 4.0% .* Take less from the layers whose row",
        ),
    ],
    "choose_sparsities": [
        (_chosen("test"), "Test data never chooses"),
        (_chosen(every=False), "bears none of the sparsities is missing"),
        (_chosen(slack=0.0), "No loss at all is allowed"),
        (_chosen(least=1e-6), "exactly `tolerance` is allowed"),
        (_chosen(pick="min"), "smallest sparsities"),
        (_within_the_tolerance, "gains accuracy is treated as one that loses it"),
        (lambda scan, baseline, tolerance: dict.fromkeys(scan["layer"], 0.5), "Not right yet"),
        (lambda scan, baseline, tolerance: [0.5], "not a list"),
    ],
}
WRONG_ANSWERS = [(name, wrong, words) for name, answers in WRONG.items() for wrong, words in answers]


@pytest.mark.parametrize(
    ("name", "wrong", "words"), WRONG_ANSWERS, ids=[f"{n}: {w}" for n, _, w in WRONG_ANSWERS]
)
def test_refuses_a_typical_mistake_with_its_own_hint(name, wrong, words, monkeypatch):
    # The three epochs of the build task are run by the test of its solution.
    monkeypatch.setattr(ratios, "outcome", lambda given: ratios.Outcome(0.2, 0.04, {}, torch.nn.Identity()))
    with pytest.raises(NotYet, match=words):
        CHECKS[name](wrong)


def test_the_bench_takes_from_each_layer_the_share_that_is_said_and_weighs_bitmaps(monkeypatch):
    monkeypatch.setattr(ratios.training, "fit", lambda *given, **options: None)
    ratios._outcome.cache_clear()
    given = {"3": 0.5, "17": 0.9}
    found = ratios.outcome(given)
    ratios._outcome.cache_clear()
    assert {name: share for name, share in found.left.items() if share < 1} == pytest.approx(
        {"3": 0.5, "17": 0.1}, abs=1e-4
    )
    small = dict(found.network.named_parameters())
    counted = [
        storage.bitmap_bytes(p.detach()) if p.ndim > 1 else storage.dense_bytes(p.detach())
        for p in small.values()
    ]
    assert int(small["17.weight"].count_nonzero()) == 36_864 - round(0.9 * 36_864)
    whole = 4 * sum(p.numel() for p in small.values())
    assert found.size == ratios.weighed(given) == sum(counted) / whole
    assert 0 < found.lost < 0.5
