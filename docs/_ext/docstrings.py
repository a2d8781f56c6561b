"""Docstrings of this project: an indented block after an empty line is a formula or code, and is shown as it stands."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Process docstrings before napoleon does."""
    app.connect("autodoc-process-docstring", _literal, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _literal(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Mark blocks that are indented below the text before the first section as literal."""
    found: list[str] = []
    for k, line in enumerate(lines):
        if line.startswith("---"):  # the rule below a section's heading; the fields of a section keep their indentation
            found += lines[k:]
            break
        begins = line.startswith("    ") and k > 1 and not lines[k - 1].strip() and not lines[k - 2].startswith(" ")
        if begins and not lines[k - 2].lstrip().startswith(("*", "-", ">>>")):
            found += ["::", ""]
        found.append(line)
    lines[:] = found
