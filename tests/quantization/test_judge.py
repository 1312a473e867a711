"""A few networks of the judge, each all the way; `python -m tests.quantization.judge` takes hundreds."""

import pytest
import torch
from torch import nn

from tests.quantization.judge import judged
from tests.quantization.networks import traces
from tests.quantization.random_networks import random_network
from tests.quantization.test_integer_network import EXACT


@EXACT
@traces
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(12))
def test_random_networks_are_those_of_onnx_runtime(seed, tmp_path):
    ways = {0: ("one call",), 3: ("two calls",)}.get(seed % 6, ())  # the export takes most of the time
    verdict = judged(seed, tmp_path, most=3, ways=ways)
    assert not verdict.wrong
    assert verdict.values.keys() == set(ways)


def test_a_seed_gives_one_network():
    (one, images), (other, same) = random_network(5), random_network(5)
    assert str(one) == str(other)
    assert torch.equal(images, same)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    kinds = {type(module) for seed in range(60) for module in random_network(seed)[0].modules()}
    assert kinds >= {
        nn.Conv1d,
        nn.Conv2d,
        nn.ConvTranspose2d,
        nn.BatchNorm2d,
        nn.AvgPool2d,
        nn.MaxPool2d,
        nn.SiLU,
    }
