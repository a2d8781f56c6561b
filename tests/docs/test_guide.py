"""The guide as a whole: its two orders, the first sentence of its pages, its glossary and its letters."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks
from tests.docs.prose import sentences

DOCS = ROOT / "docs"
GUIDE = sorted((DOCS / "guide").glob("*.md"))
INDEX = (DOCS / "index.md").read_text(encoding="utf-8")
TABLE_ROW = re.compile(r"^\| (.+?) \| (.+?) \|", re.MULTILINE)
LEARNERS = ["measure", "one-hot", "softmax", "sigmoid", "why", "worked-example", "training"]
"""The order of the article that the project began with."""


def toctrees(text: str) -> dict[str, list[str]]:
    """The pages of each toctree, by its caption."""
    found: dict[str, list[str]] = {}
    for block in blocks(text):
        if block.language == "{toctree}":
            caption = re.search(r"^:caption: (.+)$", block.text, re.MULTILINE)
            assert caption
            found[caption[1]] = [line for line in block.text.splitlines() if line and not line.startswith(":")]
    return found


def glossary(text: str) -> dict[str, str]:
    """The definition of each term."""
    found: dict[str, str] = {}
    for block in blocks(text):
        if block.language == "{glossary}":
            for entry in re.split(r"\n(?=\S)", block.text.strip()):
                term, _, definition = entry.partition("\n")
                assert term not in found
                found[term] = " ".join(definition.split())
    return found


TERMS = glossary((DOCS / "guide" / "glossary.md").read_text(encoding="utf-8"))


def letters() -> list[tuple[str, str]]:
    """The letters of the notation and what each of them means, from the tables below its first heading."""
    text = (DOCS / "guide" / "notation.md").read_text(encoding="utf-8")
    section = text.split("\n## Letters\n")[1].split("\n## ")[0]
    return [(letter, meaning) for letter, meaning in TABLE_ROW.findall(section) if letter != "letter"]


def test_each_page_is_in_one_toctree() -> None:
    shown = Counter(page for pages in toctrees(INDEX).values() for page in pages)
    assert [page for page, count in shown.items() if count > 1] == []
    assert {f"guide/{page.stem}" for page in GUIDE} <= shown.keys()


def test_learners_read_in_the_order_of_the_article() -> None:
    pages = toctrees(INDEX)["Learn"]
    assert pages[: len(LEARNERS)] == [f"guide/{page}" for page in LEARNERS]
    listed = re.findall(r"^\d+\. \[[^\]]+\]\((\S+)\.md\)", INDEX, re.MULTILINE)
    assert listed == pages[: len(listed)]
    assert len(listed) >= len(LEARNERS)


def test_practitioners_find_every_page_by_a_task() -> None:
    table = INDEX.split("## If you have a task")[1]
    linked = {link.removesuffix(".md") for link in re.findall(r"\]\(([\w/-]+\.md)", table)}
    captions = ("Train", "Score", "Coming from")
    assert {page for caption in captions for page in toctrees(INDEX)[caption]} <= linked


@pytest.mark.parametrize("page", GUIDE, ids=lambda page: page.stem)
def test_a_page_begins_with_what_its_reader_can_do_after_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# ")
    first = sentences(text)[0]
    assert re.match(r"After this page you can .+\.$", first.text), first.text
    assert text.split("\n\n")[1].startswith("After this page you can "), "the first paragraph says it"


def test_terms_are_in_alphabetical_order_and_lead_somewhere() -> None:
    assert list(TERMS) == sorted(TERMS, key=str.casefold)
    assert len(TERMS) > 80
    assert [term for term, said in TERMS.items() if not re.search(r"\]\(|\{term\}", said)] == []
    assert [term for term, said in TERMS.items() if len(sentences(said)) > 3] == []  # two, and the link


def test_letters_mean_the_same_in_the_glossary_and_in_the_notation() -> None:
    """A letter stands in italics in the entry of the thing that it is."""
    found = {(letter, term) for term, said in TERMS.items() for letter in re.findall(r"(?<!\*)\*(\w)\*(?!\*)", said)}
    for letter, meaning in letters():
        assert [term for other, term in found if other == letter and term in meaning], (letter, meaning)
    for letter, term in found:
        assert [meaning for other, meaning in letters() if other == letter and term in meaning], (letter, term)


def test_every_mistake_of_the_table_has_its_section() -> None:
    text = (DOCS / "guide" / "mistakes.md").read_text(encoding="utf-8")
    linked = re.findall(r"^\| \[[^\]]+\]\(#([\w-]+)\)", text, re.MULTILINE)
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert linked == [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
    for section in text.split("\n## ")[1:]:
        assert "**crossent says**" in section
        assert "**Right:**" in section


def test_what_breaks_the_rules_is_found() -> None:
    index = "```{toctree}\n:caption: A\n:hidden:\n\none\ntwo\n```\n"
    assert toctrees(index) == {"A": ["one", "two"]}
    assert glossary("```{glossary}\nnat\n  A unit.\n  It is.\n\nbit\n  Another.\n```") == {
        "nat": "A unit. It is.",
        "bit": "Another.",
    }
