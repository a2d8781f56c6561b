"""The directive {trainers}: docs/trainers.toml as a table, with the versions that the tests run in, and the tests."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from benchmarks.common import pages

TRAINERS = Path(__file__).parents[1] / "trainers.toml"
PINNED = Path(__file__).parents[2] / "constraints.txt"
NOT_PINNED = "whichever is installed"
"""What stands for the version of a package that no test machine has to have."""


def rows() -> list[dict[str, Any]]:
    """Return the frameworks, and what works in them."""
    return tomllib.loads(TRAINERS.read_text(encoding="utf-8"))["trainer"]


def versions() -> dict[str, str]:
    """Return the version that the tests run in, of each package."""
    found = re.findall(r"^([\w.-]+)==([\w.]+)", PINNED.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(found)


class Trainers(SphinxDirective):
    """A line for each framework, and below the table the tests that hold each statement."""

    def run(self) -> list[nodes.Node]:
        """Return the table and the tests."""
        for source in (TRAINERS, PINNED):
            self.env.note_dependency(str(source))
        pinned, found = versions(), rows()
        lines = [
            [
                row["name"],
                ", ".join(f"{name} {pinned.get(name, NOT_PINNED)}" for name in row["packages"]),
                row["line"],
                _all(row.get("works", [])),
                _all(row.get("fails", [])),
            ]
            for row in found
        ]
        heads = ["", "tested with", "your line", "works", "does not, and why"]
        tests = [
            f"* {row['name']}, {said['what']}: {', '.join(f'`{test}`' for test in said['tests'])}"
            for row in found
            for said in [*row.get("works", []), *row.get("fails", [])]
        ]
        return [
            *_parsed(self, pages.markdown(heads, lines, words=len(heads)), "features"),
            nodes.raw("", "<details><summary>The tests that hold each statement</summary>", format="html"),
            *_parsed(self, "\n".join(tests), "evidence"),
            nodes.raw("", "</details>", format="html"),
        ]


def _all(said: list[dict[str, Any]]) -> str:
    return "; ".join(one["what"] for one in said) or "–"


def _parsed(directive: SphinxDirective, text: str, kind: str) -> list[nodes.Node]:
    found = nodes.container(classes=[kind])
    found += directive.parse_text_to_nodes(text)
    return [found]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("trainers", Trainers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
