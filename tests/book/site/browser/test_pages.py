"""The site as a reader sees it. First every page in two widths, then what a reader does; at the end, faults planted."""

import functools
import re
from pathlib import Path

import pytest

from course_lib import files
from course_lib.book import notebooks
from course_lib.book.learner import edition
from course_lib.book.site import learners
from tests.book.site.browser.conftest import SITE, Browser, complaints
from tests.notebooks.new_form import NEW_FORM

PAGES = sorted(
    path.relative_to(SITE).as_posix()
    for path in Path(SITE).rglob("*.html")
    if not path.relative_to(SITE).parts[0].startswith("_")
)
CHAPTERS = [name for name in PAGES if re.match(r"\d\d-", name)]
STUDIES = [name for name in PAGES if name.startswith("studies/")]
WIDTHS = (390, 1440)  # a telephone, a desk; CSS pixels

WIDTH = "() => document.documentElement.scrollWidth"
STICKING_OUT = """() => [...document.querySelectorAll('.bd-article *')].filter(element => {
    if (element.getBoundingClientRect().right <= innerWidth + 1) return false;
    for (let above = element; above; above = above.parentElement)
        if (above.matches('mjx-assistive-mml') || /auto|scroll/.test(getComputedStyle(above).overflowX)) return false;
    return true;
}).map(element => element.outerHTML.slice(0, 100))"""
CUT_OFF = """() => [...document.querySelectorAll('.cell_output .output')]
    .filter(output => output.querySelector('table > caption') && output.scrollWidth > output.clientWidth + 1)
    .map(output => output.textContent.trim().slice(0, 100))"""
BAD_IMAGES = """() => [...document.images].filter(i => !i.alt.trim() || !i.naturalWidth || i.clientWidth > innerWidth)
    .map(i => i.src)"""
MATHEMATICS = """() => ({
    written: document.querySelectorAll('.math').length,
    typeset: document.querySelectorAll('.math mjx-container').length,
    wrong: document.querySelectorAll('mjx-merror').length,
    raw: document.body.innerText.match(/\\\\\\(|\\\\\\[|\\\\frac/g)?.length || 0})"""
FOLDED = """() => [...document.querySelectorAll('details > p')]
    .filter(p => !p.checkVisibility() || !p.clientHeight).length"""
CODE_SHARE = """() => {
    const height = element => element.getBoundingClientRect().height;
    const seen = [...document.querySelectorAll('.bd-article .cell_input')].filter(e => e.checkVisibility());
    return seen.reduce((sum, element) => sum + height(element), 0) / height(document.querySelector('.bd-article'));
}"""
MOST_CODE = 0.3  # of the height of a page in the new form, on a desk
BRIGHTNESS = "() => getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number)"


@pytest.fixture(scope="module")
def visited(browser):
    """visited(page, width): each page is loaded once for all questions about it."""
    return functools.cache(lambda name, width: looked_at(browser, name, width))


def looked_at(browser, name, width):
    visit = browser.open(name, width=width)
    visit.page.evaluate(
        "() => document.querySelectorAll('img').forEach(image => { image.loading = 'eager' })"
    )
    visit.page.wait_for_function("() => [...document.images].every(image => image.complete)")
    visit.width = visit.page.evaluate(WIDTH)
    visit.sticking_out = visit.page.evaluate(STICKING_OUT)
    visit.cut_off = visit.page.evaluate(CUT_OFF)
    visit.bad_images = visit.page.evaluate(BAD_IMAGES)
    visit.mathematics = visit.page.evaluate(MATHEMATICS)
    visit.code_share = visit.page.evaluate(CODE_SHARE) if visit.page.query_selector(".bd-article") else None
    visit.page.close()
    return visit


every_page = pytest.mark.parametrize("name", PAGES)
both_widths = pytest.mark.parametrize("width", WIDTHS)


def test_all_of_the_book_is_there():
    assert [f"{chapter.name}.html" for chapter in notebooks.chapters()] == CHAPTERS
    assert {f"{chapter.name}.html" for chapter in notebooks.book()} == {*CHAPTERS, *STUDIES}
    assert {"index.html", "glossary.html", "references.html", "results.html", "search.html"} < set(PAGES)


@every_page
@both_widths
def test_nothing_is_asked_of_another_machine(visited, name, width):
    assert visited(name, width).elsewhere == []


@every_page
@both_widths
def test_the_console_is_silent_and_every_request_is_answered(visited, name, width):
    assert complaints(visited(name, width)) == []
    assert visited(name, width).failed == []


@every_page
@both_widths
def test_nothing_is_wider_than_the_page(visited, name, width):
    assert visited(name, width).width <= width
    assert visited(name, width).sticking_out == []


@pytest.mark.parametrize("name", CHAPTERS + STUDIES)
def test_on_a_desk_every_table_of_results_is_seen_whole(visited, name):
    assert visited(name, WIDTHS[1]).cut_off == []


@pytest.mark.parametrize("name", [f"{name}.html" for name in NEW_FORM if "/" not in name])
def test_code_is_a_small_part_of_a_page_in_the_new_form(visited, name):
    assert 0 < visited(name, WIDTHS[1]).code_share <= MOST_CODE


@every_page
@both_widths
def test_every_image_is_shown_and_has_words(visited, name, width):
    assert visited(name, width).bad_images == []


@pytest.mark.parametrize("name", CHAPTERS + STUDIES)
def test_mathematics_is_typeset(visited, name):
    notebook = notebooks.read(files.root() / "notebooks" / name.replace(".html", ".ipynb"))
    formulas = sum(cell.source.count("$") for cell in notebook.cells if cell.cell_type == "markdown") // 2
    seen = visited(name, 1440).mathematics
    assert (seen["written"] > 0) == (formulas > 0)
    assert seen == {"written": seen["written"], "typeset": seen["written"], "wrong": 0, "raw": 0}


@pytest.mark.parametrize("name", CHAPTERS)
def test_quiz_answers_open_by_keyboard(browser, name):
    page = browser.open(name).page
    quiz = page.locator("section#quiz details")
    assert quiz.count() == 5
    quiz.first.locator("summary").focus()
    for number in range(5):
        if number:
            for _ in range(10):  # an answer may hold links
                page.keyboard.press("Tab")
                if page.evaluate("() => document.activeElement.tagName") == "SUMMARY":
                    break
        answer = quiz.nth(number)
        assert not answer.locator(":scope > p").first.is_visible()
        page.keyboard.press("Enter" if number % 2 else "Space")
        assert answer.evaluate("details => details.open && details.contains(document.activeElement)")
        assert answer.locator(":scope > p").first.is_visible()
    page.close()


@pytest.mark.parametrize("name", CHAPTERS)
def test_solutions_are_closed_and_open_by_keyboard(browser, name):
    page = browser.open(name).page
    cells = notebooks.read(files.root() / "notebooks" / name.replace(".html", ".ipynb")).cells
    solutions = page.locator(".tag_solution details")
    assert solutions.count() == sum(edition.has_solution(cell.source) for cell in cells) >= 3
    for number in range(solutions.count()):
        solution = solutions.nth(number)
        code = solution.locator(".cell_input")
        assert not code.is_visible()
        assert solution.locator("summary").inner_text() == learners.SHOW
        solution.locator("summary").focus()
        page.keyboard.press("Enter" if number % 2 else "Space")
        assert code.is_visible()
        assert solution.locator("summary").inner_text() == learners.HIDE
    page.emulate_media(media="print")
    assert not solutions.first.is_visible()
    page.close()


def test_search_finds_batch_norm(browser):
    visit = browser.open("index.html")
    visit.page.keyboard.press("Control+k")
    visit.page.keyboard.type("batch norm")
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_url("**/search.html?q=batch+norm*")
    visit.page.locator("#search-results li a").first.wait_for()
    visit.page.wait_for_function(
        "() => /found \\d+ page/.test(document.querySelector('#search-results').innerText)"
    )
    found = visit.page.locator("#search-results li a").evaluate_all(
        "links => links.map(a => a.getAttribute('href'))"
    )
    assert any("glossary.html" in link for link in found)
    assert sum(chapter in link for link in found for chapter in CHAPTERS) >= 5
    assert (visit.elsewhere, complaints(visit)) == ([], [])
    visit.page.close()


def test_a_term_leads_to_its_explanation(browser):
    page = browser.open("01-knowledge-distillation.html").page
    page.locator("a:has(> .glossary-term)", has_text="temperature").first.click()
    page.wait_for_url("**/glossary.html#term-temperature-t")
    term = page.locator("#term-temperature-t")
    assert term.inner_text().startswith("Temperature (T).")
    assert term.evaluate(
        "p => p.getBoundingClientRect().top >= 0 && p.getBoundingClientRect().bottom <= innerHeight"
    )
    page.close()


@pytest.mark.parametrize("name", CHAPTERS + STUDIES)
def test_the_notebook_of_a_chapter_can_be_downloaded(browser, name):
    page = browser.open(name).page
    with page.expect_download() as waiting:
        page.locator(".download-chapter a").click()
    notebook = files.root() / "notebooks" / name.replace(".html", ".ipynb")
    expected = notebook.read_text(encoding="utf-8")
    if name in CHAPTERS:
        expected = notebooks.to_text(edition.learners(notebooks.read(notebook)))
    assert Path(waiting.value.path()).read_text(encoding="utf-8") == expected
    assert waiting.value.suggested_filename == notebook.name
    page.close()


def test_dark_where_the_reader_is_dark_and_where_the_switch_says_so(browser):
    dark = browser.open(CHAPTERS[0], color_scheme="dark").page
    assert max(dark.evaluate(BRIGHTNESS)) < 60
    dark.close()
    page = browser.open(CHAPTERS[0], color_scheme="light").page
    assert min(page.evaluate(BRIGHTNESS)) > 200
    page.locator(".theme-switch-button:visible").click()
    page.locator(".theme-change-button[data-mode=dark]:visible").click()
    page.wait_for_function(f"() => Math.max(...({BRIGHTNESS})()) < 60")  # colours fade
    page.reload()
    assert max(page.evaluate(BRIGHTNESS)) < 60
    page.close()


@pytest.mark.parametrize("name", [*CHAPTERS, "results.html", "api/pruning.html"])
def test_on_paper_there_is_the_text_alone_with_every_answer(browser, name):
    page = browser.open(name, width=794).page  # A4 at 96 dots an inch
    page.emulate_media(media="print")
    for gone in (".bd-sidebar-primary", ".bd-header-article", ".prev-next-footer"):
        assert not page.locator(gone).first.is_visible()
    assert page.evaluate(WIDTH) <= 794
    assert page.evaluate(FOLDED) == 0
    page.close()


def test_the_site_works_from_the_disk(chromium, site):
    visit = Browser(chromium, site.as_uri() + "/").open(CHAPTERS[1])
    seen = visit.page.evaluate(MATHEMATICS)
    assert 0 < seen["typeset"] == seen["written"]
    assert (visit.elsewhere, visit.failed, complaints(visit)) == ([], [], [])
    visit.page.close()


# The questions themselves: a page that is well, then one fault at a time.

WELL = "<!doctype html><html lang='en'><head><link rel='icon' href='data:,'></head><body><h1>Well</h1>{}</body></html>"
WIDE = "<p style='width: 900px'>A part that the page cuts off.</p>"
PICTURE = "data:image/svg+xml,<svg xmlns=%22http://www.w3.org/2000/svg%22 width=%229%22 height=%229%22/>"


def planted(chromium, serve, folder, text):
    (folder / "page.html").write_text(WELL.format(text))
    return looked_at(Browser(chromium, serve(folder)), "page.html", 390)


def test_a_page_that_is_well_passes(chromium, serve, tmp_path):
    visit = planted(chromium, serve, tmp_path, f'<img src="{PICTURE}" alt="nothing">')
    assert (visit.elsewhere, visit.failed, complaints(visit), visit.bad_images) == ([], [], [], [])
    assert visit.width == 390


def test_the_share_of_code_is_that_of_the_code_which_is_seen(chromium, serve, tmp_path):
    def cell(height):
        return f"<div class='cell_input' style='height: {height}px'></div>"

    folded = f"<details><summary>Show</summary>{cell(500)}</details>"
    article = "<div class='bd-article' style='height: 1000px'>{}</div>"
    visit = planted(chromium, serve, tmp_path, article.format(cell(100) + folded + cell(150)) + cell(70))
    assert visit.code_share == 0.25


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ('<script src="https://cdn.example/a.js"></script>', "elsewhere"),
        ("<style>@import 'https://cdn.example/a.css';</style>", "elsewhere"),
        ('<script src="missing.js"></script>', "failed"),
        ("<script>console.error('no')</script>", "console"),
        ("<script>undefined_name()</script>", "console"),
        ("<pre>" + "wide " * 100 + "</pre>", "width"),
        (f"<div class='bd-article' style='overflow-x: hidden'>{WIDE}</div>", "sticking_out"),
        (f'<img src="{PICTURE}">', "bad_images"),
        ('<img src="missing.png" alt="a picture">', "bad_images"),
        ('<span class="math">\\(x\\)</span>', "mathematics"),
    ],
)
def test_a_planted_fault_is_seen(chromium, serve, tmp_path, text, seen):
    visit = planted(chromium, serve, tmp_path, text)
    faults = {
        "elsewhere": visit.elsewhere,
        "failed": visit.failed,
        "console": complaints(visit),
        "width": visit.width > 390,
        "sticking_out": visit.sticking_out,
        "bad_images": visit.bad_images,
        "mathematics": visit.mathematics["typeset"] < visit.mathematics["written"]
        and visit.mathematics["raw"],
    }
    assert faults[seen]
