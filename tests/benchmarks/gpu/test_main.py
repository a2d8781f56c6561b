"""`python -m benchmarks.gpu`: it writes and reports, and says where there is no GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as command
from tests.benchmarks.gpu.small import HEADS, LOGITS


@pytest.mark.slow
def test_the_command_writes_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "lines"
    command.main(["--dry", "--only", "k", "--rounds", "2", "--out", str(path), "--commit", "abc"])
    printed = capsys.readouterr().out
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {(r["case"], r["run"]["commit"]) for r in records} == {("errors-1k", "abc"), ("errors-16k", "abc")}
    command.main(["--report", str(path)])
    assert capsys.readouterr().out == printed
    command.main(["--dry", "--seconds", "-1"])
    assert f"all not started (-1 s had passed): {', '.join(LOGITS + HEADS)}" in capsys.readouterr().out


def test_without_a_gpu_the_command_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^benchmarks\.gpu: torch .* finds no GPU; .*--dry$"):  # a text: status 1
        command.main([])
