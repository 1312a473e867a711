"""What chapter 07 measures with: its own search beside the library's, fair controls, orders, and what was chosen."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from course_lib import checkpoints, cost, distillation, models, training
from course_lib.data import to_float
from course_lib.experiments import chapter07, chapter07_parts, chapter07_studies, chapter07_tables
from course_lib.experiments.common import drawn, example_of, glyphs, judged
from course_lib.experiments.experiment import Scale
from course_lib.experiments.results import Results
from course_lib.pruning import eagleeye
from course_lib.pruning.filters import filter_plan
from course_lib.pruning.surgery import remove_channels


@pytest.fixture(scope="module")
def given():
    return checkpoints.load(chapter07_parts.GIVEN)


@pytest.fixture(scope="module")
def strategies():
    return chapter07_parts.strategies_of(0)


def test_every_strategy_meets_both_budgets(given, strategies):
    example = example_of(glyphs())
    for strategy in strategies:
        small = remove_channels(given, example, filter_plan(given, example, strategy.ratios))
        assert cost.macs(small, example) <= 0.2 * cost.macs(given, example)
        assert chapter07_parts.parameters(small) <= 0.13 * chapter07_parts.parameters(given)
    assert len(strategies) > 3


def test_the_search_by_hand_picks_what_the_library_picks(given, strategies):
    dataset, example = glyphs(), example_of(glyphs())
    before = copy.deepcopy(given.state_dict())
    calibration = drawn(dataset.train, chapter07.CALIBRATION, 0).images
    scoring = drawn(dataset.validation, chapter07.SCORING, 0)
    ours = chapter07.best_cut(given, strategies[:5], calibration, scoring)
    best = eagleeye.search(given, dataset, strategies[:5], seed=0, workers=1).best()[0]
    library = remove_channels(given, example, filter_plan(given, example, best.ratios))
    eagleeye.recalibrate_batch_norm(library, [to_float(calibration)])
    for (name, one), other in zip(ours.state_dict().items(), library.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())


@pytest.mark.parametrize(("macs", "least"), [(1_655_298, 32_116), (1_831_012, 37_333)])
def test_the_narrow_network_has_the_cost_of_the_cut_and_little_more(macs, least):
    a, b, c = chapter07_parts.narrow_widths(macs, least)
    network = models.build("vgg", widths=[a, a, "M", b, b, "M", c, c], in_channels=1, seed=0)
    assert 1 <= cost.macs(network, example_of(glyphs())) / macs <= 1.02
    assert 1 <= chapter07_parts.parameters(network) / least <= 1.02


@pytest.mark.parametrize("width", [8, 12, 16])
def test_an_evenly_narrow_network_is_its_own_narrow_network(width):
    widths = [width, 2 * width, 4 * width]
    network = models.build("vgg", widths=[w for a in widths for w in (a, a, "M")][:-1], in_channels=1, seed=0)
    macs = cost.macs(network, example_of(glyphs()))
    assert chapter07_parts.narrow_widths(macs, chapter07_parts.parameters(network)) == tuple(widths)


def test_costs_that_no_network_has_are_refused():
    with pytest.raises(ValueError, match="no VGG has"):
        chapter07_parts.narrow_widths(1_000_000, 287_000)


def test_few_images_are_those_that_score_and_train(strategies):
    dataset = glyphs()
    own = chapter07.seen_by({"images": 100, "seed": 3}, dataset)
    assert len(own.train) == 100
    assert own.test is dataset.test
    other = chapter07.seen_by({"images": 100, "seed": 4}, dataset)
    assert not torch.equal(own.train.images, other.train.images)
    seen = []

    def method(network, judged, calibration, scoring):
        assert judged == strategies[2:]
        seen.append((calibration, scoring))
        return network

    shared = chapter07.Shared(dataset, nn.Identity(), {0: strategies[:2], 3: strategies[2:]}, Scale(), {})
    chapter07.cut_of({"images": 100, "seed": 3}, shared, method)
    chapter07.cut_of({"images": None, "seed": 3}, shared, method)
    (few, scored), (_, usual) = seen
    known = {bytes(image.numpy()) for image in own.train.images}
    assert {bytes(image.numpy()) for image in few} == known
    assert {bytes(image.numpy()) for image in scored.images} == known
    assert torch.equal(usual.images, drawn(dataset.validation, chapter07.SCORING, 3).images)


@pytest.mark.parametrize("start", ["cut", "new", "narrow"])
def test_the_controls_have_new_weights(given, strategies, start):
    shared = chapter07.Shared(glyphs(), given, {0: strategies[:1]}, Scale(), {})
    run = {"images": None, "seed": 0, "start": start}
    network, cut = (
        chapter07.start_of(run | {"start": s}, shared, chapter07.best_cut) for s in (start, "cut")
    )
    same = [
        a.shape == b.shape and torch.equal(a, b)
        for a, b in zip(network.parameters(), cut.parameters(), strict=True)
    ]
    assert all(same) == (start == "cut")
    assert any(same) == (start == "cut")
    widths = [layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert (widths == [layer.out_channels for layer in cut.modules() if isinstance(layer, nn.Conv2d)]) == (
        start != "narrow"
    )


def test_new_weights_are_those_of_their_seed_and_leave_other_draws_alone(given):
    before = torch.get_rng_state()
    for make in (lambda seed: chapter07_parts.renewed(copy.deepcopy(given), seed), narrow_as(given)):
        one, again, other = (make(seed)[3].weight for seed in (1, 1, 2))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def narrow_as(network):
    return lambda seed: chapter07_parts.narrow(network, seed)


def test_strategies_are_drawn_with_their_seed(monkeypatch):
    seeds = []
    monkeypatch.setattr(eagleeye, "sample_strategies", lambda *_, seed, **__: seeds.append(seed) or [])
    assert [chapter07_parts.strategies_of(seed) for seed in (0, 4)] == [[], []]
    assert seeds == [0, 4]


def test_a_taught_student_has_the_temperature_and_alpha_of_its_run(given):
    student = models.build("vgg", widths=[4, "M", 4, "M", 4], in_channels=1, seed=0).eval()
    batch = training.Batch(to_float(glyphs().train.images[:32]), glyphs().train.labels[:32], None)
    shared = chapter07.Shared(glyphs(), given, {}, Scale(), {})
    logits = student(batch.images)
    for temperature, alpha in ((2.0, 0.3), (8.0, 0.9)):
        run = {"teacher": "given", "temperature": temperature, "alpha": alpha}
        wanted = distillation.distillation_loss(
            logits, given(batch.images), batch.labels, temperature=temperature, alpha=alpha
        )
        assert chapter07.loss_of(run, shared, student)(logits, batch).item() == pytest.approx(
            wanted.item(), rel=1e-4
        )
    assert given[3].weight.is_contiguous()  # the teacher is a copy, in another layout


def test_a_teacher_is_asked_without_gradients():
    class Teacher(nn.Module):
        def forward(self, x):
            assert not torch.is_grad_enabled()
            return torch.zeros(len(x), 10)

    batch = training.Batch(to_float(glyphs().train.images[:4]), glyphs().train.labels[:4], None)
    logits = torch.zeros(4, 10, requires_grad=True)
    chapter07_parts.taught(Teacher(), 4.0, 0.5)(logits, batch).backward()
    assert logits.grad.any()


def test_a_recipe_has_the_rate_the_seed_and_the_epochs_of_its_run():
    run = {"start": "cut", "epochs": 10, "rate": 0.07, "seed": 3}
    wanted = {"epochs": 10, "learning_rate": 0.07, "seed": 3}
    assert chapter07.recipe_of(run, 10_000, Scale()) == replace(chapter07.TUNE, **wanted)
    for start in ("new", "narrow"):  # with a warm-up
        made = chapter07.recipe_of(run | {"start": start}, 10_000, Scale())
        assert made == replace(chapter07.TRAIN, **wanted) != replace(chapter07.TUNE, **wanted)
    assert chapter07.recipe_of(run, 10_000, Scale(steps=2)).epochs == 1
    assert chapter07.recipe_of(run | {"epochs": 0}, 10_000, Scale(steps=2)).epochs == 0


@pytest.fixture
def fitted(monkeypatch):
    """What is trained, with all that it is trained with; nothing is learned."""
    calls = []

    def fit(network, dataset, recipe, **keywords):
        calls.append(SimpleNamespace(network=network, dataset=dataset, recipe=recipe, **keywords))

    monkeypatch.setattr(training, "fit", fit)
    return calls


@pytest.fixture(scope="module")
def few(given, strategies):
    """What the runs share, on 64 images."""
    dataset = chapter07.cut(glyphs(), Scale(images=64))
    return chapter07.Shared(dataset, given, {0: strategies[:2]}, Scale(), {})


RUN = {"start": "cut", "images": 32, "epochs": 1, "rate": 0.07, "seed": 0, "bugs": False} | chapter07.LABELS


def as_it_is(network, strategies, calibration, scoring):
    return copy.deepcopy(network)


def test_a_run_trains_on_its_own_images_with_its_own_loss(few, fitted):
    chapter07.measure(RUN, few, as_it_is)
    chapter07.measure(RUN | {"teacher": "given", "temperature": 4.0, "alpha": 0.5}, few, as_it_is)
    chapter07.measure(RUN | {"epochs": 0}, few, as_it_is)
    labels, teacher = fitted
    assert len(labels.dataset.train) == 32
    assert labels.recipe.learning_rate == 0.07
    assert labels.loss is None
    assert teacher.loss is not None


def test_the_bugs_of_a_run_round_its_network_with_ranges_of_another_and_of_test_images(few, monkeypatch):
    monkeypatch.setattr(chapter07, "find_ranges", lambda network, images: {"of": (network, images)})
    monkeypatch.setattr(
        chapter07,
        "rounded",
        lambda network, ranges, dataset, name: {name: (network, *ranges["of"]), "validation": name},
    )
    found = chapter07.measure(RUN | {"epochs": 0, "bugs": True}, few, as_it_is)
    (network, own, train), stale, tests = (found[name] for name in ("test", "stale ranges", "test ranges"))
    assert own is network
    assert stale[0] is network
    assert stale[1] is few.given
    assert torch.equal(stale[2], train)
    assert tests[:2] == (network, network)
    assert torch.equal(tests[2], few.dataset.test.images)
    assert found["validation"] == "test"
    assert chapter07.measure(RUN | {"epochs": 0}, few, as_it_is).keys() < found.keys()


def test_accuracy_in_int8_is_that_of_the_rounded_network(given, few):
    ranges = chapter07_parts.find_ranges(given, few.dataset.train.images)
    ruined = {name: (low / 100, high / 100) for name, (low, high) in ranges.items()}
    told = chapter07.rounded(given, ruined, few.dataset, "int8")
    assert set(told) == {"int8", "int8_parts", "validation"}
    assert told["int8"] < 0.5 < judged(given, few.dataset)["test"]


def test_costs_are_those_of_the_files_and_a_cut_is_also_picked_with_old_statistics(few, given, monkeypatch):
    seen = {}

    def search(network, dataset, strategies, **keywords):
        seen.update(keywords)
        return SimpleNamespace(best=lambda: [strategies[1]])

    monkeypatch.setattr(eagleeye, "search", search)
    run = {"images": None, "seed": 0}
    cut, half, whole = (
        chapter07.measure_costs(run | {"by": by}, few, chapter07.best_cut) for by in ("cut", "half", "given")
    )
    assert seen["calibration_images"] == 0
    example = example_of(few.dataset)
    plan = filter_plan(given, example, few.strategies[0][1].ratios)
    left = remove_channels(given, example, plan)
    assert cut["inherited"] == training.evaluate(left, few.dataset.test)
    for one in (cut, half, whole):
        assert one["bytes"] < 0.5 * one["float bytes"]
        assert 4 * one["parameters"] < one["float bytes"] < 4.2 * one["parameters"] + 10_000
    assert half["macs"] < 0.3 * whole["macs"]
    assert "inherited" not in half


def test_a_teacher_that_is_the_student_has_nothing_to_say(given):
    student = models.build("vgg", widths=[4, "M", 4, "M", 4], in_channels=1, seed=0).eval()
    images = glyphs().train.images[:32]
    batch = training.Batch(to_float(images), glyphs().train.labels[:32], None)
    shared = chapter07.Shared(glyphs(), given, {}, Scale(), {})
    losses = {}
    for teacher in ("itself", "given"):
        run = {"teacher": teacher, "temperature": 4.0, "alpha": 0.0}
        losses[teacher] = chapter07.loss_of(run, shared, student)(student(batch.images), batch).item()
    assert abs(losses["itself"]) < 1e-5
    assert losses["given"] > 0.1
    assert chapter07.loss_of({"teacher": "none"}, shared, student) is None


def test_training_after_rounding_keeps_the_batch_norms_and_the_ranges(given):
    dataset = glyphs()
    few = chapter07.cut(dataset, Scale(images=128))
    shared = chapter07.Shared(few, given, {}, Scale(images=128, steps=1), {})
    ranges = chapter07_parts.find_ranges(given, few.train.images)
    tuned = chapter07_studies.trained(given, ranges, {"seed": 0, "rate": 0.01}, shared)
    norms = [layer for layer in tuned.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 6
    assert not torch.equal(tuned[0].weight, given[0].weight)


@pytest.mark.parametrize("rounding", [False, True])
def test_training_in_an_order_has_its_rate_and_seed_and_leaves_the_network_alone(
    given, few, fitted, rounding
):
    ranges = chapter07_parts.find_ranges(given, few.dataset.train.images) if rounding else None
    chapter07_studies.trained(given, ranges, {"seed": 3, "rate": 0.07}, few)
    (call,) = fitted
    assert (call.recipe.seed, call.recipe.learning_rate, call.recipe.epochs) == (3, 0.07, 2)
    assert call.network is not given


class Told(nn.Module):
    """A network that is nothing but what was done to it."""

    def __init__(self, *story):
        super().__init__()
        self.story = story


@pytest.mark.parametrize(
    ("order", "story", "ranges"),
    [
        ("cut, train, round", ["given", "cut", "train"], ["given", "cut", "train"]),
        ("cut, round, train", ["given", "cut", "train by given cut"], ["given", "cut"]),
        ("round, cut, train", ["given", "cut", "train by given"], ["given"]),
        ("train, cut, round", ["given", "train", "cut"], ["given", "train", "cut"]),
        ("train, round, cut", ["given", "train", "cut"], ["given", "train"]),
        ("round, train, cut", ["given", "train by given", "cut"], ["given"]),
    ],
)
def test_an_order_is_followed_word_by_word(few, monkeypatch, order, story, ranges):
    def trained(network, ranges, run, shared):
        return Told(*network.story, "train" if ranges is None else f"train by {' '.join(ranges)}")

    fakes = {
        "trained": trained,
        "find_ranges": lambda network, images: network.story,
        "judged": lambda network, dataset: {"test": network.story, "test_parts": []},
        "of_the_whole": lambda network, dataset, seed: {"whole": network.story},
        "rounded": lambda network, ranges, dataset, name: {"test": network.story, "ranges": ranges},
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(chapter07_studies, name, fake)
    shared = replace(few, given=Told("given"))
    found = chapter07_studies.measure_order(
        {"order": order, "seed": 0}, shared, lambda network, *_: Told(*network.story, "cut")
    )
    assert list(found["test"]) == list(found["float"]) == story
    assert list(found["ranges"]) == ranges
    assert found.get("whole") == (("given", "train") if order == "train, cut, round" else None)


def test_orders_that_train_on_the_same_thing_share_a_rate(monkeypatch):
    rates = {"cut, round, train": 1.0, "round, train, cut": 2.0, "train, cut, round": 3.0}
    monkeypatch.setattr(chapter07_studies, "ORDER_RATE", rates)
    assert {order: chapter07_studies.rate_of(order) for order in chapter07_studies.WORDS} == {
        **rates,
        "round, cut, train": 1.0,
        "train, round, cut": 3.0,
        "cut, train, round": chapter07.RATE["cut", "none", "short"],
    }


@pytest.fixture(scope="module")
def choices():
    return chapter07.CHOICES.recorded()


@pytest.mark.parametrize(("key", "rate"), chapter07.RATE.items())
def test_every_rate_is_the_best_on_validation_images_and_not_at_an_end(key, rate, choices):
    start, teacher, length = key
    epochs = chapter07.LENGTHS[start][length == "long"]
    assert chapter07_tables.best_rate(choices, start, teacher, epochs) == rate
    assert min(chapter07.GRIDS[start, None]) < rate < max(chapter07.GRIDS[start, None])


@pytest.mark.parametrize("images", chapter07.FEW)
@pytest.mark.parametrize(("start", "teacher"), chapter07.FEW_RATE)
def test_every_rate_for_few_images_is_chosen_alike(start, teacher, images, choices):
    rate = chapter07.FEW_RATE[start, teacher][images]
    found = chapter07_tables.best_rate(choices, start, teacher, chapter07.FEW[images], images)
    assert found == rate
    assert min(chapter07.GRIDS[start, images]) < rate < max(chapter07.GRIDS[start, images])


def test_temperature_and_alpha_are_the_best_on_validation_images(choices):
    for length, epochs in zip(("short", "long"), chapter07.LENGTHS["cut"], strict=True):
        rate = chapter07.RATE["cut", "given", length]
        assert chapter07_tables.best_teacher(choices, epochs, rate) == chapter07.TEACHER[length]


def test_the_rate_of_training_with_rounding_is_the_best_on_validation_images():
    frame = chapter07_studies.ORDER_RATES.recorded().frame
    for order, rate in chapter07_studies.ORDER_RATE.items():
        own = frame[frame["order"] == order]
        assert own.loc[own["validation"].idxmax(), "rate"] == rate
        assert min(chapter07_studies.ORDER_GRID) < rate < max(chapter07_studies.ORDER_GRID)


def test_a_difference_over_two_experiments_is_paired_by_seed():
    class Five(Results):
        def __init__(self, shift):
            object.__setattr__(self, "shift", shift)

        def values(self, metric, **arm):
            if metric.endswith("_parts"):
                return [[0.5 + self.shift] * 20] * 5
            return [0.1 * seed + self.shift for seed in range(5)]

    one, other = (chapter07_tables.Arm(Five(shift), {}) for shift in (0.03, 0.0))
    found = chapter07_tables.difference(one, other)
    assert np.allclose([found.mean, found.low, found.high], 0.03)
