"""Pieces of the stages: compiled kernels, phases, profiles, counters, plans, and tables of all."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from benchmarks import proof
from benchmarks.common import pages
from benchmarks.gpu import model
from benchmarks.gpu.device import Host
from benchmarks.gpu.prove import beside_model, ceilings, compiled, correct, heads, hot, phases, stages, tables
from crossent.torch.sources import linear, products
from crossent.torch.sources.plan import Rest, Sweep


@pytest.mark.parametrize(
    ("registers", "warps", "resident"),
    [(112, 8, 16), (80, 8, 24), (56, 8, 32), (48, 4, 40), (32, 8, 64), (16, 4, 64), (255, 8, 8)],
)
def test_resident_warps_are_those_of_the_occupancy_calculator(registers: int, warps: int, resident: int) -> None:
    assert compiled.resident(registers, warps) == resident


def test_phases_are_told_apart_by_their_operands() -> None:
    x, weight, g = torch.ones(5, 3), torch.ones(7, 3), torch.ones(5, 7)
    multiply = products.multiply
    with phases.marked(Host()) as spans:
        products.multiply(x, weight.t(), g.clone())
        products.multiply(g, weight, torch.empty(5, 3))
        products.multiply(g.t(), x, torch.empty(7, 3))
        products.multiply(g.t(), x, torch.zeros(7, 3), add=True)
    assert [span.phase for span in spans] == ["logits", "dX", "dW", "dW"]
    assert products.multiply is multiply
    assert set(phases.seconds(Host(), spans)) == {"logits", "dX", "dW"}


def test_plans_are_those_of_the_number_of_rows_that_is_asked_for() -> None:
    before = linear.GPU
    with heads.one_sweep_from(1024):
        assert (linear.GPU.fewest_rows, linear.GPU.operations_per_byte) == (1024, 256)  # n = 4 F / B
    with heads.one_sweep_from(None):
        assert linear.GPU is before
    assert linear.GPU is before


def test_a_plan_in_words_says_what_is_kept_and_what_is_made_twice() -> None:
    assert heads.in_words(None) == "two sweeps"
    assert heads.in_words(Sweep(128)) == "one sweep, chunks of 128 rows"
    assert heads.in_words(Sweep(256, 8192, Rest(95360, 10880))) == (
        "one sweep, chunks of 256 rows, gradients of 8192 kept, 95360 classes twice"
    )


def test_launches_are_ordered_by_their_time() -> None:
    events: list[dict[str, Any]] = [
        {"cat": "kernel", "name": name, "dur": dur} for name, dur in (("a", 1), ("b", 3), ("a", 4))
    ]
    found = hot.by_name([*events, {"cat": "cpu_op", "name": "c", "dur": 9}, {"cat": "kernel", "name": "d"}], "kernel")
    assert {name: len(each) for name, each in found.items()} == {"a": 2, "b": 1}
    assert list(found) == ["a", "b"]


def test_counters_are_read_from_what_ncu_prints() -> None:
    names = ["ID", "Kernel Name", *hot.COUNTERS]
    text = "==PROF== Connected\n" + "\n".join(
        ",".join(f'"{cell}"' for cell in line)
        for line in (names, ["", "", "%", "%", "%", "inst", "register/thread", "ns"],
                     ["0", "row_stats", "91.5", "60", "55.2", "1,234,567", "40", "500,000"])
    )  # fmt: skip
    ((name, values),) = hot.of_ncu(text)
    assert name == "row_stats"
    assert values["memory, % of peak"] == 91.5
    assert values["instructions"] == 1234567
    assert list(hot.of_ncu("==ERROR== no permission")) == []


def test_items_that_share_kernels_go_to_the_same_process() -> None:
    four = next(stage.processes for stage in stages.STAGES if stage.name == "correct")
    names = tables.items_of("correct")
    for kind, dtype in correct.PAIRS:
        shares = {names.index(f"{kind}, {dtype}, {V} classes") % four for V in correct.CLASSES}
        assert len(shares) == 1
    of_pair = {pair: place % four for place, pair in enumerate(correct.PAIRS)}
    for dtype in ("bfloat16", "float32"):
        assert of_pair["smoothing", dtype] == of_pair["top-k", dtype]


def test_the_model_is_that_of_the_chip_that_was_measured() -> None:
    def on(gpu: str) -> list[dict[str, Any]]:
        return [{"run": {"machine": {"gpu": gpu}}, "case": "device", "status": "ok"}]

    assert "predicted for H200" in beside_model.table([])
    assert "predicted for A100" in beside_model.table(on("NVIDIA A100-SXM4-80GB"))
    assert beside_model.table(on("Radeon VII")) == "There is no model of Radeon VII."


def test_predictions_are_those_of_the_model_and_their_terms_are_its_sum() -> None:
    chip = beside_model.chip_of([])
    assert chip is not None
    for case in ceilings.whole_heads():
        *parts, total = beside_model.terms(case, chip, {})
        exact = model.predict_head(model.plan_of(case), chip)
        assert total.predicted == exact.total
        assert sum(part.predicted for part in parts) == pytest.approx(total.predicted)
        assert all(part.measured is None for part in parts)


def test_the_record_beside_the_model_is_that_of_the_default_plan() -> None:
    common = {"case": "a", "status": "ok", "contender": "crossent"}
    others: list[dict[str, Any]] = [
        {**common, "rows": 512, "chunk_bytes": None},
        {**common, "rows": None, "chunk_bytes": 2**31},
        {**common, "rows": None, "chunk_bytes": None, "contender": "eager"},
    ]
    default = {**common, "rows": None, "chunk_bytes": None}
    assert beside_model.ours([*others, default], "a") is default
    assert beside_model.ours(others, "a") == {}


PROVE = [name for name in proof.TABLES if name.startswith("prove-")]


@pytest.mark.parametrize("name", PROVE)
def test_what_was_not_measured_says_so(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    lines = proof.table(name).splitlines()[2:]
    assert lines
    assert all(tables.NOT_MEASURED in line for line in lines)


KERNEL = ("name", "registers", "spilled", "shared", "warps", "resident_warps")


def measured(stage: str, case: str, **what: Any) -> dict[str, Any]:
    return {"suite": "prove", "stage": stage, "case": case, "status": "ok", **what}


def test_tables_show_the_records_and_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    run = {
        "date": "2026-12-01T10:00Z", "commit": "0123456789ab", "versions": {"torch": "2.11.0", "triton": "3.6.0"},
        "machine": {"gpu": "NVIDIA H200", "cpu": "a processor", "cores": 16, "platform": "Linux"},
    }  # fmt: skip
    kernel = dict(zip(KERNEL, ("row_stats", 40, 0, 512, 4, 48), strict=True))
    records = [
        measured("correct", "plain, bfloat16, 50257 classes", shares={"loss": 0.25, "gradient": 0.5}),
        measured("correct", "head of 512 rows, 5003 classes, float32", status="failed", reason="a|b"),
        measured("ceilings", "llama3-head", product="dW", tflops={"narrow": 700.0, "wide": 650.0, "added": 600.0}),
        measured(
            "logits", "llama3", contender="crossent", median_seconds={"forward": 5e-4, "both": 1.5e-3},
            share_of_copy={"forward": 0.93}, host_seconds={"both": 6e-5},
        ),
        measured("logits", "llama3", contender="eager", over_crossent={"both": 3.5}),
        measured(
            "heads", "qwen-head", contender="crossent", chunk_bytes=None, rows=None, plan="one sweep, 588 rows",
            median_seconds={"both": 0.028}, over_floor=1.64, phases={"rows": 0.004},
        ),
        measured("machine", "row_stats", kernel=kernel, variants=2),
        measured("hot", "llama3", launched="row_grad", launches_a_call=1.0, seconds_a_call=0.00103),
    ]  # fmt: skip
    for record in records:
        record["run"] = run
    _ = (tmp_path / "2026-12-01-nvidia-h200-prove.jsonl").write_text("\n".join(map(json.dumps, records)))
    shown = {name: proof.table(name) for name in PROVE}
    for text in shown.values():
        assert "`make prove-gpu`, 2026-12-01, commit 0123456789ab; NVIDIA H200; a processor with 16 cores" in text
    for name, cells in {
        "prove-checks": ["| plain, bfloat16, 50257 classes | 1 | 0.5 | gradient | right |", "| – | a/b |"],
        "prove-ceilings": ["| llama3-head, dW | 700 | 650 | 600 |"],
        "prove-logits": ["(llama3) | 500 µs | – | 1.50 ms | 93 % | – | – | 3.50 | 60.0 µs |"],
        "prove-heads": [
            "| default | as it comes | one sweep, 588 rows | 28.0 ms | 1.64 | – | – | 4.00 | – | – | – | – |"
        ],
        "prove-kernels": ["| row_stats | 2 | 40 | 0 | 512 | 4 | 48 |"],
        "prove-model": ["(qwen-head) | rows | ", " | 4.00 ms | ", "(qwen-head) | dX, dW and their sums | "],
        "prove-longest": ["| `row_grad` | – | 1.00 | 1.03 ms | – |"],
    }.items():
        assert all(cell in shown[name] for cell in cells), shown[name]
    assert [r["case"] for r in tables.wrong(records)] == ["head of 512 rows, 5003 classes, float32"]
