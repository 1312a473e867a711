"""What `make bench` measured: kept in record.json, and shown in the tables of notebooks/benchmarks.md."""

import json
import re
import string
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import joblib

from course_lib import files
from course_lib.provenance import provenance
from tests.benchmarks.row import Row

FILE = Path(__file__).with_name("record.json")
PAGE = files.root() / "notebooks" / "benchmarks.md"
Record = dict[str, dict[str, Any]]
"""{group: machine, commit, date, pairs of runs, rows}; each group is that of its last measurement."""

_BLOCK = re.compile(r"(<!--table: ([\w-]+)-->\n).*?(<!--end-->)", re.DOTALL)


def read() -> Record:
    """The record, empty where nothing has been measured."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}


def keep(group: str, rows: Iterable[Row], *, threads: int, pairs: int | None) -> None:
    """Put the rows of a group in place of its earlier ones, and write the page; other groups stay as they are."""
    told = provenance()
    measured = {
        "machine": {
            "processor": told["cpu"],
            "cores": joblib.cpu_count(),
            "threads": threads,
            "PyTorch": told["versions"]["torch"],
            "Python": told["versions"]["python"],
        },
        "commit": told["commit"].rstrip("+"),  # `changed` is asked before; the page itself may differ
        "date": told["date"],
        "pairs": pairs,
        "rows": [row._asdict() for row in rows],
    }
    record = dict(sorted({**read(), group: measured}.items()))
    files.write_text(FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    files.write_text(PAGE, filled(PAGE.read_text(encoding="utf-8"), record))


def changed() -> str:
    """Name the code that differs from the commit which a record would name; empty if none does."""
    command = ["git", "status", "--porcelain", "course_lib", "tests", f":!{FILE.relative_to(files.root())}"]
    told = subprocess.run(command, cwd=files.root(), capture_output=True, text=True, check=True).stdout
    return " ".join(line[3:] for line in told.splitlines())


def blocks(page: str) -> list[str]:
    """The names of the tables that a page has room for."""
    return [name for _, name, _ in _BLOCK.findall(page)]


def filled(page: str, record: Record) -> str:
    """The page with each table as the record has it."""

    def one(block: re.Match[str]) -> str:
        text = summary(record) if block[2] == "machines" else table(record, block[2])
        return f"{block[1]}\n{text}\n\n{block[3]}"

    return _BLOCK.sub(one, page)


def table(record: Record, group: str) -> str:
    """The rows of a group with their machine, without columns that are empty in all of them."""
    if group not in record:
        return f"Not measured yet: `make bench ARGS='{group}'`."
    measured, machine = record[group], _letters(record)[str(record[group]["machine"])]
    shown = [column for column in Row._fields if any(row[column] for row in measured["rows"])]
    shown.sort(key=["what", "ours", "peer", "ratio", "spread", "goal", "reached"].index)
    rows = [[row[column] for column in shown] + [machine] for row in measured["rows"]]
    pairs = f", medians of {measured['pairs']} pairs of runs that take turns" if measured["pairs"] else ""
    return (
        f"{_markdown([*shown, 'machine'], rows)}\n\n{measured['date']}, commit {measured['commit']}{pairs}."
    )


def summary(record: Record) -> str:
    """The machines, and which goals are not reached."""
    if not record:
        return "Nothing has been measured yet: `make bench`."
    letters = _letters(record)
    machines = {str(measured["machine"]): measured["machine"] for measured in record.values()}
    rows = [[letter, *map(str, machines[key].values())] for key, letter in letters.items()]
    judged = [row for measured in record.values() for row in measured["rows"] if row["reached"]]
    missed = [row["what"] for row in judged if row["reached"] != "yes"]
    goals = f"{len(judged) - len(missed)} of {len(judged)} goals are reached"
    return "\n\n".join(
        [
            _markdown(["machine", *next(iter(machines.values()))], rows),
            f"{goals}. Not reached:" if missed else f"{goals}.",
            *(["\n".join(f"- {what}" for what in missed)] if missed else []),
        ]
    )


def _letters(record: Record) -> dict[str, str]:
    """{machine: letter}, in the order of the record."""
    machines = dict.fromkeys(str(measured["machine"]) for measured in record.values())
    return dict(zip(machines, string.ascii_uppercase, strict=False))


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
