"""Measures what scoring rows in memory takes, beside scikit-learn and beside one read of the probabilities."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.common import memory
from benchmarks.common.records import Record, ratio, rounded
from benchmarks.score.cases import ArrayCase

RIVAL_ROUNDS = 3
"""Rounds of scikit-learn, which takes some hundred times as long."""
LONG, VERY_LONG = 2.0, 20.0
"""Seconds beyond which a contender runs in the first rounds only, as many as scikit-learn, or in one."""
Calls = dict[str, Callable[[], float]]


class Timed(NamedTuple):
    """The seconds of a call, and the loss that it found."""

    seconds: float
    loss: float


def measure(case: ArrayCase, rounds: int) -> Record:
    """Return times of contenders in random order, round after round, and the medians of their ratios."""
    contenders = calls(case)
    first, limits = _check(case, contenders), dict[str, int]()
    for name, seconds in first.items():
        most = 1 if seconds > VERY_LONG else RIVAL_ROUNDS if name == "scikit-learn" or seconds > LONG else rounds
        limits[name] = min(rounds, most)
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    order, shuffle = list(contenders), random.Random(0).shuffle
    _ = gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            shuffle(order)
            for name in order:
                if turn < limits[name]:
                    samples[name].append(_timed(contenders[name]).seconds)
    finally:
        gc.enable()
    return {
        "kind": "arrays", "rows": case.rows, "classes": case.classes, "bytes": case.nbytes, "streamed": case.streamed,
        "rounds": {name: len(times) for name, times in samples.items()},
        "median_seconds": {name: rounded(statistics.median(times)) for name, times in samples.items()},
        "times_crossent": {name: ratio(times, samples["crossent"]) for name, times in samples.items()},
        "seconds": {name: [rounded(x) for x in times] for name, times in samples.items()},
    }  # fmt: skip


def calls(case: ArrayCase) -> Calls:
    """Return what is called: each gives the loss, but for the floor."""
    from sklearn.metrics import log_loss

    import crossent

    if case.streamed:
        parts = case.parts()

        def streamed() -> float:
            state = crossent.ScoreState()
            for y, p in case.stream(parts):
                state.update(y, probs=p)
            return state.finalize().loss

        return {"crossent": streamed, "read": lambda: sum(float(p.sum()) for _, p in case.stream(parts))}
    y, p = case.make()
    labels = list(range(case.classes))
    found: Calls = {
        "crossent": lambda: crossent.ScoreState().update(y, probs=p).finalize().loss,
        "crossent.score": lambda: crossent.score(y, probs=p).loss,
        "read": lambda: float(p.sum()),
    }
    if case.rival:
        found["scikit-learn"] = lambda: float(log_loss(y, p, labels=labels))
    return found


def _check(case: ArrayCase, contenders: Calls) -> dict[str, float]:
    """Call everything once; return the seconds, or raise if losses differ."""
    first = {name: _timed(call) for name, call in contenders.items()}
    losses = {name: timed.loss for name, timed in first.items() if name != "read"}
    # scikit-learn divides float32 rows by their float32 sums, and takes float32 logarithms
    if any(abs(loss - losses["crossent"]) > 1e-5 * losses["crossent"] for loss in losses.values()):
        raise RuntimeError(f"the losses of {case.name} differ: {losses}")
    return {name: timed.seconds for name, timed in first.items()}


def _timed(call: Callable[[], float]) -> Timed:
    start = time.perf_counter()
    loss = call()
    return Timed(time.perf_counter() - start, loss)


def extra(case: ArrayCase) -> dict[str, int]:
    """Return by how many bytes contenders raise the peak of this process, after a small call that imports all."""
    for call in calls(ArrayCase(1000, case.classes, rival=case.rival)).values():
        _ = call()
    contenders = calls(case)
    found = {name: memory.peak(contenders[name]) for name in contenders if name not in {"read", "scikit-learn"}}
    if "scikit-learn" in contenders:
        found["scikit-learn"] = memory.peak(contenders["scikit-learn"])
    return found
