"""The tables of the pages, made of results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import proof
from benchmarks.common import pages
from benchmarks.common.grid import number
from benchmarks.common.records import by_case
from benchmarks.gpu import __main__ as gpu_command
from tests.benchmarks.classes import OTHER, two_classes


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
    two_classes(tmp_path, monkeypatch)
    of_class = {name: by_case(records) for name, records in pages.by_processor("logits").items()}
    text = proof.table("logits")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    heads, *lines = cells
    assert heads[:3] == ["logits", "processor", "× eager"]
    together = iter(lines)
    for case in of_class[OTHER]:
        named = [name for name, cases in of_class.items() if case in cases]
        of_case = [next(together) for _ in named]
        assert [line[1] for line in of_case] == named
        assert [f"({case})" in line[0] for line in of_case] == [True] + [False] * (len(named) - 1)
        speedups = [of_class[name][case]["both"]["speedup_over"]["eager"] for name in named]
        assert [line[2] for line in of_case] == list(map(number, speedups))
    assert len(text.split("\n\n")) == 1 + len(of_class)  # and below it where each comes from


OF_CLASSES = [name for name, of in proof.TABLES.items() if isinstance(of, proof.Table) and pages.exists(of.suite)]


@pytest.mark.parametrize("name", OF_CLASSES)
def test_every_line_of_a_table_names_its_class_of_processors(name: str):
    wanted = proof.TABLES[name]
    heads, _, *lines = [line.split("|")[1:-1] for line in proof.table(name).splitlines() if line.startswith("|")]
    assert heads[1].strip() == "processor"
    assert {line[1].strip() for line in lines} == set(proof.classes()) | set(pages.by_processor(wanted.suite))


def test_a_class_without_a_case_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    two_classes(tmp_path, monkeypatch, without="digits")
    first = next(iter(pages.by_processor("logits")))
    lines = [line.split("|")[1:-1] for line in proof.table("logits").splitlines() if line.startswith("| ")]
    found = [k for k, line in enumerate(lines) if "(digits)" in line[0]]
    assert len(found) == 1
    of_case = lines[found[0] : found[0] + len(pages.by_processor("logits"))]
    assert [line[1].strip() for line in of_case] == list(pages.by_processor("logits"))
    cells = {line[1].strip(): [cell.strip() for cell in line[2:]] for line in of_case}
    assert first == OTHER  # so that the label stands in a line without numbers
    assert cells.pop(OTHER) == [proof.NOT_MEASURED] + [""] * (len(lines[0]) - 3)
    assert all(proof.NOT_MEASURED not in found for found in cells.values())


def test_a_class_without_a_suite_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    two_classes(tmp_path, monkeypatch)
    for path in pages.RESULTS.glob("*a-vendor*-rows.jsonl"):
        path.unlink()
    for path in pages.RESULTS.glob("*a-vendor*-score.jsonl"):
        path.unlink()
    said = [line for line in proof.table("rows").splitlines() if proof.NOT_MEASURED in line and OTHER in line]
    assert [line.split("|")[1].strip() for line in said] == ["every case"]
    assert f"**{OTHER}**: {proof.NOT_MEASURED}" in proof.table("score-arrays")


@pytest.mark.parametrize(("rounds", "said"), [((5, 5), "5 rounds"), ((9, 3), "3 to 9 rounds"), ((None,), "")])
def test_below_a_table_stand_the_rounds_of_its_times(rounds: tuple[int | None, ...], said: str):
    run = pages.records("logits")[0]["run"]
    records = [{"run": run} if n is None else {"run": run, "rounds": n, "measure": "both"} for n in rounds]
    found = proof._origin("logits", [*records, {"run": run, "rounds": 2, "measure": "memory"}], None)
    assert found.startswith(f"*`{pages.COMMANDS['logits']}`, {said + ', ' if said else ''}{run['date'][:10]}")


def test_scores_have_a_table_for_each_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    two_classes(tmp_path, monkeypatch)
    classes = pages.by_processor("score")
    assert OTHER in classes
    assert proof.table("score-arrays").count("| rows × classes |") == len(classes)
    assert proof.table("coverage").count("| case |") == 1  # which does not depend on the processor


@pytest.mark.parametrize("name", [*proof.TABLES, *proof.MODELS])
def test_every_table_has_as_many_cells_in_each_line_as_heads(name: str):
    lines = [line for line in proof.table(name).splitlines() if line.startswith("|")]
    assert len(lines) > 2
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


@pytest.mark.parametrize("name", ["divergence", "divergence-errors"])
def test_a_table_that_may_be_shown_before_says_that_nothing_is_measured(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    (line,) = proof.table(name).splitlines()[2:]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert set(cells) == {proof.NOT_MEASURED}
