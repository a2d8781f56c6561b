"""A progress bar is drawn on a terminal alone."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from crossent.scoring.cli.bar import bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_drawn_where_nobody_looks(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with bar("reading") as shown:
        assert shown is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    with bar("reading", wanted=False) as shown:
        assert shown is None
    assert capsys.readouterr() == ("", "")


def test_a_terminal_sees_the_part_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with bar("reading") as shown:
        assert shown is not None
        shown(0.5)
    assert "reading" in terminal.getvalue()
