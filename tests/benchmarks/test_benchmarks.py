"""The benchmarks on cases of a few numbers: what they record, that it adds up, and that it prints. No compiler runs."""

from __future__ import annotations

import json
import os
import platform
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

ROOT = Path(__file__).parents[2]
ROUNDS = 3


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[Any]:
    names = ("__main__", "cases", "contenders", "grid", "machine", "memory", "report", "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        yield SimpleNamespace(**{name.strip("_"): import_module(f"benchmarks.{name}") for name in names})


TINY: dict[str, dict[str, Any]] = {
    "index": {"shape": (6, 11), "quick": True},
    "bf16": {"shape": (6, 11), "dtype": "bfloat16"},
    "options": {"shape": (6, 11), "smoothing": 0.1, "weighted": True},
    "prob": {"shape": (6, 11), "target": "prob"},
    "topk": {"shape": (6, 50), "target": "topk"},
    "image": {"shape": (2, 5, 3, 4)},
    "binary": {"shape": (7, 5), "target": "binary"},
    "small": {"shape": (6, 11), "repeat": 3, "threads": 1},
}


def tiny(benchmarks: Any, name: str) -> Any:
    return benchmarks.cases.Case(name, "none", **TINY[name])


def measured(benchmarks: Any, name: str) -> list[dict[str, Any]]:
    return benchmarks.run.measure(tiny(benchmarks, name), ROUNDS, warmup=1, compiled=False)


@pytest.mark.parametrize("name", TINY)
def test_a_record_says_what_was_measured(benchmarks: Any, name: str):
    records = measured(benchmarks, name)
    small = name == "small"
    assert [record["measure"] for record in records] == (
        ["forward", "both"] if small else ["forward", "backward", "both"]
    )
    for record in records:
        assert json.loads(json.dumps(record)) == record
        assert (record["case"], tuple(record["shape"]), record["rounds"]) == (name, TINY[name]["shape"], ROUNDS)
        assert all(len(times) == ROUNDS and min(times) > 0 for times in record["seconds"].values())
        rivals = set() if record["measure"] == "backward" else {"eager"}
        limits = {"forward": {"read"}, "backward": {"copy"}, "both": {"read", "clone"}}[record["measure"]]
        raw = {"raw"} if name == "bf16" and record["measure"] == "forward" else set()
        assert record["seconds"].keys() == {"crossent"} | rivals | (set() if small else limits) | raw
        assert record["median_seconds"].keys() == record["seconds"].keys()
        assert record["speedup_over"].keys() == rivals
        assert record["times_limit"].keys() == (set() if small else {"limit"} | raw)


def test_a_case_runs_on_its_own_number_of_threads(benchmarks: Any, monkeypatch: pytest.MonkeyPatch):
    before, right, seen = torch.get_num_threads(), benchmarks.contenders.cross_entropy, set()

    def watched(*args: Any, **options: Any) -> Any:
        seen.add(torch.get_num_threads())
        return right(*args, **options)

    monkeypatch.setattr(benchmarks.contenders, "cross_entropy", watched)
    assert [record["threads"] for record in measured(benchmarks, "small")] == [1, 1]
    assert seen == {1}
    assert torch.get_num_threads() == before
    assert measured(benchmarks, "index")[0]["threads"] == before
    assert seen == {1, before}


def test_bytes_are_those_of_reading_and_writing_each_operand(benchmarks: Any):
    one = 4 * 6 * 11
    assert [record["bytes"] for record in measured(benchmarks, "index")] == [one, 2 * one, 3 * one]
    assert [record["bytes"] for record in measured(benchmarks, "prob")] == [2 * one, 3 * one, 5 * one]


@pytest.mark.parametrize("name", ["index", "bf16"])
def test_ratios_are_quotients_of_the_recorded_times(benchmarks: Any, name: str):
    for record in measured(benchmarks, name):
        seconds = {key: np.array(times) for key, times in record["seconds"].items()}
        limit = sum(seconds[key] for key in ("read", "copy", "clone") if key in seconds)
        expected = {"limit": np.median(seconds["crossent"] / limit)}
        if "raw" in seconds:
            expected["raw"] = np.median(seconds["crossent"] / seconds["raw"])
        # recorded to five digits
        assert record["times_limit"] == pytest.approx(expected, rel=5e-5)
        speedup = {key: np.median(seconds[key] / seconds["crossent"]) for key in record["speedup_over"]}
        assert record["speedup_over"] == pytest.approx(speedup, rel=5e-5)
        assert record["median_seconds"] == pytest.approx({key: np.median(times) for key, times in seconds.items()})


@pytest.mark.parametrize("name", ["index", "bf16", "prob", "topk", "image", "binary"])
def test_the_gradient_into_warm_memory_is_the_one_of_autograd(benchmarks: Any, name: str):
    case = tiny(benchmarks, name)
    data = case.make()
    call = benchmarks.contenders.backward(case, data)
    call()
    _ = benchmarks.contenders.step(benchmarks.contenders.losses(case, compiled=False)["crossent"], data)
    rounding = 2 * torch.finfo(data.logits.dtype).eps  # of the cotangent and of the result, each half an eps in both
    torch.testing.assert_close(call.args[-1].view_as(data.logits), data.logits.grad, rtol=rounding, atol=0)


@pytest.mark.parametrize("wrong", [lambda x: 1.1 * x, lambda x: x + 1.0 * x.detach(), lambda x: x * torch.nan])
def test_nothing_is_timed_of_a_loss_that_is_not_the_same(benchmarks: Any, wrong: Any, monkeypatch: pytest.MonkeyPatch):
    right = benchmarks.contenders.cross_entropy
    monkeypatch.setattr(benchmarks.contenders, "cross_entropy", lambda *args, **options: wrong(right(*args, **options)))
    with pytest.raises(RuntimeError, match="crossent and eager differ"):
        _ = measured(benchmarks, "index")


def in_fresh_process(benchmarks: Any, expression: str) -> Any:
    """Value of an expression in a process that holds little else: systems reclaim what a long test run has piled up."""
    code = f"import json; import numpy as np; from benchmarks import cases, memory; print(json.dumps({expression}))"
    environment = {**os.environ, **benchmarks.memory.ALLOCATOR, "OMP_WAIT_POLICY": "PASSIVE"}  # as the benchmarks run
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def test_peak_of_memory_is_what_a_call_takes_and_gives_back(benchmarks: Any):
    if benchmarks.memory.why_not() is not None:
        pytest.skip(benchmarks.memory.why_not())
    size, resolution = 2**26, benchmarks.memory.RESOLUTION
    some = in_fresh_process(benchmarks, f"memory.peak(lambda: np.ones({size}, np.uint8).sum())")
    assert some == pytest.approx(size, abs=resolution)
    assert in_fresh_process(benchmarks, "memory.peak(lambda: None)") <= resolution


def test_extra_memory_is_what_is_beyond_the_gradient(benchmarks: Any):
    if benchmarks.memory.why_not() is not None:
        pytest.skip(benchmarks.memory.why_not())
    call = 'memory.measure_here(cases.Case("large", "none", (64, 2**17)), ["crossent", "eager"])'
    extra = in_fresh_process(benchmarks, call)
    assert extra["crossent"] <= 4 * benchmarks.memory.RESOLUTION
    assert extra["eager"] >= 2**25  # log_softmax, to say the least


def test_the_machine_is_described_without_names_of_hosts_or_paths(benchmarks: Any):
    about = benchmarks.machine.describe()
    text = json.dumps(about)
    assert str(ROOT) not in text
    assert platform.node() not in text.split('"')
    assert about["machine"]["isa"] in ("baseline", "avx2", "avx512", "neon")
    assert about["versions"]["torch"] == torch.__version__


def test_the_command_measures_writes_and_reports(
    benchmarks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(benchmarks.cases, "CASES", (tiny(benchmarks, "index"), tiny(benchmarks, "bf16")))
    sizes = {"crossent": 0, "eager": 12_300_000}
    monkeypatch.setattr(benchmarks.memory, "measure", lambda *_: sizes)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # so that it is put back
    file = tmp_path / "new" / "results.jsonl"
    benchmarks.main.main(["--suite", "logits", "--quick", "--rounds", "2", "--out", str(file)])
    printed, said = capsys.readouterr()
    assert "index" in said

    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    measures = ["forward", "backward", "both"] + ["memory"] * (benchmarks.memory.why_not() is None) + ["error"]
    assert [(record["case"], record["measure"]) for record in records] == [("index", name) for name in measures]
    assert all({"date", "commit", "machine", "versions"} <= record["run"].keys() for record in records)

    benchmarks.main.main(["report", str(file)])
    assert capsys.readouterr().out == printed
    table = [line for line in printed.splitlines() if "│" in line]
    assert len({tuple(i for i, letter in enumerate(line) if letter == "│") for line in table}) == 1
    row = table[-1]
    assert row.startswith("index")
    assert "6×11 float32" in row
    if benchmarks.memory.why_not() is None:
        assert row.split("│")[-1].split() == ["<0.26", "12.3", "–", "<43691"]


def test_a_case_that_is_not_there_names_those_that_are(benchmarks: Any):
    with pytest.raises(SystemExit, match="there are imagenet, gpt2"):
        benchmarks.main.main(["--only", "resnet"])


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.5, "1.50 s"), (0.0123, "12.3 ms"), (0.25, "250 ms"), (4.56e-5, "45.6 µs"), (None, "–")]
)
def test_durations_are_printed_with_three_digits(benchmarks: Any, seconds: float | None, text: str):
    assert benchmarks.grid.duration(seconds) == text
