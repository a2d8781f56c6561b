"""What all pages share: text from outside, tables, pictures, and colours that can be read."""

from __future__ import annotations

import re
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import rc_context
from matplotlib.figure import Figure

from crossent import html
from tests.page import Page


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_any_text_survives_the_page(label: str) -> None:
    parser = Page(f"<b>{html.safe(label)}</b>")
    assert {tag for tag, _ in parser.elements} <= {"b", "bdi", "i"}
    found = "".join(parser.pieces)
    assert found == (html.clipped(label) if html.clipped(label).strip() else "empty")
    _ = found.encode("utf-8")
    kept = "".join(c if c == " " or category(c)[0] not in "CZ" else ascii(c)[1:-1] for c in label)
    assert html.clipped(label) == (kept if len(kept) <= 200 else kept[:199] + "…")


def test_table_escapes_what_is_not_markup() -> None:
    text = html.table(("<a>", "b"), [("<c>", html.safe("<d>"))], caption="<e>")
    assert [tag for tag, _ in Page(text).elements if tag in "abcde"] == []
    assert Page(text).text.split() == ["<e>", "<a>", "b", "<c>", "<d>"]


def drawing(**settings):
    """A figure with a line, a marker and a text."""
    with rc_context({**html.STYLE, "svg.hashsalt": "x", **settings}):
        figure = Figure(figsize=(2, 1))
        axes = figure.add_axes((0.2, 0.2, 0.7, 0.7))
        _ = axes.plot([0, 1], [1, 0], "o-", color=html.MAIN)
        _ = axes.text(0.5, 0.5, "$5 & <more>", color=html.WARM)
        return html.svg(figure, "x", "Title <1>", "a & b")


class TestPictures:
    def test_a_picture_has_the_colours_of_the_page_and_no_others(self) -> None:
        text = drawing()
        assert set(re.findall(r"var\((--\w+)\)", text)) == {"--ink", "--muted", "--line", "--main", "--warm"} & set(
            re.findall(r"(--\w+)", text)
        )
        assert {"--main", "--warm"} <= set(re.findall(r"var\((--\w+)\)", text))
        assert re.findall(r"#[0-9a-fA-F]{6}\b", text) == []

    def test_ids_begin_with_the_name_of_the_picture_and_references_follow(self) -> None:
        text = drawing()
        ids = re.findall(r'\bid="([^"]*)"', text)
        assert ids
        assert all(name.startswith("x-") for name in ids)
        assert set(re.findall(r'href="#([^"]*)"', text)) <= set(ids)

    def test_a_screen_reader_reads_title_and_description(self) -> None:
        page = Page(drawing())
        attributes = next(attributes for tag, attributes in page.elements if tag == "svg")
        assert (attributes["role"], attributes["aria-label"]) == ("img", "Title <1>")
        assert attributes["aria-describedby"] == "x-description"
        assert "a & b" in page.text
        assert page.open == []

    def test_text_stays_text(self) -> None:
        assert "$5 & <more>" in Page(drawing()).text


@pytest.mark.parametrize("room", ["crossent.demo", "crossent.scoring.show"])
def test_every_page_uses_the_one_stylesheet(room: str) -> None:
    name = "page.html" if room == "crossent.demo" else "report.html"
    text = html.template(room, name)
    assert "${style}" in text or "$style" in text
    used = {name for value in re.findall(r'class="([^"$]*)"', text) for name in value.split()}
    assert {name for name in used if f".{name}" not in html.stylesheet()} == set()


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
