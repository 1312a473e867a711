"""`python -m tests.quantization.reach [names]`: which of torchvision's networks become integer networks, and rightly.

Weights are random, batch norms keep signals at one size. Each network is worked out in a process
of its own. Equal is the share of logits that ONNX Runtime gives for the file with the same ranges, bit for bit; apart
the largest difference, in steps; error that of the integer network from the one in float32, beside its largest logit.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
from torch import nn

from course_lib.data import to_float
from course_lib.quantization import onnx
from course_lib.quantization.workflow import calibrate, collect, fold_batch_norm, quantize_model, to_integer

SECONDS, BYTES = 900, 8 * 2**30
SIZES = {"alexnet": 224, "vgg": 224, "inception": 96}  # pixels; 64 for all others
LEFT_OUT = ("vit", "swin", "maxvit", "regnet_y_128gf")  # transformers, and 2.6 GB of weights
RESULTS = Path("build/reach/quantization.json")
ROW = "{name:20} {status:8} {share:>7.1%} equal {apart:5.1f} apart {error:6.3f} error {seconds:6.1f} s  {detail}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.quantization.reach", description=__doc__)
    parser.add_argument("names", nargs="*", help="of torchvision's networks (default all convolutional ones)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(judged(arguments.names[0])))
        return
    rows = []
    for name in arguments.names or names():
        rows.append(apart(name))
        print(ROW.format(**{**rows[-1], "detail": rows[-1]["detail"][:150]}), flush=True)
    if not arguments.names:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    counts = Counter(row["status"] for row in rows)
    print(
        f"{len(rows)} networks: " + ", ".join(f"{count} {status}" for status, count in counts.most_common())
    )
    print(f"{sum(row['share'] == 1 for row in rows)} of them with all logits those of ONNX Runtime")


def names() -> list[str]:
    import torchvision

    found = torchvision.models.list_models(module=torchvision.models)
    return [name for name in found if not name.startswith(LEFT_OUT)]


def apart(name: str) -> dict:
    """The row of a network, from a process with limits of time and memory."""
    row = {"name": name, "status": "failed", "share": 0.0, "apart": 0.0, "error": 0.0, "detail": ""}
    command = [sys.executable, "-m", "tests.quantization.reach", name, "--here"]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=os.environ)
        if done.returncode:
            row["detail"] = f"died: {done.stderr.strip()[-300:]}"
        else:
            row |= json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        row["detail"] = f"no answer in {SECONDS} s"
    row["detail"] = " ".join(row["detail"].split())
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def judged(name: str, count: int = 4) -> dict:
    """The status of a network, how many of its logits ONNX Runtime gives too, and how far the others are apart."""
    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = built(name)
    size = next((pixels for start, pixels in SIZES.items() if name.startswith(start)), 64)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    _set_statistics(model, to_float(images))
    try:
        ranges = calibrate(collect(model, images))
        simulated = quantize_model(model, ranges)
    except ValueError as error:
        return {"status": "refused", "detail": str(error)}
    found = to_integer(simulated)(to_float(images))
    with torch.no_grad():
        real = model(to_float(images))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        one = fold_batch_norm(model, to_float(images[:2]))
        path, tensors = onnx.export(one, to_float(images[:2]), folder / "float.onnx")
        path = onnx.quantize(path, folder / "int8.onnx", ranges=ranges, names=tensors)
        expected = onnx.run(path, images)
    steps = ((found - expected).abs().max() / simulated.activations["logits"].scale).item()
    return {
        "status": "integer",
        "share": (found == expected).double().mean().item(),
        "apart": steps,
        "error": ((found - real).abs().max() / real.abs().max()).item(),
        "detail": f"{len(ranges)} ranges",
    }


def built(name: str) -> nn.Module:
    import torchvision

    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torchvision.models.get_model(name, weights=None, num_classes=100, **options).eval()


def _set_statistics(model: nn.Module, images: torch.Tensor) -> None:
    """Let batch norms keep signals at a size of about 1, by the mean of the squares.

    Taking off the means as well would leave what differs between pixels, and enlarge that from layer to layer until no
    two ways of computing a deep network at random agree, in float32 or in integers.
    """

    def read(norm: nn.Module, inputs: tuple) -> None:
        norm.running_var.copy_(
            inputs[0].square().mean([axis for axis in range(inputs[0].ndim) if axis != 1]) + 0.1
        )

    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(read) for norm in norms]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()


if __name__ == "__main__":
    main()
