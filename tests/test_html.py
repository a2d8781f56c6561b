"""What all pages share: text from outside, tables, pictures, and colours that can be read."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossent import html
from tests.page import Page


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_any_text_survives_the_page(label: str) -> None:
    parser = Page(f"<b>{html.safe(label)}</b>")
    assert {tag for tag, _ in parser.elements} <= {"b", "bdi", "i"}
    found = "".join(parser.pieces)
    assert found == (html.clipped(label) if html.clipped(label).strip() else "empty")
    _ = found.encode("utf-8")
    kept = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]", "\ufffd", label)
    assert html.clipped(label) == (kept if len(kept) <= 200 else kept[:199] + "…")


def test_table_escapes_what_is_not_markup() -> None:
    text = html.table(("<a>", "b"), [("<c>", html.safe("<d>"))], caption="<e>")
    assert [tag for tag, _ in Page(text).elements if tag in "abcde"] == []
    assert Page(text).text.split() == ["<e>", "<a>", "b", "<c>", "<d>"]


def luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_is_enough_for_small_text(scheme: int) -> None:
    palettes = [
        dict(re.findall(r"--(\w+): (#\w{6})", line)) for line in html.stylesheet().splitlines() if "--ink: #" in line
    ]
    palette = {name: luminance(colour) for name, colour in palettes[scheme].items()}
    for text in ("ink", "muted", "main", "warm"):
        for ground in ("paper", "card"):
            high, low = sorted((palette[text], palette[ground]), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG 2.2, criterion 1.4.3
