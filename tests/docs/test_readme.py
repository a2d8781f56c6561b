"""README.md and README.zh-CN.md: short, the same blocks in both, links that lead somewhere, facts of features.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.docs.blocks import ROOT, blocks

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
BOTH = [ENGLISH, CHINESE]
LINES, FIRST_SCREEN, BLOCKS, LINES_OF_A_BLOCK, WORDS = 150, 40, 6, 8, 30
COMMANDS = ["make demo", "make test"]
MARKDOWN = MarkdownIt("commonmark").enable("table")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name(page: Path) -> str:
    return page.name


def code(page: Path) -> list[list[str]]:
    """The lines of each block, without comments and the spaces before them."""
    return [[re.sub(r"\s+#\s.*", "", line) for line in b.text.splitlines()] for b in blocks(text_of(page))]


def sentences(text: str) -> list[str]:
    """The sentences of a page without code, links' targets and HTML; a cell, a heading and an item end one, too."""
    said: list[str] = []
    for token in MARKDOWN.parse(text):
        if token.type == "inline":
            children = token.children or []
            words = " ".join(child.content for child in children if child.type in ("text", "code_inline", "softbreak"))
            said += re.split(r"(?<=[.?!:;])\s+", words)
    return [sentence for sentence in said if sentence.strip()]


def cells(page: Path) -> list[list[list[str]]]:
    """The tables of a page, each as its lines of cells, the heads first."""
    tables = re.findall(r"(?:^\|.*\n)+", text_of(page), re.MULTILINE)
    lines = [[line for line in table.splitlines() if set(line) - set("|-:")] for table in tables]
    return [[[cell.strip() for cell in line.split("|")[1:-1]] for line in table] for table in lines]


@pytest.mark.parametrize("page", BOTH, ids=name)
def test_it_is_short(page: Path) -> None:
    assert len(text_of(page).splitlines()) <= LINES


@pytest.mark.parametrize("page", BOTH, ids=name)
def test_the_commands_and_the_worked_example_are_on_the_first_screen(page: Path) -> None:
    first = "\n".join(text_of(page).splitlines()[:FIRST_SCREEN])
    commands, example, *_ = code(page)
    assert commands == COMMANDS
    assert "\n".join(example[1:]) in re.sub(r"\s+# .*", "", first)
    assert [line for line in example if not line.startswith(">>>")] == ["0.357", "2.303"]


@pytest.mark.parametrize("page", BOTH, ids=name)
def test_blocks_are_few_and_short(page: Path) -> None:
    found = [block for block in blocks(text_of(page)) if block.language != "text"][1:]
    assert len(found) <= BLOCKS
    assert [block.line for block in found if len(block.text.splitlines()) > LINES_OF_A_BLOCK] == []


def test_both_languages_have_the_same_blocks() -> None:
    assert code(ENGLISH) == code(CHINESE)
    assert [b.language for b in blocks(text_of(ENGLISH))] == [b.language for b in blocks(text_of(CHINESE))]


def test_both_languages_have_the_same_tables_and_links() -> None:
    english, chinese = ([[len(line) for line in table] for table in cells(page)] for page in BOTH)
    assert english == chinese
    named = [re.findall(r"`[^`]+`", " ".join(cell for line in cells(page)[0] for cell in line)) for page in BOTH]
    assert named[0] == named[1]
    other = {ENGLISH: CHINESE.name, CHINESE: ENGLISH.name}
    links = [sorted({*targets(page)} - {other[page]}) for page in BOTH]
    assert links[0] == links[1]
    assert all(other[page] in targets(page) for page in BOTH)


def test_no_sentence_is_long() -> None:
    found = sentences(text_of(ENGLISH))
    assert len(found) > 60
    assert [sentence for sentence in found if len(sentence.split()) > WORDS] == []


def test_a_long_sentence_is_found_wherever_it_stands() -> None:
    long = "word " * WORDS + "word"
    for text in (long, f"# {long}", f"* one\n* {long}.", f"| a |\n|---|\n| {long} |", f"Short. [{long}](a.md), `b`."):
        assert any(len(sentence.split()) > WORDS for sentence in sentences(text))
    assert all(len(sentence.split()) <= WORDS for sentence in sentences("One two. " * WORDS))


def targets(page: Path) -> list[str]:
    """The places that a page links to, and the pictures that it shows."""
    text = text_of(page)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:srcset|src)="([^"]+)"', text)


@pytest.mark.parametrize("page", BOTH, ids=name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in targets(page):
        path, _, heading = target.partition("#")
        assert (ROOT / path).exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", text_of(ROOT / path), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_the_comparison_says_what_features_toml_says() -> None:
    """So that each cell has its evidence there, and its version."""
    features = tomllib.loads((ROOT / "docs" / "features.toml").read_text(encoding="utf-8"))
    versions = {library["name"]: library.get("version", "") for library in features["library"]}
    keys = {library["name"]: library["key"] for library in features["library"]}
    known = {feature["name"]: feature for group in features["group"] for feature in group["feature"]}
    heads, *lines = cells(ENGLISH)[-1]
    libraries = [head.partition(" ")[0] for head in heads[1:]]
    assert heads[1:] == [f"{library} {versions[library]}".strip() for library in libraries]
    assert cells(CHINESE)[-1][0] == heads
    assert len(lines) == 10
    for what, *said in lines:
        (feature,) = [of for title, of in known.items() if what == title or what.endswith(f" {title}")]
        assert said == [feature[keys[library]] for library in libraries], what
