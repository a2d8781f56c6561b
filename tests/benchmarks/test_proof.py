"""The tables of the pages, made of results."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import pytest

from benchmarks import proof
from benchmarks.common import pages
from benchmarks.common.grid import number
from benchmarks.gpu import __main__ as gpu_command


@pytest.mark.slow
def test_the_pages_show_what_a_gpu_has_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    written = tmp_path / "lines"
    gpu_command.main(["--dry", "--only", "gpt2", "--rounds", "2", "--out", str(written), "--commit", "abc"])
    records = [json.loads(line) for line in written.read_text(encoding="utf-8").splitlines()]
    _ = written.rename(gpu_command._default(records[0]["run"], ""))  # where a run on a GPU writes
    for name, case in (("gpu-logits", "gpt2"), ("gpu-linear", "gpt2-head")):
        table, _, origin = proof.table(name).partition("\n\n")
        measured = [line for line in table.splitlines()[2:] if proof.NOT_MEASURED not in line]
        assert [case in line for line in measured] == [True]
        ours = next(r for r in records if (r["case"], r["contender"]) == (case, "crossent"))
        shown = ours.get("over_floor") or 100 * ours["share_of_copy"]["both"]
        assert f"| {shown:.0f} %" in measured[0] or f"| {number(shown)} |" in measured[0]
        assert "commit abc; none (dry run)" in origin
        assert pages.COMMANDS["gpu"] in origin


def test_small_numbers_are_written_as_the_example_says():
    assert doctest.testmod(proof).attempted > 0
    assert doctest.testmod(proof).failed == 0


@pytest.mark.parametrize("name", [*proof.TABLES, *proof.MODELS])
def test_every_table_has_as_many_cells_in_each_line_as_heads(name: str):
    lines = [line for line in proof.table(name).splitlines() if line.startswith("|")]
    assert len(lines) > 2
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
