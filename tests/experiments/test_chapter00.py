"""What chapter 00 measures with: costs counted by hooks, times in turns, memory over time, variants."""

import pytest
import torch
from torch import nn

from course_lib import checkpoints, cost, models
from course_lib.data import Dataset, Split
from course_lib.experiments import chapter00, chapter00_studies, chapter00_tables

IMAGE = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
NAMES = ("glyphs-vgg", "glyphs-resnet", "glyphs-mobilenet", "glyphs-mlp")


@pytest.mark.parametrize("name", NAMES)
def test_layers_add_up_to_what_the_library_counts(name):
    network = checkpoints.load(name)
    rows, counted = chapter00.layer_costs(network, IMAGE), cost.measure(network, IMAGE)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    in_norms = sum(p.numel() for norm in norms for p in norm.parameters())
    assert sum(row["macs"] for row in rows) == counted.macs
    assert sum(row["parameters"] for row in rows) + in_norms == counted.parameters
    assert not any(layer._forward_hooks for layer in network.modules())


def test_counting_changes_nothing_in_a_network_that_is_being_trained():
    network = models.build("vgg", widths=(4, "M", 8), seed=0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    chapter00.layer_costs(network, IMAGE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.training


@pytest.mark.parametrize("name", NAMES)
def test_the_highest_point_of_the_memory_is_the_peak_of_the_library(name):
    network = checkpoints.load(name)
    assert (
        max(chapter00.memory_over_time(network, IMAGE)) == cost.measure(network, IMAGE).peak_activation_bytes
    )


def test_training_keeps_what_the_backward_pass_reads():
    network = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 5))
    kept = chapter00.kept_for_training(network, torch.rand(2, 10))
    assert kept == 4 * 2 * (
        10 + 20
    )  # the inputs of both linear layers; tanh keeps its output, which is one of them


class Slow(nn.Module):
    """Notes how it is called, and moves a clock on by so many seconds."""

    def __init__(self, name, calls, clock, seconds):
        super().__init__()
        self.name, self.calls, self.clock, self.seconds = name, calls, clock, seconds

    def forward(self, x):
        self.calls.append((self.name, self.training, torch.is_grad_enabled()))
        self.clock[0] += self.seconds
        return x


def test_networks_are_timed_in_turns_after_a_warm_up_in_eval_mode_without_gradients(monkeypatch):
    calls, clock = [], [0.0]
    monkeypatch.setattr(chapter00.time, "perf_counter", lambda: clock[0])
    cases = {name: (Slow(name, calls, clock, seconds), IMAGE) for name, seconds in (("a", 2.0), ("b", 6.0))}
    seconds = chapter00.time_in_turns(cases, rounds=3, calls=2)
    assert [name for name, _, _ in calls] == list("aabb" + 3 * "aabb")
    assert {(training, grad) for _, training, grad in calls} == {(False, False)}
    assert seconds == {"a": [2.0] * 3, "b": [6.0] * 3}


def test_a_slow_call_does_not_move_the_time_of_a_round(monkeypatch):
    clock, count = [0.0], [0]

    class Uneven(nn.Module):
        def forward(self, x):
            count[0] += 1
            clock[0] += 50.0 if count[0] % 5 == 0 else 1.0
            return x

    monkeypatch.setattr(chapter00.time, "perf_counter", lambda: clock[0])
    assert chapter00.time_in_turns({"a": (Uneven(), IMAGE)}, rounds=4, calls=5) == {"a": [1.0] * 4}


def test_the_ratio_is_that_of_each_round_so_that_a_slow_round_does_not_count():
    busy = {"a": [1.0, 10.0, 10.0, 1.0, 1.0], "b": [2.0, 20.0, 20.0, 2.0, 30.0]}
    assert chapter00.ratios(busy, to="a") == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize("base", [4, 32])
@pytest.mark.parametrize("side", [16, 32])
def test_the_vgg_as_a_chain_has_the_peak_of_the_network(base, side):
    network = models.build("vgg", widths=chapter00.vgg_widths(base))
    if side != 16:
        network = network[:-2]  # the linear layer belongs to images of 16 x 16
    peak = cost.measure(network.eval(), torch.rand(1, 1, side, side)).peak_activation_bytes
    assert chapter00.chain_peak(chapter00.chain_sizes(side, base)) == peak


def test_the_share_of_zeros_is_that_of_all_layers_together():
    network = checkpoints.load("glyphs-vgg-narrow")
    pruned = chapter00.with_zeros(network, 0.7)
    weights = [p for p in pruned.parameters() if p.ndim > 1]
    zero = [(p == 0).float().mean().item() for p in weights]
    total = sum(p.numel() for p in weights)
    assert sum(z * p.numel() for z, p in zip(zero, weights, strict=True)) / total == pytest.approx(
        0.7, abs=1e-3
    )
    assert max(zero) - min(zero) > 0.2  # one threshold for all layers: each has its own share
    assert all((p != 0).all() for p in network.parameters() if p.ndim > 1)
    before = dict(network.named_parameters())
    assert all(torch.equal(p, before[name]) for name, p in pruned.named_parameters() if p.ndim == 1)


def test_weights_at_random_go_from_all_layers_alike():
    network = checkpoints.load("glyphs-vgg-narrow")
    pruned = chapter00.with_zeros(network, 0.5, at_random=True)
    zero = [(p == 0).float().mean().item() for p in pruned.parameters() if p.ndim > 1]
    assert max(zero) - min(zero) < 0.15
    assert zero[-2] == pytest.approx(0.5, abs=0.02)  # the last convolution, 36,864 weights


def test_a_checkpoint_holds_three_numbers_for_each_parameter():
    network = nn.Linear(300, 300)
    bytes_ = chapter00.checkpoint_bytes(network, torch.rand(2, 300))
    assert bytes_ == pytest.approx(3 * 4 * 300 * 301, rel=0.01)
    assert network.weight.grad is None


def test_what_fits_the_device_is_said_at_the_limit():
    at, beyond = (
        cost.Cost(parameters=1, nonzero_parameters=1, macs=1, bytes=size, peak_activation_bytes=peak)
        for size, peak in ((1_000_000, 320_000), (2_000_000, 960_000))
    )
    first, second, last = chapter00_tables.fits({"at": at, "beyond": beyond})
    assert (first["1 MB of flash"], first["320 kB of memory"]) == ("fits", "fits")
    assert (second["1 MB of flash"], second["320 kB of memory"]) == (
        "2.0 times too large",
        "3.0 times too large",
    )
    assert last["1 MB of flash"] == "553 times too large"
    assert (last["weights"], last["activations"]) == (
        "553 MB",
        "25.7 MB",
    )  # cost.measure of VGG-16 says the same


def test_variants_are_fractions_of_the_first():
    base, half = (
        cost.Cost(parameters=n, nonzero_parameters=n, macs=4 * n, bytes=8 * n, peak_activation_bytes=2 * n)
        for n in (100, 50)
    )
    row = chapter00_tables.variants({"base": base, "half": half}, {"base": 1.0, "half": 0.7})[1]
    assert list(row.values()) == ["half", "0.50", "0.50", "0.50", "0.50", "0.70"]


def test_the_sources_stand_beside_numbers_of_this_run():
    vgg = checkpoints.load("glyphs-vgg")
    zeros = {"file": "1.00", "peak activations": "1.00", "time": "1.01"}
    rows = chapter00_tables.sources({"VGG": cost.measure(vgg, IMAGE)}, zeros=zeros, macs_a_second=15.47e9)
    here = [row["here"] for row in rows]
    assert here[1] == "peak to file: VGG 0.06"
    assert "4.0 minutes" in here[2] or "4 minutes" in here[2]  # 239 times 15.47 G MACs, at as many a second
    assert "89% of the parameters, 0.8% of the MACs" in here[3]


def test_a_large_network_is_measured_with_what_training_keeps():
    found = chapter00_studies.large("MobileNetV2", torch.rand(1, 3, 64, 64), min_seconds=0.01)
    assert found.cost.parameters == 3_504_872
    assert sum(row["macs"] for row in found.layers) == found.cost.macs
    assert found.kept > found.cost.peak_activation_bytes


def test_a_network_for_other_images_is_built_for_them_and_trained(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 3, 16, 16), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(64) % 4)
    others = Dataset("others", split, split, split, tuple("abcd"))
    monkeypatch.setattr(chapter00_studies, "affordable", lambda minutes, seconds, most: 1)
    for name in ("mlp", "mobilenet"):
        network = chapter00_studies.trained(name, others, minutes=1)
        assert network(images[:2].float()).shape == (2, 4)
        assert not network.training
    glyphs = Dataset("glyphs", split, split, split, tuple("abcd"))
    recorded = checkpoints.load("glyphs-mlp")
    loaded = chapter00_studies.trained("mlp", glyphs, minutes=1)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), recorded.parameters(), strict=True))
