"""Builds a site of one page, with the extensions, pictures and settings of docs."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from sphinx.application import Sphinx

from tests.docs.blocks import ROOT

DOCS = ROOT / "docs"


class Page(NamedTuple):
    """The HTML of a page, and the warnings and errors of its build."""

    html: str
    warnings: str


def build(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    """Build a page of Markdown in a folder."""
    source = folder / "source"
    source.mkdir()
    _ = (source / "index.md").write_text(text, encoding="utf-8")
    (source / "_static").symlink_to(DOCS / "_static")
    monkeypatch.setattr(sys, "path", [str(DOCS), str(DOCS / "_ext"), *sys.path])
    warnings = io.StringIO()
    app = Sphinx(source, DOCS, folder / "html", folder / "trees", "html", status=None, warning=warnings)
    app.build()
    html = (folder / "html" / "index.html").read_text(encoding="utf-8")
    lines = re.sub(r"\x1b\[[\d;]*m", "", warnings.getvalue()).splitlines(keepends=True)
    # a second Sphinx in one process registers its classes again, and says so
    return Page(html, "".join(line for line in lines if "already registered" not in line))


def text_of(html: str) -> str:
    """The text of a page without its tags."""
    return re.sub("<[^>]*>", "", html)
