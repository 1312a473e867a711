"""The feedback page of a student: points, the message of each check, and the answer."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from course_lib import files

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{student}: feedback</title>
<style>
body {{ font-family: sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; line-height: 1.5; }}
pre {{ background: #f4f4f4; padding: .7rem; overflow-x: auto; }}
.said {{ border-left: .3rem solid #a33; padding-left: .7rem; white-space: pre-wrap; }}
.right {{ border-color: #383; }}
</style>
</head>
<body>
<h1>{student}</h1>
{sections}
</body>
</html>
"""


def write(path: Path, student: str, sections: Sequence[Mapping[str, Any]]) -> None:
    """Write the feedback page of a student; everything handed in is shown as text and cannot act in a browser.

    Args:
        path: of the page.
        student: whose it is.
        sections: one a chapter: `title`, `points`, `max_points`, `reason`, and `found` (name, points, max_points, said
            and answer of each exercise).
    """
    shown = "\n".join(map(_section, sections))
    files.write_text(path, _PAGE.format(student=escape(student), sections=shown))


def _section(section: Mapping[str, Any]) -> str:
    reason = f'<p class="said">{escape(section["reason"])}</p>' if section["reason"] else ""
    head = f"<h2>{escape(section['title'])}: {section['points']} of {section['max_points']} points</h2>"
    return "\n".join([head, reason, *map(_exercise, section["found"])])


def _exercise(one: Mapping[str, Any]) -> str:
    kind = "said right" if one["points"] == one["max_points"] else "said"
    answer = f"<pre>{escape(one['answer'])}</pre>" if one["answer"].strip() else ""
    return (
        f"<h3>{escape(one['name'])}: {one['points']:g} of {one['max_points']:g}</h3>\n"
        f'<p class="{kind}">{escape(one["said"])}</p>\n{answer}'
    )
