"""Channels that are followed once and handed on: the same results, and a model that was changed since is noticed."""

import copy
import importlib
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cloudpickle
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from course_lib import cost, models
from course_lib.data import Dataset, Split
from course_lib.pruning.eagleeye import sample_strategies, search
from course_lib.pruning.filters import (
    filter_plan,
    prune_iteratively,
    ratios_for_macs,
    sensitivity,
    untied_layers,
)
from course_lib.pruning.graph import Channels, channel_groups, follow
from course_lib.pruning.slimming import channel_scales, slimming_plan
from course_lib.pruning.surgery import channel_masks, remove_channels
from tests.pruning.reference import Net
from tests.pruning.zoo import conv, head

follow_module = importlib.import_module(
    "course_lib.pruning.graph.follow"
)  # the function has the module's name
pytestmark = pytest.mark.bad_input  # traced: proxies are no tensors
EXAMPLE = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
NETWORKS = ("vgg", "resnet", "mobilenet")


def network(name, seed=0):
    """With scales that differ, so that slimming has something to choose."""
    model = models.build(name, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.uniform_(0.1, 2, generator=generator)
    return model


@pytest.fixture
def follows(monkeypatch):
    """The models that are followed."""
    seen, find = [], follow_module._find
    monkeypatch.setattr(
        follow_module, "_find", lambda model, example: seen.append(model) or find(model, example)
    )
    return seen


def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 1, 16, 16), dtype=torch.uint8, generator=generator)
    split = Split(pixels, torch.randint(0, 10, (60,), generator=generator))
    return Dataset("noise", split, split, split.subset(torch.arange(0)), tuple("0123456789"))


def checksum(model):
    return sum(float(parameter.detach().double().square().sum()) for parameter in model.parameters())


def tune(model):
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)


def plan_of(model):
    return filter_plan(model, EXAMPLE, 0.5)


SAMPLING = {"count": 4, "mac_range": (0.1, 0.9), "max_ratio": 0.8, "seed": 0}
FUNCTIONS = {
    "filter_plan": lambda m, e: filter_plan(m, e, 0.4),
    "untied_layers": untied_layers,
    "sensitivity": lambda m, e: sensitivity(m, e, lambda small: 1 / checksum(small), ratios=(0.3, 0.6)),
    "ratios_for_macs": lambda m, e: ratios_for_macs(m, e, lambda t: t, 0.5),
    "prune_iteratively": lambda m, e: prune_iteratively(m, e, 0.5, rounds=2, fine_tune=tune),
    "slimming_plan": lambda m, e: slimming_plan(m, e, 0.4),
    "channel_scales": lambda m, e: [scales for _, scales in channel_scales(m, e)],
    "remove_channels": lambda m, e: remove_channels(m, e, plan_of(m)),
    "channel_masks": lambda m, e: channel_masks(m, e, plan_of(m)),
    "sample_strategies": lambda m, e: sample_strategies(m, e, **SAMPLING),
}
OF_A_PLAN = ("remove_channels", "channel_masks")  # the plan above is made by following once


def same(first, second):
    if isinstance(first, nn.Module):
        first, second = first.state_dict(), second.state_dict()
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_results_are_those_of_the_example_and_nothing_is_followed_again(name, function, follows):
    model = network(name)
    channels = follow(model, EXAMPLE)
    follows.clear()
    handed_on = FUNCTIONS[function](model, channels)
    expected = {"prune_iteratively": 1}.get(function, function in OF_A_PLAN)  # a smaller network is another
    assert len(follows) == expected
    follows.clear()
    assert same(handed_on, FUNCTIONS[function](model, EXAMPLE))
    assert len(follows) == 1 + expected


def test_a_search_follows_once_or_not_at_all(follows):
    model, dataset = network("vgg"), images()
    strategies = sample_strategies(model, EXAMPLE, **SAMPLING)
    channels = follow(model, EXAMPLE)
    options = {"calibration_images": 20, "scoring_images": 40}
    follows.clear()
    found = search(model, dataset, strategies, **options)
    assert len(follows) == 1
    assert search(model, dataset, strategies, channels=channels, **options) == found
    assert len(follows) == 1


def test_what_is_found_knows_its_groups_reasons_and_example():
    model = network("vgg")
    channels = follow(model, EXAMPLE)
    assert [group.size for group in channels.groups] == [
        group.size for group in channel_groups(model, EXAMPLE)
    ]
    last = list(channels.fixed)
    assert last == [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)][-1:]
    assert (channels.example.shape, channels.example.dtype) == ((1, 1, 16, 16), torch.float32)
    assert channels.example.device.type == "meta"
    assert torch.equal(channels.zeros(model), torch.zeros(1, 1, 16, 16))
    assert "example [1, 1, 16, 16])" in repr(channels)


def test_weights_modes_gradients_and_hooks_may_change_and_copies_are_accepted():
    model = network("resnet")
    channels = follow(model, EXAMPLE)
    model.train()
    model(EXAMPLE.repeat(2, 1, 1, 1)).sum().backward()
    for parameter in model.parameters():
        parameter.requires_grad_(False).mul_(2)
    model.register_forward_hook(lambda *_: None)
    model.register_full_backward_hook(lambda *_: None)
    channels.check(model)
    channels.check(copy.deepcopy(model))
    sent = cloudpickle.loads(cloudpickle.dumps((models.build("resnet"), channels)))
    sent[1].check(sent[0])
    sent = pickle.loads(pickle.dumps(channels))
    assert same(filter_plan(model, sent, 0.5), filter_plan(model, EXAMPLE, 0.5))


def make():
    def forward(s, x):
        x = s.first(x)
        return s.head(s.norm(s.second(x) + x if s.skip else s.second(x)).relu())

    model = Net(forward, first=conv(1, 8), second=conv(8, 8), norm=nn.BatchNorm2d(8), head=head(8))
    model.skip, model.sizes, model.plain = True, [1, 2], torch.ones(3)
    return model


def replaced(name, layer):
    return lambda model: setattr(model, name, layer)


def attribute(owner, name, value):
    return lambda model: setattr(model.get_submodule(owner), name, value)


CHANGES = {
    "a layer of another type": (
        replaced("norm", nn.InstanceNorm2d(8)),
        "layer 'norm' was .*BatchNorm2d and is .*Inst",
    ),
    "a layer of another size": (replaced("first", conv(1, 9)), "out_channels of 'first' was 8 and is 9"),
    "no bias": (attribute("second", "bias", None), "'second.bias' was of shape .8. and is None"),
    "another shape": (
        lambda model: setattr(model.second, "weight", nn.Parameter(torch.rand(8, 8, 5, 5))),
        r"'second.weight' was of shape \[8, 8, 3, 3\] and is of shape \[8, 8, 5, 5\]",
    ),
    "groups": (attribute("second", "groups", 2), "groups of 'second' was 1 and is 2"),
    "stride": (attribute("second", "stride", (2, 2)), r"stride of 'second' was \(1, 1\) and is \(2, 2\)"),
    "a setting of the model": (attribute("", "skip", False), "skip of '' was True and is False"),
    "a list": (attribute("", "sizes", [1, 3]), r"sizes of '' was \(1, 2\) and is \(1, 3\)"),
    "a plain tensor": (attribute("", "plain", torch.ones(4)), r"plain of '' was of shape \[3\]"),
    "another function": (attribute("", "function", torch.relu), "function of '' was .*forward and is .*relu"),
    "a new layer": (replaced("extra", nn.ReLU()), "layer 'extra' was not there and is .*ReLU"),
    "a layer less": (lambda model: delattr(model, "norm"), "layer 'norm' was .* and is not there"),
    "a shared parameter": (
        lambda model: setattr(model.second, "bias", model.first.bias),
        "'second.bias' was of shape .8. and is the same as 'first.bias'",
    ),
    "a shared layer": (
        lambda model: setattr(model, "second", model.first),
        "layer 'second' was .*Conv2d and is the same as 'first'",
    ),
    "a new buffer": (
        lambda model: model.norm.register_buffer("count", torch.zeros(2)),
        r"'norm.count' was not there and is of shape \[2\]",
    ),
    "a mask": (
        lambda model: prune.l1_unstructured(model.first, "weight", 3),
        "'first.weight_orig' was not there|'first.weight' was .* and is not there",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_was_changed_since_is_noticed(change):
    model, changed = make(), make()
    channels = follow(model, EXAMPLE)
    alter, message = CHANGES[change]
    channels.check(changed)
    alter(changed)
    with pytest.raises(ValueError, match=f"not as it was when its .*({message}).* channels = follow"):
        channels.check(changed)


@pytest.mark.parametrize("function", sorted(set(FUNCTIONS) - {"remove_channels", "channel_masks"}))
def test_every_function_notices_it(function):
    model = network("vgg")
    channels = follow(model, EXAMPLE)
    smaller = remove_channels(model, channels, {"0": [0]})
    with pytest.raises(ValueError, match="out_channels of '0' was 32 and is 31"):
        FUNCTIONS[function](smaller, channels)


def test_surgery_and_search_notice_it_too():
    model = network("vgg")
    channels = follow(model, EXAMPLE)
    smaller = remove_channels(model, channels, {"0": [0]})
    for function in (remove_channels, channel_masks):
        with pytest.raises(ValueError, match="out_channels of '0' was 32 and is 31"):
            function(smaller, channels, {"0": [0]})
    strategies = sample_strategies(model, channels, **SAMPLING)
    with pytest.raises(ValueError, match=r"^the model is not as .*: out_channels of '0' was 32 and is 31"):
        search(smaller, images(), strategies, channels=channels, calibration_images=10, scoring_images=10)
    with pytest.raises(TypeError, match="model is a str"):
        channels.check("vgg")


def test_channels_of_a_branch_that_depends_on_a_setting():
    """What the check is for: the groups of one setting are not those of the other."""
    model = make()
    with_skip = follow(model, EXAMPLE)
    model.skip = False
    assert len(follow(model, EXAMPLE).groups) > len(with_skip.groups)


def in_threads(*functions):
    """Run them side by side; raise what one of them raises."""
    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result() for future in [pool.submit(function) for function in functions]]


def test_threads_that_share_a_model_find_and_leave_the_same():
    """Following changes the model's mode for a while; a copy made meanwhile is of the model as it was."""
    model = network("resnet").train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    expected = remove_channels(model, EXAMPLE, plan_of(model))
    slimmer, strategies = slimming_plan(model, EXAMPLE, 0.4), sample_strategies(model, EXAMPLE, **SAMPLING)
    masks = channel_masks(model, EXAMPLE, slimmer)

    def work():
        for _ in range(8):
            channels = follow(model, EXAMPLE)
            channels.check(model)
            small = remove_channels(model, EXAMPLE, filter_plan(model, channels, 0.5))
            assert same(small, expected)
            assert [module.training for module in small.modules()] == modes
            assert same(remove_channels(model, channels, {}), model)
            assert same(slimming_plan(model, channels, 0.4), slimmer)
            assert same(channel_masks(model, channels, slimmer), masks)
            assert sample_strategies(model, channels, **SAMPLING) == strategies

    in_threads(*[work] * 4)
    assert [module.training for module in model.modules()] == modes


WHILE_TRACED = {
    "check": lambda m, c: c.check(m),
    "filter_plan": lambda m, c: filter_plan(m, c, 0.5),
    "slimming_plan": lambda m, c: slimming_plan(m, c, 0.4),
    "remove_channels": lambda m, c: remove_channels(m, c, {"first": [0]}),
    "channel_masks": lambda m, c: channel_masks(m, c, {"first": [0]}),
    "sample_strategies": lambda m, c: sample_strategies(m, c, **SAMPLING),
}


@pytest.mark.parametrize("function", WHILE_TRACED)
def test_what_is_asked_while_another_thread_traces_the_model_waits_for_its_parameters(function, monkeypatch):
    """torch.fx gives proxies instead of parameters meanwhile, and keeps constants in the model."""
    if function != "check":  # which waits, too; here the trace begins after it
        monkeypatch.setattr(Channels, "check", lambda *_: None)
    tracing, go_on = threading.Event(), threading.Event()
    go_on.set()

    def forward(s, x):
        x = s.norm(s.first(x)) * torch.tensor(2.0)  # kept in the model as long as it is traced
        tracing.set()
        go_on.wait(timeout=30)
        return s.head(x)

    model = Net(forward, first=conv(1, 8), norm=nn.BatchNorm2d(8), head=head(8)).eval()
    channels = follow(model, EXAMPLE)
    expected = WHILE_TRACED[function](model, channels)
    go_on.clear(), tracing.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(follow, model, EXAMPLE)
        assert tracing.wait(timeout=30)
        second = pool.submit(WHILE_TRACED[function], model, channels)
        time.sleep(0.3)
        go_on.set()
        first.result()
        assert expected is None or same(second.result(), expected)
        second.result()


def test_threads_that_use_networks_while_one_is_followed_are_not_disturbed_and_do_not_disturb():
    """While a network is traced, reading and setting the sizes of layers is watched, in that thread alone."""
    model = network("vgg")
    expected = [group.size for group in channel_groups(model, EXAMPLE)]
    done = threading.Event()

    def read_and_set():
        while not done.is_set():
            layer = nn.Conv2d(3, 4, 1).train()
            layer.out_channels += 1
            assert layer.out_channels == 5
            assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]

    def find():
        try:
            return [[group.size for group in channel_groups(model, EXAMPLE)] for _ in range(25)]
        finally:
            done.set()

    assert in_threads(find, read_and_set)[0] == [expected] * 25


def test_macs_of_a_pruned_network_need_no_example_beside_the_channels():
    model = network("mobilenet")
    channels = follow(model, EXAMPLE)
    ratio = ratios_for_macs(model, channels, lambda t: t, 0.5)
    small = remove_channels(model, channels, filter_plan(model, channels, ratio))
    assert cost.macs(small, EXAMPLE) <= 0.5 * cost.macs(model, EXAMPLE)
    assert isinstance(channels, Channels)
    assert replace(channels, fixed={}).fixed == {}
