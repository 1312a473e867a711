"""What networks do in Python besides layers: caches, hooks, conditions, numbers of channels, scripted functions."""

import copy
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_lib.pruning import masks
from course_lib.pruning.graph import channel_groups, follow
from course_lib.pruning.graph._counts import Count
from course_lib.pruning.surgery import remove_channels
from tests.pruning.law import check_law
from tests.pruning.reference import Net

EXAMPLE = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net(function, **members):
    torch.manual_seed(0)
    return Net(function, a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 2, 1), **members)


def lawful(model, example=EXAMPLE):
    verdict = check_law(model, example, 0)
    assert verdict.status == "lawful", verdict
    return verdict


# ---- the caller's model is left as it was -------------------------------------------------------------------


def test_a_cache_that_forward_fills_is_left_empty_and_the_pruned_network_fills_its_own():
    def forward(s, x):
        if "g" not in s.cache:
            s.cache["g"] = s.g.exp()
        return s.b(s.a(x) * s.cache["g"])

    model = net(forward, g=nn.Parameter(torch.ones(1)), cache={})
    assert len(channel_groups(model, EXAMPLE)) == 1
    assert model.cache == {}
    small = remove_channels(model, EXAMPLE, {"a": [0]})
    assert small.cache == {}
    assert small(EXAMPLE).shape == model(EXAMPLE).shape


def test_a_cache_that_holds_a_tensor_with_history_can_be_copied():
    model = net(lambda s, x: s.b(s.a(x) * s.cache["g"]), g=nn.Parameter(torch.ones(1)), cache={})
    model.cache["g"] = model.g.exp()  # as a forward pass in training leaves it
    assert remove_channels(model, EXAMPLE, {"a": [0]}).b.weight.shape == (2, 7, 1, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda s, x: s.a.weight.data.clamp_(0, 0.01),
        lambda s, x: s.a.weight.detach().mul_(0),
        lambda s, x: torch.nn.init.zeros_(s.a.weight),
        lambda s, x: torch.clamp(s.a.weight, 0, 0.01, out=s.a.weight),
        lambda s, x: s.scale.add_(1),
        lambda s, x: s.notes.append(x),
        lambda s, x: x.mul_(0),
    ],
)
def test_what_forward_changes_in_place_is_as_it_was(change):
    def forward(s, x):
        change(s, x)
        return s.b(s.a(x) * s.scale)

    model, example = net(forward, scale=torch.ones(1), notes=[]), EXAMPLE.clone()
    state, scale = copy.deepcopy(model.state_dict()), model.scale.clone()
    follow(model, example)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.scale, scale)
    assert model.notes == []
    assert torch.equal(example, EXAMPLE)


def test_an_embedding_that_rescales_its_rows_keeps_them_and_stays():
    table = nn.Embedding(20, 8, max_norm=0.1)
    before = table.weight.detach().clone()
    channels = follow(nn.Sequential(table, nn.Linear(8, 4), nn.Linear(4, 3)), torch.arange(20)[None])
    assert torch.equal(table.weight, before)
    assert "max_norm of '0' rescales its rows" in channels.fixed["0"]


@pytest.mark.parametrize("function", ["silu", "sigmoid"])
def test_nothing_that_is_kept_of_a_run_changes_a_later_one(function):
    """A cache outside of the model keeps a tensor of the run; its labels mean nothing in the next."""
    kept = {}

    def forward(s, x):
        if "mask" not in kept:
            kept["mask"] = getattr(F, function)(s.a(x)).mean((0, 2, 3), keepdim=True)
        return s.b(s.a(x) * kept["mask"])

    model = net(forward)
    follow(model, EXAMPLE)
    assert "a" in follow(model, EXAMPLE).fixed


# ---- hooks, subclasses, scripted code -----------------------------------------------------------------------


def test_a_hook_is_followed_like_forward():
    constant, flipped = (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3)) for _ in range(2))
    constant[0].register_forward_hook(lambda layer, i, out: out * torch.linspace(0, 1, 8).view(8, 1, 1))
    flipped[0].register_forward_hook(lambda layer, inputs, output: output.flip(1))
    assert "to a constant" in follow(constant, EXAMPLE).fixed["0"]
    small, whole = remove_channels(flipped, EXAMPLE, {"0": [0]}), copy.deepcopy(flipped)
    with torch.no_grad():
        whole[1].weight[:, 7] = 0
    torch.testing.assert_close(small(EXAMPLE), whole(EXAMPLE))


class Flip(nn.Conv2d):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.t = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return F.conv2d(x.flip(1), self.weight, self.bias) * self.t


def test_a_forward_of_its_own_is_followed_also_where_a_parameter_is_frozen():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Flip(8, 2, 3))
    masks.freeze(model, {"1.t": torch.tensor([True])})
    small, whole = remove_channels(model, EXAMPLE, {"0": [0]}), copy.deepcopy(model)
    with torch.no_grad():
        whole[1].weight[:, 7] = 0
    torch.testing.assert_close(small(EXAMPLE), whole(EXAMPLE))


@torch.jit.script
def scripted_swish(x):
    return x * torch.sigmoid(x)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_what_goes_into_scripted_code_stays_and_the_rest_can_go():
    model = net(lambda s, x: s.b(scripted_swish(s.c(s.a(x)))), c=nn.Conv2d(8, 8, 1))
    channels = follow(model, EXAMPLE)
    assert "the scripted function 'scripted_swish', which cannot be looked into" in channels.fixed["c"]
    assert "a" not in channels.fixed
    model = nn.Sequential(nn.Conv2d(3, 8, 3), torch.jit.script(nn.ReLU()), nn.Conv2d(8, 2, 3))
    assert "the scripted module '1'" in follow(model, EXAMPLE).fixed["0"]
    assert torch.equal(scripted_swish(torch.zeros(1)), torch.zeros(1))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


def test_a_function_with_its_own_gradient_is_followed():
    lawful(net(lambda s, x: s.b(Doubled.apply(s.a(x)))))


def test_an_embedding_tied_to_the_last_layer_loses_the_same_columns():
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    model.append(nn.Linear(8, 20, bias=False))
    model[4].weight = model[0].weight
    words = torch.randint(0, 20, (2, 6))
    small = remove_channels(model, words, {"3": [0]})
    assert small[4].weight is small[0].weight
    assert small[0].embedding_dim == 7
    lawful(model, words)


# ---- inputs, conditions and numbers -------------------------------------------------------------------------


def test_default_arguments_and_conditions_on_shapes_are_taken_as_the_example_makes_them():
    def forward(s, x, mask=None):
        assert x.shape[1] == 3
        y = s.a(x)
        if x.shape[-1] > 4:
            y = y.relu()
        if mask is not None:
            y = y * mask
        if y.dtype == torch.float64 and y.device.type == "cpu":
            y = y + 1
        return s.b(y)

    lawful(net(forward))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 6), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, left, right):
        return self.head(self.left(left).relu() + self.right(right))


def test_several_inputs_are_given_by_place_or_by_name():
    left, right = torch.rand(2, 4), torch.rand(2, 5)
    by_place, by_name = (
        lawful(TwoInputs(), (left, right)),
        lawful(TwoInputs(), {"right": right, "left": left}),
    )
    assert by_place.groups == by_name.groups == 1
    channels = follow(TwoInputs(), (left, right))
    assert repr(channels) == "Channels(1 group, 1 layer fixed, example ([2, 4], [2, 5]))"
    again = channels.zeros(TwoInputs())
    assert [part.shape for part in again] == [left.shape, right.shape]


FIXING = {
    "difference": lambda c: c - 4,
    "remainder": lambda c: c % 3,
    "quotient": lambda c: c / 2,
    "root": lambda c: c**0.5,
    "comparison": lambda c: c > 4,
    "equality with a number": lambda c: c == 8,
    "float": float,
    "int": int,
    "least": lambda c: min(c, 100),
    "reflected": lambda c: 100 // c,
}


@pytest.mark.parametrize("name", FIXING)
def test_what_is_computed_from_their_number_fixes_them(name):
    def forward(s, x):
        y = s.a(x)
        FIXING[name](y.shape[1])
        return s.b(y)

    assert "forward() computes with their number" in follow(net(forward), EXAMPLE).fixed["a"]


FREE = {
    "share": lambda y: y.view(len(y), 2, y.shape[1] // 2, 6, 6).flatten(1, 2),
    "product with another size": lambda y: y.reshape(y.shape[0] * y.shape[1], 36).view(y.shape),
    "sum of counts": lambda y: torch.cat([y, y], 1).view(2, y.size(1) + y.size(1), 6, 6)[:, : y.size(1)],
    "sum from zero": lambda y: y.reshape(2, sum([y.size(1)]), 6, 6),
    "the same count twice": lambda y: y if y.shape[1] == y.relu().shape[1] else None,
    "equal shapes": lambda y: y if y.shape == (2 * y).shape else None,
}


@pytest.mark.parametrize("name", FREE)
def test_what_stays_true_of_fewer_channels_leaves_them_free(name):
    lawful(net(lambda s, x: s.b(FREE[name](s.a(x)))))


def test_equal_counts_that_are_compared_go_together():
    def forward(s, x):
        y, z = s.a(x), s.c(x)
        return s.b(y) + s.b(z) if y.shape[1] == z.shape[1] else s.b(y)

    small = remove_channels(net(forward, c=nn.Conv2d(3, 8, 3)), EXAMPLE, {"a": [2]})
    assert small.c.out_channels == 7


class Run:
    """As much of a run as counts need."""

    listens = True

    def __init__(self):
        self.fixed, self.tied, self.ties = [], [], self

    def fix(self, labels, why, remedy):
        self.fixed.append(labels)

    def tie(self, first, second):
        self.tied.append((first, second))

    def quiet(self):
        import contextlib

        return contextlib.nullcontext()


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 12))
def test_counts_are_numbers_and_stay_proportional_where_products_and_exact_quotients_are(
    count, factor, divisor
):
    run = Run()
    number = Count(count, torch.arange(1, count + 1), Fraction(1), run)
    product = number * factor
    assert product == count * factor
    assert product.times == factor
    quotient = product // divisor
    assert int.__int__(quotient) == count * factor // divisor
    if count * factor % divisor:
        assert quotient.times is None
    else:
        assert quotient.times * count == count * factor // divisor
    assert type(copy.deepcopy(number)) is int


def test_integers_of_every_kind_of_arithmetic_agree_with_plain_ones():
    number, run = 12, Run()
    count = Count(number, torch.arange(1, 13), Fraction(1), run)
    for operation in FIXING.values():
        assert operation(count) == operation(number)
    for operation in (lambda c: c * 3, lambda c: 3 * c, lambda c: c // 4, lambda c: c + 5, lambda c: 5 + c):
        assert operation(count) == operation(number)
    assert count * 0.5 == 6.0
    assert count + 0.5 == 12.5
    assert hash(count) == hash(number)
