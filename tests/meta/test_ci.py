"""The closing line of `.ci/run`: how many tests passed and failed, in all runs of pytest together."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOG = """\
== sanitizers
100% tests passed out of 3
== GPU kernels, interpreted
=========================== short test summary info ============================
======================== 69 passed in 3.20s ========================
== pytest
FAILED tests/test_spec.py::test_scores - 2 failed, 7 passed
====== {} ======
"""


@pytest.mark.parametrize(
    ("closing", "counted"),
    [
        ("5 passed in 0.30s", "74 passed, 0 failed\n"),
        ("2 failed, 1637 passed, 3 skipped in 171.42s (0:02:51)", "1706 passed, 2 failed\n"),
        ("1 failed, 5 passed, 2 errors in 2.00s", "74 passed, 3 failed\n"),
        ("1 error in 2.00s", "69 passed, 1 failed\n"),
        ("no tests ran in 0.01s", "69 passed, 0 failed\n"),
    ],
)
def test_the_last_line_counts_the_tests_of_all_runs(closing: str, counted: str, tmp_path: Path) -> None:
    assert said(LOG.format(closing), tmp_path) == counted


def test_a_log_without_a_run_of_pytest_has_no_count(tmp_path: Path) -> None:
    assert said("== ruff\n100% tests passed out of 3\n", tmp_path) == ""


def said(log: str, folder: Path) -> str:
    """What the script prints of a log."""
    path = folder / "log"
    _ = path.write_text(log, encoding="utf-8")
    command = ["sh", ROOT / "tools" / "count_tests.sh", path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
