"""Codebooks: k-means against SciPy and brute force, sizes against Huffman's own construction."""

import heapq
import zlib

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2
from torch import nn

from course_lib.quantization.codebook import Codebook, cluster, cluster_layers, look_up


def squared_error(weight, levels):
    return (weight.double().reshape(-1, 1) - levels.double()).square().amin(1).sum().item()


WEIGHTS = {
    "normal": torch.randn(40, 30, generator=torch.Generator().manual_seed(0)),
    "heavy tails": torch.randn(500, generator=torch.Generator().manual_seed(1)) ** 5,
    "two values": torch.tensor([0.25, -3.0]).repeat(50),
    "constant": torch.full((3, 2), -7.5),
    "one": torch.tensor([[[2.0]]]),
    "few": torch.tensor([5.0, 1.0, 9.0, 2.0, 8.5]),
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_k_means_is_never_worse_than_the_levels_at_equal_distances(kind, bits):
    weight = WEIGHTS[kind]
    codebook = cluster(weight, bits=bits)
    start = torch.linspace(weight.min().item(), weight.max().item(), 2**bits, dtype=torch.float64)
    ours = (codebook.weight().double() - weight.double()).square().sum().item()
    assert ours == pytest.approx(
        squared_error(weight, codebook.levels), rel=1e-6, abs=1e-12
    )  # each at the nearest
    assert ours <= squared_error(weight, start) * (1 + 1e-6) + 1e-12
    assert codebook.indices.shape == codebook.weight().shape == weight.shape
    assert codebook.levels.tolist() == sorted(codebook.levels.tolist())
    if kind in ("two values", "constant", "one"):
        assert torch.equal(codebook.weight(), weight)


@pytest.mark.parametrize("bits", [2, 4])
def test_k_means_ends_where_that_of_scipy_does(bits):
    weight = WEIGHTS["normal"]
    start = np.linspace(weight.min().item(), weight.max().item(), 2**bits)[:, None]
    expected, indices = kmeans2(weight.double().numpy().reshape(-1, 1), start, iter=500, minit="matrix")
    codebook = cluster(weight, bits=bits)
    np.testing.assert_allclose(codebook.levels.numpy(), expected[:, 0], rtol=1e-5)
    assert (codebook.indices.flatten().numpy() == indices).all()


def test_few_weights_against_all_ways_of_parting_them():
    """Two levels for six weights: each part of the sorted weights has its mean."""
    best = 0
    for seed in range(50):
        weight = torch.randn(6, generator=torch.Generator().manual_seed(seed))
        w = weight.sort().values.double()
        least = min(sum((part - part.mean()).square().sum() for part in (w[:i], w[i:])) for i in range(1, 6))
        found = squared_error(weight, cluster(weight, bits=1).levels)
        assert found >= least.item() * (1 - 1e-6)
        best += found <= least.item() * (1 + 1e-6)
    assert best >= 40


def test_pruned_weights_stay_zero_and_have_a_level_of_their_own():
    weight = WEIGHTS["normal"].clone()
    weight[weight.abs() < 1] = 0
    for bits in (1, 2, 5):
        codebook = cluster(weight, bits=bits)
        assert len(codebook.levels) == 2**bits
        assert torch.equal(codebook.weight() == 0, weight == 0) or bits == 1
        assert (codebook.weight()[weight == 0] == 0).all()
    assert cluster(torch.zeros(4), bits=3).weight().tolist() == [0.0] * 4


def huffman_bits(symbols):
    """Bits of all symbols by Huffman's construction: each of them pays one for every merge that it is in."""
    counts = [count for count in np.bincount(symbols).tolist() if count]
    heapq.heapify(counts)
    total = 0
    while len(counts) > 1:
        merged = heapq.heappop(counts) + heapq.heappop(counts)
        total += merged
        heapq.heappush(counts, merged)
    return total


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_sizes_are_those_of_huffmans_construction(bits):
    weight = torch.randn(30_000, generator=torch.Generator().manual_seed(0))
    codebook = cluster(weight, bits=bits)
    assert codebook.size() == 4 * 2**bits + 30_000 * bits // 8
    coded = codebook.size(huffman=True) - 4 * 2**bits
    least = huffman_bits(codebook.indices.numpy()) / 8
    assert least <= coded <= 1.01 * least + 100  # tables of code lengths
    assert coded < 30_000 * bits / 8


def test_the_size_is_that_of_what_can_be_read_back():
    codebook = cluster(WEIGHTS["heavy tails"], bits=4)
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    coded = coder.compress(bytes(codebook.indices.tolist())) + coder.flush()
    assert len(coded) + 64 == codebook.size(huffman=True) < codebook.size() == 64 + 250
    assert list(zlib.decompress(coded, -15)) == codebook.indices.tolist()
    alike = Codebook(torch.arange(4.0), torch.arange(4).to(torch.uint8), 2)
    assert alike.size(huffman=True) == alike.size() == 17  # nothing to gain, and a table to pay for


def test_layers_are_looked_up_in_a_copy():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    before = [p.clone() for p in model.parameters()]
    codebooks = cluster_layers(model, {"2": 3, "0": 2})
    found = look_up(model, codebooks)
    assert all(torch.equal(had, p) for had, p in zip(before, model.parameters(), strict=True))
    for name, count in (("0", 4), ("2", 8)):
        weight = found.get_submodule(name).weight
        assert torch.equal(weight, codebooks[name].weight())
        assert len(weight.unique()) <= count
    found(torch.zeros(1, 2, 4, 4)).sum().backward()  # can be trained
    half = look_up(model.half(), codebooks)
    assert half[0].weight.dtype == torch.float16


@pytest.mark.bad_input
def test_bad_input_is_named():
    weight, model = torch.ones(2, 3), nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    codebooks = cluster_layers(model, {"0": 2})
    for call, error, words in (
        (lambda: cluster([1.0], bits=2), TypeError, "weight is a list"),
        (lambda: cluster(weight.int(), bits=2), TypeError, "weight has dtype torch.int32"),
        (lambda: cluster(weight[:0], bits=2), ValueError, r"weight has shape \[0, 3\]"),
        (lambda: cluster(weight / 0, bits=2), ValueError, "finite"),
        (lambda: cluster(weight * torch.nan, bits=2), ValueError, "finite"),
        (lambda: cluster(weight, bits=0), ValueError, "bits is 0"),
        (lambda: cluster(weight, bits=9), ValueError, "bits is 9"),
        (lambda: cluster(weight, bits=2.0), TypeError, "bits is 2.0"),
        (lambda: cluster(weight, bits=2).size(huffman=1), TypeError, "huffman is 1"),
        (lambda: cluster_layers(model, 4), TypeError, "bits is a int; it must be a mapping"),
        (lambda: cluster_layers(model, {"o": 4}), KeyError, "unknown layer 'o'"),
        (lambda: cluster_layers(model, {"1": 4}), TypeError, "layer '1' is a ReLU"),
        (lambda: cluster_layers(model, {"0": 12}), ValueError, r"bits\['0'\] is 12"),
        (lambda: cluster_layers(None, {"0": 4}), TypeError, "model is a NoneType"),
        (lambda: look_up(model, {"0": weight}), TypeError, r"codebooks\['0'\] is a Tensor"),
        (lambda: look_up(model, {"1": codebooks["0"]}), TypeError, "layer '1' is a ReLU"),
        (lambda: look_up(nn.Sequential(nn.Linear(4, 2)), codebooks), ValueError, r"for a weight \[2, 3\]"),
    ):
        with pytest.raises(error, match=words):
            call()
