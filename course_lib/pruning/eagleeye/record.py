"""The file of a search's results: a line with the search's fingerprint, then a line a candidate, each with a digest."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from course_lib import files
from course_lib.validation import check_file


class _Judged(NamedTuple):
    score: float
    seconds: float


class _Record:
    """The file of results: a line with the search's fingerprint, then a line a candidate. Without a path, nothing."""

    def __init__(self, path: str | Path | None, fingerprint: Callable[[], str]) -> None:
        self.path = None if path is None else check_file(path, "path")
        self.known: dict[str, _Judged] = {}
        if self.path is None:
            return
        head = {"search": fingerprint()}
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]  # a line that was cut off in writing does not count
        if content:
            self._read((whole or content).decode(errors="replace").splitlines(), head)
        if whole != content or not whole:
            files.write_bytes(self.path, whole or _line(head))

    def write(self, ratios: Mapping[str, float], judged: _Judged) -> None:
        """Add a line; it is on the disk when this returns."""
        if self.path is not None:
            with open(self.path, "ab") as stream:
                stream.write(_line({"ratios": ratios, "score": judged.score, "seconds": judged.seconds}))
                stream.flush()
                os.fsync(stream.fileno())

    def _read(self, lines: Sequence[str], head: dict[str, str]) -> None:
        remedy = "Give another path, or delete the file to judge everything again."
        for number, text in enumerate(lines, start=1):
            try:
                line = _checked(json.loads(text))
                if number > 1:
                    self.known[_key(line["ratios"])] = _Judged(float(line["score"]), float(line["seconds"]))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"line {number} of {self.path} is damaged ({error!r}). {remedy}") from error
            if number == 1 and line != head:
                raise ValueError(
                    f"{self.path} holds the results of another search: another network, other images, or none at all. "
                    f"{remedy}"
                )


def _line(content: dict) -> bytes:
    return json.dumps(content | {"sha256": _digest(content)}).encode() + b"\n"


def _checked(line: dict) -> dict:
    """Return a line without its digest; ValueError if the digest is another: a changed digit still is a number."""
    content = {key: value for key, value in line.items() if key != "sha256"}
    if line.get("sha256") != _digest(content):
        raise ValueError("its sha256 is not that of its content")
    return content


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _key(ratios: dict[str, float]) -> str:
    return json.dumps(ratios, sort_keys=True)
