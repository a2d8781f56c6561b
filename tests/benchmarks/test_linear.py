"""The benchmarks of the linear loss on cases of a few numbers. No compiler runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from crossent.torch.sources import driver as _tiles

ROOT = Path(__file__).parents[2]
ROUNDS = 6
SLOW = 2
"""Rounds of a slow contender: a quarter, rounded up."""

NAMES = (
    "__main__", "cases", "errors", "linear_cases", "linear_contenders", "machine", "memory", "pages", "run", "suites",
)  # fmt: skip


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        yield SimpleNamespace(**{name.strip("_"): import_module(f"benchmarks.{name}") for name in NAMES})


TINY: dict[str, dict[str, Any]] = {
    "float32": {"quick": True},
    "bf16": {"dtype": "bfloat16"},
    "sized": {"chunk_bytes": (256, 2**20)},
}
N, D, V = 40, 8, 70
RIVALS = {"eager", "torch linear", "torch chunked"}
SIZED = {"crossent 0.000244141 MiB", "crossent 1 MiB"}
FLOORS = {"forward": {"gemm"}, "both": {"gemms", "gemms warm"}}


def tiny(benchmarks: Any, name: str) -> Any:
    return benchmarks.linear_cases.LinearCase(name, "none", N, D, V, **TINY[name])


def measured(benchmarks: Any, name: str) -> list[dict[str, Any]]:
    return benchmarks.run.measure(tiny(benchmarks, name), ROUNDS, warmup=1, compiled=False)


def test_every_case_has_a_name_of_its_own(benchmarks: Any):
    cases = benchmarks.suites.cases()
    assert len({case.name for case in cases}) == len(cases)
    for suite in benchmarks.main.SUITES:
        assert any(case.quick for case in cases if case.suite == suite)


@pytest.mark.parametrize("name", TINY)
def test_a_record_says_what_was_measured(benchmarks: Any, name: str):
    records = measured(benchmarks, name)
    assert [record["measure"] for record in records] == ["forward", "both"]
    assert [record["flops"] for record in records] == [2 * N * D * V, 6 * N * D * V]
    for record in records:
        assert json.loads(json.dumps(record)) == record
        assert (record["suite"], record["case"], record["shape"], record["rows"]) == ("linear", name, [N, D, V], N)
        assert (record["rounds"], record["rounds_of"], record["missing"]) == (ROUNDS, {"torch chunked": SLOW}, {})
        rivals = RIVALS | (SIZED if name == "sized" else set())
        floors = FLOORS[record["measure"]]
        if name == "bf16":
            floors = floors | {f"{floor} float32" for floor in floors}
        assert record["seconds"].keys() == {"crossent"} | rivals | floors
        assert record["median_seconds"].keys() == record["seconds"].keys()
        assert record["speedup_over"].keys() == rivals
        assert record["times_limit"].keys() == floors
        for contender, times in record["seconds"].items():
            assert len(times) == (SLOW if contender == "torch chunked" else ROUNDS)
            assert min(times) > 0


def test_ratios_are_quotients_of_the_recorded_times_in_the_rounds_that_both_have(benchmarks: Any):
    for record in measured(benchmarks, "bf16"):
        seconds = {key: np.array(times) for key, times in record["seconds"].items()}
        ours = seconds["crossent"]
        speedup = {key: np.median(seconds[key] / ours[: len(seconds[key])]) for key in record["speedup_over"]}
        assert record["speedup_over"] == pytest.approx(speedup, rel=5e-5)  # recorded to five digits
        limits = {key: np.median(ours / seconds[key]) for key in record["times_limit"]}
        assert record["times_limit"] == pytest.approx(limits, rel=5e-5)


@pytest.mark.parametrize("name", ["float32", "bf16"])
def test_floors_are_the_products_of_a_loss_and_its_gradients(benchmarks: Any, name: str):
    data = tiny(benchmarks, name).make()
    floors = benchmarks.linear_contenders.floors(data)
    features, weight = (x.detach().double().numpy() for x in data.leaves)
    logits = features @ weight.T
    products = [logits, logits @ weight, logits.T @ features]
    for floor, call in floors.items():
        found = call()
        for got, want in zip(
            [found] if floor.startswith("gemm ") or floor == "gemm" else found, products, strict=False
        ):
            eps = torch.finfo(got.dtype).eps
            assert got.dtype == (torch.float32 if "float32" in floor else data.leaves[0].dtype)
            # logits are rounded before they are multiplied again, and each sum once: norms hardly ever differ by more
            assert np.linalg.norm(got.double().numpy() - want) <= 2 * eps * np.linalg.norm(want)
        if "warm" in floor:
            assert [x.data_ptr() for x in call()] == [x.data_ptr() for x in found]


def test_who_needs_more_memory_than_there_is_does_not_run(benchmarks: Any, monkeypatch: pytest.MonkeyPatch):
    large = benchmarks.linear_cases.LinearCase("large", "none", 10**4, 10, 10**5)  # logits of 4 GB, a weight of 4 MB
    missing = benchmarks.linear_contenders.missing
    whole = {"eager", "torch linear", "compile"}
    assert missing(large, None) == missing(large, 19 * 10**9) == {}
    assert missing(large, 12 * 10**9).keys() == whole
    assert missing(large, 8 * 10**9).keys() == whole | {"gemms"}
    assert missing(large, 3 * 10**9).keys() == whole | {"gemm", "gemms", "gemms warm"}
    assert missing(large, 12 * 10**9)["eager"] == "16.0 GB of memory needed, 12.0 GB free"

    logits, weight = 4 * N * V, 4 * V * D
    for times, floors in ((1.5, {"gemm", "gemms warm"}), (0.5, set())):
        monkeypatch.setattr(
            benchmarks.machine, "free_memory", lambda times=times: int(times * (logits + weight) * 8 / 7)
        )
        for record in measured(benchmarks, "float32"):
            present = {"forward": {"gemm"}, "both": {"gemms warm"}}[record["measure"]] & floors
            assert record["seconds"].keys() == {"crossent", "torch chunked"} | present
            assert record["missing"].keys() == {"eager", "torch linear", "gemm", "gemms", "gemms warm"} - floors
            assert record["times_limit"].keys() == present


def test_who_takes_too_long_does_not_run(benchmarks: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(benchmarks.run, "PATIENCE", 0.0)
    for record in measured(benchmarks, "float32"):
        assert record["missing"] == {"torch chunked": "its first step took 0 s"}
        assert record["speedup_over"].keys() == RIVALS - {"torch chunked"}
        assert "rounds_of" not in record


@pytest.mark.parametrize("wrong", [(1.1, 1, 1), (1, 1.1, 1), (1, 1, 1.1), (1, 1, torch.nan)])
def test_nothing_is_timed_of_a_loss_that_is_not_the_same(
    benchmarks: Any, wrong: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
):
    right = benchmarks.linear_contenders.linear_cross_entropy

    def scaled(value: Any, by: float) -> Any:
        return value.detach() + by * (value - value.detach())

    def loss(features: Any, weight: Any, target: Any) -> Any:
        return wrong[0] * right(scaled(features, wrong[1]), scaled(weight, wrong[2]), target)

    monkeypatch.setattr(benchmarks.linear_contenders, "linear_cross_entropy", loss)
    with pytest.raises(RuntimeError, match="crossent and eager differ"):
        _ = measured(benchmarks, "float32")


@pytest.mark.parametrize("name", ["float32", "bf16"])
def test_errors_are_those_beside_autograd_in_float64(benchmarks: Any, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(benchmarks.errors, "PART", 8 * V * 7)  # parts of 7 rows
    data = tiny(benchmarks, name).make()
    leaves = [x.detach().double().requires_grad_() for x in data.leaves]
    value = functional.cross_entropy(functional.linear(*leaves), data.target)
    value.backward()
    exact = benchmarks.errors.reference(data)
    grads = [x.grad for x in leaves]
    torch.testing.assert_close(exact, (value.item(), *grads), rtol=1e-12, atol=1e-15)

    record = benchmarks.errors.measure(tiny(benchmarks, name), {"torch chunked"})
    extra = {"torch chunked, acc float32"} if name == "bf16" else set()
    assert record["errors"].keys() == {"crossent", "eager"} | extra
    for contender in ("crossent", "eager"):
        loss = benchmarks.linear_contenders.losses(tiny(benchmarks, name), compiled=False)[contender]
        found = loss(*data.leaves, data.target)
        own = torch.autograd.grad(found, data.leaves)
        expected = {"loss": abs(found.item() - value.item()) / value.item()}
        for key, a, b in zip(("dX", "dW"), own, grads, strict=True):
            expected[key] = float(np.linalg.norm(a.double() - b) / np.linalg.norm(b))
        assert record["errors"][contender] == pytest.approx(expected, rel=5e-5, abs=1e-13)


@pytest.mark.parametrize("name", ["float32", "bf16"])
@pytest.mark.parametrize("chunk_bytes", [128, 2000, 2**20])
def test_chunks_are_as_many_as_are_made(benchmarks: Any, name: str, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch):
    kernels, calls = _tiles.backend(torch.ones(1)), []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            calls.append(name)
            return getattr(kernels, name)

    monkeypatch.setattr(_tiles, "backend", lambda _: Watched())
    data = tiny(benchmarks, name).make()
    loss = benchmarks.linear_contenders.linear_cross_entropy
    loss(*data.leaves, data.target, chunk_bytes=chunk_bytes).backward()
    made = calls.count("row_fused") or calls.count("row_grad")
    assert benchmarks.errors.number_of_chunks(data, chunk_bytes) == made


def test_extra_memory_is_what_is_beyond_the_gradients(benchmarks: Any):
    if benchmarks.memory.why_not() is not None:
        pytest.skip(benchmarks.memory.why_not())
    case = f'LinearCase("large", "none", 256, 8, 2**17, chunk_bytes=({2**22},))'
    code = (
        "import json; from benchmarks import memory; from benchmarks.linear_cases import LinearCase; "
        f'print(json.dumps(memory.measure_here({case}, ["crossent", "crossent 4 MiB", "eager"])))'
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **benchmarks.memory.ALLOCATOR, "OMP_WAIT_POLICY": "PASSIVE"},  # as the benchmarks run
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    extra = json.loads(done.stdout)
    logits = 4 * 256 * 2**17
    assert extra["eager"] >= 2 * logits  # the logarithms and their gradient, to say the least
    assert extra["crossent 4 MiB"] < extra["crossent"] < logits


def test_the_command_measures_writes_and_reports_both_suites(
    benchmarks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    logits = benchmarks.cases.Case("logits", "none", (6, 11))
    monkeypatch.setattr(benchmarks.cases, "CASES", (logits,))
    cases = tuple(tiny(benchmarks, name) for name in ("bf16", "sized"))
    monkeypatch.setattr(benchmarks.linear_cases, "CASES", cases)
    monkeypatch.setattr(benchmarks.memory, "measure", lambda _, names: dict.fromkeys(names, 12_300_000))
    monkeypatch.setattr(benchmarks.linear_cases, "scaling", list)
    monkeypatch.setattr(benchmarks.pages, "RESULTS", tmp_path)
    right = benchmarks.run.measure
    monkeypatch.setattr(
        benchmarks.run, "measure", lambda *args, **options: right(*args, **options | {"compiled": False})
    )
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # so that it is put back
    benchmarks.main.main(["--rounds", "2"])
    printed, _ = capsys.readouterr()

    second, first = sorted(tmp_path.iterdir())
    assert second.name == first.name.replace("-logits", "-linear")
    records = [json.loads(line) for line in second.read_text(encoding="utf-8").splitlines()]
    measures = ["forward", "both", *(["memory"] if benchmarks.memory.why_not() is None else []), "error"]
    assert [(record["case"], record["measure"]) for record in records] == [
        (name, measure) for name in ("bf16", "sized") for measure in measures
    ]
    benchmarks.main.main(["report", str(second), str(first)])
    assert capsys.readouterr().out == printed

    lines = printed.splitlines()
    (row,) = [line for line in lines if line.startswith("sized") and f"{N}×{D}×{V} float32" in line]
    forward, both, error = (next(r for r in records[-4:] if r["measure"] == m) for m in ("forward", "both", "error"))
    cells = [cell.split() for cell in row.split("│")]
    expected = [forward["speedup_over"]["eager"], forward["times_limit"]["gemm"]]
    assert [float(cell) for cell in cells[1][2:]] == pytest.approx(expected, rel=5e-3, abs=5e-3)  # as printed
    assert cells[2][3] == "–"  # torch.compile
    assert float(cells[2][5]) == pytest.approx(both["times_limit"]["gemms"], rel=5e-3, abs=5e-3)
    if benchmarks.memory.why_not() is None:
        assert cells[3] == ["12.3", "12.3", "–", "12.3"]
    (row,) = [line for line in lines if line.startswith("sized") and "crossent 1 MiB" in line and "│" in line]
    assert row.split("│")[1].split() == [
        f"{error['errors']['crossent 1 MiB'][key]:.1e}" for key in ("loss", "dX", "dW")
    ]
    assert row.split("│")[2].strip() == "1"
    assert "bf16: rounds of torch chunked: 1" in lines
    assert any(line.startswith("bf16: beside products in float32 ") for line in lines)
    assert any(line.startswith("sized: crossent 1 MiB takes ") for line in lines)


def test_one_suite_is_measured_alone(benchmarks: Any):
    with pytest.raises(SystemExit, match="there are gpt2-head, gpt2-head-bf16, smollm2-head"):
        benchmarks.main.main(["--suite", "linear", "--only", "imagenet-"])
