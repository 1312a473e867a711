"""What a loop of pruning and restoring did: its attempts, to plot, keep and go on from."""

import contextlib
import json
import math
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from torch import nn

from course_lib.validation import check_choice, check_number, described


@dataclass(frozen=True)
class Attempt:
    """One round of `prune_with_rollback`.

    Attributes:
        attempt: its number, from 1.
        complexity_before: share of the starting complexity that the round began with.
        complexity: share that the pruned network has, whether it was accepted or not.
        accuracy: of the pruned network, in [0, 1]; None if evaluation gave no finite number.
        accepted: whether the pruned network was kept. If not, the one before was restored.
        reason: why, in words.
        proposed: {layer: indices of channels} or {parameter name: number of weights in its mask that go}.

    Example:
        >>> print(Attempt(1, 1.0, 0.8, 0.93, True, "accuracy is within 0.01 of 0.9350", {"0": [2, 5]}))
        attempt 1: complexity 1.0000 -> 0.8000, accuracy 0.9300, accepted: accuracy is within 0.01 of 0.9350
    """

    attempt: int
    complexity_before: float
    complexity: float
    accuracy: float | None
    accepted: bool
    reason: str
    proposed: dict[str, list[int] | int]

    def __str__(self) -> str:
        verdict = "accepted" if self.accepted else "restored"
        accuracy = "no accuracy" if self.accuracy is None else f"accuracy {self.accuracy:.4f}"
        return (
            f"attempt {self.attempt}: complexity {self.complexity_before:.4f} -> {self.complexity:.4f}, {accuracy}, "
            f"{verdict}: {self.reason}"
        )


@dataclass(repr=False)
class PruningLog:
    """Record of a run of `prune_with_rollback`: enough to plot it, keep it, and go on.

    Attributes:
        baseline: accuracy of the network that was given, in [0, 1].
        start: its complexity in the unit of `complexity`, by default non-zero parameters; shares refer to it.
        mode, tolerance, target: as given to the latest run.
        attempts: every round in order, over all runs that were resumed.
        stopped: why the latest run ended.
        held: names of the parameters whose zeros stay zero in later attempts (hard mode, connections).
        model: the network after the last accepted attempt, a plain one; None in a log that was read from JSON.

    Example:
        >>> log = PruningLog(baseline=0.9, start=100.0, mode="hard", tolerance=0.01, target=0.5)
        >>> PruningLog.from_json(log.to_json()).accuracy
        0.9
    """

    baseline: float
    start: float
    mode: str
    tolerance: float
    target: float
    attempts: list[Attempt] = field(default_factory=list)
    stopped: str = ""
    held: list[str] = field(default_factory=list)
    model: nn.Module | None = None

    @property
    def complexity(self) -> float:
        """Share of the starting complexity after the last accepted attempt."""
        return next((attempt.complexity for attempt in reversed(self.attempts) if attempt.accepted), 1.0)

    @property
    def accuracy(self) -> float:
        """Accuracy after the last accepted attempt."""
        accepted = (attempt.accuracy for attempt in reversed(self.attempts) if attempt.accepted)
        return next((accuracy for accuracy in accepted if accuracy is not None), self.baseline)

    def __str__(self) -> str:
        accepted = sum(attempt.accepted for attempt in self.attempts)
        lines = [
            f"{self.mode} pruning: {len(self.attempts)} attempts, {accepted} accepted",
            f"  complexity 1 -> {self.complexity:.4f} (target {self.target:g})",
            f"  accuracy {self.baseline:.4f} -> {self.accuracy:.4f} (tolerance {self.tolerance:g})",
        ]
        if self.stopped:
            lines.append(f"  stopped: {self.stopped}")
        return "\n".join(lines)

    __repr__ = __str__

    def to_json(self) -> str:
        """Write the log without the network as JSON. Save the network beside it to resume from both."""
        record = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "model"}
        record["attempts"] = [asdict(attempt) for attempt in self.attempts]
        return json.dumps(record, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "PruningLog":
        """Read the log that `to_json` wrote, with no network in it.

        Raises:
            ValueError: the text is not such a log; the message says what in it is wrong.
        """
        try:
            if not isinstance(text, str):
                raise TypeError(f"it is {described(text)}; read a file with path.read_text()")
            record = _fields(json.loads(text), cls, "the log")
            rows = record["attempts"]
            if not isinstance(rows, list):
                raise ValueError(f"attempts is {described(rows)} and not a list")
            attempts = [Attempt(**_fields(row, Attempt, f"attempts[{i}]")) for i, row in enumerate(rows)]
            for name in ("baseline", "start", "tolerance", "target"):
                check_number(record[name], name, low=0, high=math.inf if name == "start" else 1)
            check_choice(record["mode"], "mode", ("hard", "soft"))
            return cls(**record | {"attempts": attempts})
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"text is {text!r:.60}, which is no pruning log ({error}); it must be the text that PruningLog.to_json "
                "returned. Look whether the file was cut off or edited."
            ) from error


def _fields(row: object, kind: type, name: str) -> dict[str, Any]:
    """A row of JSON, if it has all the fields that a record of this kind needs, and no other.

    Raises:
        ValueError: it has not.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{name} is {described(row)} and not a mapping")
    known = {entry.name: entry for entry in fields(kind) if entry.name != "model"}
    needed = [
        key for key, entry in known.items() if entry.default is MISSING and entry.default_factory is MISSING
    ]
    missing = [key for key in (*needed, "attempts") if key in known and key not in row]
    if missing or set(row) - set(known):
        wrong = f"lacks {missing[0]!r}" if missing else f"has an unknown {min(set(row) - set(known))!r}"
        raise ValueError(f"{name} {wrong}")
    return row


class RollbackError(RuntimeError):
    """Error of evaluation or training during an attempt; the network before it was restored.

    Attributes:
        log: all that was done until then, the failed attempt included; `log.model` is the last good network.
    """

    def __init__(self, message: str, log: PruningLog) -> None:
        super().__init__(message)
        self.log = log


def _hand_over(log: PruningLog, error: BaseException) -> None:
    """Put the log on whatever leaves the loop; a RollbackError of the loop has it already."""
    if getattr(error, "log", None) is log:
        return
    log.stopped = f"interrupted by {type(error).__name__}: {error}".removesuffix(": ")
    # Some kinds of exception have a `log` of their own that cannot be set.
    with contextlib.suppress(AttributeError):
        error.log = log
    accepted = sum(attempt.accepted for attempt in log.attempts)
    error.add_note(
        f"{len(log.attempts)} attempts were made before this, {accepted} accepted. They are in the `log` of this "
        "exception (`except ... as error: log = error.log`; after an interrupt in a notebook `sys.last_value.log`). "
        "Go on with prune_with_rollback(log.model, ..., log=log)."
    )
