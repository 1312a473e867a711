"""Budgets: how long an epoch takes here, and how many pieces of work fit into some minutes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib import training
from course_lib.experiments.budget import affordable, seconds_per_epoch
from tests.test_training import dataset, network, recipe, weights


@given(st.floats(0.01, 500), st.floats(0.001, 5000), st.integers(1, 50), st.integers(0, 50))
def test_what_is_affordable_fits_the_budget_and_one_more_does_not(minutes, seconds, least, above):
    most = least + above
    count = affordable(minutes, seconds, least=least, most=most)
    assert least <= count <= most
    if count > least:
        assert count * seconds <= 60 * minutes * (1 + 1e-9)
    if count < most:
        assert (count + 1) * seconds > 60 * minutes * (1 - 1e-9)


def test_affordable_on_numbers_checked_by_hand():
    assert affordable(10, 45, most=100) == 13  # 600 / 45 = 13.3
    assert affordable(0.1, 45, most=100) == 1
    assert affordable(0.1, 45, least=2, most=100) == 2
    assert affordable(1000, 45, most=5) == 5


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"minutes": 0}, "minutes"),
        ({"minutes": math.nan}, "minutes"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": math.inf}, "seconds"),
        ({"most": 0}, "most"),
        ({"least": 6}, "least"),
    ],
)
def test_a_budget_out_of_range_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        affordable(**({"minutes": 1, "seconds": 1, "most": 5} | arguments))


def test_the_length_of_an_epoch_is_scaled_up_from_a_short_run_that_changes_nothing(monkeypatch):
    model, images = network(), dataset(40)
    before, runs = weights(model), []

    def fit(model, dataset, recipe, *, validate):
        runs.append((len(dataset.train), validate, recipe.epochs))
        return training.History(seconds=[0.5 if len(runs) == 2 else 99.0], images=len(dataset.train))

    monkeypatch.setattr(training, "fit", fit)
    seconds = seconds_per_epoch(model, images, recipe(epochs=9, batch_size=2), images=10)
    assert runs == [(8, False, 1), (10, False, 1)]  # the first warms up
    assert seconds == pytest.approx(0.5 * 40 / 10)
    assert torch.equal(weights(model), before)


def test_the_short_run_is_a_real_one():
    model = network()
    before = weights(model)
    seconds = seconds_per_epoch(model, dataset(40), recipe(), images=1000)
    assert 0 < seconds < 60
    assert torch.equal(weights(model), before)


@pytest.mark.bad_input
def test_a_short_run_of_no_images_is_refused():
    with pytest.raises(ValueError, match="images"):
        seconds_per_epoch(network(), dataset(), recipe(), images=0)
    with pytest.raises(ValueError, match="is empty"):
        seconds_per_epoch(network(), dataset(0), recipe())
