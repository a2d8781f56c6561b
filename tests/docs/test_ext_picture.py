"""The directive for pictures: an SVG element with a caption, and the origin of its results."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.common import pages
from benchmarks.common.grid import number
from tests.benchmarks.classes import OTHER, two_classes
from tests.browser import PICTURE_FLAWS, Browser
from tests.docs.one_page import build, text_of
from tests.docs.results import DRAWN, lost, remove

pytestmark = pytest.mark.slow

PICTURES = [(suite, name) for suite, names in DRAWN.items() for name in names]


@pytest.mark.parametrize(("suite", "name"), PICTURES)
def test_the_build_says_which_picture_has_lost_its_source(
    suite: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(suite, tmp_path, monkeypatch)
    warnings = build(f"# Page\n\n```{{picture}} {name}\n```\n", tmp_path, monkeypatch).warnings
    assert lost(suite, "picture", name) in warnings
    assert pages.COMMANDS[suite] in warnings
    assert "index.md:3" in warnings


def test_a_picture_has_a_caption_and_its_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "# Page\n\n```{picture} proof.logits\n:source: logits\nForward *and* backward.\n```\n"
    page = build(text, tmp_path, monkeypatch)
    assert page.warnings == ""
    assert "<svg" in page.html
    assert "Forward <em>and</em> backward." in page.html
    assert pages.records("logits")[0]["run"]["commit"] in text_of(page.html)


def test_numbers_of_a_caption_are_computed_from_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "# Page\n\n```{picture} proof.growth\n:source: growth\nA caption.\n```\n"
    said = text_of(build(text, tmp_path, monkeypatch).html)
    (name, records), *_ = pages.by_processor("growth").items()
    times = [
        record["median_seconds"]["crossent"] / math.prod(record["shape"])
        for record in records
        if record["measure"] == "both" and record["shape"][1] == 10 and record["shape"][0] >= 10_000
    ]
    assert "A caption. The longest time" in said
    assert f"{name}: over the classes crossent " in said
    assert f"over the logits crossent {number(max(times) / min(times))} and eager " in said


def test_pictures_of_several_classes_are_readable_on_a_telephone(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_classes(tmp_path, monkeypatch)
    drawn = [(suite, name) for suite, name in PICTURES if suite != "coverage"]
    text = "".join(f"```{{picture}} {name}\n:source: {suite}\n```\n\n" for suite, name in drawn)
    page = build(f"# Page\n\n{text}", tmp_path, monkeypatch)
    assert page.html.count(OTHER) >= 2 * len(drawn)  # in each picture and its caption
    browser.open(tmp_path / "html" / "index.html", width=390)
    assert browser.evaluate(f"{PICTURE_FLAWS}('svg.plot', 3)") == []
