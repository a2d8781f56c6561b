"""The whole proof without a GPU: in Triton's interpreter, and on a GPU that is pretended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.prove import tables
from benchmarks.gpu.prove.stages import STAGES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("triton") is None, reason="there is no Triton for this system"),
]
ROOT = Path(__file__).parents[4]
NAMES = [stage.name for stage in STAGES]
NO_KERNELS = "results mean nothing where nothing is launched"


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TRITON_", "PYTEST_"))}
    return kept | {"OMP_NUM_THREADS": "1"}


def cases(records: list[dict[str, Any]], stage: str) -> set[str]:
    return {r["case"] for r in records if r["stage"] == stage and r["case"] != "stage" and "kernel" not in r}


def test_every_stage_runs_in_the_interpreter_and_is_right(tmp_path: Path) -> None:
    path = tmp_path / "proof.jsonl"
    command = [sys.executable, "-m", "benchmarks.gpu.prove", "--dry", "--out", str(path), "--commit", "abc"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {r["status"] for r in records} <= {"ok", "missing"}
    assert {r["run"]["commit"] for r in records} == {"abc"}
    assert list(dict.fromkeys(r["stage"] for r in records)) == NAMES
    assert [r["stage"] for r in records if r["case"] == "stage"] == NAMES
    assert tables.text(records) in done.stdout
    assert cases(records, "correct") == set(tables.items_of("correct"))
    for share in (s for r in records for s in r.get("shares", {}).values()):
        assert 0 <= share <= 1
    ours = [r for r in records if r["stage"] == "heads" and r.get("contender") == "crossent"]
    assert {r["plan"] for r in ours} == {"two sweeps", *(f"one sweep, chunks of {rows} rows" for rows in (2, 4))}
    for record in ours:  # a part of a call takes no longer than the call, and every part is found
        assert set(record["phases"]) == {"logits", "rows", "dX", "dW", "rest"}
        assert min(record["phases"].values()) > 0


def test_every_stage_runs_as_on_cuda_on_a_gpu_that_is_pretended() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.gpu.prove.pretend", *NAMES]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    records = [r for r in map(json.loads, done.stdout.splitlines()) if r["status"] != "begun"]
    wrong = [r for r in tables.wrong(records) if not r["reason"].startswith("errors as multiples")]
    assert wrong == [], NO_KERNELS
    for name in NAMES:
        assert cases(records, name) - {"launches"} == set(tables.items_of(name)), name
    launches = [r["launches"] for r in records if r["case"] == "launches"]
    assert all(launches), launches
    kernels = [r for r in records if "kernel" in r]
    assert {r["kernel"]["name"] for r in kernels} == set(
        launches[-1]
    )  # all that were launched, whatever they are called
    heads = [r for r in records if r["stage"] == "heads" and r.get("contender") == "crossent"]
    plans = {(r["case"], r["plan"]) for r in heads}
    assert {case for case, _ in plans} == set(tables.items_of("heads"))
    for words in ("two sweeps", "kept", "classes twice"):  # every kind of plan is measured
        assert any(plan.endswith(words) for _, plan in plans), plans
    for record in heads:
        assert record["peak_bytes"] == 2 * 10**9  # as the stand-in says
        assert set(record["phases"]) == {"logits", "rows", "dX", "dW", "rest"}
