"""The loop around every criterion: prune a little, evaluate, and restore the network if that cost too much."""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.pruning import masks
from course_lib.pruning.log import Attempt, PruningLog, RollbackError, _hand_over
from course_lib.pruning.surgery import channel_masks, remove_channels
from course_lib.tracing import Example
from course_lib.validation import check_choice, check_count, check_model, check_number

_MODES = ("hard", "soft")
_SLACK = 1e-9  # 0.8 - 0.1 is a little more than 0.7 in floating point; such a difference decides nothing

_Proposal = Mapping[str, Sequence[int] | Tensor]
"""{layer: indices of output channels} or {parameter name: bool mask, True = keep}."""


def prune_with_rollback(
    model: nn.Module,
    *,
    propose: Callable[[nn.Module, int], _Proposal | None],
    evaluate: Callable[[nn.Module], float],
    tolerance: float,
    target: float,
    mode: str = "hard",
    example: Example | None = None,
    complexity: Callable[[nn.Module], float] | None = None,
    train: Callable[[nn.Module], Any] | None = None,
    max_attempts: int = 100,
    log: PruningLog | None = None,
) -> PruningLog:
    """Prune step by step; restore the network after every step that costs too much accuracy.

    ::

        until complexity(network) <= target * complexity(model), nothing more is proposed, or the attempts are used up:
            candidate = network pruned as proposed
            if evaluate(candidate) >= evaluate(model) - tolerance:  network = candidate     (accepted)
            else:                                                   network stays           (restored)

    Hard mode removes channels with `surgery.remove_channels`; connections are set to zero and held there, in later
    attempts too. If `train` is given, it fine-tunes each candidate before it is evaluated.

    Soft mode only sets weights to zero. The candidate with its zeros is evaluated and kept or not. If `train` is given,
    each attempt after the first begins by training a copy of the network, where zeros may grow again, and proposes from
    that copy. So zeros do not add up over attempts, and a proposal that is to remove more must name more. The network
    that is returned is the last accepted one, before any further training. Channels proposed by index are silenced
    whole, with bias, gamma and beta (`surgery.channel_masks`). Behind a ReLU such a channel gets no gradient and stays
    silent; propose masks of the weights alone where channels are to come back.

    Soft Filter Pruning (He et al. 2018) is the soft mode with a rising share, every attempt accepted (`tolerance=1`)::

        def lowest_filters(model, attempt):
            masks = {}
            for name, layer in model.named_modules():
                if isinstance(layer, nn.Conv2d):
                    keep = torch.ones_like(layer.weight, dtype=torch.bool)
                    share = 0.3 * attempt / epochs
                    keep[lowest(l2_norm(layer.weight), round(share * len(keep)))] = False
                    masks[f"{name}.weight"] = keep
            return masks

        prune_with_rollback(model, propose=lowest_filters, evaluate=accuracy, tolerance=1, target=0.01, mode="soft",
                            train=train_one_epoch, max_attempts=epochs)

    Args:
        model: the trained network; it is left as it was. One that is frozen stays frozen in what is held.
        propose: called with a copy of the network, in eval mode, and the number of the attempt, from 1. Returns
            {layer name: indices of output channels}, or {parameter name: bool mask, True = keep}, or None when nothing
            more is to go. After a rejected attempt the network is the same and the number is not: let the choice
            depend on the number (a seed, a layer, a smaller share), or the same proposal fails again.
        evaluate: maps a network, in eval mode, to its accuracy in [0, 1]. Choose on the validation split.
        tolerance: accuracy that may be lost against the network given, in [0, 1]: 0.01 is one point.
        target: share of the starting complexity to stop at, in (0, 1).
        mode: "hard" or "soft".
        example: input [N, ...] for following channels through the network; needed where channels are proposed.
        complexity: maps a network, in eval mode, to a number above zero, such as
            `lambda model: cost.measure(model, example).macs`; by default the number of non-zero parameters. It is
            shown the network with its zeros; those leave MACs as they are.
        train: trains a network in place; it is called in train mode. What it returns is ignored. Make the optimizer in
            it: the parameters of every attempt are new.
        max_attempts: rounds of this call.
        log: of an earlier run, to go on from. `model` must then be the network that it ended with (`log.model`, or
            loaded from a file). Baseline, starting complexity and numbers continue; the log given is not changed.

    Returns:
        The log. `log.model` is the pruned network, a plain one in the train/eval mode of the one given.

    Raises:
        RollbackError (a RuntimeError): evaluation, training or the complexity raised, or gave something that is not a
            number. It names the attempt, and its `log` holds the last good network. An accuracy of NaN or infinity is
            not an error but a rejected attempt.
        TypeError, ValueError: arguments out of range; a baseline that is not a finite number in [0, 1]; a proposal
            of the wrong form.
        KeyError: a proposal for a layer or parameter that does not exist; the message lists the nearest ones.

        Whatever leaves the loop, be it raised by `propose`, by a wrong proposal or by Ctrl-C, carries the log as its
        attribute `log`, with all attempts that were finished; a note on it says how to go on.

    Example:
        >>> def smallest(model, attempt):
        ...     return {"weight": model.weight.abs() > attempt}
        >>> model = nn.Linear(3, 1, bias=False)
        >>> model.weight.data = torch.tensor([[0.5, 1.5, 2.5]])
        >>> log = prune_with_rollback(model, propose=smallest, evaluate=lambda m: 0.9, tolerance=0, target=0.4)
        >>> log.model.weight.tolist(), log.stopped
        ([[0.0, 0.0, 2.5]], 'the target is reached')

    References:
        He et al., "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks", IJCAI 2018, alg. 1.
    """
    check_model(model)
    for name, function in {"propose": propose, "evaluate": evaluate}.items():
        _check_callable(function, name)
    for name, function in {"complexity": complexity, "train": train}.items():
        _check_callable(function, name, optional=True)
    tolerance = check_number(
        tolerance,
        "tolerance",
        low=0,
        high=1,
        hint="It is a share of all images: 0.01 is one point of accuracy.",
    )
    target = _check_target(target)
    check_choice(mode, "mode", _MODES)
    check_count(max_attempts, "max_attempts")
    measure = complexity or _nonzero_parameters

    modes = {name: module.training for name, module in model.named_modules()}
    network = copy.deepcopy(model).eval()
    held = masks._frozen_names(network)
    masks.make_permanent(network)
    log, share = _start(network, evaluate, measure) if log is None else _resume(log, network, measure)
    log.mode, log.tolerance, log.target, log.model = mode, tolerance, target, network
    log.held = list(dict.fromkeys([*log.held, *held]))
    first = len(log.attempts) + 1
    try:
        for number in range(first, first + max_attempts + 1):
            if share <= target:
                log.stopped = "the target is reached"
                break
            if number == first + max_attempts:
                log.stopped = f"the {max_attempts} attempts are used up"
                break
            row = {"attempt": number, "complexity_before": share, "complexity": share, "proposed": {}}
            grown = log.model
            if mode == "soft" and train is not None and number > 1:
                grown = copy.deepcopy(log.model)
                with _restoring(log, row, "training"):
                    _train(grown, train)
            proposal = propose(copy.deepcopy(grown), number)
            if proposal is None:
                log.stopped = "nothing more is proposed"
                break
            connections = _check_proposal(proposal, example, number)
            with _in_attempt(number):
                candidate = _prune(grown, proposal, connections, mode, example, log.held)
            row["proposed"] = {name: _short(value) for name, value in proposal.items()}
            if mode == "hard" and train is not None:
                with _restoring(log, row, "training"):
                    _train(candidate, train)
            masks.make_permanent(candidate)
            with _restoring(log, row, "the complexity"):
                row["complexity"] = check_number(measure(candidate), "complexity(model)", low=0) / log.start
            with _restoring(log, row, "evaluation"):
                accuracy = _accuracy(evaluate(candidate))
            accepted, reason = _judge(accuracy, log.baseline, tolerance)
            attempts = [*log.attempts, Attempt(**row, accuracy=accuracy, accepted=accepted, reason=reason)]
            if accepted:
                network, share, held = candidate.eval(), row["complexity"], log.held
                if connections and mode == "hard":
                    held = list(dict.fromkeys([*held, *proposal]))
                # In one statement: Ctrl-C comes before it or after.
                log.attempts, log.model, log.held = attempts, network, held
            else:
                log.attempts = attempts
    except BaseException as error:
        _hand_over(log, error)
        raise
    finally:
        for name, module in log.model.named_modules():
            module.training = modes.get(name, model.training)
    return log


def _start(
    network: nn.Module, evaluate: Callable[[nn.Module], float], measure: Callable[[nn.Module], float]
) -> tuple[PruningLog, float]:
    """An empty log of the network given, and its share of its own complexity."""
    try:
        value = evaluate(network)
    except Exception as error:
        raise RuntimeError(
            f"evaluation of the network given, before any attempt, raised {type(error).__name__}: {error}. "
            "Nothing was pruned."
        ) from error
    baseline = _accuracy(value)
    if baseline is None:
        raise ValueError(
            f"evaluation of the network given, before any attempt, returned {value}; it must be a finite number in "
            "[0, 1]. Look for NaN in its weights or an empty split."
        )
    start = check_number(
        measure(network.eval()),
        "complexity(model)",
        low=0,
        low_open=True,
        hint="It is the complexity of the network given, of which `target` is a share.",
    )
    return PruningLog(baseline=baseline, start=start, mode="", tolerance=0.0, target=1.0), 1.0


def _resume(
    log: PruningLog, network: nn.Module, measure: Callable[[nn.Module], float]
) -> tuple[PruningLog, float]:
    """A copy of the log, and the share that the network has of the complexity that the log started from."""
    if not isinstance(log, PruningLog):
        raise TypeError(
            f"log is a {type(log).__name__}; it must be a PruningLog, as prune_with_rollback or PruningLog.from_json "
            "returns."
        )
    share = check_number(measure(network), "complexity(model)", low=0) / log.start
    if abs(share - log.complexity) > 1e-3:
        raise ValueError(
            f"the model has {share:.4f} of the complexity that the log started from, and the log ended at "
            f"{log.complexity:.4f}. Pass the network that it ended with (log.model, or what was saved of it) and the "
            "same `complexity`, or start without log."
        )
    return replace(log, attempts=list(log.attempts), held=list(log.held)), share


def _prune(
    network: nn.Module,
    proposal: _Proposal,
    connections: bool,
    mode: str,
    example: Example | None,
    held: Sequence[str],
) -> nn.Module:
    """A pruned copy. In hard mode the parameters in `held`, and those of the proposal, are frozen at their zeros."""
    if mode == "soft":
        candidate = copy.deepcopy(network)
        masks.zero(candidate, proposal if connections else channel_masks(candidate, example, proposal))
        return candidate
    if connections:
        candidate = copy.deepcopy(network)
        masks.freeze(candidate, proposal)
    else:
        candidate = remove_channels(network, example, proposal)
    # The masks of earlier attempts are the zeros that they left, and so have been cut to size with the weights.
    parameters = masks._plain_parameters(candidate)
    masks.freeze(candidate, {name: parameters[name] != 0 for name in held if name in parameters})
    return candidate


def _train(network: nn.Module, train: Callable[[nn.Module], Any]) -> None:
    network.train()
    train(network)
    network.eval()
    network.zero_grad(set_to_none=True)


def _judge(accuracy: float | None, baseline: float, tolerance: float) -> tuple[bool, str]:
    """Whether to keep a candidate, and why."""
    if accuracy is None:
        return False, "the accuracy is not finite (NaN or infinity)"
    if accuracy < baseline - tolerance - _SLACK:
        return False, f"accuracy fell by {baseline - accuracy:.4f}, more than {tolerance:g}"
    return True, f"accuracy is within {tolerance:g} of {baseline:.4f}"


@contextlib.contextmanager
def _restoring(log: PruningLog, row: dict[str, Any], what: str) -> Iterator[None]:
    """Whatever is raised inside becomes a RollbackError, after the attempt has been written down."""
    try:
        yield
    except Exception as error:
        log.stopped = f"{what} raised {type(error).__name__}: {error}"
        log.attempts.append(Attempt(**row, accuracy=None, accepted=False, reason=log.stopped))
        raise RollbackError(
            f"in attempt {row['attempt']}, {log.stopped}. The network before it was restored: it is `log.model` of "
            "this error, and all attempts are in its `log`. Pass both to go on.",
            log,
        ) from error


@contextlib.contextmanager
def _in_attempt(number: int) -> Iterator[None]:
    """Errors of a proposal name the attempt that made it."""
    try:
        yield
    except (TypeError, ValueError, KeyError) as error:
        if type(error) not in (TypeError, ValueError, KeyError):
            raise
        raise type(error)(
            f"the proposal of attempt {number}: {error.args[0] if error.args else ''}"
        ) from error


def _check_proposal(proposal: object, example: Example | None, number: int) -> bool:
    """Whether a proposal is one of connections (masks); raises if it is neither that nor one of channels."""
    said = f"propose returned, in attempt {number},"
    wanted = (
        "{layer name: indices of channels}, {parameter name: bool mask}, or None when nothing more is to go"
    )
    if not isinstance(proposal, Mapping):
        raise TypeError(f"{said} {proposal!r:.80} ({type(proposal).__name__}); it must return {wanted}.")
    if not proposal:
        raise ValueError(f"{said} an empty mapping; it must return {wanted}.")
    for name, value in proposal.items():
        dtype = str(getattr(value, "dtype", "int64"))
        if not _is_mask(value) and ("float" in dtype or "bool" in dtype):
            raise TypeError(
                f"{said} a {type(value).__name__} of {dtype} for {name!r}; indices are integers, and a mask is a "
                "torch.Tensor of torch.bool, True where the weight is kept."
            )
    kinds = {_is_mask(value) for value in proposal.values()}
    if len(kinds) > 1:
        raise ValueError(
            f"{said} both masks and indices of channels; propose one kind in an attempt and the other in the next."
        )
    connections = kinds.pop()
    if not connections and example is None:
        raise ValueError(
            f"{said} channels of {', '.join(map(repr, proposal))}, and `example` is missing. Pass an input of the "
            "network as example=, so that the channels can be followed. (A mask is a bool tensor.)"
        )
    return connections


def _is_mask(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bool


def _short(value: Sequence[int] | Tensor) -> list[int] | int:
    """A mask as the number of weights that go, indices as a list."""
    if _is_mask(value):
        return int((~value).sum())
    return [int(index) for index in value]


def _accuracy(value: object) -> float | None:
    """The accuracy as a float in [0, 1]; None if it is NaN or infinite."""
    plain = value.item() if _is_one_number(value) else value
    if isinstance(plain, float) and not math.isfinite(plain):
        return None
    return check_number(
        value, "the accuracy that evaluate returned", low=0, high=1, hint="Return a share: 0.93 and not 93."
    )


def _is_one_number(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, np.ndarray | np.generic) and value.size == 1


def _nonzero_parameters(model: nn.Module) -> float:
    return float(sum(int(parameter.count_nonzero()) for parameter in model.parameters()))


def _check_target(target: object) -> float:
    hint = "It is the share of the starting complexity to stop at: 0.5 is half of it."
    value = check_number(target, "target", low=0, high=1, low_open=True, hint=hint)
    if value == 1:
        raise ValueError(f"target is 1.0; it must be below 1, or there is nothing to prune. {hint}")
    return value


def _check_callable(function: object, name: str, *, optional: bool = False) -> None:
    if not (callable(function) or (optional and function is None)):
        raise TypeError(
            f"{name} is {function!r:.80} ({type(function).__name__}); it must be a function"
            f"{' or None' if optional else ''}. Pass the function itself, without calling it."
        )
