"""A search that can be stopped, killed and spread over processes, and its file of results."""

import copy
import importlib
import json
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from torch import nn

from course_lib import training
from course_lib.data import Dataset, Split, to_float
from course_lib.pruning.eagleeye import SearchResult, Strategy, sample_strategies, search
from course_lib.pruning.filters import filter_plan
from course_lib.pruning.surgery import remove_channels

_search = importlib.import_module("course_lib.pruning.eagleeye.search")  # the function has the module's name


def built(model, example, strategy):
    """The network that a strategy describes."""
    return remove_channels(model, example, filter_plan(model, example, strategy.ratios))


def stripes(count, seed):
    """Noise images of 8x8 pixels with a slightly brighter third, which says the class."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 150, (count, 1, 8, 8), dtype=np.uint8)
    labels = rng.integers(0, 3, count)
    for image, label in zip(images, labels, strict=True):
        image[..., 3 * label : 3 * label + 2] += 50
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def narrow(norm=nn.BatchNorm2d):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = nn.Conv2d(1, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 10, 3), norm(10), nn.ReLU()
        last = nn.Conv2d(10, 12, 1), norm(12), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 4)), nn.Flatten()
        return nn.Sequential(*first, *last, nn.Linear(48, 3))


@pytest.fixture(scope="module")
def case():
    """A trained network, its images (none to test on) and strategies whose scores differ."""
    dataset = Dataset("stripes", stripes(300, 0), stripes(200, 1), stripes(0, 0), ("left", "middle", "right"))
    model = narrow()
    training.fit(model, dataset, training.Recipe(epochs=4, batch_size=50, learning_rate=0.05))
    strategies = sample_strategies(
        model, to_float(dataset.train.images[:1]), count=8, mac_range=(0.2, 0.7), max_ratio=0.8, seed=0
    )
    return SimpleNamespace(model=model, dataset=dataset, strategies=strategies)


@pytest.fixture(scope="module")
def undisturbed(case):
    return judge(case)


def judge(case, *, strategies=None, dataset=None, **options):
    options = {"calibration_images": 100, "scoring_images": 200} | options
    return search(case.model, dataset or case.dataset, strategies or case.strategies, **options)


@pytest.fixture
def judged(monkeypatch):
    """The places of the strategies that are judged in this process."""
    places, original = [], _search._judge

    def note(place, *rest):
        places.append(place)
        return original(place, *rest)

    monkeypatch.setattr(_search, "_judge", note)
    return places


def by_hand(case, calibrate):
    """The scores with all images of both splits."""
    for strategy in case.strategies:
        small = built(case.model, to_float(case.dataset.train.images[:1]), strategy).eval()
        if calibrate:
            for norm in (small[1], small[4], small[7]):
                norm.momentum, norm.training = 1.0, True  # statistics of the last batch alone
            small(to_float(case.dataset.train.images))
            small.eval()
        predicted = small(to_float(case.dataset.validation.images)).argmax(1)
        yield (predicted == case.dataset.validation.labels).double().mean().item()


@pytest.mark.parametrize("calibration_images", [300, 0])
def test_scores_are_those_of_a_loop_written_by_hand(case, calibration_images):
    found = judge(case, calibration_images=calibration_images)
    with torch.no_grad():
        assert list(found.scores) == list(by_hand(case, calibration_images > 0))
    assert len(set(found.scores)) > 4
    assert found.strategies == tuple(case.strategies)
    assert len(found.seconds) == 8
    assert min(found.seconds) > 0


def test_searching_leaves_network_and_random_numbers_as_they_were(case):
    state, random_state, threads = (
        copy.deepcopy(case.model.state_dict()),
        torch.get_rng_state(),
        torch.get_num_threads(),
    )
    case.model.train()
    judge(case, strategies=case.strategies[:2])
    assert all(layer.training for layer in case.model.modules())
    case.model.eval()
    assert all(torch.equal(value, state[name]) for name, value in case.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.get_num_threads() == threads


@pytest.mark.bad_input  # the type checker would refuse this split
def test_neither_the_test_split_nor_the_labels_of_training_images_are_looked_at(case, undisturbed):
    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError(f"the test split was asked for its {name}")

    train = replace(case.dataset.train, labels=case.dataset.train.labels * 0)
    poisoned = replace(case.dataset, train=train, test=Untouchable())
    assert judge(case, dataset=poisoned) == undisturbed


@pytest.mark.parametrize("split", ["train", "validation"])
def test_calibration_and_scoring_images_are_drawn_from_their_own_splits(case, split, monkeypatch):
    """The first pixel of an image says which it is; so what reaches the network can be read."""
    seen = []
    run = nn.Conv2d.forward

    def forward(layer, x):
        if len(x) > 1 and x.shape[1] == 1:  # not while it is followed, with one image
            seen.append((x[:, 0, 0, 0] * 255).round().long().tolist())
        return run(layer, x)

    numbered = {
        name: replace(part, images=part.images.clone())
        for name, part in vars(case.dataset).items()
        if name in ("train", "validation")
    }
    for name, start in (("train", 0), ("validation", 200)):
        numbered[name] = numbered[name].subset(torch.arange(50))
        numbered[name].images[:, 0, 0, 0] = start + torch.arange(50)
    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    dataset = replace(case.dataset, **numbered)
    draws = []
    for seed in (0, 0, 1):
        seen.clear()
        judge(
            case,
            dataset=dataset,
            strategies=case.strategies[:2],
            calibration_images=20,
            scoring_images=30,
            seed=seed,
        )
        first, second = seen[:2], seen[2:]
        assert first == second  # the same images for all strategies
        draws.append(first[split == "validation"])
    assert draws[0] == draws[1]
    assert set(draws[0]) != set(draws[2])
    start, count = (0, 20) if split == "train" else (200, 30)
    for draw in draws:
        assert len(set(draw)) == count
        assert all(start <= number < start + 50 for number in draw)
        assert draw != sorted(draw)


def test_many_calibration_images_go_through_in_equal_batches(case, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        _search, "recalibrate_batch_norm", lambda model, parts: sizes.append([len(p) for p in parts])
    )
    dataset = replace(case.dataset, train=stripes(1100, 0))
    for count in (1, 500, 501, 1100):
        judge(case, dataset=dataset, strategies=case.strategies[:1], calibration_images=count)
    assert sizes == [[1], [500], [251, 250], [367, 367, 366]]


def test_the_best_are_those_with_the_highest_scores_and_of_equals_the_earlier():
    strategies = tuple(Strategy({"0": place / 10}, 1, 1.0) for place in range(5))
    result = SearchResult(strategies, (0.5, 0.9, 0.2, 0.9, 0.9), (1.0,) * 5)
    assert result.best() == [strategies[1]]
    assert result.best(4) == [strategies[place] for place in (1, 3, 4, 0)]
    assert result == replace(result, seconds=(2.0,) * 5)
    assert result != replace(result, scores=(0.5, 0.9, 0.2, 0.9, 0.8))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("count", "error"), [(0, ValueError), (3, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_there_are_no_more_best_than_strategies(count, error):
    with pytest.raises(error, match=f"count is {count}"):
        SearchResult((Strategy({}, 1, 1.0),) * 2, (0.5, 0.5), (1.0, 1.0)).best(count)


# Workers


def test_one_worker_and_two_find_the_same(case, undisturbed):
    assert judge(case, workers=1) == judge(case, workers=2) == undisturbed


def test_a_dask_cluster_finds_the_same(case, undisturbed, tmp_path):
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
        distributed.get_task_stream(client) as stream,
        joblib.parallel_config("dask"),
    ):
        assert judge(case, path=tmp_path / "found.jsonl") == undisturbed
        assert judge(case, path=tmp_path / "found.jsonl") == undisturbed  # from the file
    tasks = [task for task in stream.data if "in_worker" in task["key"]]
    assert len({task["key"] for task in tasks}) == len(
        case.strategies
    )  # on the cluster, each of them, and once


def test_threads_of_one_process_find_the_same(case, undisturbed, monkeypatch):
    """They share the model: each cuts a copy, on one thread, while others are under way; nothing lends the model."""
    inside, most, original = [], [], _search._judge

    def watched(*arguments):
        inside.append("in")
        most.append(len(inside))
        assert torch.get_num_threads() == 1
        time.sleep(0.02)
        found = original(*arguments)
        inside.remove("in")
        return found

    monkeypatch.setattr(_search, "_judge", watched)
    case.model.train()
    with joblib.parallel_config("threading", n_jobs=3):
        assert judge(case) == undisturbed
    assert max(most) > 1
    assert all(layer.training for layer in case.model.modules())
    case.model.eval()


PROGRAM = """
import pickle, sys
from course_lib.pruning.eagleeye import search
with open(sys.argv[1], "rb") as stream:
    arguments = pickle.load(stream)
search(*arguments, calibration_images=100, scoring_images=200, path=sys.argv[2])
"""


def test_a_search_that_is_killed_and_started_again_equals_one_that_is_not(case, tmp_path):
    example = to_float(case.dataset.train.images[:1])
    strategies = sample_strategies(
        case.model, example, count=200, mac_range=(0.1, 0.9), max_ratio=0.9, seed=1
    )
    given, path = tmp_path / "arguments", tmp_path / "found.jsonl"
    given.write_bytes(pickle.dumps((case.model, case.dataset, strategies)))
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, given, path], stderr=subprocess.DEVNULL)
    while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") > 100):
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n")]
    assert 101 <= len(kept) < 201
    # In workers, which run without the type checker of the suite and so many times faster.
    again = judge(case, strategies=strategies, path=path, workers=2)
    whole = judge(case, strategies=strategies, workers=2)
    assert again == whole
    assert whole.strategies == tuple(strategies)
    assert len(set(whole.scores)) > 20
    after = path.read_bytes().splitlines(keepends=True)
    assert len(after) == 201
    assert after[: len(kept)] == kept  # those are not judged again


def test_a_worker_that_dies_takes_no_other_candidate_with_it(case, tmp_path, judged):
    """One candidate kills its process each time, another the first time; the rest is judged, and the search goes on."""
    parent, marker = os.getpid(), str(tmp_path / "died")

    class Killer:  # local, so that it is pickled as a whole
        def __call__(self, layer, inputs):
            width = inputs[0].shape[1]
            if os.getpid() != parent and (width == 9 or (width == 5 and not os.path.exists(marker))):
                if width == 5:
                    open(marker, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)

    model, path = copy.deepcopy(case.model), tmp_path / "found.jsonl"
    # 9, 8, ... 3 filters left
    strategies = [Strategy({"0": 0.25, "3": gone / 10}, 1, 1.0) for gone in range(1, 8)]
    expected = judge(case, strategies=strategies)
    model[5].register_forward_pre_hook(Killer())
    deadly = SimpleNamespace(model=model, dataset=case.dataset)
    judged.clear()
    with pytest.raises(
        RuntimeError, match=r"^strategies \[0\] are not judged: with each .* died.* All others are"
    ):
        judge(deadly, strategies=strategies, workers=2, path=path)
    assert os.path.exists(marker)
    assert len(path.read_text().splitlines()) == 1 + 6
    assert judged == []
    assert judge(deadly, strategies=strategies, workers=1, path=path) == expected
    assert judged == [0]


def test_what_a_worker_refuses_comes_back_with_its_place(case):
    strategies = [*case.strategies[:2], Strategy({"8": 0.5}, 1, 1.0)]
    with pytest.raises(KeyError, match="strategy 2 cannot be judged: unknown layer '8'"):
        judge(case, strategies=strategies, workers=2)


# The file of results


def test_results_are_written_one_by_one_and_read_again(case, undisturbed, tmp_path, judged, monkeypatch):
    path, lines, note = tmp_path / "new" / "found.jsonl", [], _search._judge
    monkeypatch.setattr(
        _search, "_judge", lambda *rest: lines.append(path.read_text().count("\n")) or note(*rest)
    )
    assert judge(case, path=path) == undisturbed
    assert lines == list(range(1, 9))
    content = path.read_bytes()
    again = judge(case, path=str(path))
    assert again == undisturbed
    assert again.seconds == tuple(json.loads(line)["seconds"] for line in content.splitlines()[1:])
    assert judged == list(range(8))
    assert path.read_bytes() == content


def test_only_what_the_file_lacks_is_judged(case, undisturbed, tmp_path, judged):
    path = tmp_path / "found.jsonl"
    judge(case, strategies=case.strategies[3:6], path=path)
    judged.clear()
    assert judge(case, path=path) == undisturbed
    assert judged == [0, 1, 2, 6, 7]
    backwards = judge(case, strategies=case.strategies[::-1], path=path)
    assert backwards.scores == undisturbed.scores[::-1]
    assert len(judged) == 5


@pytest.mark.parametrize("cut", [1, 40])
def test_a_last_line_that_was_cut_off_is_judged_again(case, undisturbed, tmp_path, judged, cut):
    path = tmp_path / "found.jsonl"
    judge(case, path=path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    judged.clear()
    assert judge(case, path=path) == undisturbed
    assert judged == [7]
    ratios = [json.loads(line)["ratios"] for line in path.read_text().splitlines()[1:]]
    assert ratios == [strategy.ratios for strategy in case.strategies]


def test_an_empty_file_is_a_new_one(case, tmp_path, judged):
    path = tmp_path / "found.jsonl"
    path.touch()
    judge(case, strategies=case.strategies[:2], path=path)
    assert len(path.read_text().splitlines()) == 1 + 2


def test_an_interrupted_search_keeps_what_was_finished(case, undisturbed, tmp_path, judged, monkeypatch):
    path, note = tmp_path / "found.jsonl", _search._judge

    def interrupted(place, *rest):
        if place == 4:
            raise KeyboardInterrupt
        return note(place, *rest)

    monkeypatch.setattr(_search, "_judge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        judge(case, path=path)
    monkeypatch.setattr(_search, "_judge", note)
    assert len(path.read_text().splitlines()) == 1 + 4
    assert judge(case, path=path) == undisturbed
    assert judged == list(range(8))


DAMAGES = {
    "half a line": lambda lines: [*lines[:2], lines[2][:20], *lines[3:]],
    "no score": lambda lines: [*lines[:2], '{"ratios": {}}', *lines[3:]],
    "no number": lambda lines: [
        *lines[:2],
        lines[2].replace('"score": ', '"score": "a" , "was": '),
        *lines[3:],
    ],
    "blank": lambda lines: [*lines[:2], "", *lines[3:]],
    "a list": lambda lines: [*lines[:2], "[]", *lines[3:]],
    "another score": lambda lines: [
        *lines[:2],
        re.sub(r'("score": )[\d.]+', r"\g<1>0.539", lines[2]),
        *lines[3:],
    ],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_is_refused_by_its_number(case, tmp_path, judged, damage):
    path = tmp_path / "found.jsonl"
    judge(case, strategies=case.strategies[:4], path=path)
    path.write_text("\n".join(DAMAGES[damage](path.read_text().splitlines())) + "\n")
    content, calls = path.read_bytes(), len(judged)
    with pytest.raises(
        ValueError, match=r"^line 3 of .*found.jsonl is damaged .* Give another path, or delete the file"
    ):
        judge(case, path=path)
    assert path.read_bytes() == content
    assert len(judged) == calls


@pytest.mark.parametrize(
    "other", ["weights", "network", "validation", "labels", "train", "seed", "count", "plain"]
)
def test_the_file_of_another_search_is_refused(case, tmp_path, judged, other):
    path = tmp_path / "found.jsonl"
    judge(case, strategies=case.strategies[:2], path=path)
    content, calls = path.read_bytes(), len(judged)
    model, dataset, options = copy.deepcopy(case.model), case.dataset, {}
    if other == "weights":
        model[0].weight.data[0, 0, 0, 0] += 1e-6
    elif other == "network":
        model[2] = nn.ReLU6()
    elif other == "labels":
        dataset = replace(
            dataset, validation=replace(dataset.validation, labels=2 - dataset.validation.labels)
        )
    elif other in ("train", "validation"):
        dataset = replace(dataset, **{other: stripes(300, 5)})
    else:
        options = {"seed": {"seed": 1}, "count": {"scoring_images": 199}, "plain": {"calibration_images": 0}}[
            other
        ]
    with pytest.raises(
        ValueError, match=r"found.jsonl holds the results of another search.* Give another path"
    ):
        judge(SimpleNamespace(model=model, strategies=case.strategies), dataset=dataset, path=path, **options)
    assert path.read_bytes() == content
    assert len(judged) == calls


@pytest.mark.parametrize(
    "content", [b"a diary", b"a diary\n", b'{"a": 1}', b'{"search": 1}\n', b"\x89PNG\r\n\x1a\n\0\xff"]
)
def test_a_file_that_is_no_search_is_left_as_it_is(case, tmp_path, judged, content):
    path = tmp_path / "thesis.tex"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"thesis.tex (is damaged|holds the results of another search)"):
        judge(case, path=path)
    assert path.read_bytes() == content
    assert judged == []


# Bad input


def without_batch_norm(case):
    return {"model": narrow(lambda width: nn.Identity())}


def broken(layer, value=math.nan):
    def change(case):
        model = copy.deepcopy(case.model)
        model[layer].weight.data[1] = value
        return {"model": model}

    return change


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "vgg"}, TypeError, "model is a str; it must be a torch.nn.Module"),
        ({"strategies": []}, ValueError, "no strategies, but .*Draw some: sample_strategies"),
        (
            {"strategies": [{"0": 0.5}]},
            TypeError,
            r"strategies is \[\{'0': 0.5\}\]; it must be a list of Strategy",
        ),
        ({"strategies": Strategy({}, 1, 1.0)}, TypeError, "strategies is Strategy"),
        ({"strategies": iter([Strategy({}, 1, 1.0)])}, TypeError, "strategies is <list_iterator"),
        (
            {"strategies": [Strategy({"0": 1.0}, 1, 1.0)]},
            ValueError,
            r"strategy 0 cannot be judged: the ratio of '0' is",
        ),
        (
            {"strategies": [Strategy({"1": 0.5}, 1, 1.0)]},
            KeyError,
            "strategy 0 cannot be judged: unknown layer '1'",
        ),
        ({"calibration_images": 301}, ValueError, "calibration_images is 301, but its split has 300 images"),
        ({"calibration_images": -1}, ValueError, "calibration_images is -1"),
        ({"calibration_images": 1.5}, TypeError, "calibration_images is 1.5"),
        ({"scoring_images": 201}, ValueError, "scoring_images is 201, but its split has 200 images"),
        ({"scoring_images": 0}, ValueError, "scoring_images is 0; it must be at least 1"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"workers": 0}, ValueError, "workers is 0; it must be at least 1"),
        ({"workers": -2}, ValueError, "workers is -2"),
        ({"workers": 1.5}, TypeError, "workers is 1.5"),
        ({"workers": True}, TypeError, "workers is True"),
        (
            without_batch_norm,
            ValueError,
            "the model has no batch norm with running stat.*Pass calibration_images=0",
        ),
        (
            broken(3),
            ValueError,
            "strategy 0 cannot be judged: the criterion cannot score the weight of '3': weight holds NaN",
        ),
        (broken(1), ValueError, "strategy 0 cannot be judged: 4.running_mean became NaN or infinite"),
        (broken(11), ValueError, "strategy 0 cannot be judged: the model returns NaN"),
    ],
)
def test_a_search_refuses_what_has_no_meaning(case, change, error, message):
    given = {"model": case.model, "strategies": [Strategy({"3": 0.5}, 1, 1.0)], "scoring_images": 10}
    given |= {"calibration_images": 10} | (change(case) if callable(change) else change)
    with pytest.raises(error, match=message):
        search(given.pop("model"), case.dataset, given.pop("strategies"), **given)


def test_without_batch_norm_the_plain_judgement_is_left(case):
    plain = SimpleNamespace(model=without_batch_norm(case)["model"], dataset=case.dataset)
    found = judge(plain, strategies=case.strategies[:2], calibration_images=0)
    assert all(0 <= score <= 1 for score in found.scores)
