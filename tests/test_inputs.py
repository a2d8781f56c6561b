"""Files that are read: pipes, sockets, devices and the endless files of /proc are refused at once, in one line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crossent.inputs import why_not_readable
from tests.scoring.written import COMMAND, run

OPTIONS = ("--label", "y", "--probs", "p")


@pytest.mark.parametrize("command", ["score", "compare", "lm"])
def test_what_is_no_regular_file(command: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    os.mkfifo("fifo.csv")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.csv")
        (tmp_path / "zero.csv").symlink_to("/dev/zero")
        (tmp_path / "empty.csv").touch()
        options = () if command == "lm" else OPTIONS
        for name, said in {"fifo": "a pipe", "socket": "a socket", "zero": "a device", "empty": "empty"}.items():
            path = Path(f"{name}.csv")
            files = [path, path] if command == "compare" else [path]
            ran = run(capsys, command, *files, *options)
            assert (ran.code, ran.out) == (2, "")
            assert ran.err.startswith(f"crossent: {path} is {said}"), ran.err
            assert ran.err.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/kmsg").exists(), reason="no kernel messages here")
def test_a_file_of_proc_that_has_no_end(capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "kernel.csv").symlink_to("/proc/kmsg")
    for path in (Path("/proc/kmsg"), tmp_path / "kernel.csv"):
        assert why_not_readable(path) == "is empty"
        assert run(capsys, "lm", path).code == 2
        assert run(capsys, "score", path, *OPTIONS).code == 2


def piped(*arguments: str, given: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", COMMAND, *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


def test_standard_input() -> None:
    done = piped("lm", "-", "--json", given='{"logprobs": [-0.5, -1.5], "tokens": ["a", "b"]}\n')
    assert (done.returncode, done.stderr) == (0, "")
    assert '"loss": 1.0' in done.stdout
    rows = "y,p0,p1\n0,0.5,0.5\n"
    done = piped("score", "-", "--label", "y", "--probs", "p*", "--format", "csv", "--json", given=rows)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"n": 1' in done.stdout
    said = "crossent: the format of standard input, -, is unknown; pass --format csv\n"
    assert piped("score", "-", *OPTIONS, given=rows).stderr == said


def test_process_substitution_says_what_to_do(tmp_path: Path) -> None:
    code = f"{sys.executable} -c '{COMMAND}' score <(echo y) --label y --probs p"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("is a pipe, which cannot be read twice; save its contents to a file first\n")
