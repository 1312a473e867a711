"""The law of channel removal on torchvision's networks, and the same weights as Torch-Pruning leaves."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch_pruning
import torchvision
from torch import fx
from torch.utils._pytree import tree_leaves

from course_lib.pruning.graph import channel_groups
from course_lib.pruning.surgery import remove_channels
from tests.pruning.reference import liven, random_plan, zeroed

SIZES = {
    "alexnet": 80,
    "vgg16_bn": 64,
    "resnet18": 64,
    "resnet50": 64,
    "resnext50_32x4d": 64,
    "wide_resnet50_2": 64,
    "densenet121": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "mobilenet_v2": 64,
    "mobilenet_v3_large": 64,
    "mnasnet1_0": 64,
    "squeezenet1_1": 64,
    "shufflenet_v2_x1_0": 64,
    "efficientnet_b0": 64,
    "regnet_y_400mf": 64,
    "convnext_tiny": 64,
}
LARGE = ("alexnet", "vgg16_bn", "wide_resnet50_2")  # in float32: in float64 they would need gigabytes
UNSUPPORTED = ("shufflenet_v2_x1_0",)  # Torch-Pruning 1.6.1 ends in a ZeroDivisionError


def network(name, **options):
    torch.manual_seed(0)
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": False} | options
    if name == "squeezenet1_1":
        options["dropout"] = 0.0
    model = torchvision.models.get_model(name, weights=None, num_classes=7, **options)
    dtype = torch.float32 if name in LARGE else torch.float64
    size = SIZES[name]
    example = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)
    return liven(model.to(dtype), example).eval(), example


def by_torch_pruning(model, example, plan):
    """The same channels removed by Torch-Pruning, layer by layer."""
    model = copy.deepcopy(model)
    graph = torch_pruning.DependencyGraph().build_dependency(model, example)
    for layer, indices in plan.items():
        module = model.get_submodule(layer)
        prune = graph.get_pruner_of_module(module).prune_out_channels
        graph.get_pruning_group(module, prune, idxs=list(indices)).prune()
    return model


@pytest.mark.parametrize("name", SIZES)
def test_the_law_holds_and_torch_pruning_agrees(name):
    model, example = network(name)
    tolerance = 1e-3 if name in LARGE else 1e-8
    state = {key: value.clone() for key, value in model.state_dict().items()}
    groups = channel_groups(model, example)
    random = np.random.default_rng(3)
    half = {}  # by the first producer, which Torch-Pruning can name as well
    for group in groups:
        first = group.producers[0]
        gone = torch.from_numpy(random.permutation(group.size)[: group.size // 2])
        if len(gone):
            half.setdefault(first.layer, []).extend(group.channels(gone)[first.layer].tolist())
    with torch.no_grad():
        whole = model(example)
        for plan in (half,) if name in LARGE else (half, random_plan(groups, random)):
            small, expected = remove_channels(model, example, plan), zeroed(model, groups, plan)(example)
            assert (expected - whole).abs().max() > 1e-3 * whole.abs().max()
            scale = expected.abs().max().item()
            torch.testing.assert_close(small(example), expected, rtol=tolerance, atol=tolerance * scale)
            del small
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    del state

    small = remove_channels(model, example, half)
    if name not in UNSUPPORTED:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = by_torch_pruning(model, example, half).state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in small.state_dict().items())
        assert len(theirs) == len(small.state_dict())
    small.train()(example.repeat(2, 1, 1, 1)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in small.parameters())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large"])
def test_the_pruned_network_can_be_saved_traced_and_exported(name):
    model, example = network(name)
    plan = random_plan(channel_groups(model, example), np.random.default_rng(0), 0.5)
    small = remove_channels(model, example, plan)
    with torch.no_grad():
        expected = small(example)
        for form in (fx.symbolic_trace(small), torch.export.export(small, (example,)).module()):
            torch.testing.assert_close(form(example), expected)
        again = copy.deepcopy(small)
        again.load_state_dict(copy.deepcopy(small.state_dict()))
        torch.testing.assert_close(again(example), expected)


@pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("inception_v3", 299)])
def test_auxiliary_classifiers_are_pruned_too(name, size):
    torch.manual_seed(0)
    model = torchvision.models.get_model(
        name, weights=None, num_classes=7, init_weights=False, aux_logits=True
    )
    example = torch.rand(1, 3, size, size)
    groups = channel_groups(model, example)
    aux = [axis.layer for group in groups for axis in group.producers if axis.layer.lower().startswith("aux")]
    assert aux
    small = remove_channels(model, example, random_plan(groups, np.random.default_rng(0), 0.5))
    outputs = small.train()(torch.rand(2, 3, size, size))
    sum(output.sum() for output in tree_leaves(tuple(outputs))).backward()
    assert all(p.grad is not None for p in small.parameters())


@pytest.mark.bad_input
def test_an_example_too_small_for_the_auxiliary_classifier_is_refused():
    model = torchvision.models.inception_v3(weights=None, init_weights=False)
    with pytest.raises(
        ValueError, match=r"train mode alone do not run on an example of shape \[1, 3, 96, 96\]"
    ):
        channel_groups(model, torch.rand(1, 3, 96, 96))
