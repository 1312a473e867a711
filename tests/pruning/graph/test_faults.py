"""Faults that were found by writing networks against the engine; each was wrong, refused or changed something once."""

import math
from functools import lru_cache

import pytest
import torch
from torch import nn

from course_lib.pruning.graph import channel_groups, follow
from tests.pruning.law import check_law
from tests.pruning.reference import Net

EXAMPLE = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SEQUENCE = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(0))


def net(function, **members):
    torch.manual_seed(0)
    return Net(function, a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 2, 1), **members)


def attending(function, **options):
    torch.manual_seed(0)
    mha = nn.MultiheadAttention(16, 4, batch_first=True, **options)
    return Net(function, e=nn.Linear(8, 16), mha=mha, f=nn.Linear(16, 5))


# ---- numbers of channels ------------------------------------------------------------------------------------


@lru_cache
def _root(count):
    return math.sqrt(count)


@lru_cache
def _half(count):
    return count // 2


def _scaled_by_root(s, x):
    y = s.a(x)
    return s.b(y) / _root(y.size(1))


def _halves(s, x):
    y = s.a(x)
    return s.b(torch.cat([y[:, : _half(y.size(1))], y[:, _half(y.size(1)) :]], 1))


@pytest.mark.parametrize(("forward", "free"), [(_scaled_by_root, False), (_halves, True)])
def test_a_cached_function_of_a_number_of_channels_is_asked_anew_by_each_run(forward, free):
    model = net(forward)
    assert [bool(channel_groups(model, EXAMPLE)) for _ in range(3)] == [free] * 3
    assert check_law(model, EXAMPLE).status == ("lawful" if free else "nothing")


def test_the_ratio_of_two_numbers_of_channels_keeps_both():
    model = net(lambda s, x: s.b(s.a(x)) * (s.a(x).size(1) // s.c(x).size(1)), c=nn.Conv2d(3, 4, 3))
    assert {"a", "c"} <= follow(model, EXAMPLE).fixed.keys()


@pytest.mark.parametrize(
    "forward",
    [
        lambda s, x: s.heads[str(s.a(x).size(1))](s.a(x)),
        lambda s, x: s.heads[f"{s.a(x).size(1)}"](s.a(x)),
        lambda s, x: s.b(s.a(x)) * len(s.a(x)[0]),
    ],
    ids=["str", "format", "len"],
)
def test_a_number_of_channels_that_becomes_a_name_or_a_length_keeps_them(forward):
    model = net(forward, heads=nn.ModuleDict({"8": nn.Conv2d(8, 2, 1)}))
    assert not channel_groups(model, EXAMPLE)


# ---- sizes of layers ----------------------------------------------------------------------------------------


def test_the_width_of_an_embedding_is_a_number_of_channels():
    words = torch.randint(0, 20, (2, 6), generator=torch.Generator().manual_seed(0))
    scaled = Net(
        lambda s, w: s.f(s.e(w) * math.sqrt(s.e.embedding_dim)), e=nn.Embedding(20, 16), f=nn.Linear(16, 5)
    )
    assert "number" in follow(scaled, words).fixed["e"]
    viewed = Net(
        lambda s, w: s.f(s.e(w).view(*w.shape, s.e.embedding_dim)), e=nn.Embedding(20, 16), f=nn.Linear(16, 5)
    )
    assert check_law(viewed, words).status == "lawful"


@pytest.mark.parametrize("name", ["embed_dim", "num_heads"])
def test_attention_whose_size_is_read_stays(name):
    def forward(s, x):
        x = s.e(x) / getattr(s.mha, name)
        return s.f(s.mha(x, x, x, need_weights=False)[0])

    assert "mha" in follow(attending(forward), SEQUENCE).fixed


# ---- attention ----------------------------------------------------------------------------------------------


def _weights(**options):
    def forward(s, x):
        x = s.e(x)
        output, weights = s.mha(x, x, x, **options)
        return s.f(output), weights

    return forward


def _mask(s, x):
    x = s.e(x)
    return s.f(s.mha(x, x, x, attn_mask=torch.zeros(8, 6, 6), need_weights=False)[0])


@pytest.mark.parametrize("forward", [_weights(), _weights(average_attn_weights=False), _mask])
def test_attention_with_weights_that_are_used_or_a_mask_per_head_keeps_its_heads(forward):
    assert {"e", "mha"} <= follow(attending(forward), SEQUENCE).fixed.keys()


def test_attention_whose_weights_are_not_used_does_not():
    def forward(s, x):
        x = s.e(x)
        return s.f(s.mha(x, x, x, attn_mask=torch.zeros(6, 6))[0])

    assert check_law(attending(forward), SEQUENCE).groups == 2


# ---- what is the caller's -----------------------------------------------------------------------------------


def test_no_tensor_of_the_caller_is_marked_afterwards():
    outside = torch.ones(1)

    def forward(s, x):
        if s.training:
            x = x * 1
        return s.b(s.n(s.a(x)) * s.g.to(x.dtype) + s.plain) + outside

    model = net(forward, n=nn.BatchNorm2d(8), g=nn.Parameter(torch.ones(8, 1, 1)), plain=torch.ones(1))
    assert channel_groups(model, EXAMPLE) is not None
    tensors = [*model.parameters(), *model.buffers(), model.plain, outside]
    assert [vars(tensor) for tensor in tensors] == [{}] * len(tensors)


# ---- operations ---------------------------------------------------------------------------------------------


def test_a_number_of_channels_in_place_of_a_number_of_positions_keeps_them():
    """Not the permutation that was meant: the channels lie along an axis that is written as -1."""

    def forward(s, x):
        x = s.a(x)  # [2, 8, 8, 8]
        return s.f(x.reshape(x.size(0), -1, x.size(1)))

    model = Net(forward, a=nn.Conv2d(3, 8, 3, padding=1), f=nn.Conv1d(64, 5, 1))
    assert "not theirs" in follow(model, EXAMPLE).fixed["a"]


def _unpooled(s, x):
    y, places = nn.functional.max_pool2d(s.a(x), 2, return_indices=True)
    return s.b(nn.functional.max_unpool2d(y, places, 2))


def _groups_in_batch(s, x):
    y = s.a(x)
    b, _, h, w = y.shape
    one, other = s.c(y.reshape(b * 2, -1, h, w)).chunk(2, 1)
    return s.b(torch.cat([one * 2, other], 1).reshape(b, -1, h, w))


def _asserted(s, x):
    y = s.a(x)
    b, c, h, w = y.shape
    assert c % 2 == 0
    return s.b(y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w))


def _listed(s, x):
    c = (y := s.a(x)).size(1)
    one, other = torch.split(y, [c // 2, c // 2], 1)
    return s.b(torch.cat([other, one], 1))


def _normalised(s, x):
    y = s.a(x)
    variance, mean = torch.var_mean(y, (2, 3), keepdim=True)
    return s.b((y - mean) / (variance + 1).sqrt() + y.std((2, 3), False, True))


@pytest.mark.parametrize(
    "forward",
    [
        _unpooled,
        _groups_in_batch,
        _asserted,
        _listed,
        _normalised,
        lambda s, x: s.b(torch.roll(s.a(x), shifts=(1, 1), dims=(2, 3))),
        lambda s, x: s.b(s.a(x).narrow(2, 0, 4).swapdims(2, 3)),
        lambda s, x: s.b(s.a(x).select(2, 0).unsqueeze(2)),
        lambda s, x: s.b(s.a(x).index_select(-1, torch.tensor([2, 0]))),
        lambda s, x: s.b(s.a(x).flatten(2).topk(3)[0].unsqueeze(3)),
    ],
    ids=["unpool", "batch", "mod", "split", "var", "roll", "narrow", "select", "index_select", "topk"],
)
def test_channels_go_through(forward):
    model = net(forward, c=nn.Conv2d(4, 4, 1))
    for seed in range(3):
        verdict = check_law(model, EXAMPLE, seed)
        assert verdict.status == "lawful", verdict
        assert "a" not in verdict.fixed


@pytest.mark.parametrize(
    "forward",
    [
        lambda s, x: s.b(s.a(x).narrow(1, 0, 4).repeat(1, 2, 1, 1)),
        lambda s, x: s.b(s.a(x)) * s.a(x).select(1, 0).unsqueeze(1),
        lambda s, x: s.b(s.a(x)) * s.a(x).topk(3, 1)[0].sum(1, keepdim=True),
        lambda s, x: s.b(s.a(x) * (1 if s.a(x).size(1) % 3 else 2)),
    ],
)
def test_channels_that_are_picked_or_counted_stay(forward):
    assert "a" in follow(net(forward), EXAMPLE).fixed


# ---- settings of PyTorch and of Python ----------------------------------------------------------------------


def test_labels_are_numbers_on_the_cpu_whatever_the_default_device():
    model = net(lambda s, x: s.b(s.a(x).flatten(1).view(len(x), -1, 6, 6)[:, :8]) + s.b(s.a(x)).sum())
    expected = follow(model, EXAMPLE).fixed
    with torch.device("meta"):
        assert follow(model, EXAMPLE).fixed == expected


def test_a_forward_may_delete_what_is_watched():
    def forward(s, x):
        groups = s.groups
        del s.groups
        s.groups = groups
        return s.b(s.a(x))

    model = net(forward, groups=2)
    assert len(channel_groups(model, EXAMPLE)) == 1
    assert model.groups == 2
