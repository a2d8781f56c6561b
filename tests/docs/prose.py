"""The sentences of a page, and how many words each has.

Code, tables, formulas and headings are left out. Captions of pictures and entries of the glossary are read like the
text around them. A link, a piece of inline code and an inline formula are one word each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import dedent

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin

PARSER = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin)
READ = ("{picture}", "{glossary}", "{note}", "{tip}", "{warning}")
"""Blocks of Sphinx whose text is prose."""
ABBREVIATIONS = {"e.g.", "i.e.", "cf.", "vs.", "etc.", "al.", "Fig.", "No.", "approx.", "eds.", "Dr.", "J.", "Soc."}
OPERATOR = re.compile(r"[=+−·/×≈≤≥<>‖∈→∝]+")
END = re.compile(r"[.!?][)\"'”’*_]*$")
LEADING = re.compile(r"^[(\[\"'“‘*_]*")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence as it is read, and the line of the page where its paragraph begins."""

    text: str
    line: int

    @property
    def words(self) -> int:
        """How many words it has."""
        return len(words(self.text))


def words(text: str) -> list[str]:
    """Return the words of a text: what stands between spaces and holds a letter or a digit.

    The arguments in parentheses belong to their function, as in H(p, q), and an operator joins its two sides.
    """
    text = re.sub(r"(?<=\w)\(([^()]*)\)", lambda found: "(" + re.sub(r"\s+", "", found[1]) + ")", text)
    found: list[str] = []
    joins = False
    for part in text.split():
        if OPERATOR.fullmatch(part) and found:
            found[-1] += part
            joins = True
        elif re.search(r"\w", part):
            if joins:
                found[-1] += part
            else:
                found.append(part)
            joins = False
    return found


def split(text: str) -> list[str]:
    """Return the sentences of a paragraph."""
    found: list[str] = []
    current: list[str] = []
    for part in text.split():
        current.append(part)
        bare = LEADING.sub("", part)
        initial = re.fullmatch(r"(?:[A-Z]\.-?)+", bare)
        if END.search(part) and bare not in ABBREVIATIONS and not initial:
            found.append(" ".join(current))
            current = []
    return [*found, " ".join(current)] if current else found


def spoken(tokens: list[Token]) -> str:
    """Return inline tokens as text, in which a link, code and a formula are one word each."""
    text, depth = "", 0
    for token in tokens:
        if token.type == "link_open":
            depth, text = depth + 1, text + ("" if depth else "LINK")
        elif token.type == "link_close":
            depth -= 1
        elif not depth:
            text += {"code_inline": "CODE", "math_inline": "FORMULA", "softbreak": " ", "hardbreak": " "}.get(
                token.type, token.content if token.type == "text" else ""
            )
    return text


def paragraphs(text: str) -> Iterator[tuple[str, int]]:
    """Yield the paragraphs of a page, each with its line."""
    table = heading = False
    for token in PARSER.parse(text):
        line = token.map[0] + 1 if token.map else 0
        if token.type in ("table_open", "table_close"):
            table = token.type == "table_open"
        elif token.type in ("heading_open", "heading_close"):
            heading = token.type == "heading_open"
        elif token.type == "inline" and not table and not heading:
            yield spoken(token.children or []), line
        elif token.type == "fence" and token.info.split(" ")[0] in READ:
            yield from ((inner, line + at) for inner, at in paragraphs(body(token)))


def body(fence: Token) -> str:
    """Return the text of a block of Sphinx without its options; definitions of a glossary are paragraphs."""
    lines = [line for line in fence.content.splitlines() if not re.match(r":\w+:", line)]
    if not fence.info.startswith("{glossary}"):
        return "\n".join(lines)
    return "\n".join(dedent(line) if line.startswith(" ") else "" for line in lines)


def sentences(text: str) -> list[Sentence]:
    """Return all sentences of a page."""
    return [Sentence(sentence, line) for paragraph, line in paragraphs(text) for sentence in split(paragraph)]
