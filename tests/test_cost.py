"""Costs worked by hand, costs against a second implementation that really frees memory, and nothing left changed."""

import math
import time
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from course_lib import cost
from course_lib.cost import Cost, Latency, format_bytes, format_count, latencies, latency, measure


class Forward(nn.Module):
    """A module whose forward pass is the given function of the module and its input."""

    def __init__(self, function, **attributes):
        super().__init__()
        self.function = function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.function(self, x)


def peak_numbers(model, *shape):
    """The activation peak in float32 numbers, which is what a person counts on paper."""
    return measure(model, torch.rand(shape)).peak_activation_bytes / 4


# Parameters


def test_parameters_are_counted_once_and_buffers_are_not():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.BatchNorm1d(4), layer)
    assert measure(model, torch.rand(2, 4)).parameters == (16 + 4) + (4 + 4)


def test_two_parameters_on_one_memory_are_one():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight.data = model[0].weight.data
    assert measure(model, torch.rand(2, 4)).parameters == 16


def test_a_parameter_that_is_part_of_another_counts_by_itself():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    model[1].weight.data = model[0].weight.data[2:]
    assert measure(model, torch.rand(2, 4)).parameters == 16 + 8


def test_exact_zeros_are_the_ones_left_out():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, -0.0, 1e-30], [1.0, -2.0, math.nan]]))
        model.bias.zero_()
    counted = measure(model, torch.rand(1, 3))
    assert (counted.parameters, counted.nonzero_parameters) == (8, 4)


def test_frozen_parameters_count_too():
    model = nn.Linear(3, 2).requires_grad_(False)
    assert measure(model, torch.rand(1, 3)).parameters == 8


# Multiply-accumulates


@pytest.mark.parametrize(
    ("model", "shape", "macs"),
    [
        (nn.Linear(5, 7), (3, 5), 3 * 5 * 7),
        (nn.Linear(5, 7), (3, 4, 5), 3 * 4 * 5 * 7),
        (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 6, 6), 2 * 8 * 6 * 6 * 3 * 9),
        (nn.Conv2d(3, 8, (3, 5), stride=2, bias=False), (1, 3, 9, 9), 8 * 4 * 3 * 3 * 15),
        (nn.Conv2d(4, 8, 3, dilation=2), (1, 4, 7, 7), 8 * 3 * 3 * 4 * 9),
        (nn.Conv2d(6, 12, 3, groups=3), (1, 6, 5, 5), 12 * 3 * 3 * 2 * 9),
        (nn.Conv2d(6, 6, 3, groups=6), (1, 6, 5, 5), 6 * 3 * 3 * 9),
        (nn.ConvTranspose2d(4, 2, 2, stride=2), (1, 4, 3, 3), 4 * 3 * 3 * 2 * 4),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2)), (1, 3, 4, 4), 0),
        # The projections of queries, keys, values and output, the two layers behind, and Q K^T and its product with V.
        (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            (2, 5, 8),
            2 * 5 * (4 * 64 + 2 * 8 * 16) + 2 * 2 * 5 * 5 * 8,
        ),
    ],
    ids=[
        "linear",
        "rows",
        "conv",
        "stride",
        "dilation",
        "grouped",
        "depthwise",
        "transposed",
        "none",
        "attention",
    ],
)
def test_macs_follow_the_closed_formula(model, shape, macs):
    assert measure(model, torch.rand(shape)).macs == cost.macs(model, torch.rand(shape)) == macs


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_published_figures_are_met(name):
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    counted = measure(torchvision.models.get_model(name, weights=None), torch.rand(1, 3, 224, 224))
    assert counted.parameters == published["num_params"]
    assert counted.macs / 1e9 == pytest.approx(published["_ops"], abs=6e-4)


def test_a_layer_that_runs_twice_counts_twice():
    layer = nn.Linear(4, 4)
    assert measure(nn.Sequential(layer, layer), torch.rand(1, 4)).macs == 2 * 16


def test_macs_alone_need_no_path_that_is_free_of_the_data():
    model = Forward(lambda self, x: self.layer(x) if x.sum() > 0 else x, layer=nn.Linear(4, 4))
    assert cost.macs(model, torch.ones(2, 4)) == 2 * 16
    assert cost.macs(model, torch.zeros(2, 4)) == 0


# Bytes


def test_bytes_of_a_file_written_by_hand():
    # Eight bytes for the length of the header, the header padded to a multiple of eight, two float32.
    header = '{"weight":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}'
    assert (
        measure(nn.Linear(2, 1, bias=False), torch.rand(1, 2)).bytes == 8 + 8 * math.ceil(len(header) / 8) + 8
    )


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)),
        nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last),
        nn.Conv2d(4, 8, 3, dtype=torch.bfloat16),
        tied(),
        nn.ReLU(),
    ],
    ids=["batch norm", "channels last", "bfloat16", "tied", "empty"],
)
def test_bytes_are_those_of_the_file_that_safetensors_writes(model, tmp_path):
    safetensors.torch.save_model(model, tmp_path / "model.safetensors")
    example = torch.rand(2, 4, 4, 4, dtype=next(iter(model.parameters()), torch.rand(1)).dtype)
    assert measure(model, example).bytes == (tmp_path / "model.safetensors").stat().st_size


def test_parameters_that_overlap_in_memory_are_stored_side_by_side():
    whole = torch.rand(6, 4)
    parts = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    apart = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    parts[0].weight.data, parts[1].weight.data = whole[:4], whole[2:]
    example = torch.rand(1, 4)
    assert measure(parts, example) == measure(apart, example)


# Peak activation memory, on paper


def test_a_layer_holds_its_input_and_its_output():
    # 2x4 -> 2x8 -> 2x3: 8 + 16 at the first layer, 16 + 6 at the second. Weights do not count.
    assert peak_numbers(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), 2, 4) == 24


def test_the_example_dies_after_its_last_use():
    # 16 -> 2 -> 16: 18 at each layer, not 34 at the second.
    assert peak_numbers(nn.Sequential(nn.Linear(16, 2), nn.Linear(2, 16)), 1, 16) == 18


@pytest.mark.parametrize(("inplace", "peak"), [(False, 32 + 32), (True, 16 + 32)])
def test_an_activation_in_place_needs_no_second_tensor(inplace, peak):
    # 16 -> conv 32 -> relu -> conv 16
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(inplace), nn.Conv2d(2, 1, 3, padding=1))
    assert peak_numbers(model, 1, 1, 4, 4) == peak


@pytest.mark.parametrize(("residual", "peak"), [(False, 32), (True, 48)])
def test_a_residual_addition_holds_its_input_alive(residual, peak):
    # x -> conv -> relu, then + x: at the relu and at the sum, three maps of 16.
    def forward(self, x):
        y = torch.relu(self.conv(x))
        return x + y if residual else y * 2

    assert peak_numbers(Forward(forward, conv=nn.Conv2d(1, 1, 3, padding=1)), 1, 1, 4, 4) == peak


@pytest.mark.parametrize(
    "layer", [nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Dropout()), nn.Unflatten(1, (2, 1))]
)
def test_views_and_resting_dropout_are_free(layer):
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(8, 1))
    assert peak_numbers(model, 1, 2, 2, 2) == 8 + 1


def test_concatenation_holds_all_its_parts():
    # x 4, a 4, b 4: at b all three; at the concatenation a, b and 8 more.
    model = Forward(
        lambda self, x: torch.cat([self.a(x), self.b(x)], 1), a=nn.Linear(4, 4), b=nn.Linear(4, 4)
    )
    assert peak_numbers(model, 1, 4) == 16


def test_parts_of_a_split_share_its_memory():
    # x 8; twice its left half 4; then the product 4. A split that copied would hold 8 + 8.
    assert peak_numbers(Forward(lambda self, x: (lambda a, b: a * 2 * b)(*x.chunk(2, 1))), 1, 8) == 8 + 4 + 4


def test_an_output_lives_to_the_end():
    # y stays while z is made: x, y, z at the second operation.
    def forward(self, x):
        y = x * 2
        return {"y": y, "z": [(x + 1).mul(3)]}

    assert peak_numbers(Forward(forward), 1, 4) == 12


def test_the_example_lives_from_the_start():
    # 8 numbers from a parameter, doubled into 8 more, while an x of 4 waits for its turn.
    model = Forward(lambda self, x: x + (self.p * 2 * 3).sum(), p=nn.Parameter(torch.ones(8)))
    assert peak_numbers(model, 1, 4) == 8 + 8 + 4


def test_an_identity_needs_its_example():
    assert peak_numbers(nn.Identity(), 3, 5) == 15


def test_indices_that_pooling_keeps_for_training_do_not_count():
    assert peak_numbers(nn.MaxPool2d(2), 1, 1, 4, 4) == 16 + 4


def test_statistics_of_batch_norm_are_weights():
    assert peak_numbers(nn.BatchNorm2d(4), 2, 4, 3, 3) == 2 * (2 * 4 * 3 * 3)


def test_a_view_of_a_constant_is_no_activation_but_a_new_tensor_is():
    mean = torch.rand(3)
    assert (
        peak_numbers(Forward(lambda self, x: x - self.mean[None, :, None, None], mean=mean), 1, 3, 2, 2) == 24
    )
    assert (
        peak_numbers(Forward(lambda self, x: x - self.mean.exp()[None, :, None, None], mean=mean), 1, 3, 2, 2)
        == 27
    )


def test_a_transposed_weight_is_no_activation():
    model = Forward(lambda self, x: x @ self.w.t(), w=nn.Parameter(torch.rand(5, 4)))
    assert peak_numbers(model, 1, 4) == 4 + 5


def test_one_row_of_a_large_batch_counts_as_one_row():
    data = torch.rand(100, 4)
    assert measure(nn.ReLU(), data[:1]).peak_activation_bytes == 2 * 4 * 4


def test_bytes_follow_the_dtype():
    assert measure(nn.ReLU(), torch.rand(1, 4).bfloat16()).peak_activation_bytes == 2 * 4 * 2


def small_convnet():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def test_macs_and_activations_grow_with_the_batch_and_the_rest_does_not():
    model = small_convnet()
    one, many = measure(model, torch.rand(1, 1, 8, 8)), measure(model, torch.rand(7, 1, 8, 8))
    assert (many.macs, many.peak_activation_bytes) == (7 * one.macs, 7 * one.peak_activation_bytes)
    assert (many.parameters, many.nonzero_parameters, many.bytes) == (
        one.parameters,
        one.nonzero_parameters,
        one.bytes,
    )


# Peak activation memory, against a second implementation: run for real, free after the last use, watch what is alive


class LiveBytes(TorchDispatchMode):
    """The most bytes alive, of the storages that were born while it watches."""

    def __init__(self):
        super().__init__()
        self.watched, self.peak = {}, 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        inputs = {
            t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)
        }
        outputs = op(*args, **(kwargs or {}))
        counted = outputs[0] if op is torch.ops.aten.max_pool2d_with_indices.default else outputs
        for tensor in tree_leaves(counted):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in inputs:
                storage = tensor.untyped_storage()
                self.watched[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.watched = {key: pair for key, pair in self.watched.items() if not pair[0].expired()}
        self.peak = max(self.peak, sum(nbytes for _, nbytes in self.watched.values()))
        return outputs


class Freeing(torch.fx.Interpreter):
    """Runs a traced module and forgets every value after its last use, which fx.Interpreter does by itself."""

    def placeholder(self, target, args, kwargs):
        return super().placeholder(target, args, kwargs).clone()  # one that nobody else holds on to


class Branches(nn.Module):
    """Everything at once: a split, a residual, an in-place sum, a concatenation, a gate of another shape."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.gate = nn.Linear(8, 8)

    def forward(self, x):
        x = self.first(x)
        left, right = x.chunk(2, 1)
        right = self.second(right)
        right += left
        y = torch.cat([left, torch.relu_(right)], 1)
        gate = torch.sigmoid(self.gate(y.mean((2, 3))))
        return (x + y * gate[:, :, None, None]).flatten(1)


NETWORKS = {
    "resnet18": lambda: torchvision.models.resnet18(weights=None),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(weights=None),
    "densenet121": lambda: torchvision.models.densenet121(weights=None),
    "vgg11": lambda: torchvision.models.vgg11(weights=None).features,
    "branches": Branches,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_peak_is_that_of_a_run_which_frees_after_the_last_use(name):
    with torch.device("meta"):
        model = NETWORKS[name]()
    model = model.to_empty(
        device="cpu"
    ).eval()  # the values do not matter, and drawing them takes the longest
    example = torch.rand(2, 3, 32, 32)
    with torch.no_grad(), LiveBytes() as live:
        Freeing(torch.fx.symbolic_trace(model)).run(example)
    assert measure(model, example).peak_activation_bytes == live.peak


# What is measured stays as it was


def snapshot(model):
    return [
        (
            name,
            module.training,
            dict(module.__dict__),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
        )
        for name, module in model.named_modules()
    ], {name: value.clone() for name, value in model.state_dict().items()}


@contextmanager
def unchanged(model):
    structure, state = snapshot(model)
    held = {id(value) for value in model.state_dict(keep_vars=True).values()}
    random, threads = torch.get_rng_state(), torch.get_num_threads()
    fast, inference = torch.backends.mha.get_fastpath_enabled(), torch.is_inference_mode_enabled()
    yield
    after_structure, after_state = snapshot(model)
    assert after_structure == structure
    for name, value in state.items():
        assert torch.equal(after_state[name], value), name
    assert {id(value) for value in model.state_dict(keep_vars=True).values()} == held
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_num_threads() == threads
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.is_inference_mode_enabled() == inference
    assert torch.is_grad_enabled()


def quick_latency(model, example):
    return latency(model, example, min_seconds=0.001)


each = pytest.mark.parametrize("function", [measure, cost.macs, quick_latency])


@each
def test_each_layer_keeps_its_own_mode(function):
    model, example = small_convnet().train(), torch.rand(2, 1, 8, 8)
    model[1].eval()
    with unchanged(model):
        function(model, example)
    assert model.training
    assert not model[1].training


@each
def test_running_statistics_and_random_numbers_are_left_alone(function):
    def forward(self, x):
        self.calls += 1
        self.steps += 1
        self.last = x
        return nn.functional.dropout(self.norm(x), 0.5, training=True)

    model = Forward(forward, calls=0, norm=nn.BatchNorm1d(4))
    model.register_buffer("steps", torch.zeros(()))
    example = torch.rand(3, 4)
    with unchanged(model):
        function(model, example)
    assert (model.calls, model.steps.item()) == (0, 0)


@each
def test_hooks_run_and_stay(function):
    seen = []
    model = nn.Linear(4, 4)
    model.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    prune.l1_unstructured(model, "weight", 0.5)  # a hook that sets an attribute
    example = torch.rand(3, 4)
    with unchanged(model):
        function(model, example)
    assert set(seen) == {(3, 4)}
    assert model(torch.rand(1, 4)).requires_grad


@each
def test_a_failing_forward_leaves_the_mode_as_it_was(function):
    model, example = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(5, 2)).train(), torch.rand(3, 4)
    with unchanged(model), pytest.raises(ValueError, match="does not run"):
        function(model, example)


def test_a_backward_pass_in_progress_can_go_on():
    model = small_convnet().eval()
    example = torch.rand(2, 1, 8, 8)
    loss = model(example).sum()
    measure(model, example)
    loss.backward()


def test_training_mode_costs_the_same_as_evaluation_mode():
    # One image of one pixel: batch norm in training mode would refuse it, dropout would need memory.
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(), nn.Linear(4, 2))
    example = torch.rand(1, 1, 1, 1)
    assert measure(model.train(), example) == measure(model.eval(), example)


def test_a_second_measurement_gives_the_same_and_values_do_not_matter():
    model = small_convnet()
    expected = measure(model, torch.rand(2, 1, 8, 8))
    assert measure(model, torch.full((2, 1, 8, 8), math.nan)) == expected
    assert measure(model, torch.rand(2, 1, 8, 8).requires_grad_()) == expected


def test_inference_mode_around_it_makes_no_difference():
    # In inference mode PyTorch may show cosine_similarity as one operation, not as the several that it consists of.
    model = Forward(lambda self, x: nn.functional.cosine_similarity(x, x + 1))
    expected = measure(model, torch.rand(5, 4))
    with torch.inference_mode():
        assert measure(model, torch.rand(5, 4)) == expected


def test_whole_numbers_are_welcome_where_the_model_takes_them():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))
    assert measure(model, torch.zeros(5, 3, dtype=torch.int64)).macs == 5 * 12 * 2


# Latency


def test_latency_is_seconds_per_call_in_evaluation_and_inference_mode_with_the_threads_asked_for():
    seen = set()

    def forward(self, x):
        seen.add((self.training, torch.is_inference_mode_enabled(), torch.get_num_threads()))
        time.sleep(0.004)
        return x

    model = Forward(forward).train()
    before = torch.get_num_threads()
    timed = latency(model, torch.rand(3, 4), threads=before + 1, min_seconds=0.02)
    assert (False, True, before + 1) in seen
    assert {(training, inference) for training, inference, _ in seen} == {(False, True)}
    assert torch.get_num_threads() == before
    assert 0.004 <= timed.lower_quartile <= timed.median <= timed.upper_quartile


def test_latency_reports_the_quartiles_of_the_blocks():
    timer = mock.Mock()
    timer.return_value.adaptive_autorange.return_value = SimpleNamespace(times=[5.0, 1.0, 2.0, 4.0, 3.0])
    with mock.patch.object(cost, "_benchmark_timer", return_value=timer):
        assert latency(nn.ReLU(), torch.rand(1)) == Latency(
            median=3.0, lower_quartile=2.0, upper_quartile=4.0
        )


def test_several_models_are_timed_in_turns_and_each_has_the_quartiles_of_its_own():
    turns, first, second = [], nn.ReLU(), nn.Tanh()

    def timed(model, example, *, threads, min_seconds):
        turns.append((model, threads))
        return Latency(float(len(turns)), 0, 0)

    with mock.patch.object(cost, "latency", side_effect=timed):
        found = latencies({"a": first, "b": second}, torch.rand(1), threads=2, rounds=3)
    assert turns == [(first, 2), (second, 2)] * 3
    assert found == {"a": Latency(3.0, 2.0, 4.0), "b": Latency(4.0, 3.0, 5.0)}  # of 1, 3, 5 and of 2, 4, 6


def test_a_slow_model_takes_longer_in_turns_too():
    slow = Forward(lambda self, x: time.sleep(0.004) or x)
    found = latencies({"slow": slow, "quick": nn.ReLU()}, torch.rand(1, 4), rounds=2)
    assert found["slow"].median > 2 * found["quick"].median


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_scripted_model_can_be_timed():
    assert quick_latency(torch.jit.script(nn.Linear(4, 4)), torch.rand(1, 4)).median > 0


def test_timing_calls_the_model_at_least_once_before_the_clock_starts():
    calls = []
    timer = mock.Mock()
    timer.return_value.adaptive_autorange.side_effect = lambda *a, **k: (
        calls.append("timing") or SimpleNamespace(times=[1.0])
    )
    model = Forward(lambda self, x: calls.append("call") or x)
    with mock.patch.object(cost, "_benchmark_timer", return_value=timer):
        latency(model, torch.rand(1, 4))
    assert calls == ["call", "timing"]


# For people


@pytest.mark.parametrize(
    ("number", "count", "size"),
    [
        (0, "0", "0 B"),
        (640, "640", "640 B"),
        (999, "999", "999 B"),
        (1000, "1.00 k", "1.00 kB"),
        (9_996, "10.0 k", "10.0 kB"),
        (99_960, "100 k", "100 kB"),
        (999_499, "999 k", "999 kB"),
        (999_501, "1.00 M", "1.00 MB"),
        (1_818_000_000, "1.82 G", "1.82 GB"),
        (46_830_000, "46.8 M", "46.8 MB"),
        (3.2e15, "3200 T", "3200 TB"),
    ],
)
def test_three_digits_and_a_prefix(number, count, size):
    assert format_count(number) == count
    assert format_bytes(number) == size


def test_a_cost_and_a_latency_read_as_sentences():
    assert str(Cost(288_000, 144_000, 15_100_000, 1_160_000, 65_536)) == (
        "288 k parameters (144 k not zero), 15.1 M MACs, 1.16 MB stored, 65.5 kB of activations at the peak"
    )
    assert str(Latency(0.00123, 0.0012, 0.0013)) == "1.23 ms [1.2, 1.3]"


# Bad input


@each
@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("model", "example", "error", "message"),
    [
        (
            torch.relu,
            torch.rand(1, 4),
            TypeError,
            "model is a builtin_function_or_method; it must be a torch.nn.Module",
        ),
        (
            nn.ReLU,
            torch.rand(1, 4),
            TypeError,
            "model is the class ReLU; it must be a torch.nn.Module, built",
        ),
        (
            nn.ReLU(),
            [[1.0]],
            TypeError,
            r"example is a list; it must be one torch.Tensor of shape \[N, ...\]",
        ),
        (
            nn.ReLU(),
            torch.rand(0, 4),
            ValueError,
            r"example has shape \[0, 4\]; .* Pass a batch of one image or more",
        ),
        (nn.ReLU(), torch.tensor(1.0), ValueError, r"example has shape \[\]"),
        (
            nn.Linear(4, 2),
            torch.rand(1, 5),
            ValueError,
            r"does not run on an example of shape \[1, 5\].*cannot be multiplied",
        ),
        (
            nn.Linear(4, 2),
            torch.rand(1, 4).double(),
            ValueError,
            r"does not run .* torch.float64.*same dtype.* Pass a batch",
        ),
        (
            nn.Conv2d(3, 4, 3),
            torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
            ValueError,
            "does not run .* torch.uint8",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(1), nn.Linear(256, 2)),
            torch.rand(3, 8, 8),
            ValueError,
            "unsqueeze",
        ),
        (nn.LazyLinear(4), torch.rand(1, 4), ValueError, r"no shape yet. Call model\(example\) once"),
        (
            nn.Linear(4, 2, device="meta"),
            torch.rand(1, 4),
            ValueError,
            "device meta.*Build the model on the CPU",
        ),
        (nn.Linear(4, 2), torch.rand(1, 4, device="meta"), ValueError, "device meta"),
    ],
)
def test_what_cannot_run_is_refused(function, model, example, error, message):
    with pytest.raises(error, match=message):
        function(model, example)


@each
@pytest.mark.bad_input
def test_two_devices_are_named(function):
    example = mock.Mock(
        spec=torch.Tensor, ndim=2, is_nested=False, shape=(1, 4), device=torch.device("cuda:1")
    )
    example.numel.return_value = 4
    with pytest.raises(
        ValueError, match=r"example is on cuda:1 and the model on cpu; .* Write\s+example.to\("
    ):
        function(nn.Linear(4, 2), example)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda self, x: x if x.sum() > 0 else -x, "data-dependent"),
        (lambda self, x: x[x > 0.5], "depends on the values"),
    ],
    ids=["branch", "shape"],
)
def test_a_path_that_depends_on_the_data_is_refused_with_its_reason(function, reason):
    with pytest.raises(
        ValueError, match=f"cannot be traced, .*{reason}.* Measure the part of the model that is free"
    ):
        measure(Forward(function), torch.rand(2, 4))


@pytest.mark.bad_input
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_compiled_models_are_sent_back_to_where_they_came_from():
    for model in (torch.jit.script(nn.ReLU()), torch.compile(nn.ReLU(), backend="eager")):
        with pytest.raises(
            TypeError, match=r"hides its operations; .* Measure the network that it was compiled from"
        ):
            measure(model, torch.rand(1, 4))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"threads": 0}, ValueError, "threads is 0; it must be at least 1"),
        ({"threads": 2.0}, TypeError, r"threads is 2.0 \(float\); it must be a whole number"),
        ({"threads": True}, TypeError, "threads is True"),
        ({"min_seconds": 0}, ValueError, r"min_seconds is 0.0; it must be a finite number in \(0, inf\)"),
        ({"min_seconds": math.inf}, ValueError, "min_seconds is inf"),
        ({"min_seconds": "fast"}, TypeError, "min_seconds is 'fast'"),
    ],
)
def test_latency_refuses_settings_without_meaning(options, error, message):
    with pytest.raises(error, match=message):
        latency(nn.ReLU(), torch.rand(1, 4), **options)


@pytest.mark.bad_input
@pytest.mark.parametrize(("rounds", "error"), [(0, ValueError), (1.5, TypeError)])
def test_latencies_refuses_rounds_without_meaning(rounds, error):
    with pytest.raises(error, match=f"rounds is {rounds}"):
        latencies({"a": nn.ReLU()}, torch.rand(1, 4), rounds=rounds)
