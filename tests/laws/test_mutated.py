"""The mutated files: none of a few hundred meets a fault, each kind of fault is found, and the program runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from crossent.cli import run
from tests.laws import mutated
from tests.laws.mutated import Original, attempt, case, originals, soak

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc"),
]


@pytest.mark.parametrize("name", originals())
def test_the_whole_files_are_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what follows would only show that everything is refused."""
    monkeypatch.setattr(mutated, "LIMIT", "64G")  # this process has much in it already
    monkeypatch.setattr(mutated, "MEGABYTES", 1 << 20)
    original = originals()[name]
    path, whole = (tmp_path / f"{stem}.{original.end}" for stem in ("file", "whole"))
    for each in (path, whole):
        _ = each.write_bytes(original.data)
    assert attempt(path, whole, original) == (0, "")


def test_mutated_files_meet_a_result_or_one_line() -> None:
    faults, codes = soak(3, 2 * len(originals()))
    assert faults == {}
    assert codes.keys() == {0, 2}
    assert sum(codes.values()) == 2 * len(originals())
    assert codes[2] > 20


def raising(_: list[str]) -> int:
    raise ZeroDivisionError


def printing(text: str, code: int) -> object:
    def run(_: list[str]) -> int:
        print(text, file=sys.stderr, end="")
        return code

    return run


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (raising, "ZeroDivisionError"),
        (printing("crossent: a.csv: wrong\n", 3), "exit code 3"),
        (printing("crossent: a.csv: wrong\n", 1), "exit code 1"),
        (printing("crossent: a.csv: wrong\n\n", 2), "no line"),
        (printing("crossent: a.csv: \x1b[2J\n", 2), "no line"),
        (printing("crossent: wrong\n", 2), "no name of the file"),
        (printing("a warning\n", 0), "on standard error"),
        (printing("crossent: a.csv: wrong\n", 2), ""),
    ],
)
def test_faults_are_found(runs: object, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutated, "MEGABYTES", 1 << 20)
    original = Original("csv", b"", "score", ())
    fault = attempt(tmp_path / "a.csv", tmp_path / "b.csv", original, runs).fault  # pyright: ignore[reportArgumentType]
    assert (said in fault) if said else fault == ""


def test_time_and_memory_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    _ = path.write_bytes(originals()["score a.csv"].data)
    monkeypatch.setattr(mutated, "LIMIT", "64G")
    monkeypatch.setattr(mutated, "MEGABYTES", 1)
    assert "MB" in attempt(path, path, originals()["score a.csv"], run).fault
    monkeypatch.setattr(mutated, "MEGABYTES", 1 << 20)
    monkeypatch.setattr(mutated, "SECONDS", 1e-9)
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda *_, **__: None)
    assert "took" in attempt(path, path, originals()["score a.csv"], run).fault


def test_a_file_is_known_by_seed_and_number() -> None:
    assert case(1, 7) == case(1, 7)
    assert case(1, 7)[2] != case(2, 7)[2]


def test_the_program_says_what_it_found(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.laws.mutated",
        "--files",
        "12",
        "--seed",
        "5",
        "--keep",
        str(tmp_path / "kept"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "12 files, 0 faults" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
    assert len(list((tmp_path / "kept").iterdir())) == 1
