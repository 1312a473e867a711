"""Run an ONNX file, and time it."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from course_lib import cost
from course_lib.quantization.onnx._session import (
    File,
    Images,
    batches,
    check_file,
    check_packages,
    open_session,
)
from course_lib.validation import check_count

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def run(path: File, images: Images, *, batch_size: int = 500) -> Float32[Tensor, "N K"]:
    """Compute the logits of images, with as many threads as PyTorch has.

    Args:
        path: of an ONNX file, quantized or not; both take and give float32.
        images: uint8 [N, C, H, W], which `data.to_float` makes numbers, or float32 as the network takes them
            (normalised, for instance).
        batch_size: images at a time.

    Returns:
        Logits [N, K]; `(logits.argmax(dim=1) == labels).float().mean()` is the accuracy.

    Raises:
        ImportError: onnxruntime is not installed.
        FileNotFoundError: there is no such file.
        TypeError, ValueError: no ONNX file, or none of a network of images; images of another dtype or shape than it
            takes, or none.
    """
    check_packages("onnxruntime")
    path = check_file(path)
    check_count(batch_size, "batch_size")
    session = open_session(path, path)
    parts = [session.run(None, batch)[0] for batch in batches(session, path, images, batch_size)]
    return torch.from_numpy(np.concatenate(parts))


def latency(path: File, images: Images, *, threads: int = 1, min_seconds: float = 0.2) -> cost.Latency:
    """Time a network in ONNX Runtime, as `cost.latency` times one in PyTorch.

    Args:
        path: of an ONNX file, quantized or not.
        images: as `run` takes them, in one batch; made float32 before the clock starts.
        threads: of ONNX Runtime. Compare only figures of the same number, on the same machine: 8 bits are fast where
            the processor multiplies them in one instruction (VNNI on x86).
        min_seconds: time to spend on timing, in seconds.

    Returns:
        Median, lower and upper quartile over the blocks, in seconds per call.

    Raises:
        ImportError, FileNotFoundError, TypeError, ValueError: as `run`; `threads` or `min_seconds` is not positive; the
            network takes batches of another size.
    """
    check_packages("onnxruntime")
    path = check_file(path)
    session = open_session(path, path, check_count(threads, "threads"))
    [(name, array)] = next(batches(session, path, images, None)).items()
    if len(array) != len(images):
        raise ValueError(
            f"{path} takes batches of exactly {len(array)} images, not of {len(images)}. Give as many, or write it "
            "again with export(), which leaves the size open."
        )
    return cost.latency(
        _Network(session, name), torch.from_numpy(array), threads=threads, min_seconds=min_seconds
    )


class _Network(nn.Module):
    """A session as a network of PyTorch; neither way is anything copied."""

    def __init__(self, session: "InferenceSession", name: str):
        super().__init__()
        self.session, self.name = session, name

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {self.name: x.numpy()})[0])
