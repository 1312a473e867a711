"""What chapter 02 measures with: equal cuts, thresholds, gradual pruning, loops and proposals."""

import copy

import pytest
import torch
from torch import nn

from course_lib import checkpoints, data, models, training
from course_lib.experiments import chapter02, chapter02_granularity, chapter02_loops, chapter02_studies
from course_lib.experiments.common import example_of
from course_lib.experiments.experiment import Scale
from course_lib.pruning import masks, rollback, storage
from course_lib.training import Recipe


@pytest.fixture(scope="module")
def glyphs():
    return data.load_dataset("glyphs")


def small(glyphs, count=96):
    cut = {
        part: getattr(glyphs, part).subset(torch.arange(count)) for part in ("train", "validation", "test")
    }
    return data.Dataset("few", cut["train"], cut["validation"], cut["test"], glyphs.classes)


def mlp(seed=0):
    return models.build("mlp", seed=seed)


# The same share in four sizes of piece


@pytest.mark.parametrize("branches", chapter02_granularity.BRANCHES)
def test_every_granularity_cuts_the_same_share_of_the_parameters(glyphs, branches):
    model, example = checkpoints.load(chapter02.RESNET), example_of(glyphs)
    share = chapter02_granularity.equal_share(model, example, branches)
    wanted = chapter02_granularity.shares_of(model, [branches])[branches]
    for granularity in chapter02_granularity.GRANULARITIES:
        smaller = chapter02_granularity.cut_equally(model, granularity, branches, share, example)
        masks.make_permanent(smaller)
        left = sum(int(p.count_nonzero()) for p in smaller.parameters())
        gone = 1 - left / sum(int(p.count_nonzero()) for p in model.parameters())
        assert gone == pytest.approx(wanted, abs=0.03), granularity
        smaller(example)


def test_a_block_without_its_branch_hands_on_its_shortcut():
    model = checkpoints.load(chapter02.RESNET)
    smaller = chapter02_granularity.without_branches(model, 1)
    x = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        before = model[:8](x)
        torch.testing.assert_close(smaller[:9](x), smaller[8](before))
    assert chapter02.parameters(smaller) < chapter02.parameters(model)


# Thresholds


def scores():
    generator = torch.Generator().manual_seed(0)
    sizes = {"first": (4, 5), "small": (10, 20), "large": (20, 50)}
    return {
        name: torch.rand(size, generator=generator) * (0.1 if name == "large" else 1)
        for name, size in sizes.items()
    }


@pytest.mark.parametrize("rule", [chapter02.one_for_all, chapter02.one_a_layer])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.95])
def test_both_thresholds_take_as_many_weights_in_all(rule, sparsity):
    keep = rule(scores(), sparsity)
    assert list(keep) == ["first.weight", "small.weight", "large.weight"]
    gone = sum(int((~mask).sum()) for mask in keep.values())
    assert abs(gone - sparsity * 1220) <= 2


def test_one_threshold_empties_the_layer_of_small_weights_and_one_a_layer_does_not():
    shares = chapter02.kept_shares(chapter02.one_for_all(scores(), 0.9))
    assert shares["large"] == 0 < shares["first"]
    shares = chapter02.kept_shares(chapter02.one_a_layer(scores(), 0.9))
    assert shares["first"] == 1
    assert shares["large"] == pytest.approx(shares["small"], abs=0.01)
    assert 0.08 < shares["large"] < 0.1


def test_two_of_four_leaves_layers_whole_whose_inputs_are_no_multiple_of_four():
    keep = chapter02.two_of_four({"a": torch.rand(3, 1, 3, 3), "b": torch.rand(3, 4, 3, 3)}, 0.5)
    assert keep["a.weight"].all()
    assert (keep["b.weight"].reshape(-1, 4).sum(1) == 2).all()


def test_the_scores_of_a_criterion_have_the_shape_of_the_weights(glyphs):
    network, few = checkpoints.load(chapter02.NARROW), small(glyphs)
    weights = chapter02.weights_of(network)
    found = {by: chapter02.scores_of(network, by, few, 0) for by in chapter02.SCORES}
    for by, values in found.items():
        assert list(values) == list(weights), by
        assert all(values[name].shape == weight.shape for name, weight in weights.items()), by
    best = {by: chapter02.one_for_all(values, 0.9) for by, values in found.items()}
    assert not all(map(torch.equal, best["taylor"].values(), best["obd"].values()))
    assert not all(map(torch.equal, best["taylor"].values(), best["magnitude"].values()))


# Prune and tune


def sparsity_of(network):
    weights = chapter02.weights_of(network).values()
    return 1 - sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)


def test_gradual_pruning_follows_the_cubic_schedule_and_both_ways_end_at_the_same_sparsity(glyphs):
    asked = []

    def choose(network, share):
        asked.append(share)
        return masks.global_magnitude_masks(network, 0.8 * share)

    recipe = Recipe(epochs=2, batch_size=4, learning_rate=0.01)  # 48 steps
    at_once = chapter02.prune_and_tune(mlp(), choose, small(glyphs), recipe)
    assert asked == [1]
    asked.clear()
    gradual = chapter02.prune_and_tune(mlp(), choose, small(glyphs), recipe, until=25)
    assert asked == [pytest.approx(1 - (1 - step / 25) ** 3) for step in (10, 20, 25)]
    for network in (at_once, gradual):
        assert sparsity_of(network) == pytest.approx(0.8, abs=1e-3)
        assert not hasattr(network[1], "parametrizations")


def test_a_gradual_run_of_the_experiment_ends_at_its_sparsity(glyphs):
    few = small(glyphs)
    shared = chapter02.Shared(few, {0: checkpoints.load(chapter02.NARROW)}, {}, Scale(steps=2), {})
    for threshold in chapter02.THRESHOLDS:
        run = {
            "which": "magnitude",
            "when": "gradually",
            "threshold": threshold,
            "sparsity": 0.9,
            "seed": 0,
        }
        metrics = chapter02.measure_schedule(run, shared, chapter02.prune_and_tune)
        assert metrics["left"] == pytest.approx(0.1, abs=1e-3)
        assert len(metrics["test_parts"]) == 20
    assert sparsity_of(shared.networks[0]) < 0.01  # the shared network is as it was


# The loops


def test_the_hard_loop_is_that_of_the_library(glyphs):
    few, model = small(glyphs, 400), mlp()
    training.fit(model, few, Recipe(epochs=4, batch_size=32, optimizer="adam", learning_rate=0.003))
    evaluate, example = chapter02_loops.accuracy_of(few.validation), example_of(few)
    for by in ("random", "magnitude"):
        by_hand, steps = chapter02_loops.hard_loop(
            model, example, chapter02_loops.propose_neurons(0, by=by), evaluate, 0.02, 20
        )
        log = rollback.prune_with_rollback(
            model,
            propose=chapter02_loops.propose_neurons(0, by=by),
            evaluate=evaluate,
            tolerance=0.02,
            target=0.01,
            example=example,
            max_attempts=20,
        )
        assert steps == [(attempt.accuracy, attempt.accepted) for attempt in log.attempts]
        assert {kept for _, kept in steps} == {True, False}
        assert all(map(torch.equal, by_hand.state_dict().values(), log.model.state_dict().values()))


def test_the_soft_loop_is_that_of_the_library_and_lets_zeros_grow_again(glyphs):
    few, model = small(glyphs, 400), mlp()
    recipe = Recipe(epochs=1, batch_size=32, optimizer="adam", learning_rate=0.003)
    training.fit(model, few, recipe)
    evaluate, grown = chapter02_loops.accuracy_of(few.validation), []

    def train(network):
        zeros = (network[1].weight == 0).all(1)
        training.fit(network, few, recipe, validate=False)
        grown.append(int((network[1].weight[zeros] != 0).any(1).sum()))

    def propose():
        return chapter02_loops.propose_more(0, by="magnitude")

    by_hand, steps = chapter02_loops.soft_loop(model, propose(), evaluate, train, 0.02, 6)
    log = rollback.prune_with_rollback(
        model,
        propose=propose(),
        evaluate=evaluate,
        tolerance=0.02,
        target=0.01,
        mode="soft",
        train=train,
        max_attempts=6,
    )
    assert steps == [(attempt.accuracy, attempt.accepted) for attempt in log.attempts]
    assert all(map(torch.equal, by_hand.state_dict().values(), log.model.state_dict().values()))
    assert max(grown) > 0


def test_a_loop_that_would_repeat_itself_stops():
    propose = chapter02_loops.propose_neurons(0, by="magnitude")
    assert propose(mlp(), 1) is not None
    assert propose(mlp(), 2) is None  # as many neurons as before: the last proposal was taken back
    propose = chapter02_loops.propose_connections(0, by="magnitude")
    assert propose(mlp(), 1) is not None
    assert propose(mlp(), 2) is None


@pytest.mark.parametrize("by", ["random", "magnitude"])
def test_connections_that_are_gone_are_proposed_again_with_a_share_more(by):
    model, propose = mlp(), chapter02_loops.propose_connections(0, by=by)
    first = propose(model, 1)
    masks.zero(model, first)
    second = propose(model, 2)
    for name, mask in second.items():
        assert not (mask & ~first[name]).any()
        assert (~mask).double().mean().item() == pytest.approx(0.1, abs=0.01)


# Studies


def test_a_ticket_starts_from_the_weights_that_its_network_began_with(glyphs, monkeypatch):
    seen = []

    def fit(model, dataset, seed, epochs, scale):
        seen.append(copy.deepcopy(model))

    monkeypatch.setattr(chapter02_studies, "fit", fit)
    shared = chapter02_loops.Shared(small(glyphs), Scale(steps=2), {})
    for start in chapter02_studies.STARTS:
        chapter02_studies.measure_ticket({"start": start, "sparsity": 0.9, "seed": 3}, shared, None)
        dense, ticket = seen[-2:]
        masks.make_permanent(ticket)
        assert sparsity_of(ticket) == pytest.approx(0.9, abs=1e-3)
        stays = ticket[1].weight != 0
        same = torch.equal(ticket[1].weight[stays], dense[1].weight[stays])
        assert same == (start != "new weights")
        largest = dense[1].weight[stays].abs().min() >= dense[1].weight[~stays].abs().max()
        assert bool(largest) == (start != "first weights, random mask")


@pytest.mark.parametrize(
    ("penalty", "wanted"), [("none", 0.0), ("absolute", 3e-4 * 3), ("squared", 2e-3 * 5)]
)
def test_a_penalty_is_added_for_the_first_layer_alone(penalty, wanted):
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, -2.0]]))
    batch = type("Batch", (), {"labels": torch.tensor([0])})
    loss = chapter02_studies.penalised(model, penalty)(torch.zeros(1, 2), batch)
    assert loss.item() - torch.tensor(2.0).log().item() == pytest.approx(wanted, abs=1e-6)


def test_stored_bytes_count_weights_in_their_form_and_the_rest_dense():
    model = nn.Sequential(nn.Linear(8, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        model[0].weight[0] = 0
    assert chapter02.stored(model, storage.dense_bytes) == 4 * (16 + 2 + 4)
    assert chapter02.stored(model, storage.bitmap_bytes) == 4 * 8 + 2 + 4 * (2 + 4)
