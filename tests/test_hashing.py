"""The hash against plain integers, the layer against NumPy, files and seeds, and every refusal."""

import copy
import math

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torch.nn.utils import prune

from course_lib import cost, hashing, models
from course_lib.hashing import HashedLinear, assignment, decode_layers, hash32, hash_layers

words = st.integers(0, 2**32 - 1)
shapes = st.tuples(st.integers(1, 9), st.integers(1, 9)).filter(lambda shape: shape[0] * shape[1] > 1)


def plain_hash(key, seed):
    """The hash in Python's integers, which never overflow."""

    def mix(x):
        for _ in range(3):
            x = ((x >> 16) ^ x) * 0x45D9F3B % 2**32
        return (x >> 16) ^ x

    return mix(key ^ mix(seed))


def plain_weight(layer):
    """The virtual weight, number by number."""
    buckets = layer.buckets.detach().numpy()
    weight = np.zeros((layer.out_features, layer.in_features), buckets.dtype)
    for i, j in np.ndindex(*weight.shape):
        bucket, sign = plain_place(layer, i, j)
        weight[i, j] = sign * buckets[bucket]
    return weight


def plain_place(layer, i, j):
    count = len(layer.buckets)
    slot = plain_hash(i * layer.in_features + j, layer.seed) * 2 * count // 2**32
    return slot % count, 1 if slot < count else -1


@st.composite
def hashed(draw):
    n_in, n_out = draw(shapes)
    torch.manual_seed(draw(words))
    buckets = draw(st.integers(1, n_in * n_out - 1))
    return HashedLinear(n_in, n_out, buckets, seed=draw(words), bias=draw(st.booleans()), dtype=torch.float64)


# The hash


@given(st.lists(words, min_size=1, max_size=20), words)
def test_the_hash_is_that_of_plain_integers(keys, seed):
    assert hash32(torch.tensor(keys), seed).tolist() == [plain_hash(key, seed) for key in keys]


def test_the_hash_never_changes():
    """Files hold buckets, not places: another hash would decode each of them to noise."""
    assert hash32(torch.arange(4)).tolist() == [0, 124067608, 1575185643, 2462892587]
    assert hash32(torch.tensor([0, 1, 2**32 - 1]), 7).tolist() == [1768358612, 3597130687, 462115897]
    index, sign = assignment(3, 2, 4, seed=1)
    assert index.tolist() == [[0, 2, 1], [0, 0, 0]]
    assert sign.tolist() == [[1, -1, -1], [1, 1, -1]]


@given(st.lists(words, min_size=1, max_size=20), words)
def test_the_hash_can_be_undone(keys, seed):
    """So no two keys share one; 0x119de1f3 is the inverse of the multiplier modulo 2^32."""
    found = hash32(torch.tensor(keys), seed).tolist()
    for _ in range(3):
        found = [((x >> 16) ^ x) * 0x119DE1F3 % 2**32 for x in found]
    mixed = hash32(torch.tensor([seed])).item()
    assert [(x >> 16) ^ x ^ mixed for x in found] == keys


def test_each_bit_of_the_key_changes_each_bit_of_the_hash_half_of_the_time():
    keys = torch.from_numpy(np.random.default_rng(0).integers(0, 2**32, 10_000))
    for bit in range(32):
        changed = hash32(keys, 3) ^ hash32(keys ^ (1 << bit), 3)
        shares = torch.stack([((changed >> place) & 1).double().mean() for place in range(32)])
        assert shares.min() > 0.45, bit
        assert shares.max() < 0.55, bit


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 12345, 2**32 - 1])
@pytest.mark.parametrize("share", [1 / 8, 1 / 64, 1 / 1000])
def test_places_and_signs_are_as_if_drawn(share, seed):
    """Weights are numbered 0, 1, 2, ..., which is as regular as keys can be; one test in 10,000 may fail by chance."""
    n_in, n_out = 300, 200
    count, buckets = n_in * n_out, round(share * n_in * n_out)
    index, sign = (values.numpy().astype(int) for values in assignment(n_in, n_out, buckets, seed=seed))
    other = [values.numpy() for values in assignment(n_in, n_out, buckets, seed=(seed + 1) % 2**32)]
    # Each pair of bucket and sign is equally likely, so signs know nothing of buckets.
    both = np.bincount((index + buckets * (sign < 0)).ravel(), minlength=2 * buckets)
    assert 1e-4 < stats.chisquare(both).pvalue < 1 - 1e-4
    assert abs(sign.mean()) < 4 / math.sqrt(count)  # four standard deviations
    # Neither knows of its neighbour in the row or column, or of its value under another seed.
    for a, b in ((sign[:, 1:], sign[:, :-1]), (sign[1:], sign[:-1]), (sign, other[1])):
        assert abs((a * b).mean()) < 4 / math.sqrt(a.size)
    for a, b in ((index[:, 1:], index[:, :-1]), (index[1:], index[:-1]), (index, other[0])):
        assert stats.binomtest(int((a == b).sum()), a.size, 1 / buckets).pvalue > 1e-4


# The layer


@settings(max_examples=50)
@given(hashed())
def test_the_weight_is_decoded_as_the_formula_says(layer):
    weight = plain_weight(layer)
    assert np.array_equal(layer.virtual_weight().detach().numpy(), weight)
    index, sign = assignment(layer.in_features, layer.out_features, len(layer.buckets), seed=layer.seed)
    assert np.array_equal((sign * layer.buckets[index]).detach().numpy(), weight)
    x = torch.randn(2, 3, layer.in_features, dtype=torch.float64)
    bias = 0 if layer.bias is None else layer.bias.detach().numpy()
    assert layer(x).detach().numpy() == pytest.approx(x.numpy() @ weight.T + bias, rel=1e-9, abs=1e-9)


@settings(max_examples=50)
@given(hashed())
def test_a_bucket_learns_from_all_its_weights_with_their_signs(layer):
    x = torch.randn(4, layer.in_features, dtype=torch.float64)
    g = torch.randn(4, layer.out_features, dtype=torch.float64)
    layer(x).backward(g)
    dense = g.numpy().T @ x.numpy()
    expected = np.zeros(len(layer.buckets))
    for i, j in np.ndindex(*dense.shape):
        bucket, sign = plain_place(layer, i, j)
        expected[bucket] += sign * dense[i, j]
    assert layer.buckets.grad.numpy() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    if layer.bias is not None:
        assert layer.bias.grad.numpy() == pytest.approx(g.numpy().sum(0))


@pytest.mark.parametrize("block", [1, 7, 20, 10**6])
def test_blocks_of_any_size_give_one_result(block, monkeypatch):
    layer, x = HashedLinear(7, 10, 20, seed=1), torch.randn(3, 7)
    whole = nn.functional.linear(x, layer.virtual_weight(), layer.bias)
    monkeypatch.setattr(hashing, "_BLOCK", block)
    torch.testing.assert_close(layer(x), whole)
    assert layer(x[:0]).shape == (0, 10)
    assert layer(x[0]).shape == (10,)


def test_without_gradients_the_dense_weight_is_never_whole():
    layer, x = HashedLinear(1000, 1000, 1000, seed=0), torch.zeros(1, 1000)
    dense = 1000 * 1000 * 4
    assert cost.measure(layer, x).peak_activation_bytes < dense / 4
    assert cost.measure(layer, x).parameters == 2000


def test_it_starts_with_the_variance_of_a_dense_layer():
    torch.manual_seed(0)
    dense, layer = nn.Linear(300, 400), HashedLinear(300, 400, 40_000, seed=0)
    weight = layer.virtual_weight()
    assert weight.std().item() == pytest.approx(dense.weight.std().item(), rel=0.02)
    assert weight.abs().max() <= 300**-0.5
    assert layer.bias.abs().max() <= 300**-0.5
    x = torch.randn(100, 300)
    assert (layer(x) - layer.bias).std().item() == pytest.approx(
        (dense(x) - dense.bias).std().item(), rel=0.05
    )
    before = layer.buckets.detach().clone()
    layer.reset_parameters()
    assert not torch.equal(layer.buckets, before)
    assert layer.buckets.std().item() == pytest.approx(before.std().item(), rel=0.02)


@settings(max_examples=50)
@given(hashed())
def test_the_buckets_of_a_dense_layer_are_its_least_squares(layer):
    """Against NumPy's solver, which takes the smallest where a bucket has no weight."""
    dense = nn.Linear(layer.in_features, layer.out_features, dtype=torch.float64)
    count = len(layer.buckets)
    design = np.zeros((dense.weight.numel(), count))
    for row, (i, j) in enumerate(np.ndindex(*dense.weight.shape)):
        bucket, sign = plain_place(layer, i, j)
        design[row, bucket] = sign
    best = np.linalg.lstsq(design, dense.weight.detach().numpy().ravel(), rcond=None)[0]
    found = HashedLinear.from_linear(dense, count, seed=layer.seed)
    assert found.buckets.detach().numpy() == pytest.approx(best, abs=1e-12)
    assert torch.equal(found.bias, dense.bias)


@settings(max_examples=30)
@given(hashed())
def test_decoding_once_gives_a_dense_layer_that_hashes_back(layer):
    dense, x = layer.to_linear(), torch.randn(3, layer.in_features, dtype=torch.float64)
    assert type(dense) is nn.Linear
    torch.testing.assert_close(dense(x), layer(x))
    again = HashedLinear.from_linear(dense, len(layer.buckets), seed=layer.seed)
    used = assignment(layer.in_features, layer.out_features, len(layer.buckets), seed=layer.seed)[0].unique()
    torch.testing.assert_close(again.buckets[used], layer.buckets[used])
    with torch.no_grad():
        dense.weight.zero_()
    assert layer.bias is None or dense.bias is not layer.bias
    torch.testing.assert_close(again(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_state_is_carried_over_both_ways(dtype):
    dense = nn.Linear(6, 5, dtype=dtype).eval()
    dense.weight.requires_grad_(False)
    random, weight = torch.get_rng_state(), dense.weight.clone()
    layer = HashedLinear.from_linear(dense, 9, seed=2)
    back = layer.to_linear()
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(dense.weight, weight)
    for made, name in ((layer, "buckets"), (back, "weight")):
        parameter = getattr(made, name)
        assert (parameter.dtype, parameter.requires_grad, parameter.is_leaf) == (dtype, False, True)
        assert made.bias.requires_grad
        assert not made.training
    assert (
        HashedLinear(3, 3, 4, seed=0).double()(torch.zeros(1, 3, dtype=torch.float64)).dtype == torch.float64
    )


# Files


def test_a_file_holds_the_buckets_and_little_else(tmp_path):
    layer = HashedLinear(200, 100, 2500, seed=9)
    assert {name: value.numel() for name, value in layer.state_dict().items()} == {
        "buckets": 2500,
        "bias": 100,
        "_extra_state": 3,
    }
    path = tmp_path / "layer.safetensors"
    safetensors.torch.save_file(layer.state_dict(), path)
    assert 2600 * 4 < path.stat().st_size < 2600 * 4 + 400
    again = HashedLinear(200, 100, 2500, seed=9)
    again.load_state_dict(safetensors.torch.load_file(path))
    assert torch.equal(again.virtual_weight(), layer.virtual_weight())


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("sizes", "seed", "error", "message"),
    [
        ((20, 10), 8, ValueError, r"= \[20, 10, 9\], and this one has \[20, 10, 8\]: it would decode"),
        ((10, 20), 9, ValueError, r"= \[20, 10, 9\], and this one has \[10, 20, 9\]"),
        ((20, 10), None, RuntimeError, "Missing key.*_extra_state"),
    ],
)
def test_what_would_decode_to_noise_does_not_load(sizes, seed, error, message):
    state = HashedLinear(20, 10, 50, seed=9, bias=False).state_dict()
    if seed is None:
        del state["_extra_state"]
    layer = HashedLinear(*sizes, 50, seed=9 if seed is None else seed, bias=False)
    with pytest.raises(error, match=message):
        layer.load_state_dict(state)


# Networks


def test_named_layers_are_hashed_and_decoded_in_copies():
    torch.manual_seed(0)
    model = models.build("mlp", image_size=8, hidden=(12, 9)).eval()
    before, x = copy.deepcopy(model.state_dict()), torch.rand(4, 1, 8, 8)
    small = hash_layers(model, {"3": 30, "1": 100}, seed=5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [(layer.seed, len(layer.buckets)) for layer in (small[1], small[3])] == [(5, 100), (6, 30)]
    torch.testing.assert_close(
        small[3].buckets, HashedLinear.from_linear(model[3], 30, seed=6).buckets, rtol=0, atol=0
    )
    assert type(small[5]) is nn.Linear
    assert small[5].weight is not model[5].weight
    assert not small.training
    dense = decode_layers(small)
    assert [type(layer) for layer in dense] == [type(layer) for layer in model]
    assert type(small[1]) is HashedLinear
    torch.testing.assert_close(dense(x), small(x))
    copied = hash_layers(
        models.build("mlp", image_size=8, hidden=(12, 9), seed=1), {"1": 100, "3": 30}, seed=5
    )
    copied.load_state_dict(safetensors.torch.load(safetensors.torch.save(small.state_dict())))
    assert torch.equal(copied(x), small(x))
    assert torch.equal(copy.deepcopy(small)(x), small(x))


def test_a_hashed_network_learns():
    torch.manual_seed(0)
    model = hash_layers(nn.Sequential(nn.Linear(10, 30), nn.ReLU(), nn.Linear(30, 1)), {"0": 40}, seed=0)
    x = torch.randn(200, 10)
    target = x[:, :1] * 2 - x[:, 1:2].abs()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(150):
        loss = nn.functional.mse_loss(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10


@pytest.mark.bad_input  # the exporter traces with tensors of its own
def test_a_decoded_network_becomes_an_onnx_file(tmp_path):
    from course_lib.quantization import onnx

    model = models.build("mlp", image_size=8, hidden=(12,)).eval()
    dense = decode_layers(hash_layers(model, {"1": 100}, seed=0))
    path = onnx.export(dense, torch.rand(2, 1, 8, 8), tmp_path / "decoded.onnx").path
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(onnx.run(path, images), dense(images / 255), rtol=1e-4, atol=1e-5)


# Errors


NAN = nn.Linear(3, 4)
nn.init.constant_(NAN.weight, math.nan)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, 4, 0), ValueError, "buckets is 0; it must be at least 1"),
        ((3, 4, 12), ValueError, r"buckets is 12, which saves nothing.*3 x 4 = 12 weights\. Give 1 to 11"),
        ((3, 4, 13), ValueError, "buckets is 13, which saves nothing"),
        ((3, 4, 0.5), TypeError, r"buckets is 0\.5 \(float\)"),
        ((0, 4, 1), ValueError, "in_features is 0"),
        ((3, -4, 1), ValueError, "out_features is -4"),
        ((3, "4", 1), TypeError, "out_features is '4'"),
        ((2**16, 2**16, 1), ValueError, r"4294967296; a hashed layer has at most 2\^30"),
    ],
)
def test_wrong_sizes_are_named(arguments, error, message):
    for function in (HashedLinear, assignment):
        with pytest.raises(error, match=message):
            function(*arguments, seed=0)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (-1, ValueError, "seed is -1; it must be from 0 to 4294967295"),
        (2**32, ValueError, "seed is 4294967296"),
        (1.0, TypeError, r"seed is 1\.0 \(float\)"),
        (None, TypeError, "seed is None"),
    ],
)
def test_a_wrong_seed_is_named(seed, error, message):
    for call in (
        lambda: HashedLinear(3, 4, 5, seed=seed),
        lambda: HashedLinear.from_linear(nn.Linear(3, 4), 5, seed=seed),
        lambda: assignment(3, 4, 5, seed=seed),
        lambda: hash32(torch.arange(3), seed),
        lambda: hash_layers(nn.Sequential(), {}, seed=seed),
    ):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ([1, 2], TypeError, "keys are a list; they must be an int64 tensor"),
        (torch.ones(3), TypeError, r"keys have dtype torch\.float32"),
        (torch.tensor([-1, 2]), ValueError, "keys run from -1 to 2"),
        (torch.tensor([2**32]), ValueError, r"must lie in \[0, 2\^32\)"),
    ],
)
def test_wrong_keys_are_named(keys, error, message):
    with pytest.raises(error, match=message):
        hash32(keys)


@pytest.mark.bad_input
def test_a_bias_is_there_or_not():
    with pytest.raises(TypeError, match="bias is None; it must be True or False"):
        HashedLinear(3, 4, 5, seed=0, bias=None)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("layer", "buckets", "error", "message"),
    [
        (NAN, 5, ValueError, "holds NaN"),
        (nn.Conv2d(3, 4, 1), 5, TypeError, "is a Conv2d; it must be a Linear"),
        (HashedLinear(3, 4, 6, seed=0), 5, TypeError, "is a HashedLinear"),
        (prune.identity(nn.Linear(3, 4), "weight"), 5, ValueError, "computed at each call"),
        (nn.Linear(3, 4), 12, ValueError, "is 12, which saves nothing"),
        (nn.Linear(3, 4), 5.0, TypeError, r"is 5\.0 \(float\)"),
    ],
)
def test_a_wrong_layer_or_number_is_named(layer, buckets, error, message):
    with pytest.raises(error, match=message):
        HashedLinear.from_linear(layer, buckets, seed=0)
    named = r"layer '0'|the number of buckets of '0'"
    with pytest.raises(error, match=rf"({named}).*{message}"):
        hash_layers(nn.Sequential(layer), {"0": buckets}, seed=0)


@pytest.mark.bad_input
def test_a_wrong_network_or_plan_is_named():
    model = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(KeyError, match=r"unknown layer '1'.*Known: 0"):
        hash_layers(model, {"1": 5}, seed=0)
    with pytest.raises(TypeError, match="buckets is a int; it must be a mapping"):
        hash_layers(model, 5, seed=0)
    for call in (lambda: hash_layers(None, {}, seed=0), lambda: decode_layers(None)):
        with pytest.raises(TypeError, match="model is a NoneType"):
            call()
