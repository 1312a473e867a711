"""The loop that prunes, evaluates and restores: its laws over random proposals, every way to stop, and every error."""

import copy
import inspect
import itertools
import json
import math
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import cost
from course_lib.pruning.criteria import l2_norm, lowest
from course_lib.pruning.masks import freeze, global_magnitude_masks, random_mask
from course_lib.pruning.rollback import Attempt, PruningLog, RollbackError, prune_with_rollback

X = torch.rand(1, 6)


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.Linear(8, 3))


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(state, other):
    return list(state) == list(other) and all(torch.equal(state[name], other[name]) for name in state)


def nonzero(model):
    return sum(int((p != 0).sum()) for p in model.parameters())


def sparser(share):
    """Proposes one more `share` of all weights at every attempt, by magnitude."""
    return lambda model, attempt: global_magnitude_masks(model, min(1.0, share * attempt))


def one_neuron(model, attempt):
    width = model[0].out_features
    return {"0": [attempt % width]} if width > 1 else None


def scripted(*accuracies):
    """An evaluation that returns these values one after the other; the first is the baseline."""
    values = iter(accuracies)
    return lambda model: next(values)


def always(model):
    return 0.9


# Laws

MODES = ("hard", "soft")
rounds = st.lists(
    st.tuples(st.sampled_from(["weights", "neurons"]), st.integers(0, 99), st.floats(0, 1)), max_size=6
)


@settings(max_examples=40)
@given(rounds, st.sampled_from(MODES), st.floats(0, 0.3), st.integers(0, 20))
def test_laws_over_random_proposals(rounds, mode, tolerance, seed):
    model = network(seed)
    before = snapshot(model)
    accuracies = torch.rand(len(rounds) + 1, generator=torch.Generator().manual_seed(seed)).tolist()
    seen = []

    def propose(current, attempt):
        if attempt > len(rounds):
            return None
        kind, seed, value = rounds[attempt - 1]
        if kind == "neurons":
            return {"0": [0]} if current[0].out_features > 1 else {"0": []}
        generator = torch.Generator().manual_seed(seed)
        return {"0.weight": random_mask(current[0].weight, 0.3 * value, generator)}

    def evaluate(current):
        assert not any(module.training for module in current.modules())
        seen.append(snapshot(current))
        return accuracies[len(seen) - 1]

    log = prune_with_rollback(
        model, propose=propose, evaluate=evaluate, tolerance=tolerance, target=0.01, mode=mode, example=X
    )
    assert same(before, model.state_dict())
    assert all(module.training for module in model.modules())
    assert all(module.training for module in log.model.modules())
    assert log.stopped == "nothing more is proposed"
    assert log.baseline == accuracies[0]
    assert [row.attempt for row in log.attempts] == list(range(1, len(rounds) + 1))
    share, kept = 1.0, seen[0]
    for row, accuracy, state in zip(log.attempts, accuracies[1:], seen[1:], strict=True):
        assert row.accuracy == accuracy
        assert row.complexity_before == share
        assert row.accepted == (accuracy >= log.baseline - tolerance - 1e-9)
        if row.accepted:
            assert row.complexity <= share  # without training nothing grows
            share, kept = row.complexity, state
    assert same(kept, log.model.state_dict())
    assert log.complexity == share == nonzero(log.model) / nonzero(network(seed))
    assert json.loads(log.to_json())["start"] == nonzero(network(seed))
    again = PruningLog.from_json(log.to_json())
    assert again == PruningLog(**{**vars(log), "model": None})


def test_a_run_by_hand():
    """Ten weights; thresholds of 20, 40, 60, 80 %; the third attempt costs too much, the fourth repeats its cut."""
    model = nn.Linear(10, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.arange(1.0, 11.0))
    shares = {1: 0.2, 2: 0.4, 3: 0.6, 4: 0.5}
    log = prune_with_rollback(
        model,
        propose=lambda m, attempt: global_magnitude_masks(m, shares[attempt]),
        evaluate=scripted(0.8, 0.8, 0.7, 0.6, 0.75),
        tolerance=0.1,  # 0.8 - 0.1 is 0.7000000000000001; 0.7 is accepted all the same
        target=0.5,
    )
    assert [(row.complexity_before, row.complexity, row.accepted) for row in log.attempts] == [
        (1.0, 0.8, True),
        (0.8, 0.6, True),
        (0.6, 0.4, False),
        (0.6, 0.5, True),
    ]
    assert log.model.weight.tolist() == [[0, 0, 0, 0, 0, 6, 7, 8, 9, 10]]
    assert (log.complexity, log.accuracy, log.stopped) == (0.5, 0.75, "the target is reached")
    assert log.attempts[2].reason == "accuracy fell by 0.2000, more than 0.1"
    assert log.attempts[2].proposed == {"weight": 6}
    assert str(log) == repr(log)
    assert str(log) == (
        "hard pruning: 4 attempts, 3 accepted\n"
        "  complexity 1 -> 0.5000 (target 0.5)\n"
        "  accuracy 0.8000 -> 0.7500 (tolerance 0.1)\n"
        "  stopped: the target is reached"
    )
    assert str(log.attempts[2]) == (
        "attempt 3: complexity 0.6000 -> 0.4000, accuracy 0.6000, restored: accuracy fell by 0.2000, more than 0.1"
    )


def test_hard_mode_removes_neurons_for_good():
    model = network()
    log = prune_with_rollback(
        model,
        propose=one_neuron,
        evaluate=scripted(0.9, 0.9, 0.2, 0.9, 0.9),
        tolerance=0.05,
        target=0.1,
        example=X,
        max_attempts=4,
    )
    assert (log.model[0].out_features, log.model[3].in_features) == (5, 5)
    assert log.attempts[0].proposed == {"0": [1]}
    assert [row.accepted for row in log.attempts] == [True, False, True, True]
    assert log.stopped == "the 4 attempts are used up"
    kept = [0, 2, 3, 5, 7]  # 1 goes; (2 is restored); at place 3 of the rest 4; at place 4 of what is left 6
    assert torch.equal(log.model[0].weight, model[0].weight[kept])


def test_soft_mode_silences_neurons_and_keeps_their_place():
    model = network()
    log = prune_with_rollback(
        model,
        propose=lambda m, attempt: {"0": [attempt]},
        evaluate=always,
        tolerance=0.05,
        target=0.1,
        mode="soft",
        example=X,
        max_attempts=2,
    )
    assert log.model[0].weight.shape == (8, 6)
    assert (log.model[0].weight == 0).all(dim=1).nonzero().flatten().tolist() == [1, 2]
    assert (log.model[0].bias[[1, 2]] == 0).all()
    assert log.complexity == (nonzero(model) - 14) / nonzero(model)


def noisy_training(model):
    """Training whose momentum and decay move every parameter."""
    assert model.training
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (model(X) ** 2).sum().backward()
        optimizer.step()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)


def test_frozen_connections_stay_frozen_through_training_removal_and_resumption():
    held = []

    def propose(model, attempt):
        if attempt > 1:
            assert (model[0].weight == 0).sum() >= held[-1]
        held.append(int((model[0].weight == 0).sum()))
        if attempt % 2:
            generator = torch.Generator().manual_seed(attempt)
            return {"0.weight": random_mask(model[0].weight, 0.3, generator)}
        return {"3": [0]}

    kinds = {"propose": propose, "evaluate": always, "tolerance": 0.0, "target": 0.05, "example": X}
    kinds["train"] = noisy_training
    log = prune_with_rollback(network(), **kinds, max_attempts=3)
    assert log.held == ["0.weight"]
    zeros = log.model[0].weight == 0
    assert zeros.sum() > 48 * 0.4
    text, model = log.to_json(), copy.deepcopy(log.model)
    resumed = prune_with_rollback(model, **kinds, max_attempts=3, log=PruningLog.from_json(text))
    assert (resumed.model[0].weight[zeros] == 0).all()
    assert [row.attempt for row in resumed.attempts] == [1, 2, 3, 4, 5, 6]
    assert log.to_json() == text
    assert all(
        type(module) in (nn.Linear, nn.ReLU, nn.Dropout, nn.Sequential) for module in resumed.model.modules()
    )


def test_connections_of_a_layer_that_loses_neurons_later_stay_frozen():
    def propose(model, attempt):
        generator = torch.Generator().manual_seed(0)
        return {"0.weight": random_mask(model[0].weight, 0.5, generator)} if attempt == 1 else {"0": [0, 3]}

    log = prune_with_rollback(
        network(),
        propose=propose,
        evaluate=always,
        tolerance=0.0,
        target=0.01,
        example=X,
        train=noisy_training,
        max_attempts=2,
    )
    mask = random_mask(torch.ones(8, 6), 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(log.model[0].weight != 0, mask[[1, 2, 4, 5, 6, 7]])


def test_a_model_that_is_frozen_stays_so():
    model = network()
    mask = random_mask(model[0].weight, 0.5, torch.Generator().manual_seed(0))
    freeze(model, {"0.weight": mask})
    log = prune_with_rollback(
        model,
        propose=lambda m, attempt: {"3": [0]},
        evaluate=always,
        tolerance=0.0,
        target=0.01,
        example=X,
        train=noisy_training,
        max_attempts=1,
    )
    assert torch.equal(log.model[0].weight != 0, mask)
    assert type(log.model[0]) is nn.Linear
    assert hasattr(model[0], "parametrizations")


def test_soft_filter_pruning():
    """Each attempt zeroes the shortest filters at a rising share; training between lets them grow again."""
    model, epochs, trained, proposed = network(), 4, [], []

    def train_one_epoch(model):
        trained.append(nonzero(model))
        noisy_training(model)

    def lowest_filters(model, attempt):
        proposed.append(nonzero(model))
        count = round(0.5 * attempt / epochs * 8)
        keep = torch.ones_like(model[0].weight, dtype=torch.bool)
        keep[lowest(l2_norm(model[0].weight), count)] = False
        return {"0.weight": keep}

    log = prune_with_rollback(
        model,
        propose=lowest_filters,
        evaluate=scripted(0.9, 0.1, 0.5, 0.6, 0.7),
        tolerance=1,
        target=0.01,
        mode="soft",
        train=train_one_epoch,
        max_attempts=epochs,
    )
    full = nonzero(model)
    assert trained == [full - 6, full - 12, full - 18]  # between the attempts, from the zeroed network
    assert proposed == [full] * 4  # all weights have grown back
    assert [row.complexity for row in log.attempts] == [(full - 6 * n) / full for n in (1, 2, 3, 4)]
    assert nonzero(log.model) == full - 24  # the zeroed network, not one trained further
    assert log.accuracy == 0.7


def test_the_example_in_the_docstring_runs():
    lines = textwrap.dedent(prune_with_rollback.__doc__.split("(`tolerance=1`)::")[1].split("    Args:")[0])
    model = nn.Sequential(nn.Conv2d(1, 10, 3), nn.ReLU(), nn.Conv2d(10, 20, 3))
    images, seen = torch.rand(2, 1, 6, 6), []

    def train_one_epoch(model):
        nn.init.ones_(model[0].weight)
        model(images)

    def accuracy(model):
        seen.append([int((layer.weight == 0).flatten(1).all(1).sum()) for layer in (model[0], model[2])])
        return 0.9

    scope = {"nn": nn, "torch": torch, "lowest": lowest, "l2_norm": l2_norm, "epochs": 3, "model": model}
    scope |= {"prune_with_rollback": prune_with_rollback} | {
        f.__name__: f for f in (train_one_epoch, accuracy)
    }
    exec(textwrap.dedent(lines), scope)
    assert seen == [[0, 0], [1, 2], [2, 4], [3, 6]]


def test_a_rejected_soft_attempt_starts_again_from_the_accepted_network():
    starts = []

    def train(model):
        starts.append(snapshot(model))
        noisy_training(model)

    log = prune_with_rollback(
        network(),
        propose=sparser(0.1),
        evaluate=scripted(0.9, 0.9, 0.1, 0.1),
        tolerance=0.05,
        target=0.01,
        mode="soft",
        train=train,
        max_attempts=3,
    )
    assert [row.accepted for row in log.attempts] == [True, False, False]
    assert same(starts[0], starts[1])
    assert same(starts[0], log.model.state_dict())
    assert not any(p.grad is not None for p in log.model.parameters())


def test_hard_training_happens_before_evaluation_and_is_restored_with_the_rest():
    model = network()
    log = prune_with_rollback(
        model,
        propose=sparser(0.1),
        evaluate=scripted(0.9, 0.1),
        tolerance=0.05,
        target=0.01,
        train=noisy_training,
        max_attempts=1,
    )
    assert same(log.model.state_dict(), model.state_dict())

    def evaluate(model):
        assert not any(module.training for module in model.modules())
        return 0.9

    log = prune_with_rollback(
        model,
        propose=sparser(0.1),
        evaluate=evaluate,
        tolerance=0.05,
        target=0.01,
        train=noisy_training,
        max_attempts=1,
    )
    assert not torch.equal(log.model[3].bias, model[3].bias)
    assert all(parameter.grad is None for parameter in log.model.parameters())


def test_complexity_may_be_operations():
    log = prune_with_rollback(
        network(),
        propose=one_neuron,
        evaluate=always,
        tolerance=0.0,
        target=0.8,
        example=X,
        complexity=lambda model: cost.measure(model, X).macs,
    )
    assert log.start == 6 * 8 + 8 * 8 + 8 * 3
    assert log.complexity == (136 - 14 * 2) / 136  # each neuron costs 6 + 8
    assert log.stopped == "the target is reached"


def test_resuming_continues_as_if_never_stopped():
    def run(attempts, model=None, log=None, evaluate=lambda m: 0.5 + 0.4 * nonzero(m) / 147):
        return prune_with_rollback(
            model or network(),
            propose=sparser(0.07),
            evaluate=evaluate,
            tolerance=0.2,
            target=0.01,
            max_attempts=attempts,
            log=log,
        )

    whole, first = run(8), run(3)
    second = run(5, first.model, PruningLog.from_json(first.to_json()))
    assert second.stopped == "the 5 attempts are used up"
    second.stopped = whole.stopped
    assert second.to_json() == whole.to_json()
    assert same(second.model.state_dict(), whole.model.state_dict())
    assert len(first.attempts) == 3
    done = prune_with_rollback(
        whole.model, propose=sparser(0.1), evaluate=always, tolerance=0, target=0.99, log=whole
    )
    assert (len(done.attempts), done.stopped) == (8, "the target is reached")


def test_the_mode_of_every_layer_is_as_in_the_model_given():
    model = network()
    model[2].eval()
    log = prune_with_rollback(
        model, propose=one_neuron, evaluate=always, tolerance=0, target=0.8, example=X, train=noisy_training
    )
    assert [module.training for module in log.model] == [True, True, False, True, True]


def test_functions_that_change_what_they_are_shown_change_no_network_of_ours():
    def propose(model, attempt):
        masks = global_magnitude_masks(model, 0.1 * attempt)
        nn.init.zeros_(model[0].weight)
        return masks

    model = network()
    log = prune_with_rollback(model, propose=propose, evaluate=always, tolerance=0, target=0.75)
    assert (log.model[0].weight != 0).any()
    assert same(snapshot(network()), model.state_dict())


# Evaluation that fails


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor(math.nan)])
def test_nan_is_a_rejected_attempt_and_the_loop_goes_on(value):
    log = prune_with_rollback(
        network(),
        propose=sparser(0.1),
        evaluate=scripted(0.9, 0.9, value, 0.9),
        tolerance=0.5,
        target=0.01,
        max_attempts=3,
    )
    assert [row.accepted for row in log.attempts] == [True, False, True]
    assert log.attempts[1].accuracy is None
    assert "not finite" in log.attempts[1].reason
    assert "no accuracy, restored" in str(log.attempts[1])
    assert PruningLog.from_json(log.to_json()).attempts == log.attempts


def failing_at(number, error):
    calls = []

    def evaluate(model):
        calls.append(1)
        if len(calls) == number + 1:
            raise error
        return 0.9

    return evaluate


@pytest.mark.parametrize("mode", MODES)
def test_an_evaluation_that_raises_restores_the_network_and_says_so(mode):
    model = network()
    with pytest.raises(
        RollbackError, match=r"in attempt 3, evaluation raised OSError: disk.*restored"
    ) as caught:
        prune_with_rollback(
            model,
            propose=sparser(0.1),
            evaluate=failing_at(3, OSError("disk")),
            tolerance=0.5,
            target=0.01,
            mode=mode,
        )
    log = caught.value.log
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value.__cause__, OSError)
    assert [row.accepted for row in log.attempts] == [True, True, False]
    assert log.attempts[2].reason == log.stopped == "evaluation raised OSError: disk"
    assert nonzero(log.model) / nonzero(model) == log.complexity == log.attempts[1].complexity
    assert all(module.training for module in log.model.modules())
    resumed = prune_with_rollback(
        log.model, propose=sparser(0.1), evaluate=always, tolerance=0.5, target=0.3, mode=mode, log=log
    )
    assert resumed.attempts[3].attempt == 4
    assert resumed.stopped == "the target is reached"
    assert len(log.attempts) == 3


def test_training_or_complexity_that_raises_is_named_too():
    def diverge(model):
        raise FloatingPointError("the loss became nan")

    options = {"propose": sparser(0.1), "evaluate": always, "tolerance": 0.5, "target": 0.01}
    for mode, number in (("hard", 1), ("soft", 2)):
        with pytest.raises(
            RollbackError, match=f"attempt {number}, training raised FloatingPointError"
        ) as caught:
            prune_with_rollback(network(), **options, mode=mode, train=diverge)
        assert len(caught.value.log.attempts) == number
    values = iter([10, 5, -1])
    with pytest.raises(RollbackError, match=r"attempt 2, the complexity raised ValueError: .*is -1"):
        prune_with_rollback(network(), **options, complexity=lambda model: next(values))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "TypeError: the accuracy that evaluate returned is None"),
        ("0.9", "TypeError: the accuracy that evaluate returned is '0.9'"),
        (True, "TypeError: the accuracy that evaluate returned is True"),
        (torch.ones(2), "TypeError: the accuracy that evaluate returned is tensor"),
        (93.0, r"ValueError: the accuracy that evaluate returned is 93\.0.*0.93 and not 93"),
        (-0.1, "ValueError: the accuracy that evaluate returned is -0.1"),
    ],
)
def test_an_evaluation_that_returns_no_accuracy(value, message):
    options = {"propose": sparser(0.1), "tolerance": 0.5, "target": 0.01}
    with pytest.raises(RollbackError, match=f"attempt 2, evaluation raised {message}"):
        prune_with_rollback(network(), evaluate=scripted(0.9, 0.9, value), **options)
    error, _, rest = message.partition(": ")
    with pytest.raises({"TypeError": TypeError, "ValueError": ValueError}[error], match=rest):
        prune_with_rollback(network(), evaluate=scripted(value), **options)


@pytest.mark.bad_input
def test_a_baseline_that_fails():
    options = {"propose": sparser(0.1), "tolerance": 0.5, "target": 0.01}
    for value in (math.nan, math.inf):
        with pytest.raises(
            ValueError, match=rf"before any attempt, returned {value}; .*finite number in \[0, 1\]"
        ):
            prune_with_rollback(network(), evaluate=scripted(value), **options)
    with pytest.raises(RuntimeError, match=r"before any attempt, raised OSError: disk\. Nothing was pruned"):
        prune_with_rollback(network(), evaluate=failing_at(0, OSError("disk")), **options)


def test_numbers_of_other_libraries_are_numbers():
    import numpy as np

    values = (torch.tensor(0.9), np.float32(0.9), np.float64(0.9), torch.tensor([0.9]), 1)
    log = prune_with_rollback(
        network(), propose=sparser(0.1), evaluate=scripted(*values), tolerance=0.5, target=0.1, max_attempts=4
    )
    assert [type(row.accuracy) for row in log.attempts] == [float] * 4


# The log survives whatever ends the loop


def ended(error, **changes):
    """The log on the exception that ends a run; at the third attempt unless `changes` say otherwise."""
    options = {"propose": sparser(0.1), "evaluate": always, "tolerance": 0.5, "target": 0.3, "example": X}
    with pytest.raises(error) as caught:
        prune_with_rollback(network(), **options | changes)
    return caught.value


class Taken(Exception):
    log = property(lambda self: "something else")


def proposing(third):
    """Proposes two sparser networks, then what `third` returns (or raises)."""
    return lambda model, attempt: third(model) if attempt == 3 else sparser(0.1)(model, attempt)


def raising(error, *args):
    def function(model):
        raise error(*args)

    return function


@pytest.mark.bad_input
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("third", "error"),
    [
        (raising(ZeroDivisionError, "mine"), ZeroDivisionError),
        (raising(KeyboardInterrupt), KeyboardInterrupt),
        (raising(SystemExit, 3), SystemExit),
        (raising(RollbackError, "of another run", PruningLog(0.5, 1, "hard", 0, 0.5)), RollbackError),
        (lambda model: {}, ValueError),
        (lambda model: 7, TypeError),
        (lambda model: {"00": [0]}, KeyError),
        (lambda model: {"0": [8]}, ValueError),
        (lambda model: {"0": [0.5]}, TypeError),
        (lambda model: {"4": [0]}, ValueError),
    ],
)
def test_whatever_ends_the_loop_carries_the_log(mode, third, error):
    caught = ended(error, propose=proposing(third), mode=mode)
    log = caught.log
    assert [row.accepted for row in log.attempts] == [True, True]
    assert log.stopped.startswith(f"interrupted by {error.__name__}")
    assert not log.stopped.endswith(": ")
    assert nonzero(log.model) / log.start == log.complexity == log.attempts[1].complexity
    assert all(module.training for module in log.model.modules())
    (note,) = caught.__notes__
    assert note.startswith("2 attempts were made before this, 2 accepted.")
    assert "log=log" in note
    options = {"propose": sparser(0.1), "evaluate": always, "tolerance": 0.5, "target": 0.3, "mode": mode}
    resumed = prune_with_rollback(log.model, **options, log=log)
    whole = prune_with_rollback(network(), **options)
    assert [row.attempt for row in resumed.attempts] == list(range(1, len(whole.attempts) + 1))
    assert resumed.attempts == whole.attempts
    assert same(resumed.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize("where", ["evaluate", "train", "complexity"])
def test_an_interrupt_inside_of_what_the_caller_gave_carries_the_log_too(where):
    calls = []

    def function(model):
        calls.append(1)
        if len(calls) == 4 - (where == "train"):  # the others are called once for the network given
            raise KeyboardInterrupt
        return {"evaluate": 0.9, "train": None, "complexity": nonzero(model)}[where]

    log = ended(KeyboardInterrupt, **{where: function}).log
    assert [row.accepted for row in log.attempts] == [True, True]
    assert nonzero(log.model) / log.start == log.complexity


def test_an_error_whose_log_cannot_be_set_passes_with_its_note():
    caught = ended(Taken, propose=proposing(raising(Taken)))
    assert "2 accepted" in caught.__notes__[0]


def test_an_error_before_the_first_attempt_and_one_with_the_log_get_no_note():
    assert not hasattr(ended(ValueError, evaluate=lambda model: math.nan), "log")
    assert not hasattr(ended(RollbackError, evaluate=failing_at(3, OSError("disk"))), "__notes__")


def test_an_interrupt_at_any_line_leaves_a_log_to_resume():
    def run(model, log=None):
        options = {"evaluate": scripted(0.9, 0.9, 0.1, 0.9)} if log is None else {"evaluate": always}
        return prune_with_rollback(
            model, propose=sparser(0.2), **options, tolerance=0.5, target=0.5, log=log, max_attempts=3
        )

    def interrupted(line):
        """Ctrl-C at the so-manieth line that the loop runs."""
        count = 0

        def tracer(frame, event, argument):
            nonlocal count
            if frame.f_code is not inspect.unwrap(prune_with_rollback).__code__:
                return None
            if event == "line":
                count += 1
                if count == line:
                    raise KeyboardInterrupt
            return tracer

        before = sys.gettrace()
        sys.settrace(tracer)
        try:
            run(network())
        except KeyboardInterrupt as error:
            return getattr(error, "log", None), True
        finally:
            sys.settrace(before)
        return None, False

    seen = set()
    for line in itertools.count(1):
        log, stopped = interrupted(line)
        if not stopped:
            break
        if log is not None:
            accepted = sum(row.accepted for row in log.attempts)
            seen.add((len(log.attempts), accepted))
            assert nonzero(log.model) / log.start == log.complexity
            assert log.held == ([*dict(network().named_parameters())][::2] if accepted else [])
            run(log.model, log)  # raises if network and log do not fit
    assert seen == {(0, 0), (1, 1), (2, 1), (3, 2)}


# Errors of the caller

GOOD = torch.ones(8, 6, dtype=torch.bool)


@pytest.mark.bad_input
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("proposal", "error", "message"),
    [
        ({}, ValueError, "in attempt 2, an empty mapping"),
        ([0, 1], TypeError, r"in attempt 2, \[0, 1\] \(list\); it must return"),
        (GOOD, TypeError, r"in attempt 2, tensor[\s\S]*\(Tensor\)"),
        ({"0": [0], "3.weight": GOOD}, ValueError, "in attempt 2, both masks and indices"),
        ({"00": [0]}, KeyError, "attempt 2: unknown layer '00'. Did you mean '0'"),
        ({"0.wieght": GOOD}, KeyError, "attempt 2: unknown parameter '0.wieght'. Did you mean '0.weight'"),
        ({"0": GOOD}, KeyError, "attempt 2: unknown parameter '0'"),
        ({"0.weight": [1, 2]}, KeyError, "attempt 2: unknown layer '0.weight'"),
        ({"0": [8]}, ValueError, "attempt 2: .*'0'"),
        ({"0": [-1]}, ValueError, "attempt 2: .*'0'"),
        ({"0": [1, 1]}, ValueError, "attempt 2: .*'0'"),
        ({"0": [1.0]}, TypeError, "attempt 2: .*'0'"),
        ({"0": [True, False]}, TypeError, "attempt 2: .*'0'"),
        ({"0": 3}, TypeError, "attempt 2: .*'0'"),
        ({"0": list(range(8))}, ValueError, "attempt 2: .*'0'"),
        ({"0.weight": GOOD[:2]}, ValueError, r"attempt 2: .*\[2, 6\]"),
        (
            {"0.weight": GOOD.float()},
            TypeError,
            "in attempt 2, a Tensor of torch.float32 for '0.weight'; indices are",
        ),
        ({"0.weight": GOOD.numpy()}, TypeError, "in attempt 2, a ndarray of bool for '0.weight'"),
    ],
)
def test_wrong_proposals_are_named_with_their_attempt(mode, proposal, error, message):
    model = network()
    before = snapshot(model)
    proposals = {1: {"0.weight": GOOD}, 2: proposal}
    with pytest.raises(error, match=message):
        prune_with_rollback(
            model,
            propose=lambda m, attempt: proposals[attempt],
            evaluate=always,
            tolerance=0,
            target=0.5,
            mode=mode,
            example=X,
        )
    assert same(before, model.state_dict())


@pytest.mark.bad_input
def test_channels_need_an_example_and_what_propose_raises_passes():
    options = {"evaluate": always, "tolerance": 0, "target": 0.5}
    with pytest.raises(
        ValueError, match=r"in attempt 1, channels of '0', and `example` is missing.*example="
    ):
        prune_with_rollback(network(), propose=one_neuron, **options)

    def broken(model, attempt):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        prune_with_rollback(network(), propose=broken, **options)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"tolerance": -0.01}, ValueError, r"tolerance is -0\.01; .*0.01 is one point"),
        ({"tolerance": 2}, ValueError, r"tolerance is 2\.0"),
        ({"tolerance": math.nan}, ValueError, "tolerance is nan"),
        ({"tolerance": None}, TypeError, "tolerance is None"),
        ({"target": 0}, ValueError, r"target is 0\.0; .*0.5 is half"),
        ({"target": 1}, ValueError, r"target is 1\.0; it must be below 1"),
        ({"target": 50}, ValueError, r"target is 50\.0"),
        ({"target": math.nan}, ValueError, "target is nan"),
        ({"target": "half"}, TypeError, "target is 'half'"),
        ({"mode": "sotf"}, ValueError, "unknown mode 'sotf'. Did you mean 'soft'"),
        ({"max_attempts": 0}, ValueError, "max_attempts is 0"),
        ({"max_attempts": 2.0}, TypeError, r"max_attempts is 2\.0"),
        ({"propose": None}, TypeError, "propose is None .*must be a function"),
        (
            {"evaluate": 0.9},
            TypeError,
            r"evaluate is 0\.9 \(float\); it must be a function. Pass the function",
        ),
        ({"train": 3}, TypeError, r"train is 3 \(int\); it must be a function or None"),
        ({"complexity": 100}, TypeError, r"complexity is 100 \(int\); it must be a function or None"),
        ({"complexity": lambda model: 0}, ValueError, r"complexity\(model\) is 0\.0"),
        ({"complexity": lambda model: None}, TypeError, r"complexity\(model\) is None"),
        ({"log": "log.json"}, TypeError, "log is a str; it must be a PruningLog"),
        ({"log": PruningLog(0.9, 1e6, "hard", 0, 0.5)}, ValueError, "Pass the network that it ended with"),
        ({"model": {}}, TypeError, "model is a dict"),
    ],
)
def test_wrong_arguments_are_named(wrong, error, message):
    options = {"model": network(), "propose": sparser(0.1), "evaluate": always, "tolerance": 0, "target": 0.5}
    options |= wrong
    model = options.pop("model")
    with pytest.raises(error, match=message):
        prune_with_rollback(model, **options)


@pytest.mark.bad_input
@pytest.mark.parametrize("text", ["", "[]", "{}", "not json", '{"attempts": [{"attempt": 1}]}', None])
def test_a_text_that_is_no_log(text):
    with pytest.raises(ValueError, match=r"is no pruning log .*to_json"):
        PruningLog.from_json(text)


def test_an_empty_log_has_its_baseline():
    log = PruningLog(0.9, 100, "hard", 0.1, 0.5)
    assert (log.complexity, log.accuracy) == (1.0, 0.9)
    assert "0 attempts, 0 accepted" in str(log)
    log.attempts.append(Attempt(1, 1.0, 0.5, 0.2, False, "fell", {}))
    assert (log.complexity, log.accuracy) == (1.0, 0.9)
