"""The pages as `make docs` builds them: without a warning, whole, and readable in a browser of any size."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.browser import PICTURE_FLAWS, Browser
from tests.docs.blocks import PAGES, ROOT
from tests.docs.test_guide import LEARNERS

pytestmark = pytest.mark.slow

DOCS = ROOT / "docs"
SITE = [page for page in PAGES if page.parent != ROOT]
SIZES = (("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390))

FLAWS = """(() => {
  document.querySelectorAll('details').forEach(e => e.open = true);
  const found = [], width = innerWidth, name = e => e.outerHTML.slice(0, 160);
  if (document.scrollingElement.scrollWidth > width) found.push('the page scrolls sideways');
  const scrolls = e => e && (['auto', 'scroll'].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  for (const e of document.querySelector('.content').querySelectorAll('*')) {
    if (!e.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
    const box = e.getBoundingClientRect(), style = getComputedStyle(e);
    if (e.closest('svg, math') && !e.matches('svg.plot')) continue;
    if (!scrolls(e.parentElement) && box.width && (box.left < -0.5 || box.right > width + 0.5))
      found.push('beyond the page: ' + name(e));
    const cut = ['hidden', 'clip'].includes(style.overflowX) && style.position != 'absolute';
    if (cut && e.scrollWidth > e.clientWidth + 1 && !e.closest('.explorer')) found.push('clipped: ' + name(e));
  }
  return found.concat(PICTURES('svg.plot', 3));
})()""".replace("PICTURES", PICTURE_FLAWS)


def build(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", *options, "-d", str(out / "doctrees")]
    return subprocess.run(
        [*command, str(DOCS), str(out / "html")], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(out)
    assert done.stderr == ""
    assert done.returncode == 0
    return out / "html"


def of(page: Path) -> str:
    return str(page.relative_to(DOCS).with_suffix(".html"))


def test_every_page_is_built_and_links_lead_somewhere(site: Path) -> None:
    html = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert {str(path.relative_to(site)) for path in html} >= {of(page) for page in SITE}
    ids = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in html.items()}
    broken: list[str] = []
    for path, text in html.items():
        if path.name in ("genindex.html", "search.html"):
            continue
        for link in re.findall(r'<a[^>]* href="([^"]+)"', text):
            if re.match(r"[a-z]+:", link):
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            known = target in html and (not anchor or anchor in ids[target] or target.name == "genindex.html")
            if not (known or (target.exists() and target.suffix != ".html")):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_learners_pages_lead_to_the_next_one(site: Path) -> None:
    for page, following in pairwise(LEARNERS):
        text = (site / "guide" / f"{page}.html").read_text(encoding="utf-8")
        assert re.findall(r'<link rel="next"[^>]* href="([^"]+)"', text) == [f"{following}.html"]
        assert re.search(rf'<a class="next-page" href="{following}\.html"', text)


def test_nothing_comes_from_another_host(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|img|iframe|source)[^>]* src="https?:[^"]*"', text) == []
        assert re.findall(r'<link[^>]* rel="stylesheet"[^>]* href="https?:[^"]*"', text) == []


@pytest.mark.parametrize("page", SITE, ids=of)
def test_a_page_is_readable_in_both_schemes_on_desktop_and_telephone(site: Path, browser: Browser, page: Path) -> None:
    for scheme, width in SIZES:
        browser.open(site / of(page), width=width, scheme=scheme)
        assert (scheme, width, browser.evaluate(FLAWS)) == (scheme, width, [])
        assert all(request.startswith(("file:", "data:")) for request in browser.requests)
        assert browser.console == []
        paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 300) == (scheme == "dark")


@pytest.mark.parametrize(
    ("body", "flaw"),
    [
        ('<p style="width: 2000px">x</p>', "beyond the page"),
        ('<p style="width: 50px; overflow: hidden; white-space: nowrap">many words in one line</p>', "clipped"),
        ('<svg class="plot" width="50" height="20"><text y="15">many words</text></svg>', "beyond its picture"),
        ('<svg class="plot" width="90" height="20"><text y="15">many</text><text y="15">few</text></svg>', "overlap"),
    ],
)
def test_flaws_are_found(browser: Browser, tmp_path: Path, body: str, flaw: str) -> None:
    path = tmp_path / "page.html"
    _ = path.write_text(f'<!DOCTYPE html><body><div class="content">{body}</div>')
    browser.open(path, width=390)
    assert any(found.startswith(flaw) for found in browser.evaluate(FLAWS))
