"""What chapter 07 measures with: its own search beside the library's, fair controls, orders, and what was chosen."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from course_lib import checkpoints, cost, models, training
from course_lib.data import to_float
from course_lib.experiments import chapter07, chapter07_parts, chapter07_studies, chapter07_tables
from course_lib.experiments.common import drawn, example_of, glyphs
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


def test_costs_that_no_network_has_are_refused():
    with pytest.raises(ValueError, match="no VGG has"):
        chapter07_parts.narrow_widths(1_000_000, 287_000)


def test_few_images_are_those_that_score_and_train():
    dataset = glyphs()
    own = chapter07.seen_by({"images": 100, "seed": 3}, dataset)
    assert len(own.train) == 100
    assert own.test is dataset.test
    other = chapter07.seen_by({"images": 100, "seed": 4}, dataset)
    assert not torch.equal(own.train.images, other.train.images)
    seen = []

    def method(network, strategies, calibration, scoring):
        seen.append((calibration, scoring))
        return network

    shared = chapter07.Shared(dataset, nn.Identity(), {3: []}, Scale(), {})
    chapter07.cut_of({"images": 100, "seed": 3}, shared, method)
    chapter07.cut_of({"images": None, "seed": 3}, shared, method)
    (few, scored), (_, usual) = seen
    known = {bytes(image.numpy()) for image in own.train.images}
    assert {bytes(image.numpy()) for image in few} == known
    assert {bytes(image.numpy()) for image in scored.images} == known
    assert len(usual) == chapter07.SCORING


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
