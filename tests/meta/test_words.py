"""Words of the code: a public docstring begins with a short sentence, and no text uses a phrase that had to go.

The phrases are those of translated English that readers had to read twice. They are searched in docstrings, in help of
options and in messages; identifiers, comments and other literals are left out.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PUBLIC = (
    "crossent",
    "crossent.torch",
    "crossent.scoring",
    "crossent.scoring.lm",
    "crossent.integrations.transformers",
    "crossent.integrations.transformers_kernels",
)
MOST = 30
"""Words in the first sentence of a public docstring, at most."""
PHRASES = {
    r"\btold\b(?! apart)": "pass, or state",
    r"\bwhat(so)?ever\b": "for any …",
    r"\b(nobody|somebody|anybody|whoever)\b": "name who: the caller, a program, a rank",
    r"\bhalf-way\b|\bof no more use\b": "failed midway",
    r"\bmends?\b": "fix",
    r"\b(had|has|have) not (a|an|the|any)\b": "lacks, does not have",
    r"\bwants? (a|no) gradient\b": "requires a gradient",
    r"\bin the place of\b": "instead of",
    r"\b(is|are) not there yet\b": "not supported yet",
    r"\bbehind your back\b": "silently",
    r"\bfault of crossent\b": "bug in crossent",
    r"\bgot dearest\b": "had the largest increase in loss",
    r"\bexpect to cost\b": "expected loss",
}
"""Phrases that may not be used, as regular expressions, each with its replacement."""
RELATIVE = re.compile(r"(?:(?:Return|Yield|Say|Write|Make) )?[Ww]hat(?:ever)? (?!if\b)")
"""A docstring that begins with a relative clause in place of a noun."""
SHORT = 3
"""Words of a literal below which it is a key or a name, not a text."""


class Said(NamedTuple):
    """A text for readers, and its file and line."""

    where: str
    text: str
    docstring: bool


def said(source: str, name: str) -> Iterator[Said]:
    """Yield docstrings (of attributes too) and literals of several words."""
    tree = ast.parse(source)
    docstrings = {
        id(node.value): node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = " ".join(node.value.split())
            if id(node) in docstrings or len(text.split()) >= SHORT:
                yield Said(f"{name}:{node.lineno}", text, id(node) in docstrings)


def wrong(texts: Iterator[Said]) -> list[str]:
    """Return the places of texts with a phrase that may not be used, or a relative clause at their beginning."""
    found: list[str] = []
    for where, text, docstring in texts:
        found += [f"{where}: {each!r}" for each in PHRASES if re.search(each, text)]
        found += [f"{where}: begins with {text[:30]!r}"] if docstring and RELATIVE.match(text) else []
    return found


def first_sentence(docstring: str) -> str:
    """Return the first sentence of a docstring."""
    return re.split(r"(?<=[.!?])\s|\n\s*\n", inspect.cleandoc(docstring), maxsplit=1)[0]


def too_long(names: dict[str, str | None]) -> list[str]:
    """Return the names whose docstring begins with a sentence of more than `MOST` words."""
    return [name for name, text in names.items() if text and len(first_sentence(text).split()) > MOST]


def public() -> dict[str, str | None]:
    """Return the docstrings of all public names, and of the public methods of classes, by their full name."""
    found: dict[str, str | None] = {}
    for module in map(import_module, PUBLIC):
        for name in module.__all__:
            value = getattr(module, name)
            found[f"{module.__name__}.{name}"] = value.__doc__ if callable(value) else None
            methods = vars(value) if inspect.isclass(value) else {}
            found |= {f"{name}.{each}": m.__doc__ for each, m in methods.items() if not each.startswith("_")}
    return found


def test_public_docstrings_begin_with_a_short_sentence() -> None:
    assert too_long(public()) == []


@pytest.mark.parametrize("folder", ["src/crossent", "examples"])
def test_texts_are_in_plain_words(folder: str) -> None:
    files = [path for path in sorted((ROOT / folder).rglob("*.py")) if not path.name.startswith("doctor")]
    texts = (each for path in files for each in said(path.read_text("utf-8"), str(path.relative_to(ROOT))))
    assert len(files) > 9
    assert wrong(texts) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('"""What rows weigh."""', 1),
        ('"""Return what a row counts for."""', 1),
        ('def f():\n    """Raise if a call is told what these know."""', 1),
        ('x = 1\n"""Whatever it holds, nobody reads it."""', 2),
        ('raise ValueError("the machine had not the memory")', 1),
        ('raise ValueError(f"{x} is refused half-way, so it is of no more use")', 1),
        ('"""Return the weights of rows, which cannot be told apart."""', 0),
        ('"""Model of what-if analysis: whether a row counts."""', 0),
        ('x = "told"  # nobody', 0),
    ],
)
def test_the_search_finds_phrases_and_nothing_else(source: str, count: int) -> None:
    assert len(wrong(said(source, "module.py"))) == count


def test_the_first_sentence_ends_at_its_full_stop() -> None:
    assert first_sentence("Costs 0.5 nats\n    a row. Two.\n\n    Three.") == "Costs 0.5 nats\na row."
    assert first_sentence("No full stop\n\nTwo.") == "No full stop"
    assert too_long({"short": "Few words. " + "many " * 40, "long": "many " * 40, "none": None}) == ["long"]
