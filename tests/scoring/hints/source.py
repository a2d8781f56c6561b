"""The hints in the source: every text of the scoring side that tells a user to do something."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import crossent.scoring

ROOT = Path(crossent.scoring.__file__).parent
VERBS = re.compile(
    r"\b(pass|use|drop|divid(e|ing)|multiply|add (it|them)|name (it|them|another)|convert|reshape|move|see|call|choose|"
    r"score (both|each|them)|compare (the|losses)|create a|repartition|read (it|them)|(?<!would )save|store|decompress|"
    r"write(?! to)|unpack|wrap|swapped|did you mean|leave (this|it) out|log (a|whole|the|`)|join|ask the|give|raise)\b",
    re.IGNORECASE,
)
NOT_SAID = {"Option", "Argument", "TypeVar", "Literal", "why_not"}


class Hint(NamedTuple):
    """A piece of text that tells a user to do something, and where it stands."""

    place: str
    text: str


def hints(root: Path = ROOT) -> list[Hint]:
    """Return the hints in the Python files below a folder, docstrings and helps of options left out."""
    found: list[Hint] = []
    for path in sorted(root.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        silent = {id(node) for node in ast.walk(tree) for part in _unsaid(node) for node in ast.walk(part)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
                place = f"{path.relative_to(root)}:{node.lineno}"
                found += [Hint(place, piece) for piece in _pieces(node.value) if VERBS.search(piece)]
    return found


def _unsaid(node: ast.AST) -> list[ast.AST]:
    """Return the parts of a node that no user meets as a message: docstrings, and helps of options."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        return [each for each in node.body if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)]
    if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in NOT_SAID:
        return [keyword.value for keyword in node.keywords]
    return []


def _pieces(text: str) -> list[str]:
    """Return the parts of a text between the fields that `str.format` fills."""
    return [piece.strip() for piece in re.split(r"\{[\w.]+\}", text) if piece.strip()]
