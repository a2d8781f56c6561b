"""`python -m crossent` is the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

import crossent


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["--colour"], 2)])
def test_python_m_runs_the_command_line_and_exits_with_its_code(arguments: list[str], code: int) -> None:
    command = [sys.executable, "-W", "error", "-m", "crossent", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code
    assert done.stdout == (f"crossent {crossent.__version__}\n" if code == 0 else "")
    assert done.stderr.startswith("crossent: ") == bool(code)
