"""Training: what a batch holds, what a step does, what is left alone, and every error."""

import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import training
from course_lib.data import Dataset, Split
from course_lib.training import Recipe

CLASSES = ("left", "middle", "right")


def striped(count, *, channels=1, seed=0):
    """Noise images of 6x8 pixels; the bright third says the class. No two are equal."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 90, (count, channels, 6, 8), dtype=np.uint8)
    labels = rng.integers(0, 3, count)
    for image, label in zip(images, labels, strict=True):
        image[:, :, 3 * label : 3 * label + 2] += 150
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def dataset(count=30, *, channels=1, validation=12):
    splits = [striped(size, channels=channels, seed=seed) for seed, size in enumerate((count, validation, 5))]
    return Dataset("stripes", *splits, CLASSES)


def network(*, channels=1, dropout=0.0, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, last = nn.Linear(48 * channels, 7), nn.Linear(7, 3)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Dropout(dropout), last)


def convolutional(*, channels=1, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        convolution, last = nn.Conv2d(channels, 8, 3, padding=1), nn.Linear(8 * 12, 3)
    return nn.Sequential(
        convolution, nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d((3, 4)), nn.Flatten(), last
    )


def recipe(**changes):
    plain = {"epochs": 2, "batch_size": 8, "learning_rate": 0.05, "schedule": "constant", "weight_decay": 0.0}
    return Recipe(**(plain | changes))


def recording(into):
    """Cross-entropy that keeps every batch it is given."""

    def loss(logits, batch):
        into.append(batch)
        return F.cross_entropy(logits, batch.labels)

    return loss


def weights(model):
    return torch.cat([value.detach().flatten().double() for value in model.state_dict().values()])


# Learning rate


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0: 1.0, 50: 1.0, 99: 1.0}),
        ("step", {0: 1.0, 49: 1.0, 50: 0.1, 74: 0.1, 75: 0.01, 99: 0.01}),
        ("cosine", {0: 1.0, 25: (1 + math.sqrt(0.5)) / 2, 50: 0.5, 75: (1 - math.sqrt(0.5)) / 2}),
        ("one_cycle", {0: 0.04, 15: 0.52, 30: 1.0, 65: 0.5}),
    ],
)
def test_a_schedule_has_its_values_at_known_steps(schedule, expected):
    plan = recipe(schedule=schedule, learning_rate=0.3)
    for step, factor in expected.items():
        assert training.learning_rate(plan, step, 100) == pytest.approx(0.3 * factor, rel=1e-12)


@given(st.sampled_from(training.SCHEDULES), st.integers(1, 300), st.floats(1e-4, 10))
def test_a_schedule_stays_above_zero_and_never_passes_its_peak(schedule, steps, peak):
    plan = recipe(schedule=schedule, learning_rate=peak)
    rates = [training.learning_rate(plan, step, steps) for step in range(steps)]
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)
    if schedule != "one_cycle":
        assert rates == sorted(rates, reverse=True)


# Batches


@settings(max_examples=40)
@given(count=st.integers(1, 45), batch_size=st.integers(1, 17), epochs=st.integers(1, 3))
def test_every_epoch_sees_every_image_once_in_equal_batches(count, batch_size, epochs):
    batches = []
    plan = recipe(epochs=epochs, batch_size=batch_size)
    history = training.fit(network(), dataset(count, validation=0), plan, loss=recording(batches))
    per_epoch = math.ceil(count / batch_size)
    assert len(batches) == epochs * per_epoch
    for start in range(0, len(batches), per_epoch):
        epoch = batches[start : start + per_epoch]
        indices = torch.cat([batch.indices for batch in epoch])
        assert sorted(indices.tolist()) == list(range(count))
        sizes = [len(batch.labels) for batch in epoch]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= batch_size
    assert history.images == epochs * count


def test_images_and_labels_of_a_batch_are_those_of_its_indices():
    data, batches = dataset(70), []
    training.fit(network(), data, recipe(batch_size=2), loss=recording(batches))
    for batch in batches:
        assert torch.equal(batch.images, data.train.images[batch.indices].float() / 255)
        assert torch.equal(batch.labels, data.train.labels[batch.indices])


def test_the_order_changes_from_epoch_to_epoch_and_with_the_seed():
    def orders(seed):
        batches = []
        training.fit(network(), dataset(30), recipe(batch_size=30, seed=seed), loss=recording(batches))
        return [batch.indices.tolist() for batch in batches]

    first, second = orders(0)
    assert first != second
    assert first != list(range(30))
    assert orders(0) == [first, second]
    assert orders(1)[0] != first


def test_the_draws_of_a_run_are_made_for_32_batches_at_a_time():
    """Drawn by hand: in another order, or for more or fewer batches at once, no shipped checkpoint comes out again."""
    data, batches = dataset(70), []
    plan = recipe(epochs=2, batch_size=1, augment="shift_flip", seed=4)
    training.fit(network(), data, plan, loss=recording(batches), validate=False)
    generator, expected = torch.Generator().manual_seed(4), []
    for _ in range(2):
        for chosen in torch.randperm(70, generator=generator).split(32):
            down, right = (
                torch.randint(0, 3, (len(chosen),), generator=generator).tolist() for _ in range(2)
            )
            mirrored = torch.rand(len(chosen), generator=generator) < 0.5
            for index, *move, flip in zip(chosen, down, right, mirrored, strict=True):
                padded = F.pad(data.train.images[index] / 255, (1, 1, 1, 1))
                image = padded[:, move[0] : move[0] + 6, move[1] : move[1] + 8]
                expected.append(image.flip(2) if flip else image)
    assert torch.equal(torch.cat([batch.images for batch in batches]), torch.stack(expected))


def test_networks_of_different_kinds_see_the_same_images_for_the_same_seed():
    """So that two arms of a comparison differ in nothing but what is compared; dropout draws from another stream."""
    seen = []
    for model in (network(), network(dropout=0.5), convolutional(seed=3)):
        batches = []
        training.fit(model, dataset(20), recipe(augment="shift_flip"), loss=recording(batches))
        seen.append(batches)
    for others in zip(*seen, strict=True):
        assert all(torch.equal(batch.indices, others[0].indices) for batch in others)
        assert all(torch.equal(batch.images, others[0].images) for batch in others)


def test_the_loss_is_shown_the_very_images_that_the_network_saw():
    model, seen, batches = network(), [], []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    data = dataset(20, validation=0)
    training.fit(model, data, recipe(augment="shift"), loss=recording(batches))
    assert len(seen) == len(batches) == 6
    assert all(torch.equal(images, batch.images) for images, batch in zip(seen, batches, strict=True))
    plain = [data.train.images[batch.indices] / 255 for batch in batches]
    assert not all(torch.equal(images, batch.images) for images, batch in zip(plain, batches, strict=True))


# A step


def naive_fit(model, data, plan, order):
    """The textbook's loop and update rules, written out; `order` holds the indices of every batch."""
    names = [name for name, _ in model.named_parameters()]
    values = {name: value.detach().clone() for name, value in model.named_parameters()}
    first = {name: torch.zeros_like(values[name]) for name in names}
    second = {name: torch.zeros_like(values[name]) for name in names}
    for step, indices in enumerate(order):
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        images = torch.from_numpy(np.float32(data.train.images.numpy()[indices]) / np.float32(255))
        logits = torch.func.functional_call(model, leaves, (images,))
        logs = logits - logits.exp().sum(dim=1, keepdim=True).log()
        hit = logs[torch.arange(len(indices)), data.train.labels[indices]]
        smooth = plan.label_smoothing
        (-(1 - smooth) * hit - smooth * logs.mean(dim=1)).mean().backward()
        rate = training.learning_rate(plan, step, len(order))
        for name in names:
            decay = plan.weight_decay if name.endswith("weight") else 0.0
            gradient = leaves[name].grad + decay * values[name]
            if plan.optimizer == "sgd":
                first[name] = plan.momentum * first[name] + gradient
                update = gradient + plan.momentum * first[name]
            else:
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                corrected = (second[name] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                update = first[name] / (1 - 0.9 ** (step + 1)) / corrected
            values[name] = values[name] - rate * update
    return torch.cat([values[name].flatten() for name in names])


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": 0.0},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"schedule": "cosine", "label_smoothing": 0.2},
        {"schedule": "one_cycle", "epochs": 3},
        {"schedule": "step"},
        {"optimizer": "adam", "learning_rate": 0.003, "weight_decay": 0.1},
    ],
    ids=str,
)
def test_fit_is_the_naive_loop(changes):
    data, batches, plan = dataset(30), [], recipe(**changes)
    start, model = network(), network()
    smooth = plan.label_smoothing

    def loss(logits, batch):
        batches.append(batch)
        return F.cross_entropy(logits, batch.labels, label_smoothing=smooth)

    training.fit(model, data, plan, loss=loss)
    expected = naive_fit(start, data, plan, [batch.indices for batch in batches])
    torch.testing.assert_close(weights(model).float(), expected, rtol=0, atol=1e-6)
    own_loss = network()
    training.fit(own_loss, data, plan)  # the default loss is that cross-entropy
    assert torch.equal(weights(own_loss), weights(model))


def test_weight_decay_falls_on_matrices_and_kernels_only():
    model = convolutional()
    groups = training.make_optimizer(model, recipe(weight_decay=0.01)).param_groups
    decayed = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    expected = {"0.weight": 0.01, "0.bias": 0, "1.weight": 0, "1.bias": 0, "5.weight": 0.01, "5.bias": 0}
    assert {name: decayed[id(p)] for name, p in model.named_parameters()} == expected


@pytest.mark.parametrize("optimizer", training.OPTIMIZERS)
def test_frozen_parameters_stay(optimizer):
    model = network()
    model[1].requires_grad_(False)
    held = [
        p
        for g in training.make_optimizer(model, recipe(optimizer=optimizer)).param_groups
        for p in g["params"]
    ]
    assert {id(p) for p in held} == {id(p) for p in model[4].parameters()}
    frozen, free = model[1].weight.clone(), model[4].weight.clone()
    training.fit(model, dataset(), recipe(optimizer=optimizer, weight_decay=0.1))
    assert torch.equal(model[1].weight, frozen)
    assert not torch.equal(model[4].weight, free)


def test_after_backward_comes_between_the_gradient_and_the_step():
    model, before, calls = network(), [], []

    def loss(logits, batch):
        before.append(weights(model))
        return F.cross_entropy(logits, batch.labels)

    def after_backward(given):
        assert given is model
        assert torch.equal(weights(model), before[-1])
        calls.append(max(p.grad.abs().max().item() for p in model.parameters()))
        for parameter in model.parameters():
            parameter.grad.zero_()

    start = weights(model)
    training.fit(model, dataset(30), recipe(), loss=loss, after_backward=after_backward)
    assert len(calls) == 2 * 4
    assert min(calls) > 0
    assert torch.equal(weights(model), start)  # what it does to the gradient is what the step uses


def test_gradients_of_one_step_do_not_reach_the_next():
    model, gradients, expected = network(), [], []

    def loss(logits, batch):
        value = F.cross_entropy(logits, batch.labels)
        expected.append(torch.autograd.grad(value, model[4].bias, retain_graph=True)[0])
        return value

    training.fit(
        model,
        dataset(30),
        recipe(),
        loss=loss,
        after_backward=lambda m: gradients.append(m[4].bias.grad.clone()),
    )
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(gradients, expected, strict=True))


def test_on_epoch_counts_from_one_with_the_model_at_rest():
    model, calls = network(dropout=0.5), []
    training_in_loss = []

    def loss(logits, batch):
        training_in_loss.append(model.training)
        return F.cross_entropy(logits, batch.labels)

    def on_epoch(epoch, given):
        assert given is model
        calls.append((epoch, any(module.training for module in model.modules())))

    training.fit(model, dataset(), recipe(epochs=3), loss=loss, on_epoch=on_epoch)
    assert calls == [(1, False), (2, False), (3, False)]
    assert all(training_in_loss)  # each epoch trains in train mode again
    assert not model.training


# What a run measures


def test_the_history_holds_means_over_images_and_the_accuracy_after_each_epoch():
    data, values, accuracies = dataset(11), [], []

    def loss(logits, batch):
        value = F.cross_entropy(logits, batch.labels)
        values.append((value.item(), len(batch.labels)))
        return value

    history = training.fit(
        network(),
        data,
        recipe(batch_size=4),
        loss=loss,
        on_epoch=lambda epoch, model: accuracies.append(training.evaluate(model, data.validation)),
    )
    assert [size for _, size in values] == [4, 4, 3] * 2
    expected = [sum(v * n for v, n in values[start : start + 3]) / 11 for start in (0, 3)]
    assert history.train_loss == pytest.approx(expected, rel=1e-6)
    assert history.validation_accuracy == accuracies
    assert history.images == 22
    assert len(history.seconds) == 2
    assert min(history.seconds) > 0
    assert history.images_per_second == pytest.approx(22 / sum(history.seconds))


def test_no_epochs_change_nothing():
    model = network()
    before = weights(model)
    history = training.fit(model, dataset(), recipe(epochs=0))
    assert torch.equal(weights(model), before)
    assert history.train_loss == history.validation_accuracy == history.seconds == []
    assert math.isnan(history.images_per_second)
    assert not model.training


def test_without_validation_images_the_accuracy_is_nan():
    history = training.fit(network(), dataset(validation=0), recipe())
    assert np.isnan(history.validation_accuracy).all()


def test_a_run_that_does_not_validate_learns_the_same_and_never_looks_at_the_split():
    data, watched, unwatched = dataset(), network(dropout=0.4), network(dropout=0.4)
    history = training.fit(watched, data, recipe(augment="shift"))
    poisoned = Dataset("poisoned", data.train, Poisoned(), data.test, CLASSES)
    quiet = training.fit(unwatched, poisoned, recipe(augment="shift"), validate=False)
    assert torch.equal(weights(watched), weights(unwatched))
    assert len(history.validation_accuracy) == 2
    assert quiet.validation_accuracy == []
    assert quiet.train_loss == history.train_loss
    assert not unwatched.training


@pytest.mark.parametrize(
    ("images", "options", "shown"),
    [(12, {}, ["loss", "validation"]), (0, {}, ["loss"]), (12, {"validate": False}, ["loss"])],
    ids=["validated", "nothing to validate", "not validated"],
)
def test_an_epoch_shows_its_loss_and_an_accuracy_only_where_one_was_measured(
    images, options, shown, monkeypatch, capsys
):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr("course_lib.progress.shows_bars", lambda: False)
    training.fit(network(), dataset(validation=images), recipe(), **options)
    out, err = capsys.readouterr()
    assert out == ""
    for epoch, line in enumerate(err.splitlines(), 1):
        told, *measured = line.rpartition(" (")[0].split(", ")
        assert told == f"fit: {epoch} of 2"
        assert [part.split(" ")[0] for part in measured] == shown
        assert "nan" not in line
    assert epoch == 2


# What decides a run, and what it leaves alone


def run(seed=0, *, dropout=0.4, augment="shift_flip"):
    model = network(dropout=dropout)
    history = training.fit(model, dataset(), recipe(seed=seed, augment=augment))
    return weights(model), history.train_loss


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("options", [{"dropout": 0.0, "augment": "none"}, {}], ids=str)
def test_the_seed_decides_the_run(options):
    torch.manual_seed(11)
    first, losses = run(**options)
    torch.manual_seed(12)  # the global state has no say, not even in dropout
    again, losses_again = run(**options)
    assert torch.equal(first, again)
    assert losses == losses_again
    assert not torch.equal(first, run(seed=1, **options)[0])


def test_dropout_alone_follows_the_seed():
    """With one batch an epoch and no augmentation, order and shifts cannot be what differs."""
    first, second = (
        training.fit(network(dropout=0.5), dataset(20), recipe(epochs=1, batch_size=20, seed=seed)).train_loss
        for seed in (0, 1)
    )
    assert abs(first[0] - second[0]) > 1e-3


def test_the_global_random_states_are_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    run()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


class Poisoned(Split):
    """A split that must not be looked at."""

    def __init__(self):
        pass

    def __len__(self):
        raise AssertionError("fit asked how many images there are")

    def __getattribute__(self, name):
        if name in ("images", "labels", "subset"):
            raise AssertionError(f"fit looked at the split's {name}")
        return super().__getattribute__(name)


def test_fit_never_touches_the_test_split():
    data = dataset()
    poisoned = Dataset("poisoned", data.train, data.validation, Poisoned(), CLASSES)
    with pytest.raises(AssertionError, match="looked at"):
        training.evaluate(network(), poisoned.test)
    training.fit(network(), poisoned, recipe(augment="shift", epochs=1))


def test_fit_leaves_the_data_as_it_was():
    data, fresh = dataset(), dataset()
    model = nn.Sequential(nn.ReLU(inplace=True), *network())
    training.fit(model, data, recipe(augment="shift_flip"))
    for ours, theirs in ((data.train, fresh.train), (data.validation, fresh.validation)):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)


def test_denormal_numbers_are_flushed_while_training():
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot flush denormal numbers")
    products = []

    def loss(logits, batch):
        products.append((torch.full((4,), 1e-38) * 0.01).abs().max().item())
        return F.cross_entropy(logits, batch.labels)

    training.fit(network(), dataset(), recipe(epochs=1), loss=loss)
    assert set(products) == {0.0}
    assert sys.float_info.min / 2 > 0  # and only while training


# Learning


@pytest.mark.parametrize("precision", training.PRECISIONS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("optimizer", training.OPTIMIZERS)
def test_a_network_learns_stripes(precision, channels_last, optimizer):
    data, model, batches, dtypes = dataset(60, channels=3), convolutional(channels=3), [], set()

    def loss(logits, batch):
        dtypes.add(logits.dtype)
        batches.append(batch)
        return F.cross_entropy(logits, batch.labels)

    rate = 0.1 if optimizer == "sgd" else 0.02
    plan = Recipe(12, 10, optimizer, rate, precision=precision, channels_last=channels_last)
    history = training.fit(model, data, plan, loss=loss)
    assert history.validation_accuracy[-1] >= 0.9
    assert history.train_loss[-1] < history.train_loss[0] / 2
    assert dtypes == {torch.float32}  # a loss in half precision would lose small differences
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    expected = torch.channels_last if channels_last else torch.contiguous_format
    assert all(batch.images.is_contiguous(memory_format=expected) for batch in batches)
    assert model[0].weight.is_contiguous(memory_format=expected)


def test_bfloat16_reaches_the_layers():
    model, dtypes = network(), []
    model[4].register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    training.fit(model, dataset(validation=0), recipe(precision="bfloat16"))
    assert set(dtypes) == {torch.bfloat16}


def test_a_loss_of_ones_own_is_what_is_minimised():
    """A regression on the logits: they end at zero, which no cross-entropy would bring about."""
    model, data = network(), dataset()
    training.fit(
        model,
        data,
        recipe(epochs=60, learning_rate=0.02),
        loss=lambda logits, batch: logits.square().mean(),
    )
    assert training.predict(model, data.train.images).abs().max() < 0.1


# Predicting and evaluating


class FirstPixels(nn.Module):
    """Logits that are the first three pixels, so that accuracies can be written down."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return images.flatten(1)[:, :3] * self.scale


def pixel_split(rows, labels):
    images = torch.zeros(len(rows), 1, 6, 8, dtype=torch.uint8)
    images[:, 0, 0, :3] = torch.tensor(rows, dtype=torch.uint8)
    return Split(images, torch.tensor(labels))


def test_accuracy_by_hand():
    split = pixel_split([[9, 0, 0], [0, 9, 0], [0, 0, 9], [9, 8, 7]], [0, 1, 1, 0])
    assert training.evaluate(FirstPixels(), split) == 0.75
    assert training.evaluate(FirstPixels(), split.subset(torch.tensor([2]))) == 0.0


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20, 1000])
def test_predictions_are_the_plain_forward_pass(batch_size):
    model, split = convolutional(), striped(20)
    training.fit(model, dataset(), recipe())
    with torch.no_grad():
        expected = model.eval()(split.images.float() / 255)
    model.train()
    logits = training.predict(model, split.images, batch_size=batch_size)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    assert logits.dtype == torch.float32


def test_predictions_can_be_used_in_a_graph_later():
    logits = training.predict(network(), striped(3).images)
    assert not logits.requires_grad
    assert not logits.is_inference()
    weight = torch.ones(3, requires_grad=True)
    (logits * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("call", [training.predict, training.evaluate])
def test_every_module_keeps_its_own_mode_and_statistics(call):
    model = convolutional().train()
    model[1].eval()
    state, modes = weights(model), [module.training for module in model.modules()]
    split = striped(10)
    call(model, split.images if call is training.predict else split)
    assert [module.training for module in model.modules()] == modes
    assert modes.count(False) == 1
    assert torch.equal(weights(model), state)


def test_modes_come_back_even_when_the_network_fails():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(5, 3))
    with pytest.raises(RuntimeError, match="shapes"):
        training.predict(model, striped(4).images)
    assert all(module.training for module in model.modules())


@pytest.mark.bad_input
@pytest.mark.parametrize("call", [training.predict, training.evaluate])
def test_no_images_cannot_be_predicted(call):
    split = striped(0)
    with pytest.raises(ValueError, match="no images to predict; the split is empty"):
        call(network(), split.images if call is training.predict else split)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-3, ValueError), (2.5, TypeError), (True, TypeError)]
)
def test_a_wrong_batch_size_of_predict_is_named(size, error):
    with pytest.raises(error, match=f"batch_size is {size}"):
        training.predict(network(), striped(4).images, batch_size=size)


def test_nan_does_not_count_as_class_zero():
    model = FirstPixels()
    with torch.no_grad():
        model.scale.fill_(math.nan)
    with pytest.raises(ValueError, match="returns NaN"):
        training.evaluate(model, pixel_split([[9, 0, 0]], [0]))


# Errors of fit


@pytest.mark.bad_input
@pytest.mark.parametrize("value", [None, 0, "no"])
def test_whether_to_validate_is_true_or_false(value):
    with pytest.raises(TypeError, match=f"validate is {value!r}; it must be True or False"):
        training.fit(network(), dataset(), recipe(), validate=value)


@pytest.mark.bad_input
def test_an_empty_training_split_is_refused():
    with pytest.raises(ValueError, match="training split of 'stripes' is empty"):
        training.fit(network(), dataset(0), recipe())


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), r"\[8, 2\]"),
        (nn.Sequential(nn.Conv2d(1, 3, 3)), r"\[8, 3, 4, 6\]"),
    ],
    ids=["too narrow", "not flattened"],
)
def test_a_model_whose_output_does_not_fit_the_classes_is_told_so(model, shape):
    with pytest.raises(ValueError, match=f"returns {shape}; for the 3 classes of 'stripes'.*logits"):
        training.fit(model, dataset(32), recipe())


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda logits, batch: F.cross_entropy(logits, batch.labels, reduction="none"), r"shape \[8\]"),
        (lambda logits, batch: F.cross_entropy(logits, batch.labels)[None], r"shape \[1\]"),
        (lambda logits, batch: F.cross_entropy(logits, batch.labels).detach(), "requires_grad=False"),
    ],
    ids=["one a image", "wrapped", "detached"],
)
def test_a_loss_must_be_one_number_with_a_gradient(loss, message):
    with pytest.raises(ValueError, match=f"{message}.*one number that depends on the logits"):
        training.fit(network(), dataset(32), recipe(), loss=loss)


@pytest.mark.bad_input
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_its_epoch_and_the_learning_rate(value):
    steps = []

    def loss(logits, batch):
        steps.append(1)
        last_of_the_second_epoch = len(steps) == 8
        return F.cross_entropy(logits, batch.labels) * (value if last_of_the_second_epoch else 1.0)

    with pytest.raises(
        FloatingPointError, match=rf"the loss became {value} in epoch 2 \(learning rate 0\.05, sgd\)\. Lower"
    ):
        training.fit(network(), dataset(30), recipe(epochs=3), loss=loss)
    assert len(steps) == 8


@pytest.mark.bad_input
@pytest.mark.parametrize("batch_size", [30, 15])
def test_a_diverging_run_is_a_floating_point_error_whichever_step_is_the_last(batch_size):
    plan = recipe(epochs=1, batch_size=batch_size, learning_rate=1e38, weight_decay=1e4)
    with pytest.raises(FloatingPointError, match="epoch 1"):
        training.fit(network(), dataset(30), plan)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        *[("epochs", value, ValueError) for value in (-1,)],
        *[("epochs", value, TypeError) for value in (2.0, "3", True, None)],
        *[("batch_size", value, ValueError) for value in (0, -8)],
        *[("batch_size", value, TypeError) for value in (32.0, "32", True)],
        *[("optimizer", value, ValueError) for value in ("adamw", "", None)],
        *[("learning_rate", value, ValueError) for value in (0, -0.1, math.nan, math.inf)],
        *[("learning_rate", value, TypeError) for value in ("0.1", True, None)],
        *[("momentum", value, ValueError) for value in (-0.1, 1.1, math.nan)],
        *[("weight_decay", value, ValueError) for value in (-1e-4, math.nan, math.inf)],
        *[("schedule", value, ValueError) for value in ("onecycle", "linear")],
        *[("label_smoothing", value, ValueError) for value in (-0.1, 1.0, math.nan)],
        *[("augment", value, ValueError) for value in ("flip", True)],
        *[("precision", value, ValueError) for value in ("float16", torch.bfloat16)],
        *[("channels_last", value, TypeError) for value in ("yes", 1, None)],
        *[("seed", value, ValueError) for value in (-1,)],
        *[("seed", value, TypeError) for value in (0.5, "0", None)],
    ],
)
def test_a_wrong_field_of_a_recipe_is_named_with_its_value(field, value, error):
    with pytest.raises(error) as caught:
        Recipe(**{field: value})
    shown = repr(value) if isinstance(value, str) else str(value)
    assert field in str(caught.value)
    assert shown in str(caught.value)


@pytest.mark.bad_input
def test_a_misspelt_choice_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"Did you mean 'one_cycle'\? Known: constant, step, cosine"):
        Recipe(schedule="onecycle")
    with pytest.raises(ValueError, match="Did you mean 'adam'"):
        Recipe(optimizer="adamw")
