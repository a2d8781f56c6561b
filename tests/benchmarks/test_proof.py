"""The tables of the pages, made of results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import proof
from benchmarks.common import pages
from benchmarks.common.grid import number
from benchmarks.common.records import by_case, read, write
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


def test_classes_of_processors_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    both(tmp_path, monkeypatch)
    (ours,) = pages.by_processor("logits").keys() - {"AMD, AVX2"}
    text = proof.table("logits")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    heads, *lines = cells
    assert heads[:3] == ["logits", "processor", "× eager"]
    eager = {name: by_case(records) for name, records in pages.by_processor("logits").items()}
    for k, case in enumerate(eager[ours]):
        pair = {line[1]: line[2] for line in lines[2 * k : 2 * k + 2]}
        expected = {name: number(cases[case]["both"]["speedup_over"]["eager"]) for name, cases in eager.items()}
        assert pair == expected
        assert lines[2 * k + 1][0] == ""  # the case is named once
    assert len(text.split("\n\n")) == 3  # and both runs below it


def test_a_class_without_a_case_has_no_line_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    both(tmp_path, monkeypatch, without="digits")
    lines = [line for line in proof.table("logits").splitlines() if line.startswith("| ")]
    classes = [line.split("|")[2].strip() for line in lines]
    assert classes.count("AMD, AVX2") == len(by_case(pages.by_processor("logits")["AMD, AVX2"]))
    assert sum("(digits)" in line for line in lines) == 1


def test_scores_have_a_table_for_each_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    both(tmp_path, monkeypatch)
    assert proof.table("score-arrays").count("| rows × classes |") == 2
    assert proof.table("coverage").count("| case |") == 1  # which does not depend on the processor


def both(folder: Path, monkeypatch: pytest.MonkeyPatch, without: str = "") -> None:
    """Let pages read a copy of the results, and beside each the same results of an AMD processor."""
    for path in pages.RESULTS.glob("*.jsonl"):
        _ = shutil.copy(path, folder)
        records = [record for record in read([path]) if record.get("case") != without]
        for record in records:
            record["run"]["machine"] |= {
                "cpu": "AMD EPYC",
                "vendor": "AMD",
                "isa": "avx2",
                "widest": "avx2",
                "amx": False,
            }
        write(folder / path.name.replace("linux-", "linux-amd-"), records)
    monkeypatch.setattr(pages, "RESULTS", folder)


@pytest.mark.parametrize("name", [*proof.TABLES, *proof.MODELS])
def test_every_table_has_as_many_cells_in_each_line_as_heads(name: str):
    lines = [line for line in proof.table(name).splitlines() if line.startswith("|")]
    assert len(lines) > 2
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
