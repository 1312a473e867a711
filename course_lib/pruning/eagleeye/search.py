"""Score every strategy by its accuracy after batch norm has been recalibrated."""

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from course_lib import jobs, tracing, training
from course_lib.data import Dataset, Split, to_float
from course_lib.progress import progress
from course_lib.pruning.eagleeye.record import _Judged, _key, _Record
from course_lib.pruning.eagleeye.strategies import Strategy
from course_lib.pruning.filters import filter_plan
from course_lib.pruning.graph import Channels, follow
from course_lib.pruning.recalibration import recalibrate_batch_norm
from course_lib.pruning.surgery import remove_channels
from course_lib.validation import check_count, described


@dataclass(frozen=True)
class SearchResult:
    """Every strategy with its score, in the order in which they were given.

    Attributes:
        strategies: as given.
        scores: accuracy of each on the scoring images, in [0, 1].
        seconds: what judging each of them took; not compared, since it differs from run to run.

    Example:
        >>> few = (Strategy({"0": 0.1}, 90, 0.9), Strategy({"0": 0.5}, 50, 0.5))
        >>> SearchResult(few, scores=(0.7, 0.8), seconds=(0.1, 0.1)).best()
        [Strategy(ratios={'0': 0.5}, macs=50, mac_share=0.5)]
    """

    strategies: tuple[Strategy, ...]
    scores: tuple[float, ...]
    seconds: tuple[float, ...] = field(compare=False)

    def best(self, count: int = 1) -> list[Strategy]:
        """Return the strategies with the highest scores, best first; of equal scores the earlier one.

        Raises:
            TypeError, ValueError: `count` is not a whole number from 1 to the number of strategies.
        """
        check_count(count, "count", high=len(self.strategies))
        order = sorted(range(len(self.scores)), key=lambda place: -self.scores[place])
        return [self.strategies[place] for place in order[:count]]


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
    channels: Channels | None = None,
) -> SearchResult:
    """Score every strategy: prune, recalibrate batch norm, measure accuracy. Nothing is trained.

    The calibration images are drawn from the training split, the scoring images from the validation split, which is
    cut from the training images too; both are the same for all strategies. The test split is not touched.

    Each candidate is judged on one thread, so that the scores do not depend on the number of workers.

    Args:
        model: trained network with batch norm; it is left as it was.
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
        channels: of the model, as `graph.follow` gives them; followed once here where not given.

    Returns:
        Strategies, scores and seconds, in the order given.

    Raises:
        TypeError: a number of another kind, or something else than strategies.
        ValueError: no strategies; more images than a split holds; a file of another search, or damaged; a model without
            batch norm, or one that gives NaN.
        RuntimeError: a worker process died at some candidates, twice while each was tried alone. All others are judged,
            and kept in `path`.

    References:
        Li et al., "EagleEye", ECCV 2020, sections 3.3 and 3.4 (adaptive batch normalization as the evaluation).
    """
    tracing.check_network(model)
    if not list(model.parameters()):
        raise ValueError(
            "the model has no parameters, so there is nothing to prune; it must have some. Pass the network as it was "
            "before it was quantized or converted."
        )
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"dataset is {described(dataset)}; it must be a Dataset with a training and a validation split. Pass "
            "data.load_dataset(name), or build one: Dataset(name, train, validation, test, classes)."
        )
    _check_strategies(strategies)
    if workers is not None and workers != -1:
        check_count(workers, "workers")
    calibration = _draw(dataset.train, calibration_images, seed, "calibration_images", low=0)
    scoring = _draw(dataset.validation, scoring_images, seed, "scoring_images", low=1)
    if channels is not None:
        if not isinstance(channels, Channels):
            raise TypeError(
                f"channels is {described(channels)}; it must be a Channels. Pass follow(model, example)."
            )
        channels.check(model)
    if calibration_images and not any(_keeps_statistics(layer) for layer in model.modules()):
        raise ValueError(
            "the model has no batch norm with running statistics, so there is nothing to recalibrate; it must have "
            "one. Pass calibration_images=0 to judge the strategies without."
        )
    job = _Job(model, calibration, scoring, channels)
    record = _Record(path, job.fingerprint)
    keys = [_key(strategy.ratios) for strategy in strategies]
    done = {place: record.known[key] for place, key in enumerate(keys) if key in record.known}
    left = [place for place in range(len(strategies)) if place not in done]
    if left and channels is None:
        job = replace(job, channels=follow(model, to_float(scoring.images[:1].to(_device(model)))))
    with progress("candidates", len(strategies), done=len(done)) as shown:
        for place, judged in _judge_all(job, strategies, left, workers):
            done[place] = judged
            record.write(strategies[place].ratios, judged)
            shown.step()
    scores, seconds = zip(*(done[place] for place in range(len(strategies))), strict=True)
    return SearchResult(tuple(strategies), scores, seconds)


@dataclass(frozen=True)
class _Job:
    """What every candidate of a search is judged with."""

    model: nn.Module
    calibration: Split
    scoring: Split
    channels: Channels | None

    def fingerprint(self) -> str:
        """A digest of everything that a score depends on, beside the strategy."""
        digest = hashlib.sha256(str(self.model).encode())
        tensors = [*self.model.state_dict().items(), ("calibration", self.calibration.images)]
        tensors += [("images", self.scoring.images), ("labels", self.scoring.labels)]
        for name, tensor in tensors:
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()


def _keeps_statistics(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _judge(place: int, job: _Job, strategy: Strategy) -> _Judged:
    """Prune, recalibrate, evaluate."""
    started = time.perf_counter()
    device = _device(job.model)
    try:
        plan = filter_plan(job.model, job.channels, strategy.ratios)
        candidate = remove_channels(job.model, job.channels, plan)
        if len(job.calibration):
            parts = job.calibration.images.tensor_split(math.ceil(len(job.calibration) / 500))
            recalibrate_batch_norm(candidate, (to_float(part.to(device)) for part in parts))
        score = training.evaluate(candidate, job.scoring)
    except (TypeError, ValueError, KeyError) as error:
        raise type(error)(f"strategy {place} cannot be judged: {error.args[0]}") from error
    return _Judged(score, time.perf_counter() - started)


def _judge_all(
    job: _Job, strategies: Sequence[Strategy], places: Sequence[int], workers: int | None
) -> Iterator[tuple[int, _Judged]]:
    """Judge the strategies at these places, each as soon as a worker is free, and again where a worker dies."""
    pool, lost = jobs.Processes(_judge_on_one_thread, workers=workers), list[int]()
    calls = {place: (place, job, strategies[place]) for place in places}
    for place, judged in jobs.isolated(pool, calls, tries=2):
        if isinstance(judged, jobs.Lost):
            lost.append(place)
        else:
            yield place, judged
    if lost:
        raise RuntimeError(
            f"strategies {sorted(lost)} are not judged: with each of them a worker process died, or was silent for "
            f"{pool.patience / 3600:g} hours, twice while it was tried alone. Lack of memory is the usual reason: use "
            "fewer images. All others are judged, and kept where a path was given."
        )


def _judge_on_one_thread(place: int, job: _Job, strategy: Strategy) -> _Judged:
    return jobs.on_one_thread(_judge, place, job, strategy)


def _draw(split: Split, count: int, seed: int, name: str, *, low: int) -> Split:
    """`count` random images of a split."""
    check_count(seed, "seed", low=0)
    if check_count(count, name, low=low) > len(split):
        raise ValueError(
            f"{name} is {count}, but its split has {len(split)} images (training images to calibrate with, validation "
            f"images to score on); it must be at most {len(split)}. Ask for no more, or cut a larger validation split "
            "(data.cut_validation)."
        )
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(split)))
    return split.subset(order[:count])


def _check_strategies(strategies: object) -> None:
    if not isinstance(strategies, Sequence) or not all(isinstance(s, Strategy) for s in strategies):
        raise TypeError(
            f"strategies is {strategies!r:.80}; it must be a list of Strategy. Pass what sample_strategies returns."
        )
    if not strategies:
        raise ValueError(
            "there are no strategies, but strategies must hold one at least. Draw some: sample_strategies."
        )
    for place, strategy in enumerate(strategies):
        if not isinstance(strategy.ratios, Mapping):
            raise TypeError(
                f"strategy {place} has ratios {strategy.ratios!r:.60}; they must be a mapping from layers to shares, "
                "such as {'0': 0.5}."
            )
