"""What is recorded of a case: who took part in how many rounds, and ratios that are those of the recorded times."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import run
from benchmarks.common import patience
from benchmarks.linear import contenders as linear_contenders
from benchmarks.logits import contenders as logits_contenders
from benchmarks.logits.everyday import EverydayCase
from tests.benchmarks.tiny import LINEAR, LINEAR_ROUNDS, LOGITS, ROUNDS, D, N, V, measured_linear, measured_logits

pytestmark = pytest.mark.slow

SLOW = 2
"""Rounds of a slow contender: a quarter, rounded up."""
RIVALS = {"forward": {"eager"}, "both": {"eager", "torch chunked"}}
SIZED = {"crossent 0.000244141 MiB", "crossent 1 MiB"}
FLOORS = {"forward": {"gemm"}, "both": {"gemms", "gemms warm"}}


@pytest.mark.parametrize("name", LOGITS)
def test_a_record_of_logits_says_what_was_measured(name: str):
    records = measured_logits(name)
    small = name == "small"
    assert [record["measure"] for record in records] == (
        ["forward", "both"] if small else ["forward", "backward", "both"]
    )
    for record in records:
        assert json.loads(json.dumps(record)) == record
        assert (record["case"], tuple(record["shape"]), record["rounds"]) == (name, LOGITS[name]["shape"], ROUNDS)
        assert all(len(times) == ROUNDS and min(times) > 0 for times in record["seconds"].values())
        rivals = set() if record["measure"] == "backward" else {"eager"}
        limits = {"forward": {"read"}, "backward": {"copy"}, "both": {"read", "clone"}}[record["measure"]]
        raw = {"raw"} if name == "bf16" and record["measure"] == "forward" else set()
        assert record["seconds"].keys() == {"crossent"} | rivals | (set() if small else limits) | raw
        assert record["median_seconds"].keys() == record["seconds"].keys()
        assert record["speedup_over"].keys() == rivals
        assert record["times_limit"].keys() == (set() if small else {"limit"} | raw)


@pytest.mark.parametrize("name", LINEAR)
def test_a_record_of_a_linear_layer_says_what_was_measured(name: str):
    records = measured_linear(name)
    assert [record["measure"] for record in records] == ["forward", "both"]
    assert [record["flops"] for record in records] == [2 * N * D * V, 6 * N * D * V]
    for record in records:
        assert json.loads(json.dumps(record)) == record
        assert (record["suite"], record["case"], record["shape"], record["rows"]) == ("linear", name, [N, D, V], N)
        assert (record["rounds"], record["rounds_of"]) == (LINEAR_ROUNDS, {"torch chunked": SLOW})
        assert record["missing"] == {}
        rivals = RIVALS[record["measure"]] | (SIZED if name == "sized" else set())
        floors = FLOORS[record["measure"]]
        if name == "bf16":
            floors = floors | {f"{floor} float32" for floor in floors}
        assert record["seconds"].keys() == {"crossent"} | rivals | floors
        assert record["median_seconds"].keys() == record["seconds"].keys()
        assert record["speedup_over"].keys() == rivals
        assert record["times_limit"].keys() == floors
        for contender, times in record["seconds"].items():
            assert len(times) == (SLOW if contender == "torch chunked" else LINEAR_ROUNDS)
            assert min(times) > 0


def test_a_case_runs_on_its_own_number_of_threads(monkeypatch: pytest.MonkeyPatch):
    before, right, seen = torch.get_num_threads(), logits_contenders.cross_entropy, set()
    other = before + 1  # so that one thread is not what there was before
    torch.set_num_threads(other)

    def watched(*args: Any, **options: Any) -> Any:
        seen.add(torch.get_num_threads())
        return right(*args, **options)

    monkeypatch.setattr(logits_contenders, "cross_entropy", watched)
    try:
        assert [record["threads"] for record in measured_logits("small")] == [1, 1]
        assert seen == {1}
        assert torch.get_num_threads() == other
        assert measured_logits("index")[0]["threads"] == other
        assert seen == {1, other}
    finally:
        torch.set_num_threads(before)


def test_a_case_is_timed_by_its_own_clock(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        run, "CLOCKS", {"wall": iter(range(10**6)).__next__, "cpu": iter(range(0, 10**9, 1000)).__next__}
    )
    assert {x for record in measured_logits("small") for of in record["seconds"].values() for x in of} == {0.33333}
    few = EverydayCase("few", "none", (6, 11), repeat=4, threads=1)
    assert {x for record in run.measure(few, 2) for of in record["seconds"].values() for x in of} == {250.0}


@pytest.mark.parametrize("name", ["index", "bf16"])
def test_ratios_are_quotients_of_the_recorded_times(name: str):
    for record in measured_logits(name):
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


def test_ratios_are_quotients_of_the_recorded_times_in_the_rounds_that_both_have():
    for record in measured_linear("bf16"):
        seconds = {key: np.array(times) for key, times in record["seconds"].items()}
        ours = seconds["crossent"]
        speedup = {key: np.median(seconds[key] / ours[: len(seconds[key])]) for key in record["speedup_over"]}
        assert record["speedup_over"] == pytest.approx(speedup, rel=5e-5)  # recorded to five digits
        limits = {key: np.median(ours / seconds[key]) for key in record["times_limit"]}
        assert record["times_limit"] == pytest.approx(limits, rel=5e-5)


def test_who_takes_too_long_does_not_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(patience, "PATIENCE", 0.0)
    for record in measured_linear("float32"):
        assert record["missing"] == {"torch chunked": "its first step took 0 s"}
        assert record["speedup_over"].keys() == RIVALS["forward"]
        assert "rounds_of" not in record


@pytest.mark.parametrize("wrong", [lambda x: 1.1 * x, lambda x: x + 1.0 * x.detach(), lambda x: x * torch.nan])
def test_nothing_is_timed_of_a_loss_of_logits_that_is_not_the_same(wrong: Any, monkeypatch: pytest.MonkeyPatch):
    right = logits_contenders.cross_entropy
    monkeypatch.setattr(logits_contenders, "cross_entropy", lambda *args, **options: wrong(right(*args, **options)))
    with pytest.raises(RuntimeError, match="crossent and eager differ"):
        _ = measured_logits("index")


@pytest.mark.parametrize("wrong", [(1.1, 1, 1), (1, 1.1, 1), (1, 1, 1.1), (1, 1, torch.nan)])
def test_nothing_is_timed_of_a_loss_of_a_linear_layer_that_is_not_the_same(
    wrong: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
):
    right = linear_contenders.linear_cross_entropy

    def scaled(value: Any, by: float) -> Any:
        return value.detach() + by * (value - value.detach())

    def loss(features: Any, weight: Any, target: Any) -> Any:
        return wrong[0] * right(scaled(features, wrong[1]), scaled(weight, wrong[2]), target)

    monkeypatch.setattr(linear_contenders, "linear_cross_entropy", loss)
    with pytest.raises(RuntimeError, match="crossent and eager differ"):
        _ = measured_linear("float32")


def test_rounds_end_where_they_do_not_fit_into_their_seconds():
    case = EverydayCase("few", "none", (6, 11), repeat=4, threads=1)
    for most, seconds, done in ((20, 0.0, run.LEAST), (5, 1e9, 5)):
        for record in run.measure(case, most, compiled=False, seconds=seconds):
            assert record["rounds"] == done
            assert {len(times) for times in record["seconds"].values()} == {done}


def test_the_time_of_one_more_round_is_that_of_the_rounds_before():
    rounds = run.Rounds(measured=9, warmup=0, fewer={}, seconds=10.0)
    assert [rounds.over(done, 2.5 * done) for done in range(6)] == [False, False, False, False, True, True]
    assert [rounds.over(done, 5.0 * done) for done in range(6)] == [False, False, False, True, True, True]
    assert not run.Rounds(9, 0, {}).over(8, 1e9)
