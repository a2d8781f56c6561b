"""The report of a language model as a browser shows it, at two widths and in both colour schemes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crossent.scoring.show import lm_report
from tests.browser import Browser
from tests.scoring.show.lm_made import MADE
from tests.scoring.show.test_report_browser import FLAWS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    for kind, make in MADE.items():
        _ = lm_report.write(make(), folder / f"{kind}.html", title="What did the text cost?", source="log.jsonl")
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", MADE)
def test_nothing_overflows_leaves_or_complains(
    browser: Browser, folder: Path, kind: str, width: int, scheme: str
) -> None:
    path = folder / f"{kind}.html"
    browser.open(path, width=width, scheme=scheme)
    assert browser.evaluate(FLAWS) == []
    assert browser.requests == [path.as_uri()]
    assert browser.console == []
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 300) == (scheme == "dark")
