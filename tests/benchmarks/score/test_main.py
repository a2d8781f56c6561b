"""`python -m benchmarks.score`: it measures, writes and reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.records import read
from benchmarks.score import __main__ as command
from benchmarks.score.cases import ArrayCase


def test_the_command_measures_writes_and_reports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(command, "CASES", [ArrayCase(300, 4, quick=True)])
    monkeypatch.setattr(command, "FILES", [])
    extra = {"crossent": 1_000_000, "crossent.score": 2_000_000, "scikit-learn": 3_000_000}
    monkeypatch.setattr(command, "run_module", lambda *_, **__: extra)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # so that it is put back
    file = tmp_path / "results.jsonl"
    command.main(["--quick", "--rounds", "2", "--out", str(file)])
    printed, _ = capsys.readouterr()
    (record,) = read([file])
    assert (record["suite"], record["case"], record["rows"]) == ("score", "3e2 × 4", 300)
    assert {"scikit-learn", "pyarrow"} <= record["run"]["versions"].keys()
    command.main(["--report", str(file)])
    assert capsys.readouterr().out == printed
    assert "3e2 × 4" in printed


def test_a_case_that_is_not_there_names_those_that_are():
    with pytest.raises(SystemExit, match="there are 1e4 × 2, "):
        command.main(["--only", "nothing"])
