"""The directive for commands: usage and options as the command itself has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.one_page import build, text_of

pytestmark = pytest.mark.slow


def test_a_command_has_usage_and_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = build("# Page\n\n```{command} score\n```\n", tmp_path, monkeypatch)
    assert page.warnings == ""
    text = text_of(page.html)
    assert "crossent score FILE [OPTIONS]" in text
    assert "--max-loss" in text
    assert "Default: 0.95." in text


def test_a_command_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings = build("# Page\n\n```{command} dance\n```\n", tmp_path, monkeypatch).warnings
    assert "there is no command dance; there are " in warnings
    assert "index.md:3" in warnings
