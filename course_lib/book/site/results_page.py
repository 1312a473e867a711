"""The generated part of the site's page of results: Markdown from the records of runs, nothing written by hand."""

import html
import json
from collections.abc import Sequence
from typing import Any

from course_lib import files
from course_lib.book import notebooks
from course_lib.book.notebooks import Chapter
from course_lib.book.run import show, state
from course_lib.book.run.seeds import format_seeds
from course_lib.book.site import recorded
from course_lib.book.site.recorded import Record
from course_lib.experiments import records

_EMBEDDED = "glyphs"
"""The data set that lies in the repository; all others are real data."""


def markdown() -> str:
    """Write the generated part: every recorded experiment, key figures, and this machine's run if there is one."""
    book = notebooks.book()
    run = state.load(files.work() / "build" / "course") or {"settings": {}, "chapters": {}}
    found = recorded.select([]) if any((files.root() / "data" / "results").glob("*.json")) else []
    chapters = [chapter for chapter in book if not chapter.studies]
    return (
        "\n\n".join([*_experiments(chapters, found), _key_figures(book, run), _run_times(book, run)]) + "\n"
    )


def _experiments(book: Sequence[Chapter], found: Sequence[Record]) -> list[str]:
    parts = [
        "## Recorded experiments",
        "Every record, with every arm and every figure: means with 95 % intervals over the runs of an arm, as "
        "`course results NAME` prints them.",
    ]
    for chapter in book:
        own = [record for record in found if _belongs(record, chapter)]
        real = [f"`{record.name}`" for record in own if record.data_set not in ("", _EMBEDDED)]
        parts.append(f"### {chapter.title}")
        parts += [f"On real data: {', '.join(real)}."] if real else []
        parts += [_experiment(record) for record in own] or ["Nothing is recorded for this chapter."]
    return parts


def _key_figures(book: Sequence[Chapter], run: dict[str, Any]) -> str:
    """Write the key figures of each chapter: in the committed notebook, and in the last run of those that were run."""
    rows = []
    for chapter in book:
        committed = notebooks.key_figures(notebooks.read(chapter.path))
        measured = run["chapters"].get(chapter.name, {}).get("figures", {})
        for place, name in enumerate(dict.fromkeys([*committed, *measured])):
            row = {
                "chapter": _link(chapter) if place == 0 else "",
                "key figure": _cell(name),
                "in the notebook": _cell(show.figure(committed.get(name, ""))),
            }
            here = {"on this machine": _cell(show.figure(measured.get(name, "")))} if run["chapters"] else {}
            rows.append(row | here)
    return "\n\n".join(["## Key figures", _table(rows) if rows else "No chapter reports any."])


def _run_times(book: Sequence[Chapter], run: dict[str, Any]) -> str:
    """Write the seconds of each chapter in the last run on this machine, or how to get them.

    Args:
        book: the chapters and their studies.
        run: the content of run.json (see `state.load`), without chapters if there was no run.
    """
    heading, done = "## Run times on this machine", run["chapters"]
    rows = [
        {"chapter": _link(chapter), "time": _seconds(chapter, done[chapter.name])}
        for chapter in book
        if chapter.name in done
    ]
    if not rows:
        return f"{heading}\n\nAfter `make course`, `make site` shows here how long each chapter took."
    settings = run["settings"]
    changed = ", ".join(settings.get("set") or []) or "nothing else"
    told = (
        f"One run: `--profile {settings.get('profile')}`, seed {settings.get('seed') or 'as in the notebooks'}, "
        f"set {changed}."
    )
    return "\n\n".join([heading, _table(rows), told])


def _experiment(record: Record) -> str:
    """Write one record, folded up: where it comes from, and every figure of every arm."""
    origin = {"configuration": record.configuration, "provenance": record.provenance}
    where = records.origin(origin) if "budget" in record.configuration else _where(record)
    several = list(record.arms) != [""]
    rows = []
    for arm, measured in record.arms.items():
        for place, (name, figure) in enumerate(measured.items()):
            row = {"arm": _cell(arm) if place == 0 else ""} if several else {}
            row |= {"figure": _cell(name.replace("_", " ")), "runs": str(len(figure.values))}
            rows.append(row | {"mean and interval": _cell(figure)})
    summary = f"<summary>{html.escape(record.name)}: {html.escape(record.what)}</summary>"
    configuration = _code(json.dumps(record.configuration, ensure_ascii=False))
    facts = [
        f"Seeds {format_seeds(record.seeds) or 'none'}. {_cell(where)}.",
        *([f"From one seed to the next differ: {_cell(record.varies)}."] if record.varies else []),
        f"Configuration {configuration}.",
        *([f"The code that measured: {record.code}."] if record.code else []),
    ]
    return "\n\n".join([f"<details>{summary}", *facts, _table(rows), "</details>"])


def _where(record: Record) -> str:
    origin = dict(record.provenance)
    versions = [f"{name} {version}" for name, version in origin.pop("versions", {}).items()]
    return ", ".join([f"{key} {value}" for key, value in origin.items()] + versions)


def _belongs(record: Record, chapter: Chapter) -> bool:
    return record.name.removeprefix("sweep/").split("-")[0] == chapter.number


def _seconds(chapter: Chapter, done: dict[str, Any]) -> str:
    if done.get("failure"):
        return _cell(show.describe(show.Failure(**done["failure"])))
    changed = done.get("source_sha256") != chapter.source_sha256
    return f"{done['seconds']:.1f} s" + (", before the notebook last changed" if changed else "")


def _link(chapter: Chapter) -> str:
    return f"[{_cell(chapter.title)}]({chapter.name}.ipynb)"


def _cell(value: Any) -> str:
    """Escape a text for a cell of a Markdown table, so that none of its signs is read as Markdown."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    for sign in "\\`*_{}[]$|~":
        text = text.replace(sign, "\\" + sign)
    return text


def _code(text: str) -> str:
    """Write a text as Markdown code, with quotes in place of its backquotes."""
    return "`" + text.replace("`", "'") + "`"


def _table(rows: Sequence[dict[str, str]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
