"""Filter pruning by norm: ratios of layers, sensitivity of each layer, one-shot and iterative schedules."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from course_lib import cost, tracing
from course_lib.progress import tracked
from course_lib.pruning._checks import (
    _check_accuracy,
    _check_criterion,
    _check_group,
    _check_names,
    _check_ratio,
    _check_ratios,
    _check_removable,
    _Criterion,
    _score,
)
from course_lib.pruning._curves import _check_rows, _first_below
from course_lib.pruning.criteria import l1_norm
from course_lib.pruning.graph import ChannelGroup, Channels
from course_lib.pruning.graph.follow import _followed, _input, _known, follow
from course_lib.pruning.rounding import rounded_width
from course_lib.pruning.surgery import remove_channels
from course_lib.tracing import Example
from course_lib.validation import check_count, check_function, check_number, unknown_name

_Ratios = float | Mapping[str, float]


def filter_plan(
    model: nn.Module,
    example: Example | Channels,
    ratios: _Ratios,
    *,
    criterion: _Criterion = l1_norm,
    round_to: int = 1,
) -> dict[str, Int64[Tensor, "..."]]:
    """Choose the filters with the lowest scores of each layer.

    Of the n filters of a layer round(ratio * n) go, but never all: one stays. Filters that must go together (see
    `graph.channel_groups`) count as one, scored by the mean over the layers that compute them; so a residual stage has
    one ratio. Of equal scores the lower index goes first.

    Args:
        model: network; it is left as it was.
        example: input [N, ...] of the dtype and on the device that the model runs on; or the channels of the model,
            as `graph.follow` gives them, which then need not be followed again.
        ratios: share of filters that go, in [0, 1): one for all layers, or {layer: ratio}, where layers that are not
            named keep all. Name one layer of those that are tied, or give all of them the same.
        criterion: scores the filters of a weight [C_out, ...] with one number each, the lowest going first: one of
            `criteria`, or a function such as `lambda weight: -l1_norm(weight)` (largest first).
        round_to: number that the widths of the layers concerned become multiples of, such as 8; see `rounding`. A layer
            at a ratio of 0 is rounded too.

    Returns:
        {layer: int64 indices of its output channels}, for the convolutions and linear layers that lose any, as
        `surgery.remove_channels` takes it.

    Raises:
        TypeError: a ratio that is not a number, a criterion that cannot be called; or as `channel_groups`.
        KeyError: an unknown layer; the message lists the nearest names.
        ValueError: a ratio outside [0, 1); a layer whose filters cannot be removed, or a model that has no other; two
            ratios for tied layers; a criterion that does not give one finite score a filter; or as `channel_groups`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1))
        >>> model[0].weight.data = torch.tensor([3.0, -1.0, 2.0, 0.5]).reshape(4, 1, 1, 1)
        >>> filter_plan(model, torch.rand(1, 1, 8, 8), 0.5)
        {'0': tensor([1, 3])}

    References:
        Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, sections 3.1 and 3.3.
    """
    _check_criterion(criterion)
    groups, fixed = _known(model, example)
    _check_removable(groups, fixed)
    wanted = _ratio_of_each(groups, fixed, model, ratios)
    check_count(round_to, "round_to")
    counts = {number: _lost(groups[number], ratio, round_to) for number, ratio in wanted.items()}
    return _plan(model, groups, counts, criterion)


def unit_scores(
    model: nn.Module, group: ChannelGroup, criterion: _Criterion = l1_norm
) -> Float64[Tensor, "size"]:
    """Score each unit of a group by the mean of the criterion over the filters that go together.

    Args:
        model: the network that the group belongs to.
        group: one of `graph.channel_groups(model, example)`.
        criterion: as in `filter_plan`.

    Returns:
        float64 [group.size]; the lowest go first.

    Raises:
        TypeError: not a model, a group or a criterion.
        ValueError: a group of another network; a criterion that does not give one finite score a filter.

    Example:
        >>> from course_lib.pruning.graph import channel_groups
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 2, 1))
        >>> model[0].weight.data = torch.tensor([3.0, -1.0]).reshape(2, 1, 1, 1)
        >>> unit_scores(model, channel_groups(model, torch.rand(1, 1, 8, 8))[0])
        tensor([3., 1.], dtype=torch.float64)
    """
    tracing.check_network(model)
    _check_group(model, group)
    _check_criterion(criterion)
    return _unit_scores(model, group, criterion)


def _unit_scores(model: nn.Module, group: ChannelGroup, criterion: _Criterion) -> Tensor:
    scores = {axis.layer: _score(model, axis.layer, axis.axis, criterion) for axis in group.producers}
    return group.mean_scores(scores)


def untied_layers(model: nn.Module, example: Example | Channels) -> list[str]:
    """Find the layers each of whose filters can go without taking a filter of another layer with it.

    In a chain these are all layers but the last. In a residual network they are the first convolution of each basic
    block (the first two of a bottleneck): the ones that Li et al. prune, since the last is tied to the shortcut.

    Args:
        model, example: as in `filter_plan`.

    Returns:
        Names, in the order in which the network computes them.

    Example:
        >>> untied_layers(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)), torch.rand(1, 1, 8, 8))
        ['0']
    """
    return [
        group.producers[0].layer
        for group in _known(model, example)[0]
        if len(group.producers) == 1 and len(group.producers[0].units) == group.size
    ]


def sensitivity(
    model: nn.Module,
    example: Example | Channels,
    evaluate: Callable[[nn.Module], float],
    *,
    ratios: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    layers: Sequence[str] | None = None,
    criterion: _Criterion = l1_norm,
) -> list[dict[str, str | float]]:
    """Measure the accuracy after pruning one layer alone, for each layer and ratio, without any training.

    Args:
        model, example, criterion: as in `filter_plan`.
        evaluate: returns the accuracy of a network; use images that are neither trained on nor tested on.
        ratios: shares of filters that go, in [0, 1).
        layers: names; where not given, one of every group that can lose a filter.

    Returns:
        A row for each layer and ratio: {"layer", "ratio", "accuracy"}.

    Raises:
        TypeError, KeyError, ValueError: as `filter_plan`; what `evaluate` returns is not a number in [0, 1]; no ratios
            or layers, or something else than a list of them.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3))
        >>> sensitivity(model, torch.rand(1, 1, 8, 8), lambda m: m[0].out_channels / 4, ratios=[0.25])
        [{'layer': '0', 'ratio': 0.25, 'accuracy': 0.75}]

    References:
        Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.2.
    """
    check_function(evaluate, "evaluate")
    ratios = _check_ratios(ratios)
    if layers is not None:
        layers = _check_names(
            layers, "layers", "Leave it out, or give a list such as untied_layers(model, example)."
        )
    channels = _followed(model, example)
    _check_removable([group for group in channels.groups if group.size > 1], channels.fixed)
    if layers is None:
        layers = [group.producers[0].layer for group in channels.groups if group.size > 1]
        layers = list(dict.fromkeys(layers))
    pairs = [(layer, ratio) for layer in layers for ratio in ratios]
    rows = []
    for layer, ratio in tracked(pairs, "sensitivity", len(pairs)):
        plan = filter_plan(model, channels, {layer: ratio}, criterion=criterion)
        accuracy = evaluate(remove_channels(model, channels, plan))
        _check_accuracy(accuracy, f"what evaluate returned for {layer!r} at {ratio:g}")
        rows.append({"layer": layer, "ratio": ratio, "accuracy": accuracy})
    return rows


def ratios_from_sensitivity(
    rows: Sequence[Mapping[str, str | float]], least: float, *, baseline: float
) -> dict[str, float]:
    """Read off how much each layer can lose while the network, pruned in it alone, stays at an accuracy of `least`.

    The curve of a layer starts at (0, baseline) and joins the measured points by straight lines; its ratio is where it
    first falls below `least`, or the largest measured one if it never does.

    Args:
        rows: as `sensitivity` gives them.
        least: accuracy that must be left, in [0, baseline].
        baseline: accuracy of the whole network on the same images.

    Returns:
        {layer: ratio}, in the order of the rows, in the form that `filter_plan` takes.

    Raises:
        TypeError: `least`, `baseline` or a number in a row is not one; something else than rows.
        ValueError: no rows, or one without a layer, ratio or accuracy; a number that is NaN or out of range.

    Example:
        >>> ratios_from_sensitivity([{"layer": "0", "ratio": 0.5, "accuracy": 0.5}], 0.75, baseline=1.0)
        {'0': 0.25}
    """
    check_number(baseline, "baseline", low=0, high=1)
    check_number(
        least, "least", low=0, high=baseline, hint="It is an accuracy, at most that of the whole network."
    )
    curves: dict[str, list[tuple[float, float]]] = {}
    for layer, ratio, accuracy in _check_rows(rows):
        curves.setdefault(layer, []).append((ratio, accuracy))
    return {
        layer: _first_below([(0.0, baseline), *sorted(points)], least) for layer, points in curves.items()
    }


def ratios_for_macs(
    model: nn.Module,
    example: Example | Channels,
    ratios_at: Callable[[float], _Ratios],
    share: float,
    *,
    round_to: int = 1,
) -> _Ratios:
    """Find by bisection the mildest ratios of a family that leave at most a share of the MACs.

    Uniform ratios are the family `lambda t: t`. To share out the same budget by sensitivity, let t be the accuracy
    that may be lost: `lambda t: ratios_from_sensitivity(rows, baseline * (1 - t), baseline=baseline)`.

    Args:
        model, example, round_to: as in `filter_plan`; give it the same `round_to` with the ratios.
        ratios_at: gives ratios for each t in [0, 1), pruning more as t grows.
        share: of the MACs of `model` that may be left, in (0, 1].

    Returns:
        `ratios_at(t)` for the smallest t that keeps the budget, to within 1/1024.

    Raises:
        TypeError, KeyError, ValueError: as `filter_plan`; a share outside (0, 1]; one that no t reaches.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3))
        >>> ratios_for_macs(model, torch.rand(1, 1, 8, 8), lambda t: t, 0.5)
        0.4375
    """
    check_number(
        share, "share", low=0, high=1, low_open=True, hint="It is the share of MACs that may be left."
    )
    check_function(ratios_at, "ratios_at")
    channels = _followed(model, example)
    _check_removable(channels.groups, channels.fixed)
    one = _input(model, example)
    with tracing.alone():
        budget = share * cost.macs(model, one)
    steps = 1024

    def left(step: int) -> int:
        plan = filter_plan(model, channels, ratios_at(step / steps), round_to=round_to)
        return cost.macs(remove_channels(model, channels, plan), one)

    low, high = -1, steps - 1  # `high` keeps the budget, `low` does not
    if left(high) > budget:
        raise ValueError(
            f"share is {share:g}, but even the largest ratios leave {left(high) * share / budget:.3g} of the MACs. "
            "Give a larger share, or ratios for more layers."
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if left(middle) <= budget else (middle, high)
    return ratios_at(high / steps)


def prune_iteratively(
    model: nn.Module,
    example: Example | Channels,
    ratios: _Ratios,
    *,
    rounds: int,
    fine_tune: Callable[[nn.Module], object],
    criterion: _Criterion = l1_norm,
    round_to: int = 1,
) -> nn.Module:
    r"""Prune in several rounds with fine-tuning after each; one round is one-shot pruning.

    Each round removes about the same share of what is left; after the last the widths are those of `filter_plan`.
    After round :math:`r` of :math:`R` the share kept is

    .. math:: k_r = (1 - ratio)^{r / R}

    Args:
        model, example, ratios, criterion, round_to: as in `filter_plan`; the shares are of the network that was given.
        rounds: at least 1.
        fine_tune: trains a network in place.

    Returns:
        A new network; `model` is left as it was.

    Raises:
        TypeError, KeyError, ValueError: as `filter_plan`; `rounds` below 1.

    Example:
        >>> model, example = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3)), torch.rand(1, 1, 8, 8)
        >>> prune_iteratively(model, example, 0.5, rounds=2, fine_tune=lambda m: print(m[0].out_channels))[0]
        6
        4
        Conv2d(1, 4, kernel_size=(3, 3), stride=(1, 1))

    References:
        Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.4 (prune once and retrain; prune and
        retrain iteratively).
    """
    check_count(rounds, "rounds")
    check_function(fine_tune, "fine_tune")
    one, channels = _input(model, example), _followed(model, example)
    # What is wrong is said before anything is trained.
    filter_plan(model, channels, ratios, criterion=criterion, round_to=round_to)
    wanted = _ratio_of_each(channels.groups, channels.fixed, model, ratios)
    whole = channels.groups
    for done in range(1, rounds + 1):
        if done > 1:
            channels = follow(model, one)  # the same groups in the same order, with fewer units
        groups, counts = channels.groups, {}
        for number, ratio in wanted.items():
            gone = ratio if done == rounds else 1 - (1 - ratio) ** (done / rounds)
            counts[number] = _lost(whole[number], gone, round_to) - (whole[number].size - groups[number].size)
        model = remove_channels(model, channels, _plan(model, groups, counts, criterion))
        fine_tune(model)
    return model


def _plan(
    model: nn.Module, groups: Sequence[ChannelGroup], counts: Mapping[int, int], criterion: _Criterion
) -> dict[str, Tensor]:
    """The plan that takes so many of the lowest units from each numbered group."""
    plan: dict[str, Tensor] = {}
    for number, count in counts.items():
        if not count:
            continue
        group = groups[number]
        units = group.lowest_units(_unit_scores(model, group, criterion), count)
        for layer, indices in group.channels(units).items():
            plan[layer] = torch.cat([plan[layer], indices]).sort().values if layer in plan else indices
    return plan


def _lost(group: ChannelGroup, ratio: float, round_to: int) -> int:
    """How many units of a group a ratio takes: one always stays."""
    kept = group.size - min(round(ratio * group.size), group.size - 1)
    return group.size - rounded_width(group, kept, round_to)


def _ratio_of_each(
    groups: Sequence[ChannelGroup], fixed: Mapping[str, str], model: nn.Module, ratios: _Ratios
) -> dict[int, float]:
    """The numbers of the groups that are to be pruned, each with its ratio."""
    modules = dict(model.named_modules())
    if not isinstance(ratios, Mapping):
        ratio = _check_ratio(ratios, "ratios")
        return dict.fromkeys(range(len(groups)), ratio)
    place = {axis.layer: number for number, group in enumerate(groups) for axis in group.producers}
    found: dict[int, tuple[str, float]] = {}
    for layer, given in ratios.items():
        ratio = _check_ratio(given, f"the ratio of {layer!r}")
        if layer in fixed and layer not in place:
            raise ValueError(
                f"filters of {layer!r} cannot be removed: {fixed[layer]}. Leave it out of the ratios."
            )
        if layer not in place:
            kind = (
                f" ({type(modules[layer]).__name__} computes no channels of its own)"
                if layer in modules
                else ""
            )
            raise KeyError(unknown_name(layer, "layer", place) + kind)
        other, other_ratio = found.setdefault(place[layer], (layer, ratio))
        if other_ratio != ratio:
            raise ValueError(
                f"{other!r} and {layer!r} are tied and lose the same filters, but their ratios are {other_ratio:g} and "
                f"{ratio:g}. Give one ratio to both."
            )
    return {number: ratio for number, (_, ratio) in found.items()}
