"""`python -m tests.pruning.reach torchvision|timm|user [names]`: which networks can be pruned, and whether rightly.

Each network is judged in a process of its own, with limits of time and memory, beside Torch-Pruning on the same one.
The table goes to build/reach/NAME.json too.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
import torch_pruning
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tests.pruning import law, networks

SECONDS, PEER_SECONDS, BYTES = 600, 120, 6 * 2**30
RESULTS = Path("build/reach")
ROW = "{name:40} {status:9} {groups:>4} groups {share:5.1%} gone  {seconds:6.1f} s  {peer:16} {detail}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.pruning.reach", description=__doc__)
    parser.add_argument("collection", choices=list(networks.COLLECTIONS))
    parser.add_argument("names", nargs="*", help="of the collection's networks (default all)")
    parser.add_argument("--seeds", type=int, default=1, help="random plans for each network (default 1)")
    parser.add_argument("--no-peer", action="store_true", help="without Torch-Pruning")
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(_one(arguments.side, arguments.collection, arguments.names[0], arguments.seeds)))
        return
    rows = []
    for name in arguments.names or networks.COLLECTIONS[arguments.collection]:
        rows.append(apart(arguments.collection, name, arguments.seeds, not arguments.no_peer))
        print(ROW.format(**{**rows[-1], "detail": rows[-1]["detail"][:160]}), flush=True)
    if not arguments.names:
        save(arguments.collection, rows)
    print(summary(arguments.collection, rows))


def reach(collection: str, seeds: int = 1, peer: bool = True) -> list[dict]:
    """The rows of a whole collection, one network at a time; they are saved too."""
    rows = [apart(collection, name, seeds, peer) for name in networks.COLLECTIONS[collection]]
    save(collection, rows)
    return rows


def save(collection: str, rows: list[dict]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{collection}.json").write_text(json.dumps(rows, indent=1) + "\n")


def summary(collection: str, rows: list[dict]) -> str:
    ours, theirs = Counter(row["status"] for row in rows), Counter(row["peer"] for row in rows)
    still = sum(row["status"] == "lawful" and row["effect"] < 1e-9 for row in rows)
    return "\n".join(
        [
            f"{collection}: {len(rows)} networks; {', '.join(f'{n} {status}' for status, n in ours.most_common())}",
            f"Torch-Pruning: {', '.join(f'{n} {status}' for status, n in theirs.most_common())}",
            *([f"{still} lawful ones of which the output did not move"] if still else []),
        ]
    )


def apart(collection: str, name: str, seeds: int = 1, peer: bool = True) -> dict:
    """The row of one network; each side is worked out in a process of its own."""
    row = {"name": name, "seconds": 0.0, "peer": "", **vars(law.Verdict("failed"))}
    row |= _answer("ours", collection, name, seeds, SECONDS)
    if peer:
        theirs = _answer("peer", collection, name, seeds, PEER_SECONDS)
        row["peer"] = theirs.get("peer", "fails (no answer)")
    row["detail"] = " ".join(row["detail"].split())
    return row


def _answer(side: str, collection: str, name: str, seeds: int, limit: float) -> dict:
    command = [
        sys.executable,
        "-m",
        "tests.pruning.reach",
        collection,
        name,
        f"--side={side}",
        f"--seeds={seeds}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment)
    except subprocess.TimeoutExpired:
        return {"detail": f"no answer in {limit} s"}
    if done.returncode:
        return {"detail": f"died: {done.stderr.strip()[-300:]}"}
    return json.loads(done.stdout.splitlines()[-1])


def _one(side: str, collection: str, name: str, seeds: int) -> dict:
    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        if side == "peer":
            return {"peer": peer_verdict(collection, name)}
        started = time.perf_counter()
        verdict = judged(collection, name, seeds)
        return {**vars(verdict), "seconds": round(time.perf_counter() - started, 1)}


def judged(collection: str, name: str, seeds: int = 1) -> law.Verdict:
    """The verdict on a network, by the first plan that is not lawful, or by the last."""
    for seed in range(seeds):
        verdict = law.check_law(*built(collection, name), seed)
        if verdict.status != "lawful":
            break
    return verdict


def built(collection: str, name: str) -> tuple[nn.Module, object]:
    """A network and its example in doubles, or in floats where it has its own mind or is large."""
    torch.manual_seed(0)
    model, example = networks.COLLECTIONS[collection][name]()
    if law.parameters(model) < law.LARGE:
        doubled, doubles = copy.deepcopy(model).double(), networks.converted(example, torch.float64)
        with contextlib.suppress(Exception):
            law.run(copy.deepcopy(doubled), doubles)
            return doubled, doubles
    return model, example


def peer_verdict(collection: str, name: str) -> str:
    """What comes of pruning by Torch-Pruning: runs, runs wrongly, removes nothing, or fails."""
    torch.manual_seed(0)
    model, example = built(collection, name)
    law.enliven(model, example)
    small = copy.deepcopy(model).eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch_pruning.MagnitudePruner(
                small,
                example,
                importance=torch_pruning.importance.MagnitudeImportance(p=2),
                pruning_ratio=0.3,
                ignored_layers=_last_layers(small, example),
            ).step()
        law.run(small, example)
    except Exception as error:
        return f"fails ({type(error).__name__})"
    if law.parameters(small) == law.parameters(model):
        return "removes nothing"
    try:
        law.judge(model, small, example)
    except law.Wrong:
        return "runs wrongly"
    return "runs"


def _last_layers(model: nn.Module, example: object) -> list[nn.Module]:
    """The weighted layer that runs last, those that give an output, and linear ones as wide as an output."""
    order: list[tuple[nn.Module, Tensor]] = []
    weighted = [m for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    handles = [m.register_forward_hook(lambda m, _, output: order.append((m, output))) for m in weighted]
    with torch.no_grad():
        outputs = [leaf for leaf in tree_leaves(law.call(model.eval(), example)) if isinstance(leaf, Tensor)]
    for handle in handles:
        handle.remove()
    widths = {tensor.shape[-1] for tensor in outputs if tensor.ndim}
    return [
        *(m for m, _ in order[-1:]),
        *(m for m, made in order if any(made is tensor for tensor in outputs)),
        *(m for m in weighted if isinstance(m, nn.Linear) and m.out_features in widths),
    ]


if __name__ == "__main__":
    main()
