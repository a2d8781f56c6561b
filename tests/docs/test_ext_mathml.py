"""Formulas are MathML: in the line and as blocks, and nothing is loaded to draw them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.one_page import build

pytestmark = pytest.mark.slow


def test_formulas_are_elements_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = build("# Page\n\nThe peak $z_v$ of\n\n$$ \\sum_v p_v \\log q_v $$\n", tmp_path, monkeypatch)
    assert page.warnings == ""
    assert page.html.count("<math") == 2
    assert "<msub>" in page.html
    assert '<div class="math" tabindex="0"><math' in page.html  # a wide formula can be scrolled by keyboard
    assert re.findall(r"<script[^>]*mathjax", page.html, re.IGNORECASE) == []
