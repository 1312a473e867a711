"""The judge of surgery finds surgery that is wrong by hand, and lets pass what is right."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.pruning import law
from tests.pruning.reference import Net


def conv(inputs, outputs, size=3, **options):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


def _attend(s, x):
    x = s.stem(x).flatten(2).mT
    return s.head(s.attention(x, x, x)[0].mean(1))


NETWORKS = {
    "plain": lambda: nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.LeakyReLU(), conv(6, 4), nn.GELU(), conv(4, 2)),
    "residual": lambda: Net(
        lambda s, x: s.head(F.hardtanh(s.b(F.relu(s.norm(s.a(x)))) + s.short(x))),
        a=conv(3, 4), norm=nn.GroupNorm(1, 4), b=conv(4, 6), short=conv(3, 6, 1), head=conv(6, 2, 1),
    ),
    "grouped": lambda: nn.Sequential(
        conv(3, 8), nn.SiLU(), conv(8, 8, groups=8), nn.Hardswish(), conv(8, 8, groups=2), nn.Mish(), conv(8, 2)
    ),
    "flattened": lambda: nn.Sequential(
        conv(3, 4), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 8), nn.LayerNorm(8), nn.Linear(8, 2)
    ),
    "tokens": lambda: Net(
        _attend, stem=conv(3, 8), attention=nn.MultiheadAttention(8, 2, batch_first=True), head=nn.Linear(8, 2)
    ),
    "upwards": lambda: nn.Sequential(
        nn.ConvTranspose2d(3, 6, 2), nn.BatchNorm2d(6), nn.ELU(), nn.ConvTranspose2d(6, 6, 2, groups=6), conv(6, 2)
    ),
}  # fmt: skip
EXAMPLE = torch.rand(2, 3, 6, 6, dtype=torch.float64)


def cut(model, cuts, **sizes):
    """A copy without the given indices: {parameter: [(axis, indices)]}, and with other settings of layers."""
    small = copy.deepcopy(model)
    tensors = law._tensors(small)
    for name, axes in cuts.items():
        tensor = tensors[name].detach()
        for axis, indices in axes:
            keep = [i for i in range(tensor.shape[axis]) if i not in indices]
            tensor = tensor.index_select(axis, torch.tensor(keep))
        owner, _, own = name.rpartition(".")
        owner = small.get_submodule(owner)
        if own in owner._parameters:
            tensor = nn.Parameter(tensor)
        setattr(owner, own, tensor)
    for name, value in sizes.items():
        setattr(small.get_submodule(name.split("_")[1]), name.split("_")[2], value)
    return small


def lively(name):
    torch.manual_seed(3)
    model = NETWORKS[name]().double().eval()
    law.enliven(model, EXAMPLE)
    return model


def entries(layer, indices, names=("weight", "bias", "running_mean", "running_var")):
    return {f"{layer}.{name}": [(0, indices)] for name in names}


PLAIN = {"0.weight": [(0, [1])], "0.bias": [(0, [1])], **entries("1", [1]), "3.weight": [(1, [1])]}
RESIDUAL = {
    **{f"{layer}.{name}": [(0, [2, 3])] for layer in ("b", "short") for name in ("weight", "bias")},
    "head.weight": [(1, [2, 3])],
}
GROUPED = {
    **entries("0", [1, 6], ("weight", "bias")), **entries("2", [1, 6], ("weight", "bias")), "4.weight": [(1, [1])],
}  # fmt: skip
GROUPED["0.weight"] = GROUPED["0.bias"] = GROUPED["2.weight"] = GROUPED["2.bias"] = [(0, [1, 5])]
FLATTENED = {"0.weight": [(0, [2])], "0.bias": [(0, [2])], "3.weight": [(1, list(range(18, 27)))]}
NORMED = {
    **entries("3", [0, 5], ("weight", "bias")),
    **entries("4", [0, 5], ("weight", "bias")),
    "5.weight": [(1, [0, 5])],
}
UPWARDS = {
    "0.weight": [(1, [4])], "0.bias": [(0, [4])], **entries("1", [4]), **entries("3", [4], ("weight", "bias")),
    "4.weight": [(1, [4])],
}  # fmt: skip
HEAD = [4, 5, 6, 7]
TOKENS = {
    **entries(
        "attention", [*range(4, 8), *range(12, 16), *range(20, 24)], ("in_proj_weight", "in_proj_bias")
    ),
    "attention.out_proj.weight": [(1, HEAD)],
}
RIGHT = {
    "plain": ("plain", PLAIN, {}),
    "residual": ("residual", RESIDUAL, {}),
    "grouped": ("grouped", GROUPED, {"_2_groups": 6}),
    "flattened": ("flattened", FLATTENED, {}),
    "behind a norm": ("flattened", NORMED, {"_4_normalized": None}),
    "upwards": ("upwards", UPWARDS, {"_3_groups": 5}),
}
WRONG = {
    "another index at the producer": ("plain", PLAIN | {"0.weight": [(0, [2])]}, {}),
    "a bias that stayed a place off": ("plain", PLAIN | {"0.bias": [(0, [0])]}, {}),
    "one entry of batch norm shifted": ("plain", PLAIN | {"1.running_mean": [(0, [2])]}, {}),
    "a column shifted": ("plain", PLAIN | {"3.weight": [(1, [2])]}, {}),
    "two branches that lose different channels": (
        "residual", RESIDUAL | {"b.weight": [(0, [1, 3])], "b.bias": [(0, [1, 3])]}, {}
    ),
    "a column of the sum shifted": ("residual", RESIDUAL | {"head.weight": [(1, [3, 4])]}, {}),
    "one filter too many in one branch": ("residual", RESIDUAL | {"b.weight": [(0, [1, 2, 3])]}, {}),
    "a depthwise filter shifted": ("grouped", GROUPED | {"2.weight": [(0, [0, 5])]}, {"_2_groups": 6}),
    "groups that lose different places": (
        "grouped",
        {key: [(0, [1, 6])] for key in GROUPED if key != "4.weight"} | {"4.weight": GROUPED["4.weight"]},
        {"_2_groups": 6},
    ),
    "a flattened image shifted": ("flattened", FLATTENED | {"3.weight": [(1, list(range(17, 26)))]}, {}),
    "a depthwise filter upwards shifted": ("upwards", UPWARDS | {"3.weight": [(0, [3])]}, {"_3_groups": 5}),
    "an output that went": ("plain", {"5.weight": [(0, [0])], "5.bias": [(0, [0])]}, {}),
}  # fmt: skip


def surgery(name, cuts, sizes):
    whole = lively(name)
    small = cut(whole, cuts, **{key: value for key, value in sizes.items() if value is not None})
    if "_4_normalized" in sizes:
        small.get_submodule("4").normalized_shape = (6,)
    return whole, small


@pytest.mark.parametrize("case", RIGHT)
def test_right_surgery_is_lawful(case):
    whole, small = surgery(*RIGHT[case])
    state = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    share, effect = law.judge(whole, small, EXAMPLE)
    assert 0 < share < 0.5
    assert effect > 1e-3
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state_dict().items())


@pytest.mark.parametrize("case", WRONG)
def test_wrong_surgery_is_found(case):
    with pytest.raises(law.Wrong, match=r"something else|crashes|reach the output"):
        law.judge(*surgery(*WRONG[case]), EXAMPLE)


def test_a_head_of_attention_that_went_is_lawful():
    """nn.MultiheadAttention itself cannot do with fewer heads than its width: the small one is written by hand."""
    whole = lively("tokens")
    lost = {name: {axis: sorted(indices) for axis, indices in axes} for name, axes in TOKENS.items()}
    with (
        law._silenced(whole, lost, {"attention.in_proj_weight": {0}, "attention.out_proj.weight": {0}}),
        law._ReadNothing(),
    ):
        [found] = law.run(whole, EXAMPLE)
    with torch.no_grad():
        x = whole.stem(EXAMPLE).flatten(2).mT
        q, k, v = F.linear(x, whole.attention.in_proj_weight, whole.attention.in_proj_bias).chunk(3, -1)
        mixed = ((q[..., :4] @ k[..., :4].mT) / 2).softmax(-1) @ v[..., :4]
        attended = F.linear(mixed, whole.attention.out_proj.weight[:, :4], whole.attention.out_proj.bias)
        torch.testing.assert_close(found, whole.head(attended.mean(1)))


@pytest.mark.parametrize("name", NETWORKS)
def test_reading_nothing_as_zero_changes_nothing_where_all_is_there(name):
    whole = lively(name)
    with law._ReadNothing():
        [found] = law.run(whole, EXAMPLE)
    [expected] = law.run(whole, EXAMPLE)
    torch.testing.assert_close(found, expected)
    other = copy.deepcopy(whole)
    assert law.judge(whole, other, EXAMPLE) == (0.0, 0.0)


@pytest.mark.parametrize(
    "function",
    [
        F.relu, F.relu6, F.hardswish, F.hardsigmoid, F.hardtanh, F.silu, F.mish, F.gelu, F.elu, F.selu, F.softplus,
        F.leaky_relu, F.softsign, F.hardshrink, torch.tanh, torch.sigmoid, torch.abs,
        lambda x: x.clamp(0, 1), lambda x: F.max_pool2d(x, 3, 2), lambda x: F.avg_pool2d(x, 2),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), lambda x: torch.where(x > 0, x, 0.1 * x),
        lambda x: F.adaptive_max_pool2d(x, 1), lambda x: F.instance_norm(x), lambda x: torch.maximum(x, -x),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_works_channel_by_channel_hands_nothing_on(function, dtype):
    x = torch.randn(2, 20, 9, 9, dtype=dtype)
    x[:, [3, 11]] = torch.nan
    gone = function(x).isnan().flatten(2).transpose(0, 1).flatten(1)
    assert gone.all(1).nonzero().flatten().tolist() == [3, 11]
    assert not gone[[0, 1, 2, 19]].any()


def test_a_change_to_the_model_is_found():
    model = lively("plain")
    model.cache = {"a": [1]}
    before = law.snapshot(model)
    law._same(before, law.snapshot(model), "nothing")
    for change in (
        lambda: model.cache.update(b=2),
        lambda: model.cache["a"].append(2),
        lambda: model[1].train(),
        lambda: model[0].register_forward_hook(lambda *a: None),
        lambda: model[1].running_mean.add_(1),
        lambda: setattr(model[0], "weight", nn.Parameter(model[0].weight.detach().clone())),
    ):
        before = law.snapshot(model)
        change()
        with pytest.raises(law.Wrong, match="model changed by that"):
            law._same(before, law.snapshot(model), "that")


def test_verdicts_on_the_library():
    for name in ("plain", "residual", "grouped", "flattened"):
        verdict = law.check_law(NETWORKS[name]().double(), EXAMPLE)
        assert verdict.status == "lawful", (name, verdict)
        assert verdict.share > 0.05
        assert verdict.effect > 1e-3
    assert law.check_law(conv(3, 2).double(), EXAMPLE).status == "nothing"
