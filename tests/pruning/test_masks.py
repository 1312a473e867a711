"""Masks: exact counts, ties, agreement with NumPy and torch.nn.utils.prune, and what holds zeros and what does not."""

import copy
import math

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize, prune

from course_lib import cost
from course_lib.pruning.masks import (
    _GRANULARITIES,
    freeze,
    global_magnitude_masks,
    magnitude_mask,
    make_permanent,
    random_mask,
    zero,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.uint8, torch.int64]
laws = settings(max_examples=60)
shapes = st.lists(st.integers(1, 5), min_size=2, max_size=4)
sparsities = st.one_of(st.sampled_from([0, 1, 0.0, 1.0, 0.5, 0.25]), st.floats(0, 1))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def units_of(mask, granularity):
    """A column for each unit: it must be True or False throughout."""
    units = {"weight": mask.numel(), "kernel": mask[:, :1].numel() and len(mask) * mask.shape[1]}
    return mask.reshape(units.get(granularity, len(mask)), -1)


# Which ones


@laws
@given(shapes, sparsities, st.sampled_from(_GRANULARITIES), st.sampled_from(DTYPES), st.integers(0, 9))
def test_counts_are_exact_units_whole_and_the_lowest_go(shape, sparsity, granularity, dtype, seed):
    weight = torch.randint(0, 4, shape, generator=seeded(seed)).to(dtype)  # many ties
    if dtype not in (torch.uint8,):
        weight = weight * torch.randint(0, 2, shape, generator=seeded(seed + 1)).mul(2).sub(1).to(dtype)
    before = weight.clone()
    mask = magnitude_mask(weight, sparsity, granularity=granularity)
    chance = random_mask(weight, sparsity, seeded(seed), granularity=granularity)
    for drawn in (mask, chance):
        units = units_of(drawn, granularity)
        assert drawn.shape == weight.shape
        assert (units == units[:, :1]).all()
        assert int((~units[:, 0]).sum()) == round(sparsity * len(units))
    scores = np.abs(weight.double().numpy()).reshape(len(units), -1).sum(axis=1)
    gone = np.argsort(scores, kind="stable")[: round(sparsity * len(units))]
    assert sorted(gone.tolist()) == (~units_of(mask, granularity)[:, 0]).nonzero().flatten().tolist()
    assert torch.equal(weight, before)


def test_masks_by_hand():
    weight = torch.tensor(
        [[[1.0, -5.0], [2.0, 2.0]], [[0.0, 3.0], [4.0, -1.0]]]
    )  # two filters of two kernels
    assert magnitude_mask(weight, 0.5).int().tolist() == [[[0, 1], [0, 1]], [[0, 1], [1, 0]]]
    assert magnitude_mask(weight, 0.25, granularity="kernel").int().tolist() == [
        [[1, 1], [1, 1]],
        [[0, 0], [1, 1]],
    ]
    assert magnitude_mask(weight, 0.5, granularity="filter")[:, 0, 0].tolist() == [True, False]


def test_a_half_is_rounded_to_the_even_neighbour_as_python_does():
    for count, gone in ((1, 0), (3, 2), (5, 2), (7, 4)):
        assert int((~magnitude_mask(torch.ones(count), 0.5)).sum()) == gone


def test_of_equal_weights_the_first_go():
    assert magnitude_mask(torch.ones(6), 0.5).tolist() == [False] * 3 + [True] * 3
    masks = global_magnitude_masks({"b": torch.ones(2), "a": -torch.ones(2)}, 0.75)
    assert {name: mask.tolist() for name, mask in masks.items()} == {"b": [False, False], "a": [False, True]}


def test_the_least_int8_is_the_largest_and_half_precision_sums_do_not_overflow():
    assert magnitude_mask(torch.tensor([-128, 127, 1], dtype=torch.int8), 0.67).tolist() == [
        True,
        False,
        False,
    ]
    large = torch.full((3, 4), 6e4, dtype=torch.float16)
    large[0, 0], large[1, 0] = 6.1e4, 5e4
    assert magnitude_mask(large, 0.34, granularity="filter")[:, 0].tolist() == [True, False, True]


@laws
@given(shapes, st.floats(0, 1), st.integers(0, 99))
def test_without_ties_pytorchs_l1_pruning_takes_the_same(shape, sparsity, seed):
    weight = normal(*shape, seed=seed)
    layer = nn.Module()
    layer.weight = nn.Parameter(weight)
    prune.l1_unstructured(layer, "weight", amount=round(sparsity * weight.numel()))
    assert torch.equal(magnitude_mask(weight, sparsity), layer.weight_mask.bool())


@laws
@given(st.lists(shapes, min_size=1, max_size=4), sparsities, st.integers(0, 99))
def test_global_masks_are_a_plain_argsort_over_all_tensors(all_shapes, sparsity, seed):
    dtypes = [torch.float32, torch.float16, torch.int8, torch.float64]
    weights = {
        f"w{i}": torch.randint(-4, 5, shape, generator=seeded(seed + i)).to(dtypes[i])
        for i, shape in enumerate(all_shapes)
    }
    masks = global_magnitude_masks(weights, sparsity)
    flat = np.concatenate([np.abs(weight.double().numpy()).ravel() for weight in weights.values()])
    keep = np.ones(len(flat), dtype=bool)
    keep[np.argsort(flat, kind="stable")[: round(sparsity * len(flat))]] = False
    assert list(masks) == list(weights)
    assert np.array_equal(np.concatenate([mask.numpy().ravel() for mask in masks.values()]), keep)
    assert all(masks[name].shape == weights[name].shape for name in weights)
    assert all(
        mask.untyped_storage().nbytes() == mask.numel() for mask in masks.values()
    )  # none holds the others


def test_global_masks_of_a_model_are_of_its_weights_alone():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    masks = global_magnitude_masks(model, 0.5)
    assert list(masks) == ["0.weight", "3.weight"]
    assert sum(int((~mask).sum()) for mask in masks.values()) == 21
    freeze(model, masks)
    again = global_magnitude_masks(model, 0.5)
    assert all(
        torch.equal(again[name], masks[name]) for name in masks
    )  # what is held is the lowest, under plain names


def test_every_choice_of_a_random_mask_is_as_likely():
    """Four of the six pairs of four; each expected 100 times in 600, standard deviation 9."""
    generator = seeded()
    drawn = [tuple(random_mask(torch.zeros(4), 0.5, generator).tolist()) for _ in range(600)]
    counts = [drawn.count(pair) for pair in set(drawn)]
    assert len(counts) == 6
    assert all(60 < count < 140 for count in counts)


# What holds them


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3), nn.Linear(3, 2)
        )


def some_masks(model, seed=0, share=0.5):
    names = ("0.weight", "0.bias", "1.weight", "4.weight")
    parameters = dict(model.named_parameters())
    return {
        name: random_mask(parameters[name], share, seeded(seed + i), granularity="weight")
        for i, name in enumerate(names)
    }


X, Y = normal(8, 1, 4, 4), torch.arange(8) % 2

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def train(model, optimizer, steps=3):
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()


def weight_at(model, name):
    layer, key = name.split(".")
    return getattr(model[int(layer)], key)


def assert_zero_where_masked(model, masks):
    for name, mask in masks.items():
        weight = weight_at(model, name)
        assert (weight[~mask] == 0).all()
        assert not torch.signbit(weight[~mask]).any()
        assert (weight[mask] != 0).any()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_frozen_weights_stay_zero_under_an_optimizer_that_has_momentum_from_before(kind):
    model = network()
    optimizer = OPTIMIZERS[kind](model.parameters())
    train(model, optimizer)
    masks = some_masks(model)
    freeze(model, masks)
    kept = {name: weight_at(model, name).detach().clone() for name in masks}
    for _ in range(3):
        train(model, optimizer, steps=1)
        assert_zero_where_masked(model, masks)
    assert all((weight_at(model, name) != kept[name])[masks[name]].any() for name in ("0.weight", "4.weight"))
    make_permanent(model)
    assert_zero_where_masked(model, masks)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_zeroed_weights_come_back(kind):
    model = network()
    optimizer = OPTIMIZERS[kind](model.parameters())
    train(model, optimizer)
    masks = some_masks(model)
    zero(model, masks)
    assert_zero_where_masked(model, masks)
    train(model, optimizer, steps=1)
    assert (model[4].weight[~masks["4.weight"]] != 0).any()


def test_a_frozen_model_computes_what_the_zeroed_one_does():
    frozen, zeroed = network().eval(), network().eval()
    freeze(frozen, some_masks(frozen))
    zero(zeroed, some_masks(zeroed))
    assert torch.equal(frozen(X), zeroed(X))
    make_permanent(frozen)
    assert torch.equal(frozen(X), zeroed(X))


def test_no_gradient_reaches_a_frozen_weight_and_infinity_does_not_shine_through():
    layer = nn.Linear(3, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[math.inf, -1.0, 2.0]]))
    freeze(layer, {"weight": torch.tensor([[False, False, True]])})
    layer(torch.ones(1, 3)).sum().backward()
    original = layer.parametrizations.weight.original
    assert layer.weight.tolist() == [[0, 0, 2]]
    assert original.tolist() == [[0, 0, 2]]  # counted as zero at once, by cost.measure and by weight decay
    assert original.grad.tolist() == [[0, 0, 1]]
    with torch.no_grad():
        original.fill_(math.inf)  # as a diverging optimizer might
    assert layer.weight.tolist() == [[0, 0, math.inf]]


def test_make_permanent_leaves_the_plain_model_of_before():
    model = network()
    model[4].weight.requires_grad_(False)
    reference = network()
    before = list(model.state_dict())
    parameters = dict(model.named_parameters())
    types = [type(module) for module in model.modules()]
    freeze(model, some_masks(model))
    freeze(model, {"0.bias": torch.tensor([True, True, False, True]), "5.bias": torch.tensor([True, False])})
    make_permanent(model)
    assert [type(module) for module in model.modules()] == types
    assert list(model.state_dict()) == before
    after = dict(model.named_parameters())
    assert list(after) == list(parameters)
    assert all(after[name] is parameters[name] for name in after)  # the optimizer's objects
    assert all(type(p) is nn.Parameter and p.is_leaf for p in after.values())
    assert [p.requires_grad for p in after.values()] == [name != "4.weight" for name in after]
    reference.load_state_dict(model.state_dict())
    assert torch.equal(reference.eval()(X), model.eval()(X))
    assert cost.measure(model, X[:1]) == cost.measure(reference, X[:1])
    zeros = sum(int((p == 0).sum()) for p in model.parameters())
    assert cost.measure(model, X[:1]).nonzero_parameters == cost.measure(network(), X[:1]).parameters - zeros


def test_make_permanent_without_masks_does_nothing():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    make_permanent(model)
    make_permanent(model)
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_order_with_one_frozen_of_two_is_restored():
    for name in ("weight", "bias"):
        layer = nn.Linear(2, 2)
        freeze(layer, {name: torch.ones_like(getattr(layer, name), dtype=torch.bool)})
        make_permanent(layer)
        assert list(layer.state_dict()) == ["weight", "bias"]


@laws
@given(st.lists(st.tuples(st.integers(0, 99), st.floats(0, 1)), min_size=1, max_size=4))
def test_freezing_again_holds_what_either_mask_held(rounds):
    layer = nn.Linear(4, 3)
    together = torch.ones(3, 4, dtype=torch.bool)
    for seed, share in rounds:
        mask = random_mask(layer.weight, share, seeded(seed))
        given_mask = mask.clone()
        freeze(layer, {"weight": mask})
        together &= mask
        assert torch.equal(mask, given_mask)
        assert len(layer.parametrizations.weight) == 1
        assert torch.equal(layer.weight != 0, together)
    with torch.no_grad():
        layer.parametrizations.weight.original.fill_(1)
    assert torch.equal(layer.weight == 1, together)


def test_a_frozen_model_can_be_copied_saved_and_loaded(tmp_path):
    model = network()
    masks = some_masks(model)
    freeze(model, masks)
    twin = copy.deepcopy(model)
    optimizer = OPTIMIZERS["sgd"](twin.parameters())
    untouched = {name: value.clone() for name, value in model.state_dict().items()}
    train(twin, optimizer)
    assert_zero_where_masked(twin, masks)
    assert all(torch.equal(untouched[name], value) for name, value in model.state_dict().items())
    freeze(twin, some_masks(network(), seed=50))
    assert all(torch.equal(untouched[name], value) for name, value in model.state_dict().items())

    path = tmp_path / "frozen.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    other = network(seed=1)
    freeze(other, {name: torch.ones_like(mask) for name, mask in masks.items()})
    other.load_state_dict(safetensors.torch.load_file(path))
    assert torch.equal(other.eval()(X), model.eval()(X))
    train(other, OPTIMIZERS["adam"](other.parameters()))
    assert_zero_where_masked(other, masks)

    for copied in (copy.deepcopy(model), other):
        make_permanent(copied)
        assert [type(module) for module in copied.modules()] == [
            type(module) for module in network().modules()
        ]
        safetensors.torch.save_file(copied.state_dict(), path)
        network().load_state_dict(safetensors.torch.load_file(path))


def test_a_frozen_model_changes_its_dtype_and_a_copied_one_can_be_permanent():
    model = network()
    masks = some_masks(model)
    freeze(model, masks)
    model.to(torch.float64)
    assert model[0].weight.dtype == torch.float64
    assert_zero_where_masked(copy.deepcopy(model), masks)


def test_a_shared_parameter_is_held_wherever_it_is_used():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    mask = torch.eye(3, dtype=torch.bool)
    for name in ("0.weight", "1.weight"):
        twin = copy.deepcopy(model)
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, weight_decay=0.1)
        freeze(twin, {name: mask})
        twin(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        with torch.no_grad():
            twin[0].parametrizations.weight.original.add_(1)
        assert torch.equal(twin[0].weight != 0, mask)
        assert torch.equal(twin[1].weight, twin[0].weight)
        make_permanent(twin)
        assert twin[0].weight is twin[1].weight
        assert torch.equal(twin[0].weight != 0, mask)


def test_recurrent_layers_see_their_masks():
    layer = nn.LSTM(2, 3)
    freeze(layer, {"weight_ih_l0": torch.zeros(12, 2, dtype=torch.bool)})
    with torch.no_grad():
        layer.parametrizations.weight_ih_l0.original.add_(1)
    assert torch.equal(layer(torch.ones(1, 1, 2))[0], layer(torch.zeros(1, 1, 2))[0])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2}, {"bias": False}])
def test_a_frozen_recurrent_layer_can_be_copied_after_it_ran(kind, options):
    def build(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 4), kind(4, 5, **options))
        freeze(model, {"1.weight_hh_l0": random_mask(model[1].weight_hh_l0, 0.5, seeded())})
        return model

    with torch.random.fork_rng():
        model, x = build(0), normal(3, 2, 4)
        other = build(1)
    output = model(x)[0]
    output.sum().backward()
    twin = copy.deepcopy(model)
    again = copy.deepcopy(twin)  # of a copy that never ran
    for copied in (twin, again):
        assert copied[1]._flat_weights[0] is copied[1].weight_ih_l0  # what PyTorch computes with
        assert torch.equal(copied(x)[0], output)
        assert not {id(p) for p in copied.parameters()} & {id(p) for p in model.parameters()}
    other(x)
    other.load_state_dict(twin.state_dict())
    assert torch.equal(other(x)[0], output)

    train = torch.optim.SGD(twin.parameters(), lr=0.5, weight_decay=0.1)
    zeros = model[1].weight_hh_l0 == 0
    twin(x)[0].square().sum().backward()
    train.step()
    assert (twin[1].weight_hh_l0[zeros] == 0).all()
    assert not torch.equal(twin(x)[0], output)  # it computes with its own weights
    assert torch.equal(model(x)[0], output)
    make_permanent(twin)
    assert type(twin[1]) is kind
    assert torch.equal(copy.deepcopy(twin)(x)[0], twin(x)[0])
    assert torch.equal(model(x)[0], output)


def test_a_recurrent_layer_with_a_copy_of_its_own_keeps_it():
    class Counting(nn.LSTM):
        copies = 0

        def __deepcopy__(self, memo):
            Counting.copies += 1
            return "mine"

    layer = Counting(2, 3)
    freeze(layer, {"weight_hh_l0": torch.ones(12, 3, dtype=torch.bool)})
    assert copy.deepcopy(layer) == "mine"
    assert Counting.copies == 1


def test_no_masks_change_nothing():
    model = network()
    freeze(model, {})
    zero(model, {})
    assert not any(parametrize.is_parametrized(module) for module in model.modules())


# Errors

W = normal(4, 3)
MASKERS = {
    "magnitude": lambda weight=W, sparsity=0.5, **options: magnitude_mask(weight, sparsity, **options),
    "random": lambda weight=W, sparsity=0.5, **options: random_mask(weight, sparsity, seeded(), **options),
    "global": lambda weight=W, sparsity=0.5: global_magnitude_masks({"a": W, "b": weight}, sparsity),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("masker", MASKERS)
@pytest.mark.parametrize(
    ("sparsity", "error", "message"),
    [
        (-0.1, ValueError, r"sparsity is -0\.1; it must be a finite number in \[0, 1\]"),
        (1.5, ValueError, r"sparsity is 1\.5"),
        (90, ValueError, r"sparsity is 90\.0"),
        (math.nan, ValueError, "sparsity is nan"),
        (math.inf, ValueError, "sparsity is inf"),
        (True, TypeError, "sparsity is True"),
        ("0.5", TypeError, r"sparsity is '0\.5'"),
        (None, TypeError, "sparsity is None"),
    ],
)
def test_a_wrong_sparsity_is_named_with_a_hint(masker, sparsity, error, message):
    with pytest.raises(error, match=f"{message}.*0.9 removes nine of ten"):
        MASKERS[masker](sparsity=sparsity)


@pytest.mark.bad_input
@pytest.mark.parametrize("masker", MASKERS)
@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (W.tolist(), TypeError, r"is a list; it must be a torch\.Tensor"),
        (W > 0, TypeError, r"has dtype torch\.bool"),
        (W.cfloat(), TypeError, r"has dtype torch\.complex64"),
        (torch.zeros(0, 2), ValueError, r"has shape \[0, 2\], which holds nothing"),
        (torch.tensor([1.0, math.nan]), ValueError, "holds NaN"),
    ],
)
def test_a_wrong_weight_is_named(masker, weight, error, message):
    name = r"weights\['b'\]" if masker == "global" else "weight"
    with pytest.raises(error, match=f"{name} {message}"):
        MASKERS[masker](weight=weight)


@pytest.mark.bad_input
@pytest.mark.parametrize("masker", ["magnitude", "random"])
def test_a_vector_has_no_filters_and_granularities_have_names(masker):
    for granularity in ("filter", "kernel"):
        with pytest.raises(
            ValueError, match=rf"shape \[3\]; with {granularity}s it must be .*granularity='weight'"
        ):
            MASKERS[masker](weight=torch.ones(3), granularity=granularity)
    with pytest.raises(ValueError, match=r"unknown granularity 'filters'\. Did you mean 'filter'"):
        MASKERS[masker](granularity="filters")


@pytest.mark.bad_input
def test_other_wrong_arguments_of_the_makers():
    with pytest.raises(TypeError, match="generator is 0"):
        random_mask(W, 0.5, 0)
    with pytest.raises(TypeError, match="weights is a list; it must be a model, or a mapping"):
        global_magnitude_masks([W], 0.5)
    with pytest.raises(ValueError, match="there are no weights to rank"):
        global_magnitude_masks({}, 0.5)
    with pytest.raises(ValueError, match="there are no weights to rank"):
        global_magnitude_masks(nn.BatchNorm2d(3), 0.5)


GOOD = torch.ones(3, 16, dtype=torch.bool)


@pytest.mark.bad_input
@pytest.mark.parametrize("function", [freeze, zero])
@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ({"4.wieght": GOOD}, KeyError, "unknown parameter '4.wieght'. Did you mean '4.weight'"),
        ({"4": GOOD}, KeyError, "unknown parameter '4'.*Known: 0.weight, 0.bias, 1.weight"),
        ({"1.running_mean": GOOD}, KeyError, "unknown parameter '1.running_mean'"),
        ({"4.weight": GOOD.T}, ValueError, r"'4.weight' has shape \[16, 3\]; .*\[3, 16\]"),
        ({"4.weight": GOOD[:, :1]}, ValueError, r"has shape \[3, 1\]"),  # would broadcast
        ({"4.weight": GOOD.float()}, TypeError, r"'4.weight' has dtype torch\.float32; it must be a bool"),
        ({"4.weight": GOOD.to(torch.uint8)}, TypeError, r"has dtype torch\.uint8"),
        ({"4.weight": GOOD.numpy()}, TypeError, "'4.weight' is a ndarray"),
        ([("4.weight", GOOD)], TypeError, "masks is a list; it must be a mapping"),
    ],
)
def test_wrong_masks_are_named_and_nothing_is_changed(function, masks, error, message):
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if isinstance(masks, dict):
        masks = {"0.bias": torch.zeros(4, dtype=torch.bool)} | masks
    with pytest.raises(error, match=message):
        function(model, masks)
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.bad_input
@pytest.mark.parametrize("function", [lambda m: freeze(m, {}), lambda m: zero(m, {}), make_permanent])
def test_only_models_have_masks(function):
    with pytest.raises(TypeError, match=r"model is a OrderedDict; it must be a torch\.nn\.Module"):
        function(network().state_dict())
    with pytest.raises(TypeError, match="model is the class Linear"):
        function(nn.Linear)


def test_other_parametrisations_are_left_alone_and_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    nn.utils.parametrizations.weight_norm(model[0])
    mask = torch.eye(3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"'0.weight' already has a parametrisation of another kind"):
        freeze(model, {"0.weight": mask})
    freeze(model, {"0.bias": torch.tensor([True, False, True]), "1.weight": mask})
    make_permanent(model)
    assert parametrize.is_parametrized(model[0], "weight")
    assert model[0].bias[1] == 0
    freeze(model, {"1.weight": mask})
    parametrize.register_parametrization(model[1], "weight", nn.Identity())
    with pytest.raises(
        ValueError, match="a Identity was put on top of the mask of 'weight' in a Parametrized"
    ):
        make_permanent(model)


def test_a_frozen_model_and_its_copy_do_not_disturb_each_other():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(2, 2))
    freeze(
        model,
        {"0.weight": torch.tensor([True, False]).reshape(2, 1, 1, 1), "0.bias": torch.tensor([False, True])},
    )
    clone = copy.deepcopy(model)
    make_permanent(clone)
    assert type(clone[0]) is nn.Conv2d
    assert model[0].weight.flatten().tolist()[1] == 0
    assert model[0].bias.tolist()[0] == 0
    again = copy.deepcopy(model)
    make_permanent(model)
    assert type(model[0]) is nn.Conv2d
    assert torch.equal(again[0].weight, clone[0].weight)
    torch.testing.assert_close(again(torch.ones(3, 1, 1, 1)), clone(torch.ones(3, 1, 1, 1)))
