"""Plans that are saved, read and replayed: the loaded network computes what the saved one did, bit for bit."""

import copy
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._pytree import tree_leaves

from course_lib.pruning import Plan, filter_plan, follow, load_pruned, remove_channels, save_pruned
from course_lib.pruning.plan import _described, _zeros
from tests.pruning.reference import liven, random_plan
from tests.pruning.zoo import ALL

# Tracing runs the models on proxies, which are no tensors.
pytestmark = pytest.mark.bad_input

IMAGE = torch.rand(1, 1, 8, 8)


def chain(width=4, last=2):
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, last, 3)
    ).eval()


def chain_plan():
    return Plan.of(chain(), IMAGE, {"0": [3, 1]})


def assert_same_output(one, other, example):
    outputs = [tree_leaves(network(example)) for network in (one, other)]
    for a, b in zip(*outputs, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@given(st.sampled_from(sorted(ALL)), st.integers(0, 50), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_a_loaded_network_computes_what_the_saved_one_did(name, seed, rounds):
    make, shape = ALL[name]
    torch.manual_seed(seed)
    example, rng, plans = torch.rand(shape), np.random.default_rng(seed), []
    small = liven(make(), example, seed).eval()
    share = None if rounds == 1 else 0.3  # a network of single channels cannot always be followed again
    for _ in range(rounds):
        channels = follow(small, example)
        plans.append(
            Plan.of(small, channels if seed % 2 else example, random_plan(channels.groups, rng, share))
        )
        small = remove_channels(small, example, plans[-1])
    fresh = make().eval()
    before = copy.deepcopy(fresh.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        path = save_pruned(Path(folder, "small.safetensors"), small, plans)
        assert [file.name for file in Path(folder).iterdir()] == ["small.safetensors"]
        again = load_pruned(path, fresh)
    assert_same_output(again, small, example)
    assert all(torch.equal(value, before[key]) for key, value in fresh.state_dict().items())
    for plan in plans:
        assert Plan.from_json(plan.to_json()) == plan


def test_a_resnet_with_json_and_weights_in_files_of_their_own(tmp_path):
    model, example = torchvision.models.resnet18(num_classes=5).eval(), torch.rand(1, 3, 64, 64)
    plan = Plan.of(model, example, filter_plan(model, example, 0.4, round_to=8))
    small = remove_channels(model, example, plan)
    Path(tmp_path, "plan.json").write_text(plan.to_json())
    safetensors.torch.save_file(small.state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(1)
    fresh = torchvision.models.resnet18(num_classes=5).eval()
    again = Plan.from_json(Path(tmp_path, "plan.json").read_text()).replay(fresh)
    assert not torch.equal(again(example), small(example))
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "weights.safetensors"), strict=True)
    assert torch.equal(again(example), small(example))
    assert again.layer1[0].conv1.out_channels == 40


def test_a_plan_is_the_mapping_that_surgery_takes():
    plan = chain_plan()
    assert dict(plan) == {"0": (1, 3)}
    assert (len(plan), list(plan), "1" in plan) == (1, ["0"], False)
    assert plan.shapes["3.weight"] == (2, 4, 3, 3)
    assert plan.left["3.weight"] == (2, 2, 3, 3)
    assert plan.left["1.num_batches_tracked"] == ()
    small = remove_channels(chain(), IMAGE, plan)
    assert {name: tuple(value.shape) for name, value in small.state_dict().items()} == plan.left


@pytest.mark.parametrize(
    "indices", [(3, 1), torch.tensor([3, 1]), np.array([1, 3]), {1, 3}, range(1, 4, 2), iter([3, 1])]
)
def test_all_kinds_of_indices_are_kept_as_numbers(indices):
    assert Plan.of(chain(), IMAGE, {"0": indices}) == chain_plan()


@pytest.mark.parametrize(
    "example",
    [
        torch.ones(2, 3),
        (torch.ones(2, 3, dtype=torch.int64), None),
        {"image": torch.ones(1, dtype=torch.float16), "size": (8, 2.5), "mode": "fast", "mask": True},
    ],
)
def test_examples_of_all_kinds_come_back_as_zeros(example):
    again = _zeros(json.loads(json.dumps(_described(example))), "cpu")
    leaves = tree_leaves(example), tree_leaves(again)
    assert type(again) is type(example)
    for was, found in zip(*leaves, strict=True):
        if isinstance(was, torch.Tensor):
            assert (found.shape, found.dtype, found.any()) == (was.shape, was.dtype, False)
        else:
            assert found == was
    with pytest.raises(TypeError, match="the example holds a slice"):
        _described((torch.ones(1), {"part": slice(1)}))


def test_shared_weights_and_weights_in_another_layout_are_saved(tmp_path):
    def make():
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2))
        model[2].weight = model[0].weight
        return model

    model, example = make(), torch.rand(2, 6)
    plan = Plan.of(model, example, {})
    again = load_pruned(save_pruned(tmp_path / "a.safetensors", model, plan), make())
    assert_same_output(again, model, example)
    assert again[2].weight is again[0].weight
    wide = chain().to(memory_format=torch.channels_last)
    assert not wide[3].weight.is_contiguous()
    again = load_pruned(save_pruned(tmp_path / "b.safetensors", wide, Plan.of(wide, IMAGE, {})), chain())
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), wide.parameters(), strict=True))


# Bad input


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            chain(5),
            r"'0\.weight' is of shape \[4, 1, 3, 3\] in the plan and of shape \[5, 1, 3, 3\] in the model",
        ),
        (chain(last=3), r"'3\.weight' is of shape \[2, 4, 3, 3\]"),
        (chain()[:3], r"'3\.weight' is of shape \[2, 4, 3, 3\] in the plan and missing in the model"),
        (
            nn.Sequential(*chain(), nn.Linear(1, 1)),
            r"'4\.weight' is missing in the plan and of shape \[1, 1\]",
        ),
    ],
)
def test_another_structure_is_named(model, message):
    with pytest.raises(ValueError, match=f"the model must be built like .*{message}.*same options"):
        chain_plan().replay(model)


def test_a_forward_that_ties_other_channels_is_noticed():
    class Residual(nn.Sequential):
        def forward(self, x):
            x = self[0](x)
            return self[2](x + self[1](x))

    layers = [nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)]
    plan = Plan.of(Residual(*layers), IMAGE, {"0": [1]})
    with pytest.raises(
        ValueError, match=r"leaves another network: '1\.weight' is of shape \[3, 3, 1, 1\] in the plan"
    ):
        plan.replay(nn.Sequential(*layers))


def test_a_model_that_is_none_and_a_wrong_plan_are_refused():
    with pytest.raises(TypeError, match="model is the class Conv2d"):
        chain_plan().replay(nn.Conv2d)
    with pytest.raises(TypeError, match="plan is a list"):
        Plan.of(chain(), IMAGE, [0])
    with pytest.raises(KeyError, match="unknown layer 'conv'"):
        Plan.of(chain(), IMAGE, {"conv": [0]})
    with pytest.raises(ValueError, match=r"hold \[4\]"):
        Plan.of(chain(), IMAGE, {"0": [4]})


def changed(**fields):
    return json.dumps(json.loads(chain_plan().to_json()) | fields)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, TypeError, "text is a NoneType; it must be a str"),
        (b"{}", TypeError, "text is a bytes"),
        ("", ValueError, "text is not JSON"),
        ("[" * 100_000, ValueError, "text is not JSON"),
        (chain_plan().to_json()[:-9], ValueError, "text is not JSON"),
        ("[]", ValueError, r"\[\] is no pruning plan. Give what Plan.to_json wrote"),
        ("{}", ValueError, "is no pruning plan"),
        (changed(format="other"), ValueError, "is no pruning plan"),
        (changed(version=2), ValueError, "version of the plan is 2; this library reads version 1"),
        (changed(version="1"), ValueError, "version of the plan is '1'"),
        (changed(channels=None), ValueError, "channels of the plan is None; it must map names"),
        (changed(channels={"0": [1.0]}), ValueError, r"channels of the plan has \[1\.0\] for '0'"),
        (changed(channels={"0": [True]}), ValueError, r"has \[True\] for '0'"),
        (changed(channels={"0": [-1]}), ValueError, r"has \[-1\] for '0'"),
        (changed(channels={"0": "13"}), ValueError, "has '13' for '0'"),
        (changed(shapes=[1]), ValueError, r"shapes of the plan is \[1\]"),
        (changed(left={"0": None}), ValueError, "left of the plan has None for '0'"),
        (changed(example=None), ValueError, "example of the plan is None; it must hold shapes"),
        (changed(example={"shape": [1], "dtype": "nn"}), ValueError, "example of the plan is .*'nn'"),
        (changed(example={"shape": [-1], "dtype": "float32"}), ValueError, "example of the plan is"),
        (changed(example={"shape": ["1"], "dtype": "float32"}), ValueError, "example of the plan is"),
        (changed(example={"shape": [2**62, 4], "dtype": "float32"}), ValueError, "example of the plan is"),
        (changed(example=[{"value": {}}]), ValueError, "example of the plan is"),
    ],
)
def test_text_that_is_no_plan_is_named(text, error, message):
    with pytest.raises(error, match=message):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("channels", "error", "message"),
    [
        ({"9": [0]}, KeyError, "unknown layer '9'"),
        ({"0": [7]}, ValueError, r"the indices of '0' hold \[7\]"),
        (
            {"0": [1]},
            ValueError,
            r"'0\.weight' is of shape \[2, 1, 3, 3\] in the plan and of shape \[3, 1, 3, 3\]",
        ),
    ],
)
def test_a_plan_that_was_changed_does_not_fit(channels, error, message):
    with pytest.raises(error, match=message):
        Plan.from_json(changed(channels=channels)).replay(chain())


class WithState(nn.Sequential):
    def get_extra_state(self):
        return {"step": 1}

    def set_extra_state(self, state):
        pass


def test_what_cannot_be_saved_leaves_no_file(tmp_path):
    path, plan = tmp_path / "small.safetensors", chain_plan()
    small = plan.replay(chain())
    first = Plan.of(chain(), IMAGE, {"0": [0]})
    cases = [
        (small, None, TypeError, "plans is None; it must be a Plan or a list"),
        (small, [dict(plan)], TypeError, "plans is .*it must be a Plan"),
        (small, [], ValueError, "plans is empty"),
        (
            chain(),
            plan,
            ValueError,
            r"plan 0 does not lead to the model: '0\.weight' is of shape \[2, 1, 3, 3\]",
        ),
        (small, [first, plan], ValueError, r"plan 0 does not lead to plan 1: '0\.weight' is of shape \[3,"),
        (None, plan, TypeError, "model is a NoneType"),
        (WithState(*small), plan, TypeError, "the state '_extra_state' is a dict"),
    ]
    for model, plans, error, message in cases:
        with pytest.raises(error, match=message):
            save_pruned(path, model, plans)
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_earlier_file(tmp_path, monkeypatch):
    plan = chain_plan()
    small = plan.replay(chain())
    path = save_pruned(tmp_path / "small.safetensors", small, plan)
    before = path.read_bytes()

    def fail(tensors, temporary, metadata):
        Path(temporary).write_bytes(b"half")
        raise RuntimeError("stopped")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(RuntimeError, match="stopped"):
        save_pruned(path, small, plan)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_hold_no_pruned_network_are_named(tmp_path):
    plan, path = chain_plan(), tmp_path / "small.safetensors"
    small = plan.replay(chain())
    with pytest.raises(OSError, match="No such file"):
        load_pruned(path, chain())
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"small\.safetensors is not a safetensors file"):
        load_pruned(path, chain())
    weights = small.state_dict()
    for metadata, message in [
        (None, "holds weights, but no plan of what was pruned"),
        ({"pruning_plans": "{"}, "the metadata of .* is not JSON"),
        ({"pruning_plans": "{}"}, "no list of plans"),
        ({"pruning_plans": "[3]"}, "3 is no pruning plan"),
        ({"pruning_plans": "[]"}, r"the weights of .*small\.safetensors do not fit the plans in it"),
    ]:
        safetensors.torch.save_file(weights, path, metadata=metadata)
        with pytest.raises(ValueError, match=message):
            load_pruned(path, chain())
    save_pruned(path, small, plan)
    with pytest.raises(ValueError, match=r"'0\.weight' is of shape"):
        load_pruned(path, chain(5))
    with pytest.raises(TypeError, match="model is a str"):
        load_pruned(path, "chain")


def test_another_dtype_is_not_converted_in_silence(tmp_path):
    plan = chain_plan()
    path = save_pruned(tmp_path / "half.safetensors", plan.replay(chain()).half(), plan)
    with pytest.raises(
        ValueError, match=r"'0\.weight' is torch\.float32 in the model and torch\.float16 .*model\.to"
    ):
        load_pruned(path, chain())
