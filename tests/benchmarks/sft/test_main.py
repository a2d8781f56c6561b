"""The suite sft, of few tokens: what its records hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.records import read
from benchmarks.sft import __main__ as sft

pytestmark = pytest.mark.slow


def test_a_record_of_each_case_is_written(tmp_path: Path) -> None:
    sft.main(["--tiny", "--rounds", "2", "--out", str(tmp_path / "sft.jsonl")])
    records = list(read([tmp_path / "sft.jsonl"]))
    assert [record["case"] for record in records] == list(sft.CASES)
    for record in records:
        assert record["seconds"].keys() == record["peak_bytes"].keys() == set(sft.WAYS)
        assert record["speedup"] > 0
        assert record["run"]["commit"]


def test_ways_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter(range(1, 100))
    monkeypatch.setattr(sft, "step_of", lambda *_: lambda: next(losses))
    with pytest.raises(RuntimeError, match="the losses differ"):
        _ = sft.times("whole", sft.TINY, 1)
