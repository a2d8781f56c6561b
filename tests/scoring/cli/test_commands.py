"""How fast the commands start, and what they import for that."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from crossent import cli
from tests.scoring.written import COMMAND, saved

HEAVY = {"torch", "scipy", "pyarrow", "matplotlib", "rich", "typer", "pandas", "polars", "sklearn", "narwhals", "jax"}


def seconds_of_help() -> float:
    """Processor time of one run: what the clock says where nothing else runs."""
    before = os.times()
    command = [sys.executable, "-c", COMMAND, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    after = os.times()
    assert "score" in done.stdout
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.slow
@pytest.mark.alone
def test_help_is_there_at_once() -> None:
    assert min(seconds_of_help() for _ in range(5)) < 0.3


@pytest.mark.parametrize("command", ["score", "compare", "lm", "demo"])
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_help_fits_any_terminal(command: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Every option is there in full, and no line is longer than the terminal is wide."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert cli.run([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= columns
    options = [name for each in get_command(cli.application()).commands[command].params for name in each.opts]
    assert all(name in out for name in options if name.startswith("--"))
    assert ("╭" in out) == (columns >= 80)


@pytest.mark.parametrize(
    ("command", "groups"),
    [
        ("score", ["Arguments", "Options", "Rows", "Predictions", "Files", "Result", "Checks"]),
        ("compare", ["Arguments", "Options", "Rows", "Predictions", "Files", "Result", "Checks"]),
        ("calibrate", ["Arguments", "Options", "Result", "Rows", "Predictions", "Files", "Checks"]),
        ("lm", ["Arguments", "Options", "With --model", "Result", "Checks"]),
    ],
)
def test_help_is_in_groups(command: str, groups: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert cli.run([command, "--help"]) == 0
    assert re.findall(r"^╭─ ([\w -]+?) ─", capsys.readouterr().out, re.MULTILINE) == groups


def loaded(code: str, *arguments: str) -> set[str]:
    """Return the packages that a fresh Python has after the code."""
    ending = "import sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    command = [sys.executable, "-c", f"{code}\n{ending}", *arguments]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr.split())


def test_importing_crossent_is_light() -> None:
    assert not loaded("import crossent") & HEAVY


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["score", "--help"], ["compare", "--help"], ["lm", "--help"]])
def test_help_imports_no_arithmetic(arguments: list[str]) -> None:
    there = loaded(f"from crossent.cli import run; run({arguments!r})")
    assert "typer" in there
    assert not there & (HEAVY - {"typer", "rich"})
    assert "numpy" not in there


@pytest.mark.slow
@pytest.mark.parametrize("end", ["csv", "parquet", "jsonl", "npz"])
def test_a_score_needs_neither_torch_nor_matplotlib(end: str, tmp_path: Path) -> None:
    path = saved(tmp_path / f"a.{end}", {"y": [0, 1, 1], "p": [0.25, 0.5, 0.75]})
    there = loaded(f"from crossent.cli import run; run(['score', {str(path)!r}, '--label', 'y', '--probs', 'p'])")
    assert "numpy" in there
    assert not there & {"torch", "matplotlib", "polars", "sklearn", "jax"}
