"""What is wrong with a built site: a made-up one of two pages, and one fault at a time."""

import pytest
from nbformat.v4 import new_code_cell, new_notebook

from course_lib.book import notebooks
from course_lib.book.site import check, learners

HEAD = (
    '<!doctype html><html><head><link rel="canonical" href="https://example.org/">'
    '<link rel="stylesheet" href="a.css"></head>'
)
PAGES = {
    "index.html": HEAD
    + '<body><h1 id="top">Home</h1><a href="chapters/one.html#idea">one</a> <a href="https://arxiv.org/abs/1">paper</a>'
    '<img src="a%20b.png" alt="Accuracy falls."></body></html>',
    "chapters/one.html": '<h2 id="idea">Idea</h2><a href="../index.html">home</a><a href="#idea">here</a>'
    '<script src="../app.js?v=1"></script>',
    "a.css": "/* @import 'https://example.org/a.css' */ body { background: url(a%20b.png) }",
    "app.js": "",
    "a b.png": "",
}


@pytest.fixture
def site(tmp_path):
    for name, text in PAGES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def plant(site, name, old, new):
    text = (site / name).read_text()
    assert old in text
    (site / name).write_text(text.replace(old, new))


def test_a_site_without_faults_has_none(site, capsys):
    assert check.faults(site) == []
    assert check.main(str(site)) == 0
    assert "No broken link" in capsys.readouterr().out


FAULTS = {
    "a page that is not there": ("chapters/one.html#idea", "chapters/two.html", "<a> leads to chapters/two.html"),
    "a place that is not there": ("one.html#idea", "one.html#ideas", "one.html#ideas, and that page has no such place"),
    "a folder": ("chapters/one.html#idea", "chapters/", "<a> leads to chapters/, which is not there"),
    "outside of the site": ("chapters/one.html#idea", "../secret.html", "<a> leads to ../secret.html, which is not"),
    "a picture that is not there": ("a%20b.png", "c.png", "<img> leads to c.png, which is not there"),
    "no alt text": ('alt="Accuracy falls."', "", "index.html:1: the image a%20b.png has no alt text"),
    "an empty alt text": ("Accuracy falls.", " ", "the image a%20b.png has no alt text"),
    "a picture from elsewhere": ('src="a%20b.png"', 'src="//cdn.org/a.png"', "<img> loads //cdn.org/a.png"),
    "a style from elsewhere": ('href="a.css"', 'href="https://cdn.org/a.css"', "<link> loads https://cdn.org/a.css"),
    "a script from elsewhere": (
        "<body>",
        '<body><script src="https://cdn.org/a.js"></script>',
        "<script> loads https://cdn.org/a.js from elsewhere",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_its_page(site, capsys, old, new, message):
    (site.parent / "secret.html").touch()
    plant(site, "index.html", old, new)
    found = check.faults(site)
    assert len(found) == 1
    assert found[0].startswith("index.html")
    assert message in found[0]
    assert check.main(str(site)) == 1
    assert f"1 faults in {site}" in capsys.readouterr().out


def test_a_link_within_a_page_must_lead_somewhere_too(site):
    plant(site, "chapters/one.html", 'href="#idea"', 'href="#end"')
    assert ["#end" in fault for fault in check.faults(site)] == [True]


@pytest.mark.parametrize(
    "rule", ["@import 'https://cdn.org/a.css';", "a { background: url(//cdn.org/a.png) }"]
)
def test_a_style_sheet_may_load_nothing_from_elsewhere(site, rule):
    (site / "a.css").write_text(rule)
    assert [fault.split(":")[0] for fault in check.faults(site)] == ["a.css"]


def test_an_empty_folder_is_no_site(tmp_path):
    with pytest.raises(FileNotFoundError, match="make site builds them"):
        check.faults(tmp_path)


@pytest.mark.parametrize("place", ["page", "open details", "slides", "notebook"])
def test_a_solution_in_the_open_is_a_fault(site, capsys, monkeypatch, place):
    monkeypatch.setattr(
        learners, "of_the_book", lambda: ["    scaled = x / 2\n    return scaled\n", "one = 1"]
    )
    code = "<pre><span>scaled</span> = x / 2\n    <b>return</b> scaled</pre>"
    plant(site, "index.html", "<body>", f"<body><details><summary>Show</summary>{code}</details>")
    assert check.main(str(site)) == 0
    if place == "page":
        plant(site, "chapters/one.html", "</h2>", f"</h2><details>closed</details>{code}")
    elif place == "open details":
        plant(site, "index.html", "<details>", "<details open>")
    elif place == "slides":
        (site / "slides.html").write_text(code)
    else:
        cells = [new_code_cell("def f(x):\n    scaled = x / 2\n    return scaled")]
        (site / "01.ipynb").write_text(notebooks.to_text(new_notebook(cells=cells)))
    assert check.main(str(site)) == 1
    assert "a solution stands in the open: scaled = x / 2" in capsys.readouterr().out


def test_the_marks_of_a_solution_are_a_fault(site):
    (site / "01.ipynb").write_text(
        notebooks.to_text(new_notebook(cells=[new_code_cell("### BEGIN SOLUTION")]))
    )
    assert learners.in_the_open(site, []) == ["01.ipynb: a mark of a solution"]


def test_the_solutions_of_the_book_are_known():
    assert len(list(learners.of_the_book())) >= 3 * len(notebooks.chapters())
