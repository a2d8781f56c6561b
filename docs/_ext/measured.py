"""Directives for tables: {measured} of results of benchmarks, and {features} of docs/features.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import crossent
from benchmarks import proof
from benchmarks.common import pages

FEATURES = Path(__file__).parents[1] / "features.toml"


class Measured(SphinxDirective):
    """A table by its name in benchmarks/proof.py."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table and where it comes from, or say which table has lost its source."""
        name = self.arguments[0]
        for file in pages.RESULTS.glob("*.jsonl"):
            self.env.note_dependency(str(file))
        try:
            text = proof.table(name)
        except pages.LostSourceError as error:
            raise self.error(f"the table {name} {error}") from None
        return _parsed(self, text, "measured")


class Features(SphinxDirective):
    """A group of features by its title: a library in each column, and below it what was read where."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return the table and the evidence."""
        self.env.note_dependency(str(FEATURES))
        found = tomllib.loads(FEATURES.read_text(encoding="utf-8"))
        names = {lib["key"]: f"{lib['name']} {lib.get('version', crossent.__version__)}" for lib in found["library"]}
        group = next((group for group in found["group"] if group["title"] == self.arguments[0]), None)
        if group is None:
            raise self.error(f"{FEATURES.name} has no group {self.arguments[0]!r}")
        rows: list[dict[str, Any]] = group["feature"]
        keys = [key for key in names if any(row[key] != "–" for row in rows)]  # columns that say something
        lines = [[row["name"], *(row[key] for key in keys)] for row in rows]
        table = pages.markdown(["", *(names[key] for key in keys)], lines, words=len(keys) + 1)
        about = [_about(lib) for lib in found["library"] if lib["key"] in keys]
        reasons = [f"* {row['name']}, {names[key]}: {why}" for row in rows for key, why in row.get("why", {}).items()]
        return [
            *_parsed(self, table, "features"),
            nodes.raw("", "<details><summary>What was read where</summary>", format="html"),
            *_parsed(self, "\n".join([*about, "", *reasons]), "evidence"),
            nodes.raw("", "</details>", format="html"),
        ]


def _about(library: dict[str, Any]) -> str:
    """Return which version of a library was read, when and where: what a "no" without a line of its own rests on."""
    name = library["name"] + (f" {library['version']}" if "version" in library else "")
    named = f"[{name}]({library['docs']})" if "docs" in library else name
    newer = f" Newer: {library['newer']}" if "newer" in library else ""
    return f"* **{named}**, looked at on {library['looked']}: {library['read']}.{newer}"


def _parsed(directive: SphinxDirective, text: str, kind: str) -> list[nodes.Node]:
    found = nodes.container(classes=[kind])
    found += directive.parse_text_to_nodes(text)
    return [found]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives."""
    app.add_directive("measured", Measured)
    app.add_directive("features", Features)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
