"""The report of a score as a browser shows it, at three widths, in both colour schemes, by keyboard and on paper."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crossent.scoring.show import report
from tests.browser import PICTURE_FLAWS, Browser
from tests.scoring.show import made

pytestmark = pytest.mark.slow

WIDTHS = (390, 820, 1280)
TITLE = "What did the predictions cost?"

FLAWS = """(() => {
  document.querySelectorAll('details').forEach(e => e.open = true);
  const found = [], width = innerWidth, name = e => e.outerHTML.slice(0, 120);
  if (document.scrollingElement.scrollWidth > width) found.push('the page scrolls sideways');
  for (const e of document.body.querySelectorAll('*')) {
    const box = e.getBoundingClientRect(), inside = e.parentElement.closest('.scroll, svg');
    if (!inside && (box.left < -0.5 || box.right > width + 0.5)) found.push('beyond the page: ' + name(e));
    const plain = !inside && !e.matches('.scroll, svg') && getComputedStyle(e).display != 'inline';
    if (plain && e.scrollWidth > e.clientWidth + 1) found.push('beyond its box: ' + name(e));
  }
  return found.concat(PICTURES('svg.plot', 0.5), PICTURES('svg.whisker', 4));
})()""".replace("PICTURES", PICTURE_FLAWS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    for kind in made.KINDS:
        _ = report.write(made.KINDS[kind](), folder / f"{kind}.html", title=TITLE, source="predictions.csv")
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", made.KINDS)
class TestInABrowser:
    def test_nothing_overflows_leaves_or_complains(
        self, browser: Browser, folder: Path, kind: str, width: int, scheme: str
    ) -> None:
        path = folder / f"{kind}.html"
        browser.open(path, width=width, scheme=scheme)
        assert browser.evaluate(FLAWS) == []
        assert browser.requests == [path.as_uri()]
        assert browser.console == []
        paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper))) < 300) == (scheme == "dark")


class TestBrowserItself:
    """The checks above find what they are for."""

    @pytest.mark.parametrize(
        ("body", "flaw"),
        [
            ('<div style="width: 2000px">x</div>', "the page scrolls sideways"),
            (
                '<div style="width: 50px; overflow: hidden; white-space: nowrap">many words in one line</div>',
                "beyond its box",
            ),
            ('<svg class="plot" width="50" height="20"><text y="15">many words</text></svg>', "beyond its picture"),
            (
                '<svg class="plot" width="90" height="20"><text y="15">many</text><text y="15">few</text></svg>',
                "overlap",
            ),
        ],
    )
    def test_flaws_are_found(self, browser: Browser, tmp_path: Path, body: str, flaw: str) -> None:
        path = tmp_path / "page.html"
        _ = path.write_text(f"<!DOCTYPE html><body>{body}")
        browser.open(path, width=390)
        assert any(found.startswith(flaw) for found in browser.evaluate(FLAWS))

    def test_requests_and_complaints_are_heard(self, browser: Browser, tmp_path: Path) -> None:
        path = tmp_path / "page.html"
        _ = path.write_text('<!DOCTYPE html><body><img src="missing.png"><script>console.log("heard")</script>')
        browser.open(path)
        assert browser.requests == [path.as_uri(), (tmp_path / "missing.png").as_uri()]
        assert any("heard" in message for message in browser.console)


def press(browser: Browser, key: str, code: int) -> None:
    for kind in ("keyDown", "keyUp"):
        _ = browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)


def test_keyboard_reaches_and_scrolls_every_table(browser: Browser, folder: Path) -> None:
    browser.open(folder / "ten.html", width=390)
    wanted = browser.evaluate(
        "[...document.querySelectorAll('summary, .scroll')].filter(e => e.checkVisibility()).length"
    )
    reached = set()
    for _ in range(wanted):
        press(browser, "Tab", 9)
        reached.add(browser.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
    assert len(reached) == wanted
    assert (
        browser.evaluate("document.activeElement.getAttribute('aria-label')")
        == "The numbers of this report with more digits"
    )
    press(browser, "ArrowRight", 39)
    moved = """new Promise(done => {
      const e = document.activeElement;
      e.scrollLeft ? done(e.scrollLeft) : e.onscroll = () => done(e.scrollLeft);
    })"""
    assert browser.evaluate(moved) > 0


def test_fits_on_paper(browser: Browser, folder: Path) -> None:
    browser.open(folder / "ten.html", width=718, scheme="dark", media="print")  # A4 without its margins
    assert (
        browser.evaluate(FLAWS.replace("document.querySelectorAll('details').forEach(e => e.open = true);", "")) == []
    )
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
