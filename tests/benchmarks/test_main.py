"""`python -m benchmarks`: it measures, writes and reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import peaks, run
from benchmarks.common import machine, memory, pages, patience
from benchmarks.distillation import cases as distillation_cases
from benchmarks.linear import cases as linear_cases
from benchmarks.logits import cases as logits_cases
from benchmarks.logits import everyday, pairs
from benchmarks.logits.cases import LogitsCase
from benchmarks.logits.everyday import EverydayCase
from benchmarks.rows import cases as rows_cases
from tests.benchmarks.tiny import D, N, V, linear_case, logits_case


def test_the_command_measures_writes_and_reports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(logits_cases, "CASES", (logits_case("index"), logits_case("bf16")))
    sizes = {"extra_bytes": {"crossent": 0, "eager": 12_300_000}}
    monkeypatch.setattr(peaks, "measure", lambda *_: sizes)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # so that it is put back
    file = tmp_path / "new" / "results.jsonl"
    command.main(["--suite", "logits", "--quick", "--rounds", "2", "--out", str(file)])
    printed, said = capsys.readouterr()
    assert "index" in said

    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    measures = ["forward", "backward", "both"] + ["memory"] * (memory.why_not() is None) + ["error"]
    assert [(record["case"], record["measure"]) for record in records] == [("index", name) for name in measures]
    assert all({"date", "commit", "machine", "versions"} <= record["run"].keys() for record in records)

    command.main(["report", str(file)])
    assert capsys.readouterr().out == printed
    table = [line for line in printed.splitlines() if "│" in line]
    assert len({tuple(i for i, letter in enumerate(line) if letter == "│") for line in table}) == 1
    row = table[-1]
    assert row.startswith("index")
    assert "6×11 float32" in row
    if memory.why_not() is None:
        assert row.split("│")[-1].split() == ["<0.26", "12.3", "–", "<43691"]


@pytest.mark.slow
def test_the_command_measures_writes_and_reports_both_suites(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(logits_cases, "CASES", (LogitsCase("logits", "none", (6, 11)),))
    monkeypatch.setattr(linear_cases, "CASES", tuple(linear_case(name) for name in ("bf16", "sized")))
    monkeypatch.setattr(peaks, "measure", lambda _, names: {"extra_bytes": dict.fromkeys(names, 12_300_000)})
    for others in (rows_cases, pairs, distillation_cases):
        monkeypatch.setattr(others, "CASES", ())
    monkeypatch.setattr(linear_cases, "scaling", list)
    monkeypatch.setattr(everyday, "everyday", list)
    monkeypatch.setattr(everyday, "growth", list)
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    right = run.measure
    monkeypatch.setattr(run, "measure", lambda *args, **options: right(*args, **options | {"compiled": False}))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # so that it is put back
    command.main(["--rounds", "2"])
    printed, _ = capsys.readouterr()

    second, first = sorted(tmp_path.iterdir())
    assert second.name == first.name.replace("-logits", "-linear")
    records = [json.loads(line) for line in second.read_text(encoding="utf-8").splitlines()]
    measures = ["forward", "both", *(["memory"] if memory.why_not() is None else []), "error"]
    assert [(record["case"], record["measure"]) for record in records] == [
        (name, measure) for name in ("bf16", "sized") for measure in measures
    ]
    command.main(["report", str(second), str(first)])
    assert capsys.readouterr().out == printed

    lines = printed.splitlines()
    (row,) = [line for line in lines if line.startswith("sized") and f"{N}×{D}×{V} float32" in line]
    forward, both, error = (next(r for r in records[-4:] if r["measure"] == m) for m in ("forward", "both", "error"))
    cells = [cell.split() for cell in row.split("│")]
    expected = [forward["speedup_over"]["eager"], forward["times_limit"]["gemm"]]
    assert [float(cell) for cell in cells[1][2:]] == pytest.approx(expected, rel=5e-3, abs=5e-3)  # as printed
    assert cells[2][3] == "–"  # torch.compile
    assert float(cells[2][5]) == pytest.approx(both["times_limit"]["gemms"], rel=5e-3, abs=5e-3)
    if memory.why_not() is None:
        assert cells[3] == ["12.3", "12.3", "–", "12.3"]
    (row,) = [line for line in lines if line.startswith("sized") and "crossent 1 MiB" in line and "│" in line]
    assert row.split("│")[1].split() == [
        f"{error['errors']['crossent 1 MiB'][key]:.1e}" for key in ("loss", "dX", "dW")
    ]
    assert row.split("│")[2].strip() == "1"
    assert "bf16: rounds of torch chunked: 1" in lines
    assert any(line.startswith("bf16: beside products in float32 ") for line in lines)
    assert any(line.startswith("sized: crossent 1 MiB takes ") for line in lines)


def test_few_classes_are_measured_with_what_lies_between_forward_and_backward(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shape = EverydayCase("table", "none", (50, 3), threads=1)
    small = EverydayCase("small", "none", (6, 11), repeat=2, threads=1)
    monkeypatch.setattr(everyday, "everyday", lambda: [shape, small])
    sizes = {name: {"crossent": 4000, "eager": 600} for name in ("extra_bytes", "kept_bytes", "held_bytes")}
    monkeypatch.setattr(peaks, "measure", lambda *_: sizes)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # so that it is put back
    file = tmp_path / "results.jsonl"
    command.main(["--suite", "everyday", "--only", "a", "--rounds", "2", "--out", str(file)])
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    weighed = ["memory"] if memory.why_not() is None else []
    assert [(record["case"], record["measure"]) for record in records] == [
        *(("table", measure) for measure in ("forward", "both", *weighed, "error")),
        *(("small", measure) for measure in ("forward", "both", "error")),
    ]
    assert {record["clock"] for record in records} == {"cpu"}
    printed, _ = capsys.readouterr()
    (row,) = [line for line in printed.splitlines() if line.startswith("table ")]
    assert row.split("│")[3].split() == (["80.0", "12.0"] if weighed else ["–", "–"])


def test_a_case_that_is_not_there_names_those_that_are():
    with pytest.raises(SystemExit, match="there are imagenet, gpt2"):
        command.main(["--only", "resnet"])


def test_one_suite_is_measured_alone():
    with pytest.raises(SystemExit, match="there are gpt2-head, gpt2-head-bf16, smollm2-head"):
        command.main(["--suite", "linear", "--only", "imagenet-"])


def test_a_suite_that_was_stopped_goes_on_with_the_next_case(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    both = logits_case("index"), logits_case("small")
    measured = list[str]()

    def measure(case: LogitsCase, *_: object, **options: object) -> list[dict[str, object]]:
        assert options["seconds"] == 1.5
        measured.append(case.name)
        if case is both[1] and measured.count(case.name) == 1:
            raise KeyboardInterrupt
        return [{"suite": "logits", "case": case.name, "measure": "both", "missing": {}, "speedup_over": {}}]

    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    monkeypatch.setattr(logits_cases, "CASES", both)
    monkeypatch.setattr(run, "measure", measure)
    monkeypatch.setattr(memory, "why_not", lambda: "not here")
    monkeypatch.setattr(command.report, "tables", lambda records: " ".join(r["case"] for r in records))
    monkeypatch.setattr(machine, "commit", lambda: "0123456789ab")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # so that it is put back
    call = ["--suite", "logits", "--seconds", "1.5", "--resume"]
    with pytest.raises(KeyboardInterrupt):
        command.main(call)
    command.main(call)
    assert measured == ["index", "small", "small"]
    (path,) = tmp_path.iterdir()
    cases = [json.loads(line)["case"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert list(dict.fromkeys(cases)) == ["index", "small"]

    monkeypatch.setattr(machine, "commit", lambda: "ba9876543210")  # on the same day
    command.main(call)
    assert measured == ["index", "small", "small", "index", "small"]
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {record["run"]["commit"] for record in records} == {"ba9876543210"}


@pytest.mark.parametrize("other", [["--quick"], ["--only", "digits"], ["--out", "file"]])
def test_what_is_written_elsewhere_cannot_go_on(other: list[str]):
    with pytest.raises(SystemExit, match="--resume goes on with a file of benchmarks/results"):
        command.main(["--suite", "logits", "--resume", *other])


def test_a_case_that_is_too_slow_here_is_named_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    both = tuple(linear_case(name) for name in ("bf16", "float32"))
    monkeypatch.setattr(linear_cases, "CASES", both)
    monkeypatch.setattr(patience, "PATIENCE", 0.0)
    monkeypatch.setattr(memory, "why_not", lambda: "not here")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # so that it is put back
    file = tmp_path / "results.jsonl"
    command.main(["--suite", "linear", "--only", "f", "--quick", "--rounds", "1", "--out", str(file)])
    assert "bf16 is left out on this processor: its products take about" in capsys.readouterr().err
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert {record["case"] for record in records} == {"float32"}
