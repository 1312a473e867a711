"""Slides as a class sees them: shown by Chromium from a folder, with nothing else to be reached."""

import pytest

from course_lib.book.site import slides
from tests.book.site.browser.conftest import Browser, complaints

NUMBER = "() => [Reveal.getIndices().h, Reveal.getIndices().v]"
# Wider than its place, with no way to scroll there.
CUT_OFF = """() => [...Reveal.getCurrentSlide().querySelectorAll('*'), Reveal.getCurrentSlide()].filter(element =>
    element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).overflowX == 'hidden' &&
    !element.closest('mjx-container, aside')).map(element => element.outerHTML.slice(0, 100))"""


@pytest.fixture(
    scope="module", params=["01-knowledge-distillation.html", "06-post-training-quantization.html"]
)
def visit(request, chromium, serve, tmp_path_factory):
    folder = tmp_path_factory.mktemp("talk") / "slides"
    assert slides.write(folder, ["01", "06"]) == [
        "01-knowledge-distillation",
        "06-post-training-quantization",
    ]
    assert sorted(path.name for path in folder.iterdir()) == [
        "01-knowledge-distillation.html",
        "06-post-training-quantization.html",
        "index.html",
        "mathjax",
        "reveal.js",
    ]
    assert 'href="01-knowledge-distillation.html"' in (folder / "index.html").read_text()
    with pytest.raises(slides.folders.CourseError):
        slides.write(folder, ["01"])
    assert slides.write(folder, ["01"], force=True)
    return Browser(chromium, serve(folder)).open(request.param, width=1280, height=720)


def test_slides_load_whole_and_ask_no_other_machine(visit):
    assert visit.elsewhere == []
    assert visit.failed == []
    assert complaints(visit) == []


def test_mathematics_is_typeset(visit):
    assert visit.page.evaluate("() => document.querySelectorAll('.slides mjx-container').length") > 0
    assert visit.page.evaluate("() => document.querySelectorAll('mjx-merror').length") == 0


def test_arrows_lead_on_and_down_and_no_slide_is_too_wide(visit):
    page = visit.page
    assert page.evaluate(NUMBER) == [0, 0]
    page.keyboard.press("ArrowRight")
    assert page.evaluate(NUMBER) == [1, 0]
    seen = 1
    while not page.evaluate("() => Reveal.isLastSlide()"):
        page.evaluate("() => Reveal.next()")
        assert page.evaluate(CUT_OFF) == [], page.evaluate(NUMBER)
        seen += 1
    assert seen > 30
