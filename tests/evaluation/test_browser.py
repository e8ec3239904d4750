"""report.html in a real browser, Chromium without a window: silent, alone, readable on a phone, on paper, in the dark, and by those who
cannot see it.

`scripts/setup dev` installs Chromium where it may; where there is none, these tests are skipped.
"""

import itertools
import os
import shutil
from pathlib import Path

import pytest

from mlx_distill.evaluation.pages import page
from tests import reports

sync = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
CHROMIUM = next(filter(None, map(shutil.which, (*NAMES, MAC))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: `scripts/setup dev` installs it where it may (apt install chromium)"
)
# Root has no sandbox of Chromium's; a container has little shared memory.
ARGUMENTS = ["--disable-dev-shm-usage", *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else [])]
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
MEMBERS = {"include": [["html"]], "exclude": [["tbody tr:nth-child(n+4)"], ["article:nth-of-type(n+3)"]]}
"""Of many that are alike, the first few: contrast is slow to look at."""
PHONE, LAPTOP, PAPER = 390, 1280, 700
"""Widths in CSS pixels; paper is A4 between its margins."""


@pytest.fixture(scope="module")
def browser():
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page.render(reports.full()), encoding="utf-8")
    return path


class Opened:
    """The report in a window of its own, with everything that it said and asked for."""

    def __init__(self, browser, path: Path, width: int, scheme: str = "light"):
        self.context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.route("**/*", self._answer)
        self.page.goto(path.as_uri())

    def _answer(self, route):
        self.asked.append(route.request.url)
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            route.abort()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.context.close()


# What stands out of the window, or out of its own box: names of elements. A table may scroll in its frame, and the page may not.
OUTSIDE = """() => {
  const width = document.documentElement.clientWidth;
  const scrolls = element => element.closest('.scroll, .skip, .unseen, nav') !== null;
  return [...document.querySelectorAll('body *')].filter(element => !scrolls(element))
    .filter(element => { const box = element.getBoundingClientRect(); return box.width > 0 && (box.right > width + 1 || box.left < -1) })
    .map(element => element.tagName + '.' + element.className + ' ' + (element.textContent || '').slice(0, 40));
}"""
# Frames that hide a part of what is in them, where nobody can scroll.
CLIPPED = """() => [...document.querySelectorAll('body *')].filter(element => !element.closest('.unseen, svg'))
  .filter(element => getComputedStyle(element).overflowX !== 'visible' || element.matches('.scroll, article, .answer, section, figure'))
  .filter(element => element.scrollWidth > element.clientWidth + 1 || element.getBoundingClientRect().right > innerWidth + 1)
  .map(element => element.tagName + '.' + element.className + ' ' + (element.textContent || '').slice(0, 60))"""
# Words that lie on other words within one plot, or out of it.
CROSSED = """() => [...document.querySelectorAll('svg')].flatMap(plot => {
  const frame = plot.getBoundingClientRect();
  const boxes = [...plot.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  const apart = (a, b) => a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 2 || b.bottom <= a.top + 2;
  const crossed = ([words, box], i) => boxes.slice(i + 1).filter(other => !apart(box, other[1])).map(other => words + ' / ' + other[0]);
  const out = boxes.filter(([words, box]) => box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1);
  return [...boxes.flatMap(crossed), ...out.map(([words, box]) => words + ' is cut')];
})"""


def test_the_report_is_silent_and_asks_nobody(browser, report):
    with Opened(browser, report, LAPTOP) as opened:
        opened.page.wait_for_load_state("networkidle")
        assert opened.said == []
        assert opened.asked == [report.as_uri()]


@pytest.mark.parametrize("width", [320, PHONE, 768, LAPTOP, 1920])
def test_nothing_stands_out_of_the_window(browser, report, width):
    with Opened(browser, report, width) as opened:
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.page.evaluate(OUTSIDE) == []


@pytest.mark.parametrize("width", [PHONE, LAPTOP])
def test_no_words_of_a_plot_lie_on_one_another(browser, report, width):
    with Opened(browser, report, width) as opened:
        assert opened.page.evaluate(CROSSED) == []


def barriers(opened: Opened, context: dict[str, list[list[str]]] = MEMBERS) -> tuple[list[tuple[str, str]], set[str]]:
    """(rule, an element) of what axe-core finds wrong, and the rules that were held by something."""
    found = axe.Axe().run(opened.page, context=context, options=RULES).response
    return [(rule["id"], rule["nodes"][0]["html"][:160]) for rule in found["violations"]], {rule["id"] for rule in found["passes"]}


@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "light"), (LAPTOP, "light"), (LAPTOP, "dark")])
def test_axe_finds_no_barrier(browser, report, width, scheme):
    with Opened(browser, report, width, scheme) as opened:
        wrong, held = barriers(opened)
        assert wrong == []
        assert {"color-contrast", "landmark-one-main", "document-title", "svg-img-alt", "heading-order"} <= held
        assert width != PHONE or "scrollable-region-focusable" in held


def test_axe_would_find_one(browser, report):
    with Opened(browser, report, LAPTOP) as opened:
        opened.page.add_style_tag(content="h1 { color: #aaa; background: #fff }")
        wrong, _ = barriers(opened, {"include": [["header"]], "exclude": []})
        assert [rule for rule, _ in wrong] == ["color-contrast"]


def test_light_and_dark_are_two_things(browser, report):
    seen = []
    for scheme in ("light", "dark"):
        with Opened(browser, report, LAPTOP, scheme) as opened:
            line = opened.page.locator(".curve.main").first.evaluate("e => getComputedStyle(e).stroke")
            seen.append([opened.page.evaluate("getComputedStyle(document.body).backgroundColor"), line])
            assert opened.page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light dark"  # scroll bars follow too
    assert seen[0] == ["rgb(255, 255, 255)", "rgb(20, 87, 127)"]
    assert all(light != dark for light, dark in zip(*seen, strict=True))


def test_on_paper_nothing_is_cut_and_everything_is_open(browser, report):
    with Opened(browser, report, PAPER, "dark") as opened:
        opened.page.emulate_media(media="print", color_scheme="dark")
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= PAPER
        assert opened.page.evaluate(CLIPPED) == []
        assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")
        assert not opened.page.locator("nav").is_visible()
        folded = opened.page.locator("details:not([open]) td").first
        assert folded.is_visible() and folded.bounding_box()["height"] > 5
        opened.page.pdf(path=str(report.with_suffix(".pdf")), format="A4", prefer_css_page_size=True)
        assert report.with_suffix(".pdf").stat().st_size > 10_000


def test_what_is_cut_on_paper_would_be_found(browser, report):
    with Opened(browser, report, PAPER) as opened:
        opened.page.emulate_media(media="print")
        opened.page.locator(".scroll").first.evaluate("e => { e.firstChild.style.minWidth = '900px'; e.style.overflow = 'hidden' }")
        assert len(opened.page.evaluate(CLIPPED)) == 1


def test_a_keyboard_reaches_every_section_from_the_contents(browser, report):
    with Opened(browser, report, LAPTOP) as opened:
        opened.page.keyboard.press("Tab")
        assert opened.page.evaluate("document.activeElement.className") == "skip"
        assert opened.page.locator(".skip").bounding_box()["x"] >= 0
        links = opened.page.locator("nav a").count()
        reached = []
        for _ in range(links):
            opened.page.keyboard.press("Tab")
            reached.append(opened.page.evaluate("document.activeElement.getAttribute('href')"))
        assert reached == ["#" + name for name in opened.page.evaluate("[...document.querySelectorAll('main > section')].map(s => s.id)")]
        opened.page.keyboard.press("Enter")
        assert opened.page.url.endswith(reached[-1])
        top = opened.page.locator(f"{reached[-1]} h2").bounding_box()["y"]
        assert 0 <= top < 844


def test_headings_go_down_one_step_at_a_time(browser, report):
    with Opened(browser, report, LAPTOP) as opened:
        levels = opened.page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_words_from_right_to_left_turn_nothing_else_around(browser, report):
    with Opened(browser, report, LAPTOP) as opened:
        assert opened.page.evaluate("getComputedStyle(document.body).direction") == "ltr"
        cell = opened.page.locator("bdi", has_text="انهيار مبنى").first
        assert cell.evaluate("e => getComputedStyle(e).direction") == "rtl"
