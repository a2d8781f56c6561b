"""The words of the pages: sentences that can be read once, in plain English.

`prose` counts words; its own tests are here too.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.docs.prose import Sentence, sentences, split, words

DOCS = ROOT / "docs"
LONGEST = 30
PLAIN = [
    ROOT / "README.md",
    DOCS / "index.md",
    *sorted((DOCS / "guide").glob("*.md")),
    DOCS / "migrate" / "torch.md",
    DOCS / "proof.md",
    *sorted((DOCS / "api").glob("*.md")),
    DOCS / "decisions" / "README.md",
]
"""The pages that a new reader meets first."""

NOT_PLAIN = {
    r"\btold\b": "passed, recognised or distinguished",
    r"\bthose\b": "name the noun again",
    r"\bof which\b": "name the noun again",
    r"\bsuch(?=[,.;:)]| (?:is|are|was|were)\b)": "name the noun",
    r"\b(?:the|what (?:is|was)) given(?=[,.;:)]| (?:is|are|was|were)\b)": "name the noun",
    r"\bwhat (?:these|those) know\b": "name what is passed",
    r"\blends?\b": "gives access to",
    r"(?<!there )\b(?:is|are) none\b": "disables, or is empty",
    r"\bnone (?:shorter|longer|smaller|larger)\b": "at least, or at most",
    r"\b(?:wrong|odd) or (?:odd|wrong)\b": "invalid, or suspicious",
    r"\bhalf-way\b": "midway",
    r"\bof no (?:more )?use\b": "create a new one",
    r"\bhad not\b": "did not have",
    r"\bwould cost more\b": "name the difference",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bin other clothes\b": "say what it is",
    r"\b(?:turns out|as it were|so to speak|needless to say)\b": "leave it out",
}
"""Words that readers stumble over, and what to write."""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def too_long(text: str) -> list[Sentence]:
    """The sentences of a page that are longer than a reader keeps in mind."""
    return [sentence for sentence in sentences(text) if sentence.words > LONGEST]


def not_plain(text: str) -> list[str]:
    """The words of a page that are not plain, each with what to write."""
    return [
        f"line {sentence.line}: {found[0]!r}, write: {better} ({sentence.text})"
        for sentence in sentences(text)
        for pattern, better in NOT_PLAIN.items()
        if (found := re.search(pattern, sentence.text[:1].lower() + sentence.text[1:]))
    ]


@pytest.mark.parametrize("page", PLAIN, ids=name)
def test_sentences_are_short(page: Path) -> None:
    found = too_long(page.read_text(encoding="utf-8"))
    assert [f"line {s.line}, {s.words} words: {s.text}" for s in found] == []


@pytest.mark.parametrize("page", PLAIN, ids=name)
def test_words_are_plain(page: Path) -> None:
    assert not_plain(page.read_text(encoding="utf-8")) == []


def test_pages_have_sentences() -> None:
    """Else a counter that reads nothing would pass."""
    read = {name(page): len(sentences(page.read_text(encoding="utf-8"))) for page in PLAIN}
    assert all(read.values())
    assert sum(read.values()) > 1000


# The counter


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One two three.", 3),
        ("See [a link of many words](page.md) and `code of many words`.", 4),
        ("The cost is $-\\log q_y + z$ here.", 5),
        ("It is H(p, q) = −Σ p log q.", 6),
        ("A list, e.g. of words (in brackets).", 7),
        ("The share is 95 % of 1,000 rows – at least.", 9),
        ("A word-by-word count.", 3),
        ("**Bold** and *slanted* words.", 4),
        ("See {term}`log-normaliser` there.", 3),
    ],
)
def test_words_are_counted(text: str, count: int) -> None:
    assert [sentence.words for sentence in sentences(text)] == [count]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three?", 3),
        ("One (and a half.) Two.", 2),
        ("As E. Jaynes wrote, e.g. in J. Roy. Soc. B, it is 0.5 of 1.", 2),
        ("Costs: one; two: three.", 1),
        ("It ends. crossent goes on in lower case.", 2),
        ("torch.nn.functional is one word.", 1),
    ],
)
def test_sentences_are_split(text: str, count: int) -> None:
    assert len(split(text)) == count


def test_a_word_is_what_stands_between_spaces() -> None:
    assert words("a = b + c") == ["a=b+c"]
    assert words("f(x, y) is") == ["f(x,y)", "is"]
    assert words("one – two") == ["one", "two"]
    assert words("— ( ) one") == ["one"]


LONG = "word " * LONGEST + "word."


@pytest.mark.parametrize(
    "text",
    [
        LONG,
        f"* a point\n* {LONG}",
        f"> {LONG}",
        f"```{{picture}} some.picture\n:source: linear\n{LONG}\n```",
        f"```{{glossary}}\nterm\n  {LONG}\n```",
        "word " * 20 + "\n" + "word " * 20 + "end.",
    ],
)
def test_a_long_sentence_is_found(text: str) -> None:
    assert len(too_long(f"# A page\n\nShort.\n\n{text}\n")) == 1


@pytest.mark.parametrize(
    "text",
    [
        f"# {LONG}",
        f"```python\n{LONG}\n```",
        f"    {LONG}",
        f"| a | b |\n|---|---|\n| {LONG} | c |",
        f"$$\n{LONG}\n$$",
        f"<p>{LONG}</p>",
        f"```{{toctree}}\n{LONG}\n```",
        f"A [{LONG}](link.md).",
    ],
)
def test_code_tables_formulas_and_headings_are_left_out(text: str) -> None:
    assert too_long(f"# A page\n\nShort.\n\n{text}\n") == []


@pytest.mark.parametrize(
    "text",
    [
        "Raise if a call is told what these know.",
        "The sums of those.",
        "Two parts, of which one is smaller.",
        "Pass rows as such.",
        "It was refused half-way.",
        "The machine had not the memory.",
        "Mend the data.",
    ],
)
def test_words_that_are_not_plain_are_found(text: str) -> None:
    assert not_plain(text)


def test_plain_words_are_not_found() -> None:
    assert not_plain("Fix the data, such as labels. A given row has a weight. `told` is a name.") == []
