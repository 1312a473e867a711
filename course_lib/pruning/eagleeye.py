"""EagleEye: judging pruned candidates by their accuracy after batch norm has been recalibrated."""

import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_lib import cost, files, jobs, tracing, training
from course_lib.data import Dataset, Split, to_float
from course_lib.pruning.filters import filter_plan, unit_scores
from course_lib.pruning.graph import channel_groups
from course_lib.pruning.surgery import remove_channels
from course_lib.validation import check_count, check_number

_BatchNorm = nn.modules.batchnorm._BatchNorm
_DRAWS = 100_000  # random strategies that are tried before a range counts as out of reach
_AT_ONCE = 1000
_PATIENCE = 3600.0  # seconds without any result: joblib is not told when a Dask cluster gives a candidate up
_ALONE = threading.Lock()  # see `_judge_alone`


@dataclass(frozen=True)
class Strategy:
    """How much of each layer goes, and what is left of the operations.

    Attributes:
        ratios: {layer: share of its filters that go}, as `filters.filter_plan` takes them.
        macs: multiply-accumulates of the pruned network, as `cost.measure` counts them.
        mac_share: the same as a share of the whole network's.
    """

    ratios: dict[str, float]
    macs: int
    mac_share: float


@dataclass(frozen=True)
class SearchResult:
    """Every strategy with its score, in the order in which they were given.

    Attributes:
        strategies: as given.
        scores: accuracy of each on the scoring images, in [0, 1].
        seconds: what judging each of them took; not compared, since it differs from run to run.
    """

    strategies: tuple[Strategy, ...]
    scores: tuple[float, ...]
    seconds: tuple[float, ...] = field(compare=False)

    def best(self, count: int = 1) -> list[Strategy]:
        """The strategies with the highest scores, best first; of equal scores the earlier one.

        Raises:
            TypeError, ValueError: `count` is not a whole number from 1 to the number of strategies.
        """
        check_count(count, "count", high=len(self.strategies))
        order = sorted(range(len(self.scores)), key=lambda place: -self.scores[place])
        return [self.strategies[place] for place in order[:count]]


def sample_strategies(
    model: nn.Module,
    example: Shaped[Tensor, "N *rest"],
    *,
    count: int,
    mac_range: tuple[float, float],
    max_ratio: float,
    seed: int,
) -> list[Strategy]:
    """Random pruning strategies whose operations fall in a range.

    For every group of filters that go together (see `graph.channel_groups`) a ratio is drawn,

        ratio ~ uniform on [0, max_ratio),   low <= MACs(pruned) / MACs(whole) <= high

    and a draw outside the range is thrown away, like one that leaves the same widths as an earlier one, and one that
    takes every channel of a layer whose channels are tied to a part of another's. The MACs are computed from the
    widths, without building the network: the weights of a layer are used once at each of its output positions, and
    pruning changes how many weights there are, not how many positions. They are exactly those that `cost.measure`
    counts of the network that `filters.filter_plan` and `surgery.remove_channels` make.

    Args:
        model: network, traceable by torch.fx; it is left as it was.
        example: input [N, ...] of the dtype and on the device that the model runs on.
        count: how many strategies, all different.
        mac_range: (low, high), shares of the MACs that may be left, in (0, 1].
        max_ratio: the largest share of a layer's filters that may go, in (0, 1).
        seed: of the draws. The same seed gives the same strategies, and a smaller count the first of them.

    Returns:
        `count` strategies, in the order in which they were drawn.

    Raises:
        TypeError: a number of another kind.
        ValueError: an empty or inverted range, a ratio outside (0, 1); operations outside of convolutions and linear
            layers; or a range that the draws do not meet often enough, with how near they came. Or as
            `channel_groups`.

    Source: Li et al. 2020, "EagleEye", section 3.2 (whose code adds its `min_rate` to ratios drawn up to
        `max_rate`, so that it moves both ends).
    """
    check_count(count, "count")
    check_count(seed, "seed", low=0)
    hint = "It is the largest share of a layer's filters that may go, such as 0.7."
    max_ratio = check_number(max_ratio, "max_ratio", low=0, high=1, low_open=True, high_open=True, hint=hint)
    low, high = _check_range(mac_range)
    widths = _Widths(model, example)
    generator = np.random.default_rng(seed)
    found: dict[bytes, Strategy] = {}
    nearest, inside = math.nan, 0
    for _ in range(0, _DRAWS, _AT_ONCE):
        ratios = max_ratio * generator.random((_AT_ONCE, len(widths.groups)))
        counts = widths.counts(ratios)
        macs = widths.macs(counts)
        shares = widths.shares(macs)
        kept = (low <= shares) & (shares <= high)
        inside += int(kept.sum())
        distance = np.maximum(low - shares, shares - high)
        closest = distance.argmin()
        if not distance[closest] >= max(low - nearest, nearest - high):  # also while `nearest` is NaN
            nearest = float(shares[closest])
        for place in np.flatnonzero(kept):
            ratios_here = dict(zip(widths.names, ratios[place].tolist(), strict=True))
            strategy = Strategy(ratios_here, int(macs[place]), float(shares[place]))
            found.setdefault(counts[place].tobytes(), strategy)
            if len(found) == count:
                return list(found.values())
    came = f"the nearest has {nearest:.2%}" if not found else f"only {len(found)} different ones do"
    raise ValueError(
        f"of {_DRAWS:,} random strategies with ratios up to {max_ratio:g}, {inside:,} leave {low:.2%} to {high:.2%} of "
        f"the MACs, and {count} different ones were asked for: {came}. Widen mac_range, or change max_ratio: the draws "
        f"leave {_spread(widths, max_ratio)} of the MACs."
    )


@torch.no_grad()
def recalibrate_batch_norm(model: nn.Module, batches: Iterable[Float[Tensor, "N *rest"]]) -> None:
    """Measure the statistics of every batch norm anew, in place, without touching a weight.

    Running mean and variance are set back and become the plain average over the batches:

        mean = 1/B sum_b mean_b,   variance = 1/B sum_b variance_b

    Only batch norms are in train mode while the batches go through; dropout is off. All modes and momenta are as before
    afterwards.

    Args:
        model: network with batch norm that keeps running statistics.
        batches: inputs [N, ...] as the model takes them, on its device; a few hundred training images in all are
            plenty. Not test images: the statistics would have seen them.

    Raises:
        ValueError: no batch norm with running statistics; no batches, or a batch that the model does not accept or that
            gives NaN or infinite activations. The statistics are then what they were.

    Source: Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020, section 3.3
        (whose code does not set the statistics back).
    """
    layers = [
        layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats
    ]
    if not layers:
        raise ValueError(
            "the model has no batch norm with running statistics, so there is nothing to recalibrate. Evaluate it "
            "as it is."
        )
    modes = [(module, module.training) for module in model.modules()]
    before = [
        (layer, layer.momentum, {name: value.clone() for name, value in layer.named_buffers(recurse=False)})
        for layer in layers
    ]
    count = 0
    done = False
    try:
        for module, _ in modes:
            module.training = False
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a cumulative average instead of an exponential one
            layer.training = True
        for batch in batches:
            try:
                model(batch)
            except (RuntimeError, ValueError, TypeError) as error:
                raise ValueError(f"the model does not accept batch {count}: {error}") from error
            count += 1
        if not count:
            raise ValueError("there are no batches; give at least one, such as [images[:500]].")
        _check_statistics(model)
        done = True
    finally:
        for module, mode in modes:
            module.training = mode
        for layer, momentum, buffers in before:
            layer.momentum = momentum
            if not done:
                for name, value in buffers.items():
                    getattr(layer, name).copy_(value)


def search(
    model: nn.Module,
    dataset: Dataset,
    strategies: Sequence[Strategy],
    *,
    calibration_images: int = 500,
    scoring_images: int = 1000,
    seed: int = 0,
    workers: int | None = None,
    path: str | Path | None = None,
) -> SearchResult:
    """Score every strategy: prune, recalibrate batch norm, measure accuracy. Nothing is trained.

    The calibration images are drawn from the training split, the scoring images from the validation split, which is
    cut from the training images too; both are the same for all strategies. The test split is not touched.

    Each candidate is judged on one thread, so that the scores do not depend on the number of workers.

    Args:
        model: trained network with batch norm, traceable by torch.fx; it is left as it was.
        dataset: that the network was trained on, with a validation split.
        strategies: as `sample_strategies` gives them.
        calibration_images: how many images the statistics are measured on. 0 leaves those of the whole network: the
            plain judgement, to compare with.
        scoring_images: how many images the accuracy is measured on.
        seed: of the choice of both.
        workers: processes side by side; -1 for as many as there are cores. None means one, or what
            `joblib.parallel_config` says: inside `with joblib.parallel_config("dask"):` all workers of the Dask cluster
            that a client is connected to.
        path: file of results, a line each, written as they come. Where it exists, strategies that it holds are not
            judged again: a search that was stopped goes on. One search at a time may write to it.

    Returns:
        Strategies, scores and seconds, in the order given.

    Raises:
        TypeError: a number of another kind, or something else than strategies.
        ValueError: no strategies; more images than a split holds; a file of another search, or damaged; a model without
            batch norm, or one that gives NaN.
        RuntimeError: a worker process died at some candidates, twice while each was tried alone. All others are judged,
            and kept in `path`.

    Source: Li et al. 2020, "EagleEye", sections 3.3 and 3.4 (adaptive batch normalization as the evaluation).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; it must be a trained torch.nn.Module.")
    _check_strategies(strategies)
    if workers is not None and workers != -1:
        check_count(workers, "workers")
    calibration = _draw(dataset.train, calibration_images, seed, "calibration_images", low=0)
    scoring = _draw(dataset.validation, scoring_images, seed, "scoring_images", low=1)
    job = _Job(model, calibration, scoring)
    record = _Record(path, job)
    keys = [_key(strategy.ratios) for strategy in strategies]
    done = {place: record.known[key] for place, key in enumerate(keys) if key in record.known}
    left = [place for place in range(len(strategies)) if place not in done]
    with tqdm(total=len(strategies), initial=len(done), desc="candidates", leave=False) as bar:
        for place, judged in _judge_all(job, strategies, left, workers):
            done[place] = judged
            record.write(strategies[place], judged)
            bar.update()
    scores, seconds = zip(*(done[place] for place in range(len(strategies))), strict=True)
    return SearchResult(tuple(strategies), scores, seconds)


# ---- the operations of a strategy ------------------------------------------------------------------------------------


class _Widths:
    """The MACs of a network as a function of how many units each group of filters loses."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.groups = [group for group in channel_groups(model, example) if group.size > 1]
        if not self.groups:
            raise ValueError("no layer of the model has filters that can go; there is nothing to sample.")
        self.names = [group.producers[0].layer for group in self.groups]
        self.sizes = np.array([group.size for group in self.groups])
        positions = _positions(model, example)
        modules = dict(model.named_modules())
        self.layers = {name: (positions[name], tuple(modules[name].weight.shape)) for name in positions}
        self.whole = sum(count * math.prod(shape) for count, shape in self.layers.values())
        measured = cost.macs(model, example)
        if self.whole != measured:
            raise ValueError(
                f"{self.whole:,} of the {measured:,} MACs are in convolutions and linear layers that are called as "
                "modules; what widths do to the others is not known. Sample strategies for the part without them."
            )
        # For each axis of a layer its length, and what each group takes from it for each number of units that go.
        self.axes: dict[tuple[str, int], tuple[int, list[tuple[int, np.ndarray]]]] = {}
        for number, group in enumerate(self.groups):
            order = unit_scores(model, group).argsort(stable=True)
            rank = torch.empty_like(order)
            rank[order] = torch.arange(group.size)
            for axis in group.axes:
                ranks = rank[axis.units[axis.units >= 0]]
                table = torch.bincount(ranks + 1, minlength=group.size + 1).cumsum(0)
                _, tables = self.axes.setdefault((axis.layer, axis.axis), (len(axis.units), []))
                tables.append((number, table.numpy()))

    def counts(self, ratios: np.ndarray) -> np.ndarray:
        """[B, groups] ratios -> int64 [B, groups] units that go, as `filters.filter_plan` has it."""
        return np.minimum(np.rint(ratios * self.sizes), self.sizes - 1).astype(np.int64)

    def macs(self, counts: np.ndarray) -> np.ndarray:
        """[B, groups] units that go -> int64 [B] MACs; 0 where a layer would have no channel left."""
        left = {
            place: length - sum(table[counts[:, number]] for number, table in tables)
            for place, (length, tables) in self.axes.items()
        }
        total = np.zeros(len(counts), dtype=np.int64)
        for layer, (positions, shape) in self.layers.items():
            weights = np.full(len(counts), positions, dtype=np.int64)
            for axis, length in enumerate(shape):
                weights *= left.get((layer, axis), length)
            total += weights
        return np.where(np.min([*left.values()], axis=0) > 0, total, 0)

    def shares(self, macs: np.ndarray) -> np.ndarray:
        """int64 [B] MACs -> float64 [B], their share of the whole; infinite for 0, which is in no range."""
        return np.where(macs > 0, macs / self.whole, np.inf)


def _positions(model: nn.Module, example: Tensor) -> dict[str, int]:
    """How often each weight of a convolution or linear layer is used in one pass, where the layer is called at all."""
    positions: dict[str, int] = {}
    names = {module: name for name, module in model.named_modules()}

    def note(
        layer: nn.Module, inputs: tuple[Tensor, ...], keywords: dict[str, Tensor], output: Tensor
    ) -> None:
        transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
        counted = (inputs[0] if inputs else keywords["input"]) if transposed else output
        channels = len(layer.weight)  # those of `counted`
        positions[names[layer]] = positions.get(names[layer], 0) + counted.numel() // channels

    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    with tracing.borrowed(model), contextlib.ExitStack() as hooks:
        for module in names:
            if isinstance(module, kinds):
                hooks.enter_context(module.register_forward_hook(note, with_kwargs=True))
        tracing.run(model, example)
    return positions


def _spread(widths: _Widths, max_ratio: float) -> str:
    """The middle 90 % of the shares of MACs that ratios up to `max_ratio` leave, as a text."""
    ratios = max_ratio * np.random.default_rng(0).random((_AT_ONCE, len(widths.groups)))
    shares = widths.shares(widths.macs(widths.counts(ratios)))
    low, high = np.quantile(shares[np.isfinite(shares)], [0.05, 0.95])
    return f"{low:.0%} to {high:.0%} (the middle nine tenths of them)"


def _check_range(mac_range: object) -> tuple[float, float]:
    hint = "mac_range is (low, high), shares of the MACs that may be left, such as (0.48, 0.52)."
    if not isinstance(mac_range, Sequence) or isinstance(mac_range, str | bytes):
        raise TypeError(f"mac_range is {mac_range!r:.80}. {hint}")
    if len(mac_range) != 2:
        raise ValueError(f"mac_range is {mac_range!r:.80}, with {len(mac_range)} numbers. {hint}")
    low = check_number(mac_range[0], "the low end of mac_range", low=0, high=1, hint=hint)
    high = check_number(mac_range[1], "the high end of mac_range", low=0, high=1, low_open=True, hint=hint)
    if low > high:
        raise ValueError(f"mac_range is ({low:g}, {high:g}), which is inverted. {hint}")
    return low, high


# ---- judging ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """What every candidate of a search is judged with."""

    model: nn.Module
    calibration: Split
    scoring: Split

    def fingerprint(self) -> str:
        """A digest of everything that a score depends on, beside the strategy."""
        digest = hashlib.sha256(str(self.model).encode())
        tensors = [*self.model.state_dict().items(), ("calibration", self.calibration.images)]
        tensors += [("images", self.scoring.images), ("labels", self.scoring.labels)]
        for name, tensor in tensors:
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()


class _Judged(NamedTuple):
    score: float
    seconds: float


def _judge(place: int, job: _Job, strategy: Strategy) -> tuple[int, _Judged]:
    """Prune, recalibrate, evaluate."""
    started = time.perf_counter()
    device = next(job.model.parameters()).device
    example = to_float(job.scoring.images[:1].to(device))
    try:
        plan = filter_plan(job.model, example, strategy.ratios)
        candidate = remove_channels(job.model, example, plan)
        if len(job.calibration):
            parts = job.calibration.images.tensor_split(math.ceil(len(job.calibration) / 500))
            recalibrate_batch_norm(candidate, (to_float(part.to(device)) for part in parts))
        score = training.evaluate(candidate, job.scoring)
    except (ValueError, KeyError) as error:
        raise type(error)(f"strategy {place} cannot be judged: {error.args[0]}") from error
    return place, _Judged(score, time.perf_counter() - started)


def _judge_all(
    job: _Job, strategies: Sequence[Strategy], places: Sequence[int], workers: int | None
) -> Iterator[tuple[int, _Judged]]:
    """Judge the strategies at these places, each as soon as a worker is free; start again when a worker dies."""
    import joblib  # here, since who only recalibrates needs no processes

    # What is sent to the workers together: at first everything. When a worker dies, what was under way goes again one
    # by one, so that a candidate that kills its worker each time takes no other with it.
    batches, deaths_alone, lost = [list(places)] * bool(places), Counter[int](), list[int]()
    while batches:
        batch, sent = batches.pop(0), list[int]()
        left = dict.fromkeys(batch)
        patience = _PATIENCE if joblib.effective_n_jobs(workers) > 1 else None
        # batch_size 1: what is finished comes back at once, and is kept if another candidate's worker dies.
        pool = joblib.Parallel(
            n_jobs=workers, batch_size=1, return_as="generator_unordered", timeout=patience
        )
        try:
            for place, judged in pool(_tasks(job, strategies, batch, sent)):
                del left[place]
                yield place, judged
        except (BrokenExecutor, multiprocessing.TimeoutError):
            suspects = [place for place in sent if place in left]
            deaths_alone.update(suspects if len(batch) == 1 else [])
            lost += [place for place in suspects if deaths_alone[place] == 2]
            rest = [place for place in left if place not in suspects]
            batches += [rest] * bool(rest) + [[place] for place in suspects if place not in lost]
    if lost:
        raise RuntimeError(
            f"strategies {sorted(lost)} are not judged: with each of them a worker process died, or was silent for "
            f"{_PATIENCE / 3600:g} hours, twice while it was tried alone. Lack of memory is the usual reason: use "
            "fewer images. All others are judged, and kept where a path was given."
        )


def _tasks(
    job: _Job, strategies: Sequence[Strategy], places: Sequence[int], sent: list[int]
) -> Iterator[tuple]:
    """Calls as joblib takes them; `sent` lists those that it has taken."""
    import joblib

    for place in places:
        sent.append(place)
        yield joblib.delayed(_judge_alone)(place, job, strategies[place])


def _judge_alone(place: int, job: _Job, strategy: Strategy) -> tuple[int, _Judged]:
    """Judge on one thread, and one at a time in a process: tracing changes nn.Module while it lasts."""
    with _ALONE:
        return jobs.on_one_thread(_judge, place, job, strategy)


def _draw(split: Split, count: int, seed: int, name: str, *, low: int) -> Split:
    """`count` random images of a split."""
    check_count(seed, "seed", low=0)
    if check_count(count, name, low=low) > len(split):
        raise ValueError(
            f"{name} is {count}, but its split has {len(split)} images (training images to calibrate with, validation "
            "images to score on). Ask for no more, or cut a larger validation split (data.cut_validation)."
        )
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(split)))
    return split.subset(order[:count])


def _check_strategies(strategies: object) -> None:
    if not isinstance(strategies, Sequence) or not all(isinstance(s, Strategy) for s in strategies):
        raise TypeError(
            f"strategies is {strategies!r:.80}; it must be a list of Strategy, as sample_strategies gives it."
        )
    if not strategies:
        raise ValueError("there are no strategies; sample_strategies draws some.")


class _Record:
    """The file of results: a line with the search's fingerprint, then a line a candidate. Without a path, nothing."""

    def __init__(self, path: str | Path | None, job: _Job) -> None:
        self.path = None if path is None else Path(path)
        self.known: dict[str, _Judged] = {}
        if self.path is None:
            return
        head = {"search": job.fingerprint()}
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]  # a line that was cut off in writing does not count
        if content:
            self._read((whole or content).decode(errors="replace").splitlines(), head)
        if whole != content or not whole:
            files.write_bytes(self.path, whole or _line(head))

    def write(self, strategy: Strategy, judged: _Judged) -> None:
        """Add a line; it is on the disk when this returns."""
        if self.path is not None:
            with open(self.path, "ab") as stream:
                stream.write(
                    _line({"ratios": strategy.ratios, "score": judged.score, "seconds": judged.seconds})
                )
                stream.flush()
                os.fsync(stream.fileno())

    def _read(self, lines: Sequence[str], head: dict[str, str]) -> None:
        remedy = "Give another path, or delete the file to judge everything again."
        for number, text in enumerate(lines, start=1):
            try:
                line = json.loads(text)
                if number > 1:
                    self.known[_key(line["ratios"])] = _Judged(float(line["score"]), float(line["seconds"]))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"line {number} of {self.path} is damaged ({error!r}). {remedy}") from error
            if number == 1 and line != head:
                raise ValueError(
                    f"{self.path} holds the results of another search: another network, other images, or none at all. "
                    f"{remedy}"
                )


def _line(content: dict) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _key(ratios: dict[str, float]) -> str:
    return json.dumps(ratios, sort_keys=True)


def _check_statistics(model: nn.Module) -> None:
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")) and not torch.isfinite(buffer).all():
            raise ValueError(
                f"{name} became NaN or infinite. Look for such values in the batches, and in the weights of a network "
                "that diverged."
            )
