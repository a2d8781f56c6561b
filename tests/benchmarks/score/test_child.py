"""A module of the benchmarks in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.score.cases import FileCase
from benchmarks.score.child import run_module


@pytest.mark.slow
def test_the_last_line_that_a_module_prints_is_its_answer(tmp_path: Path):
    path = tmp_path / "some.parquet"
    FileCase(70, 3, 50).write(path)
    assert run_module("score.file", "read", str(path))["result"] == 70
