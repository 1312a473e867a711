"""The law of channel removal on many small networks, and everything that has to stay as it was."""

import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from course_lib import models
from course_lib.pruning import masks
from course_lib.pruning.graph import channel_groups
from course_lib.pruning.surgery import channel_masks, remove_channels
from tests.pruning.reference import Net, liven, random_plan, removed_units, zeroed
from tests.pruning.zoo import ALL, IMAGE, conv, head

OURS = {
    "mlp": {"image_size": 8, "hidden": (12, 9)},
    "convnet_teacher": {"image_size": 8, "channels": (3, 4), "hidden": 8},
    "convnet_student": {"image_size": 8, "filters": 3, "patch": 4},
    "vgg": {"widths": (4, "M", 6, 5)},
    "resnet": {"widths": (4, 6), "blocks": (1, 2)},
    "mobilenet": {"stem": 4, "widths": ((6, 1), (8, 2))},
}


def network(name):
    """A lively network of the zoo or of the library in float64, with an example."""
    torch.manual_seed(0)
    if name in OURS:
        model, shape = models.build(name, **OURS[name]), (2, 1, 8, 8)
    else:
        make, shape = ALL[name]
        model = make()
    example = torch.randn(shape, dtype=torch.float64)
    return liven(model.double(), example).eval(), example


def outputs(model, example):
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(model(example)) if isinstance(leaf, torch.Tensor)]


def assert_law(model, example, plan, groups):
    small = remove_channels(model, example, plan)
    found, expected = outputs(small, example), outputs(zeroed(model, groups, plan), example)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    return small


# The law


@pytest.mark.bad_input  # torch.fx passes proxies through the forward() of our models
@pytest.mark.parametrize("name", [*ALL, *OURS])
def test_what_is_left_computes_what_the_whole_network_does_with_columns_of_zeros(name):
    model, example = network(name)
    groups = channel_groups(model, example)
    removable = [group for group in groups if group.size > 1]
    assert removable

    @settings(max_examples=12)
    @given(st.integers(0, 2**32 - 1))
    def law(seed):
        plan = random_plan(groups, np.random.default_rng(seed))
        small = assert_law(model, example, plan, groups)
        gone = removed_units(groups, plan)
        fewer = sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
        assert fewer == any(gone)
        small.train()(example)  # and the branches of training fit as well

    law()


def test_the_reference_itself_sees_every_column():
    """Were the networks idle, the law would hold for anything."""
    for name in ALL.keys() - {"train_branch"}:  # which is idle in eval mode
        model, example = network(name)
        groups = channel_groups(model, example)
        for group in groups:
            if group.size > 1 and group.consumers:
                plan = {group.producers[0].layer: (group.producers[0].units > 0).nonzero()[:, 0].tolist()}
                pairs = zip(
                    outputs(zeroed(model, groups, plan), example), outputs(model, example), strict=True
                )
                assert any((a - b).abs().max() > 1e-3 for a, b in pairs), name


def test_a_chain_worked_by_hand():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        model[0].bias.copy_(torch.tensor([7.0, 8.0, 9.0]))
        model[2].weight.copy_(torch.tensor([[10.0, 20.0, 30.0]]))
    small = remove_channels(model, torch.rand(1, 2), {"0": [1]})
    assert small[0].weight.tolist() == [[1, 2], [5, 6]]
    assert small[0].bias.tolist() == [7, 9]
    assert small[2].weight.tolist() == [[10, 30]]
    assert (small[0].out_features, small[2].in_features) == (2, 2)


def test_pruning_in_two_steps_is_pruning_once():
    model, example = network("residual")
    once = remove_channels(model, example, {"conv1": [0, 3], "stem": [1, 4]})
    first = remove_channels(model, example, {"conv1": [3], "stem": [4]})
    twice = remove_channels(first, example, {"conv1": [0], "stem": [1]})
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True))


def test_the_same_unit_named_at_two_layers_goes_once():
    model, example = network("residual")
    one, two = ({"stem": [1, 2]}, {"stem": [1], "conv2": [2, 1], "bn1": [2]})
    small, same = remove_channels(model, example, one), remove_channels(model, example, two)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), same.parameters(), strict=True))


# What is returned


def test_layers_know_their_new_sizes():
    for name, layer, sizes in [
        ("depthwise_multiplier", "1", {"in_channels": 3, "out_channels": 9, "groups": 3}),
        ("depthwise_multiplier", "2", {"num_features": 9}),
        ("transposed", "1", {"in_channels": 4, "out_channels": 6}),
        ("group_norm", "1", {"num_groups": 2, "num_channels": 6}),
        ("group_norm", "4", {"num_groups": 6, "num_channels": 6}),
        ("layer_norm_bare", "2", {"normalized_shape": (6,)}),
        ("prelu", "1", {"num_parameters": 5}),
        ("prelu", "3", {"num_parameters": 1}),
        ("flatten_linear", "3", {"in_features": 36, "out_features": 6}),
        ("grouped", "1", {"in_channels": 8, "out_channels": 8, "groups": 4}),
    ]:
        model, example = network(name)
        plan = {"1" if name in ("mlp", "layer_norm_bare") else "0": [0]}
        pruned = remove_channels(model, example, plan).get_submodule(layer)
        assert {size: getattr(pruned, size) for size in sizes} == sizes, name


def test_an_empty_plan_gives_a_copy():
    model, example = network("chain")
    for plan in ({}, {"0": []}, {"0": torch.tensor([], dtype=torch.int64)}):
        copied = remove_channels(model, example, plan)
        assert copied is not model
        assert torch.equal(copied(example), model(example))
        assert copied[0].weight.data_ptr() != model[0].weight.data_ptr()


@pytest.mark.parametrize("name", ["residual", "concat", "shared_weight", "train_branch", "scale"])
def test_nothing_of_the_argument_changes(name):
    model, example = network(name)
    model.train()
    next(model.children()).eval()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 2 == 0)
        parameter.grad = torch.ones_like(parameter)
    modes = [module.training for module in model.modules()]
    before, state, x = copy.deepcopy(model.state_dict()), torch.get_rng_state(), example.clone()
    names = [sorted(vars(module)) for module in model.modules()]
    group = channel_groups(model, example)[0]
    small = remove_channels(model, example, {group.producers[0].layer: [0]})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [module.training for module in small.modules()] == modes
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    assert [parameter.requires_grad for parameter in small.parameters()] == wanted
    assert all((parameter.grad == 1).all() for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in small.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(example, x)
    assert [sorted(vars(module)) for module in model.modules()] == names


def test_old_and_new_share_no_memory():
    model, example = network("residual")
    small = remove_channels(model, example, {"conv1": [0]})
    old = {value.data_ptr() for value in model.state_dict().values()}
    assert not old & {value.data_ptr() for value in small.state_dict().values()}


@pytest.mark.parametrize(
    "name", ["residual", "gate", "view_shuffle", "scale", "layer_norm_2d", "train_branch"]
)
def test_the_result_is_a_plain_network(name, tmp_path):
    model, example = network(name)
    groups = channel_groups(model, example)
    small = remove_channels(model, example, random_plan(groups, np.random.default_rng(0), 0.5))
    expected = small(example)
    again = copy.deepcopy(small)
    for parameter in again.parameters():
        nn.init.zeros_(parameter)
    buffer = io.BytesIO()
    torch.save(small.state_dict(), buffer)
    again.load_state_dict(torch.load(io.BytesIO(buffer.getvalue())))
    assert torch.equal(again(example), expected)
    assert torch.equal(fx.symbolic_trace(small)(example), expected)
    assert {type(module) for module in small.modules()} == {type(module) for module in model.modules()}
    loss = sum(output.square().sum() for output in tree_leaves(small.train()(example)))
    loss.backward()
    for key, parameter in small.named_parameters():
        assert parameter.grad.shape == parameter.shape, key


def test_dtype_hooks_and_layers_used_twice_are_kept():
    model, example = network("twice")
    model, example = model.half(), example.half()
    calls = []
    model.conv.register_forward_hook(lambda *_: calls.append(1))
    small = remove_channels(model, example, {"conv": [0]})
    calls.clear()
    assert small(example).dtype == torch.float16
    assert len(calls) == 2
    assert small.conv.weight.shape == (5, 5, 3, 3)


def test_shared_weights_are_cut_once_and_stay_shared():
    model, example = network("shared_weight")
    small = remove_channels(model, example, {"a": [0, 2]})
    assert small.a.weight is small.b.weight
    assert small.a.weight.shape == (4, 5, 3, 3)
    assert small.b.bias.tolist() == model.b.bias[[1, 3, 4, 5]].tolist()


class _Allocations(TorchDispatchMode):
    """The most bytes that new tensors held at one time."""

    def __init__(self, model):
        super().__init__()
        self.known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self.alive, self.peak = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                storage = tensor.untyped_storage()
                self.alive[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


def test_no_full_copy_of_what_is_cut_is_made():
    model = nn.Sequential(
        nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 8)
    )
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    with _Allocations(model) as allocations:
        remove_channels(model, torch.rand(1, 64), {"0": range(0, 1024, 2), "2": range(512)})
    assert allocations.peak < 0.85 * size  # a half of the middle weight, then a quarter, and the labels


# Masks


@pytest.mark.bad_input
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    "name", ["vgg", "resnet", "mobilenet", "residual", "instance_norm", "group_norm", "prelu"]
)
def test_masked_channels_are_silent(name, train):
    model, example = network(name)
    groups = channel_groups(model, example)
    plan = random_plan(groups, np.random.default_rng(1), 0.5)
    keep = channel_masks(model, example, plan)
    parameters = dict(model.named_parameters())
    assert all(mask.dtype == torch.bool and mask.shape == parameters[key].shape for key, mask in keep.items())
    silent = copy.deepcopy(model)
    masks.zero(silent, keep)
    seen = {}
    for key, module in silent.named_modules():
        module.register_forward_hook(lambda module, _, output, key=key: seen.setdefault(key, output.clone()))
    silent.train(train)(example)
    checked = 0
    for group, gone in zip(groups, removed_units(groups, plan), strict=True):
        for axis in group.followers + (() if group.followers else group.producers):
            mark = torch.isin(axis.units, torch.tensor(sorted(gone), dtype=torch.int64))
            if axis.layer in seen and mark.any():
                assert (seen[axis.layer][:, mark] == 0).all(), axis.layer
                checked += 1
    assert checked


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["vgg", "resnet", "mobilenet", "residual", "depthwise", "mlp"])
def test_masked_networks_compute_what_pruned_ones_do(name):
    model, example = network(name)
    plan = random_plan(channel_groups(model, example), np.random.default_rng(2), 0.5)
    silent = copy.deepcopy(model)
    masks.zero(silent, channel_masks(model, example, plan))
    small = remove_channels(model, example, plan)
    torch.testing.assert_close(silent(example), small(example), rtol=1e-9, atol=1e-9)


def test_masks_name_rows_biases_and_the_norm_behind():
    model, example = network("flatten_linear")
    keep = channel_masks(model, example, {"3": [1]})
    assert set(keep) == {"3.weight", "3.bias", "4.weight", "4.bias"}
    assert not keep["3.weight"][1].any()
    assert keep["3.weight"].sum() == 5 * 45
    assert keep["4.bias"].tolist() == [True, False, True, True, True, True]


@pytest.mark.bad_input
def test_a_norm_without_parameters_cannot_be_silenced():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, affine=False), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(ValueError, match=r"behind '1': it is a BatchNorm1d without gamma.*affine=True"):
        channel_masks(model, torch.rand(2, 4), {"0": [1]})


# Bad input


CHAIN = nn.Sequential(
    nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(16, 3)
)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([6], ValueError, r"'0' hold \[6\]; it has 6 channels. Give whole numbers in \[0, 5\], each once"),
        ([-1], ValueError, r"hold \[-1\]"),
        ([1, 1], ValueError, r"hold \[1\] more than once"),
        ([1.0], TypeError, r"dtype torch.float32. Give whole numbers"),
        (torch.tensor([0.5]), TypeError, "dtype torch.float32"),
        (np.array([1.0]), TypeError, "dtype torch.float64"),
        (torch.tensor([True] * 6), TypeError, "dtype torch.bool"),
        ([True, False], TypeError, "hold True"),
        ([True, 2], TypeError, "hold True"),
        ([None], TypeError, "hold None"),
        (["1"], TypeError, "hold '1'"),
        ("01", TypeError, "are '01'"),
        (3, TypeError, "are 3. Give whole numbers"),
        (None, TypeError, "are None"),
        ([[0, 1]], ValueError, r"shape \[1, 2\]"),
        ([[0], [1, 2]], TypeError, "are no numbers of channels"),
        ([2**70], TypeError, "are no numbers of channels"),
        (torch.tensor(1), ValueError, r"shape \[\]"),
        (range(6), ValueError, "removes every channel of '0'.*keep one of them"),
    ],
)
def test_wrong_indices_are_named(indices, error, message):
    with pytest.raises(error, match=message):
        remove_channels(CHAIN, torch.rand(1, 3, 6, 6), {"0": indices})


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        ({"5": [0]}, ValueError, r"channels of '5' cannot be removed: they are the network's output"),
        ({"2": [0]}, ValueError, r"'2' \(ReLU\) has no output channels"),
        ({"": [0]}, ValueError, "has no output channels"),
        ({"conv": [0]}, KeyError, "unknown layer 'conv'. Known: 0, 1, 3"),
        ({3: [0]}, KeyError, "unknown layer 3"),
        ([0, 1], TypeError, "plan is a list; it must map layer names"),
        ({"0": [0, 1, 2], "1": [3, 4, 5]}, ValueError, "removes every channel of '1'"),
    ],
)
def test_wrong_plans_are_named(plan, error, message):
    with pytest.raises(error, match=message):
        remove_channels(CHAIN, torch.rand(1, 3, 6, 6), plan)


@pytest.mark.bad_input
def test_near_names_are_offered():
    model = Net(lambda s, x: s.head(s.first_conv(x)), first_conv=conv(3, 4), head=head(4))
    with pytest.raises(KeyError, match=r"unknown layer 'first_cov'. Did you mean 'first_conv'\?"):
        remove_channels(model, torch.rand(IMAGE), {"first_cov": [0]})


@pytest.mark.parametrize(
    "indices", [np.array([1, 3]), torch.tensor([1, 3], dtype=torch.uint8), (1, 3), {1, 3}, range(1, 4, 2)]
)
@pytest.mark.bad_input
def test_all_kinds_of_whole_numbers_are_taken(indices):
    small = remove_channels(CHAIN, torch.rand(1, 3, 6, 6), {"0": indices})
    assert torch.equal(small[0].weight, CHAIN[0].weight[[0, 2, 4, 5]])


@pytest.mark.bad_input
def test_a_layer_that_computes_a_part_is_not_emptied_either():
    model, example = network("uneven_sum")
    with pytest.raises(ValueError, match="leaves 'a' without any channel"):
        remove_channels(model, example, {"c": [0, 1, 2]})


@pytest.mark.bad_input
def test_channels_tied_to_the_input_are_refused_beside_free_ones():
    model, example = network("concat")
    assert_law(model, example, {"bn": [0, 3]}, channel_groups(model, example))
    with pytest.raises(ValueError, match=r"channels \[7, 8\] of 'bn' cannot be removed: .*network's input"):
        remove_channels(model, example, {"bn": [0, 7, 8]})


def test_weights_keep_their_memory_format():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)).to(memory_format=torch.channels_last)
    small = remove_channels(model, torch.rand(1, 3, 8, 8), {"0": [1, 2]})
    for layer in small:
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
        assert not layer.weight.is_contiguous()
