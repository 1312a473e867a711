"""A teacher's answers in a file: it is asked once, and any number of students learn from it.

    answers = cache.ask(teacher, images)                        # logits: for any temperature
    answers = cache.ask(teacher, images, k=8, temperature=4)    # the 8 largest and the rest: for one temperature
    cache.save("teacher.safetensors", answers, images)
    answers = cache.load("teacher.safetensors", images)

A file is one of safetensors: loading it runs nothing that came with it. It holds the SHA-256 digest of the images that
the teacher was asked about, in their order, and one of its own content. Both are compared when it is loaded.
"""

import hashlib
import json
import math
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float, Shaped
from safetensors import SafetensorError
from torch import Tensor, nn

from course_lib import files, tracing
from course_lib.distillation import _checks
from course_lib.distillation.largest import TopK, top_k
from course_lib.validation import check_choice, check_count, check_dense, check_file

__all__ = ["ask", "digest", "load", "save"]

_KEY = "teacher_logits"  # in the metadata of the safetensors file
_VERSION = 1
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_REMEDY = "Ask the teacher again (cache.ask) and write a new file (cache.save)."


def ask(
    teacher: nn.Module,
    images: Shaped[Tensor, "N ..."],
    *,
    k: int | None = None,
    temperature: float | None = None,
    dtype: str = "float32",
    class_axis: int | None = None,
    batch_size: int = 1000,
) -> Float[Tensor, "N ..."] | TopK:
    """Ask a teacher about all images, in eval mode and without gradients.

    Args:
        teacher: the network; it is left as it was.
        images: [N, ...]; uint8 is divided by 255, as in training, anything else is passed on as it is.
        k: how many of the largest logits to keep; None keeps all.
        temperature: T that the student will be taught at, if k is given: the other logits are lumped at it. Whole
            logits serve every T.
        dtype: of what is kept: "float32", or half as large with "float16" or "bfloat16".
        class_axis: where the classes are in what the teacher puts out, as in `distillation.soften`.
        batch_size: most images in a forward pass.

    Returns:
        The logits as the teacher puts them out, or a `TopK` of them, on the CPU.

    Raises:
        TypeError: teacher is not an nn.Module, images is not a tensor, or an option has a wrong type.
        ValueError: the teacher does not run on the images, or answers with something else than finite logits of the
            same number of images; k or temperature is missing or out of range; or float16 cannot hold the logits.

    Example:
        >>> images = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8)
        >>> ask(nn.ReLU(), images, k=1, temperature=4).indices
        tensor([[1],
                [0]])
    """
    tensors = tracing.check_network(teacher, plain=False)
    check_dense(images, "images", such_as="dataset.train.images")
    if images.ndim < 2:
        raise ValueError(f"images has shape {list(images.shape)}; it must be [N, ...], a batch of images.")
    kept = _DTYPES[check_choice(dtype, "dtype", _DTYPES)]
    if (k is None) != (temperature is None):
        raise ValueError(
            f"k is {k!r} and temperature is {temperature!r}; give both or none. What is left of the k largest is "
            "lumped at one temperature; whole logits serve every temperature."
        )
    most = min(check_count(batch_size, "batch_size"), len(images))
    parts = torch.tensor_split(images, math.ceil(len(images) / most))
    device = tensors[0].device if tensors else images.device
    answers = []
    with tracing.borrowed(teacher):
        for part in parts:
            logits = _answer(teacher, part.to(device), class_axis)
            answers.append(
                _narrowed(logits.cpu(), kept)
                if k is None
                else top_k(_narrowed(logits, kept), k, temperature=temperature, class_axis=class_axis).to(
                    "cpu"
                )
            )
    if k is None:
        return torch.cat(answers)
    stacked = (
        torch.cat([getattr(answer, name) for answer in answers]) for name in ("values", "indices", "rest")
    )
    return TopK(*stacked, answers[0].temperature, answers[0].classes)


def digest(images: Shaped[Tensor, "N ..."]) -> str:
    """Compute the SHA-256 digest of a tensor: its dtype, its shape and its values, wherever and however they lie.

    Args:
        images: a dense tensor.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: it is not a dense tensor.
        ValueError: it is empty or without values.

    Example:
        >>> digest(torch.zeros(2, 3))[:8], digest(torch.zeros(3, 2))[:8]
        ('bb40f2a9', 'bedd1f06')
    """
    check_dense(images, "images", such_as="dataset.train.images")
    return _sha256(images)


def save(
    path: str | Path,
    answers: Float[Tensor, "N ..."] | TopK,
    images: Shaped[Tensor, "N ..."],
    *,
    class_axis: int | None = None,
) -> Path:
    """Write a teacher's answers to one safetensors file, under a temporary name and then renamed.

    Args:
        path: of the file.
        answers: what `ask` returned.
        images: that it was asked about; their digest is kept, they are not.
        class_axis: where the classes are in whole logits, as in `distillation.soften`.

    Returns:
        The path.

    Raises:
        TypeError: answers are neither logits nor a `TopK`, images is not a tensor, or path is no path.
        ValueError: there are not as many answers as images; or the logits are not finite.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> images = torch.rand(2, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/teacher.safetensors", ask(nn.ReLU(), images), images).name
        'teacher.safetensors'
    """
    path = check_file(path, "path")
    if isinstance(answers, TopK):
        tensors = {"values": answers.values, "indices": answers.indices.to(torch.int32), "rest": answers.rest}
        about = {
            "temperature": answers.temperature,
            "k": answers.values.shape[-1],
            "classes": answers.classes,
        }
    else:
        axis = _checks.check_class_logits(answers, "answers", class_axis)
        tensors, about = {"logits": answers}, {"classes": answers.shape[axis]}
        about["k"] = about["classes"]
    check_dense(images, "images", such_as="dataset.train.images")
    if len(answers) != len(images):
        raise ValueError(
            f"answers are for {len(answers)} images and images holds {len(images)}; they must be the same. {_REMEDY}"
        )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about |= {
        "version": _VERSION,
        "dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch."),
        "images": digest(images),
    }
    about["content"] = _content(about, tensors)
    with files.atomic_path(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={_KEY: json.dumps(about, sort_keys=True)})
    return path


def load(
    path: str | Path, images: Shaped[Tensor, "N ..."], *, classes: int | None = None
) -> Float[Tensor, "N ..."] | TopK:
    """Load a teacher's answers, after a check that they are for these images and undamaged.

    Args:
        path: of a file that `save` wrote.
        images: that the answers are for, in the same order and dtype.
        classes: how many the student has; None if it need not be compared.

    Returns:
        What was saved: logits, or a `TopK`, on the CPU.

    Raises:
        TypeError: path is no path, images is not a tensor, or classes is not an int.
        ValueError: the file is damaged, is none of a teacher's answers, or is for other images or classes.
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> images = torch.tensor([[3.0, 0.0], [1.0, 2.0]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save(f"{folder}/teacher.safetensors", ask(nn.ReLU(), images, k=1, temperature=4), images)
        ...     load(path, images).values
        tensor([[3.],
                [2.]])
    """
    path = check_file(path, "path")
    check_dense(images, "images", such_as="dataset.train.images")
    if classes is not None:
        check_count(classes, "classes")
    tensors, about = _read(path)
    if about["images"] != digest(images):
        raise ValueError(
            f"{path} was written for other images than these {len(images)}, or for the same in another order, dtype or "
            f"size. Pass the images that the teacher was asked about. {_REMEDY}"
        )
    if classes is not None and about["classes"] != classes:
        raise ValueError(
            f"{path} holds answers in {about['classes']} classes, and classes is {classes}; they must agree. Take a "
            "teacher of the same classes."
        )
    if "logits" in tensors:
        return tensors["logits"]
    return TopK(
        tensors["values"], tensors["indices"].long(), tensors["rest"], about["temperature"], about["classes"]
    )


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors of a file and its metadata, which fit each other."""
    try:
        with safetensors.safe_open(path, framework="pt") as stream:
            text = (stream.metadata() or {}).get(_KEY)
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or not a safetensors file ({error}). {_REMEDY}") from error
    if text is None:
        raise ValueError(f"{path} holds no teacher's answers. Give a file that cache.save wrote.")
    try:
        about = json.loads(text)
        version = about["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"the metadata of {path} is damaged: {text!r:.60}. {_REMEDY}") from error
    if version != _VERSION:
        raise ValueError(
            f"{path} is of version {version!r}; this library reads version {_VERSION}. Read it with the version of the "
            "library that wrote it, or ask the teacher again."
        )
    if about.pop("content", None) != _content(about, tensors):
        raise ValueError(f"{path} is damaged: its content has not the digest that it states. {_REMEDY}")
    return tensors, about


def _answer(teacher: nn.Module, images: Tensor, class_axis: int | None) -> Tensor:
    """The teacher's logits of a batch, checked."""
    try:
        logits = teacher(images.float() / 255 if images.dtype == torch.uint8 else images)
    except Exception as error:
        raise ValueError(
            f"the teacher does not run on images of shape {list(images.shape)}, {images.dtype}: "
            f"{type(error).__name__}: {_first_line(error)}. Pass images as its forward() takes them."
        ) from error
    _checks.check_class_logits(logits, "what the teacher puts out (its logits)", class_axis)
    if len(logits) != len(images):
        raise ValueError(
            f"the teacher puts out {len(logits)} answers for {len(images)} images; it must give one for each. Look for "
            "a layer that changes the batch."
        )
    return logits


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _narrowed(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Logits in the dtype that they are kept in."""
    narrow = logits.to(dtype)
    if not bool(torch.isfinite(narrow).all()):
        raise ValueError(
            f"the teacher's logits reach {float(logits.abs().amax()):.3g} in size, more than float16 holds. Keep them "
            'with dtype="bfloat16" or "float32".'
        )
    return narrow


def _content(about: dict, tensors: dict[str, Tensor]) -> str:
    """Digest of everything in a file but itself."""
    digests = {name: _sha256(tensor) for name, tensor in tensors.items()}
    return hashlib.sha256(json.dumps([about, digests], sort_keys=True).encode()).hexdigest()


def _sha256(tensor: Tensor) -> str:
    """Digest of a dtype, a shape and values; 1000 rows at a time, since they may have to be copied."""
    result = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode())
    for part in tensor.detach().reshape(len(tensor) if tensor.ndim else 1, -1).split(1000):
        result.update(part.cpu().contiguous().view(torch.uint8).numpy().data)
    return result.hexdigest()
