"""`.ci/run`: what its `make test` and the nightly `make test-all` run, and its closing line, which counts all tests."""

from __future__ import annotations

import os
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


def commands(target: str) -> list[str]:
    """The commands that make would run for a target."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    run = subprocess.run(["make", "-n", target], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


def test_make_test_runs_every_pair_of_options_and_test_all_runs_every_test() -> None:
    # of three runs of pytest each, the last measures time, and has no grids
    brief, whole = ([line for line in commands(target) if "pytest " in line] for target in ("test", "test-all"))
    brief, whole = ([line for line in lines if not line.startswith("echo")] for lines in (brief, whole))
    assert ["--brief" in line for line in brief] == [True, True, False]
    assert [line.replace("--brief ", "") for line in brief] == [line.replace("  ", " ") for line in whole]
    assert "-m 'not alone'" in brief[1]
    assert "-m alone" in brief[2]


def test_make_test_compiles_few_kernels_and_test_all_compiles_all() -> None:
    (brief,), (whole,) = (
        [line for line in commands(target) if "-m tools.gpu_build" in line] for target in ("test", "test-all")
    )
    assert "-m tools.gpu_build --brief;" in brief
    assert brief.replace("--brief", "") == whole


def test_make_test_all_runs_the_checks_that_make_test_runs() -> None:
    checks = [
        [line for line in commands(target) if "== " in line and "pytest" not in line] for target in ("test", "test-all")
    ]
    assert checks[0] == checks[1]
    for name in ("sanitizers", "clang-format", "ruff format", "basedpyright", "import-linter", "GPU kernels, compiled"):
        assert any(name in line for line in checks[0]), name
