"""Two hundred command lines with something wrong: each is answered at once, by one line that names what is wrong."""

import os
import random
import re
import time

import pytest

from course_lib.book.run import course, sweep
from tests.book.conftest import Ended

pytestmark = pytest.mark.bad_input

COMMANDS = (
    "list",
    "run",
    "sweep",
    "results",
    "refresh",
    "progress",
    "release",
    "slides",
    "grade",
    "train",
    "doctor",
)
# Words that are no number, no chapter and no record, whatever is asked for.
STRANGE = ("x", " ", "1.5", "1e3", "0x10", "NaN", "--", "٣x", "½", "1..5", "[1]", "a\nb", "\U0001f600", "9" * 30 + "x",
           os.fsdecode(b"\xff"), "'", '"', "$HOME", "../..", "%s", "{}", "\\", "z" * 3000)  # fmt: skip


def misspelt(chooser, word):
    """A word with one letter gone, doubled or exchanged with the next."""
    place = chooser.randrange(len(word) - 1)
    return chooser.choice(
        [
            word[:place] + word[place + 1 :],
            word[:place] + 2 * word[place] + word[place + 1 :],
            word[:place] + word[place + 1] + word[place] + word[place + 2 :],
        ]
    )


def typed():
    """(words, what the answer has to name) of each command line."""
    chooser = random.Random(0)
    for _ in range(60):
        word = misspelt(chooser, chooser.choice(COMMANDS))
        if word not in COMMANDS:
            yield (word,), word
    for command in COMMANDS:
        yield (command, "--no-such"), "--no-such"
        yield (command, "-q"), "-q"
    for command in ("run", "sweep", "results", "release", "slides", "grade"):
        option = misspelt(
            chooser, {"run": "profile", "results": "plot", "sweep": "seeds"}.get(command, "force")
        )
        if option not in ("profile", "plot", "seeds", "force"):
            yield (command, f"--{option}"), option
    for option in ("--seed", "--jobs", "--cell-timeout", "--out", "--set", "--profile"):
        yield ("run", option), option
    for word in STRANGE:
        yield ("run", "--jobs", word), "--jobs"
        yield ("run", f"0{word}"), "chapter"
        yield ("sweep", "00", "--seeds", word), ""
        yield ("train", f"glyphs{word}"), "checkpoint"
    for option, words in {"--jobs": "0 -1", "--seed": "-1", "--cell-timeout": "0 -3 nan"}.items():
        for word in words.split():
            yield ("run", option, word), option
    for seeds in ("3-0", "0-", "-", ",", "0,,1", "0-3-5", "a-b", "1-2x", "-5", "0;1", "0 1"):
        yield ("sweep", "00", "--seeds", seeds), ""
    for setting in ("", "=", "a", "=3", "sead=3", "07.seed=1", ".seed=1", "seed", "seed=[1", "seed={a", "seed=&a [*a]",
                    "seed=!!python/object:os.system 1", "00.=1", "seed=text", "se ed=1"):  # fmt: skip
        yield ("run", "--set", setting), ""
    for profile in ("", "fats", "../fast", "full.yaml", "/etc/passwd", "fast full", "."):
        yield ("run", "--profile", profile), ""
    for words, named in (
        (("sweep",), "chapter"),
        (("sweep", "00"), "--seeds"),
        (("sweep", "99", "--seeds", "0"), "99"),
        (("sweep", "00", "--seeds", "0", "--workers", "0"), "--workers"),
        (("sweep", "00", "--seeds", "0", "--timeout", "0"), "--timeout"),
        (("sweep", "00", "--seeds", "0", "--workers", "1", "--scheduler", "tcp://x:1"), "--workers"),
        (("sweep", "00", "01", "--seeds", "0"), "01"),
        (("run", "00-first", "--resume=yes"), "--resume"),
        (("run", "99", "00"), "99"),
        (("run", "00.ipynb.ipynb"), "00.ipynb.ipynb"),
        (("refresh", "99"), "99"),
        (("refresh", "--check", "99"), "99"),
        (("results", "nothing"), "nothing"),
        (("results", "00-nothing", "--plot", "a.png"), "00-nothing"),
        (("results", "../SHA256SUMS"), "SHA256SUMS"),
        (("release",), "DIR"),
        (("release", ""), "DIR"),
        (("release", "~nobody-of-this-name/x"), "~nobody"),
        (("release", "out", "99"), "99"),
        (("slides",), "DIR"),
        (("slides", "out", "99"), "99"),
        (("grade",), "DIR"),
        (("grade", "nowhere"), "nowhere"),
        (("grade", "nowhere", "--memory", "64"), "--memory"),
        (("grade", "nowhere", "--timeout", "0"), "--timeout"),
        (("grade", "nowhere", "--jobs", "2", "--scheduler", "tcp://x:1"), "--jobs"),
        (("grade", "nowhere", "--resume", "--force"), "--resume"),
        (("train",), "name"),
        (("train", "a", "b"), "b"),
        (("data", "fetch"), "name"),
        (("data", "fetch", "mnits"), "mnist"),
        (("data", "fetsh", "mnist"), "fetsh"),
        (("data", "mnist"), "mnist"),
        (("doctor", "00"), "00"),
        (("list", "00"), "00"),
        (("progress", "00"), "00"),
        (("--no-such",), "--no-such"),
        (("--versoin",), "--version"),
    ):  # fmt: skip
        yield words, named


def faults(ended, named, seconds):
    """What is unclear about an answer."""
    lines = ended.err.strip().splitlines() or [""]
    said = lines[-1]
    usage = len(lines) == 1 or (lines[0].startswith("Usage: ") and len(lines) <= 5)
    return [
        fault
        for fault, there in {
            f"status {ended.status}": ended.status != 2,
            "something on stdout": bool(ended.out),
            "more than the usage and one line": not usage,
            "no message": not re.match(r"(course|Error): \S", said),
            "no word of it": named not in ended.err,
            "a message of Python": bool(
                re.search(r"Traceback|\b(?!Damaged)[A-Z]\w+Error\b|object at 0x", ended.err)
            ),
            f"{len(said)} characters": len(said) > 500,
            f"{seconds:.1f} s": seconds > 1,
        }.items()
        if there
    ]


def test_two_hundred_odd_command_lines_are_answered_clearly(book, monkeypatch):
    monkeypatch.chdir(book.root)  # where "nowhere" and "out" are nothing
    book.add("00-first")
    for begun in (course, sweep):
        monkeypatch.setattr(begun, "carry_out", lambda *_, **__: pytest.fail("it began"))
    every = dict.fromkeys(typed())
    assert len(every) >= 200
    book.course("run", "99")  # what the first one imports is not its answer's time
    unclear = []
    for words, named in every:
        start = time.process_time()
        try:
            ended = book.course(*words)
        except BaseException as raised:
            ended = Ended(-1, "", repr(raised))
        found = faults(ended, named, time.process_time() - start)
        if found:
            unclear.append(
                f"course {[word[:40] for word in words]}: {', '.join(found)}: {ended.out[-100:]}{ended.err[-300:]}"
            )
    assert not unclear, f"{len(unclear)} of {len(every)}\n" + "\n".join(unclear)
    assert sorted(path.name for path in book.root.iterdir()) == ["data", "notebooks"]
