"""The pages beside the chapters: links lead somewhere, papers are in the bibliography, no number of a run is typed.

Below, the proof that each rule refuses what it should. A rule is a function from a page's text to a list of faults.
"""

import re

import pytest

from course_lib.book import notebooks, prose
from tests.notebooks.test_form import FOLDER, PAPERS, comparable, markdown

WORDS = 1150


def github_slugify(title):
    """The anchor of a heading, as GitHub and the site make it."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower().replace(" ", "-"))


CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]+`", re.MULTILINE | re.DOTALL)
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))}
WHERE, SOURCES = "where-this-goes.md", "sources.md"


def anchors(text):
    """What the site makes of headings: `myst_heading_anchors` goes down to the third level."""
    return {github_slugify(title.strip()) for title in re.findall(r"^#{1,3} +(.+)$", text, re.MULTILINE)}


def links(text):
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", text)):
        name, _, anchor = link.partition("#")
        path = FOLDER / name
        if "://" in link:
            continue
        if not path.is_file():
            found.append(f"{link}: no such file")
        elif anchor:
            there = markdown(notebooks.read(path)) if path.suffix == ".ipynb" else path.read_text("utf-8")
            if anchor not in anchors(there):
                found.append(f"{link}: no such heading")
    return found


def papers(text):
    """What leads out of the course is in references.bib; a paper is `*[title](link)*`, with its title there."""
    titled = re.findall(r"\*\[([^\]]+)\]\((https:[^)]+)\)", text)
    found = [title for title, link in titled if (link, comparable(title)) not in PAPERS]
    known = {link for link, _ in PAPERS}
    return found + [link for link in re.findall(r"\]\((https:[^)]+)\)", text) if link not in known]


def typed(text):
    """Numbers that need a mark; those of headings, in the first column of a table, are none."""
    return prose.typed(re.sub(r"^\| [^|]+ \|", "|", text, flags=re.MULTILINE))


def sections(text):
    """Each trend says what the course has on it, with a way there, and what to read."""
    found = []
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        here, _, read = re.split(r"^## ", section, flags=re.MULTILINE)[0].partition("**Read.**")
        if not re.search(r"\*\*Here\.\*\*[^#]*\]\([^):]+\.ipynb", here) or not re.search(r"\*\[", read):
            found.append(section.partition("\n")[0])
    return found


def few_words(text):
    plain = re.sub(r"<!--.*?-->|(?<=\])\([^)]*\)", "", text)
    count = sum(bool(re.search(r"\w", word)) for word in plain.split())
    return [f"{count} words; at most {WORDS}"] if count > WORDS else []


def headings_of_documents(text):
    """Every row of a table leads into the course, or says why not; no numbered heading of a document is skipped."""
    found = []
    for document in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        rows = re.findall(r"^\| (.+?) \| (.+) \|$", document, re.MULTILINE)[1:]
        found += [
            f"{heading} leads nowhere"
            for heading, place in rows
            if not re.search(r"\]\([^):]+\)", place) and not re.match("Not taught: ", place)
        ]
        numbers = [[int(n) for n in re.findall(r"\d+", heading.split()[0])] for heading, _ in rows]
        numbers = [tuple(number) for number in numbers if number]
        wanted = {(*number[:-1], number[-1] - 1) for number in numbers if number[-1] > 1}
        wanted |= {number[:-1] for number in numbers if len(number) > 1}
        found += [f"{'.'.join(map(str, one))} is missing" for one in sorted(wanted - set(numbers))]
    return found


@pytest.mark.parametrize("name", PAGES)
def test_every_link_and_anchor_leads_somewhere(name):
    found = links(PAGES[name])
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", [WHERE, SOURCES])
@pytest.mark.parametrize("rule", [papers, typed], ids=lambda rule: rule.__name__)
def test_the_pages_cite_and_count_as_the_chapters_do(name, rule):
    found = rule(PAGES[name])
    assert not found, "\n".join(found)


@pytest.mark.parametrize("rule", [sections, few_words], ids=lambda rule: rule.__name__)
def test_every_trend_has_a_place_in_the_course_and_something_to_read(rule):
    assert PAGES[WHERE].count("\n### ") >= 10
    found = rule(PAGES[WHERE])
    assert not found, "\n".join(found)


def test_every_heading_of_a_document_has_a_place_in_the_course():
    assert PAGES[SOURCES].count("\n## ") == 5
    found = headings_of_documents(PAGES[SOURCES])
    assert not found, "\n".join(found)


FAULTS = {
    "a page that is not there": (links, SOURCES, "(05-eagleeye.ipynb#recalibration)", "(05-eagle.ipynb)"),
    "a heading that is not there": (links, SOURCES, "ipynb#recalibration", "ipynb#calibration"),
    "a heading of a page": (links, SOURCES, "md#methods-together", "md#methods"),
    "another title": (papers, WHERE, "Microscaling Data", "Macroscaling Data"),
    "a paper that nobody lists": (papers, WHERE, "abs/2310.10537", "abs/2310.10538"),
    "a number": (typed, WHERE, "stored in 4 bits", "stored in 4.5 bits"),
    "no way into the course": (
        sections,
        WHERE,
        "[chapter 08](08-low-rank-hashing-qat.ipynb#what-does-it-win-over-calibration)",
        "Chapter 08",
    ),
    "nothing to read": (sections, WHERE, "*[Rethinking", "[Rethinking"),
    "a long page": (few_words, WHERE, "Papers choose", "Papers choose " + "so " * WORDS),
    "a heading without a place": (
        headings_of_documents,
        SOURCES,
        "[01, the loop](01-knowledge-distillation.ipynb#the-loop) |",
        "|",
    ),
    "a heading left out": (headings_of_documents, SOURCES, "| 4.1 Student loss", "| Student loss"),
    "a part left out": (headings_of_documents, SOURCES, "| 02 Pruning |", "| Pruning |"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_fault_is_seen(name):
    rule, page, before, after = FAULTS[name]
    assert before in PAGES[page]
    assert len(rule(PAGES[page].replace(before, after))) > len(rule(PAGES[page]))
