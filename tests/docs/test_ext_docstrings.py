"""Docstrings on pages: an indented formula stays as it is written, and lists and sections stay what they are."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

from tests.docs.one_page import DOCS

FORMULA = ["The sum.", "", "    loss = mass · lse", "", "and more."]


class App:
    """The part of Sphinx that the extension uses."""

    process: Callable[..., None]

    def connect(self, event: str, callback: Callable[..., None], priority: int) -> None:
        assert event == "autodoc-process-docstring"
        assert priority < 500  # before napoleon
        self.process = callback


@pytest.fixture
def processed(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], list[str]]:
    monkeypatch.syspath_prepend(DOCS / "_ext")
    app: Any = App()
    import_module("docstrings").setup(app)

    def process(lines: list[str]) -> list[str]:
        changed = list(lines)
        app.process(app, "function", "name", None, None, changed)
        return changed

    return process


def test_an_indented_block_is_literal(processed: Callable[[list[str]], list[str]]) -> None:
    assert processed(FORMULA) == ["The sum.", "", "::", "", "    loss = mass · lse", "", "and more."]


@pytest.mark.parametrize(
    "lines",
    [
        ["* a point", "", "    that goes on"],
        ["Parameters", "----------", "p", "", "    The target."],
        ["Text", "    that goes on"],
    ],
)
def test_other_indentation_is_left_alone(lines: list[str], processed: Callable[[list[str]], list[str]]) -> None:
    assert processed(lines) == lines
