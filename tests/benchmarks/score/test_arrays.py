"""What is recorded of scoring rows in memory."""

from __future__ import annotations

import json
import statistics

import pytest
from sklearn.metrics import log_loss

from benchmarks.common import memory
from benchmarks.score import arrays
from benchmarks.score.cases import ArrayCase


@pytest.mark.parametrize("classes", [2, 10])
def test_ratios_are_those_of_the_recorded_times(classes: int):
    record = arrays.measure(ArrayCase(500, classes), 4)
    assert json.loads(json.dumps(record)) == record
    assert record["rounds"] == {"crossent": 4, "crossent.score": 4, "read": 4, "scikit-learn": arrays.RIVAL_ROUNDS}
    ours = record["seconds"]["crossent"]
    for name, times in record["seconds"].items():
        expected = statistics.median(a / b for a, b in zip(times, ours, strict=False))
        assert record["times_crossent"][name] == pytest.approx(expected, rel=1e-3)


def test_everyone_finds_the_same_loss():
    case = ArrayCase(500, 10)
    labels, probabilities = case.make()
    wide = probabilities.astype(float)
    exact = log_loss(labels, wide / wide.sum(axis=1, keepdims=True), labels=range(10))
    losses = {name: call() for name, call in arrays.calls(case).items() if name != "read"}
    assert losses == pytest.approx(dict.fromkeys(losses, exact), rel=1e-5)


def test_nothing_is_timed_of_a_loss_that_is_not_the_same(monkeypatch: pytest.MonkeyPatch):
    right = arrays.calls
    monkeypatch.setattr(arrays, "calls", lambda case: right(case) | {"wrong": lambda: 0.1})
    with pytest.raises(RuntimeError, match="the losses of 5e2 × 10 differ"):
        _ = arrays.measure(ArrayCase(500, 10), 1)


@pytest.mark.slow
def test_extra_memory_is_that_of_everyone_but_the_floor():
    if memory.why_not() is not None:
        pytest.skip(memory.why_not())
    extra = arrays.extra(ArrayCase(200, 10))
    assert extra.keys() == {"crossent", "crossent.score", "scikit-learn"}
