"""The directive for pictures: an SVG element with a caption, and the origin of its results."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common import pages
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
