"""What is said on standard error while cases are measured."""

from __future__ import annotations

import io
import sys

import pytest

from benchmarks.common.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_each_case_is_a_line(capsys: pytest.CaptureFixture[str]):
    with progress(2) as say:
        say("first")
        say("second")
    assert capsys.readouterr() == ("", "first\nsecond\n")


def test_a_terminal_shows_a_bar_and_keeps_nothing_of_it(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress(2) as say:
        say("first")
    assert "first" in terminal.getvalue()
    assert "1/2" in terminal.getvalue()
