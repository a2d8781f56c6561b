"""The directive for the table of trainers: a line for each framework with its version, and the tests below."""

from __future__ import annotations

import html
from pathlib import Path

import pytest

from docs._ext import trainers
from tests.docs.one_page import build, text_of

pytestmark = pytest.mark.slow


def test_each_framework_has_a_line_its_version_and_its_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = build("# Page\n\n```{trainers}\n```\n", tmp_path, monkeypatch)
    assert page.warnings == ""
    text = html.unescape(text_of(page.html))
    pinned = trainers.versions()
    for row in trainers.rows():
        assert row["name"].replace("`", "") in text
        for name in row["packages"]:
            assert f"{name} {pinned.get(name, trainers.NOT_PINNED)}" in text
        for said in [*row["works"], *row.get("fails", [])]:
            assert said["what"].replace("`", "") in text
            assert all(test in text for test in said["tests"])
