"""Measures one case: contenders in random order, round after round in one process, and what is recorded of them."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks import memory, suites
from benchmarks.cases import Data
from benchmarks.contenders import Call, Key
from benchmarks.suites import AnyCase

Times = list[float]
Record = dict[str, Any]

SAME = 0.02
"""By how much losses and gradients may differ, relative to their norm, before they are not of the same function."""

LOOSER = {"torch chunked": 0.2}
"""Rivals that are known to be off by percents in bfloat16; by how much is measured as their error."""

PATIENCE = 20.0
"""Seconds that a step of a slow contender may take; it is not measured where it takes longer."""


def measure(case: AnyCase, rounds: int, *, warmup: int = 2, compiled: bool = True) -> list[Record]:
    """Return one record for each measure of time in this case."""
    suite, data = suites.of(case), case.make()
    with _threads(case.threads or torch.get_num_threads()):
        contenders, missing = suite.calls(case, data, compiled=compiled)
        missing |= _check(case, data, contenders)
        # a quarter of the rounds, and none to warm up beyond the check
        fewer = {name: min(most, -(-rounds // 4)) for name, most in suite.FEWER.items() if ("both", name) in contenders}
        samples = _sample(case, data, contenders, (rounds, warmup, fewer))
    about = {**describe(case), "rounds": rounds, "repeat": case.repeat, "missing": missing}
    if fewer:
        about["rounds_of"] = fewer
    wanted = [measure for measure in suite.LIMITS if (measure, "crossent") in samples]
    return [
        {**about, "measure": name, **suite.work(data, name), **_times(samples, name, suite.LIMITS[name])}
        for name in wanted
    ]


def measure_memory(case: AnyCase, contenders: list[str]) -> Record:
    """Return the record of the peak memory of contenders in this case."""
    extra = memory.measure(case, contenders)
    per_row = {name: rounded(size / case.rows) for name, size in extra.items()}
    return {
        **describe(case),
        "rounds": memory.ROUNDS,
        "measure": "memory",
        "resolution_bytes": memory.RESOLUTION,
        "extra_bytes": extra,
        "extra_bytes_per_row": per_row,
    }


def describe(case: AnyCase) -> Record:
    """Return what a record says of its case."""
    return {
        "suite": case.suite,
        "case": case.name,
        "model": case.model,
        **case.describe(),
        "rows": case.rows,
        "threads": case.threads or torch.get_num_threads(),
    }


def ratio(over: list[Times], under: list[Times]) -> float:
    """Return the median of quotients of sums of times over the rounds, from the first, that have both."""
    pairs = zip(zip(*over, strict=True), zip(*under, strict=True), strict=False)
    return rounded(statistics.median(sum(a) / sum(b) for a, b in pairs))


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(case: AnyCase, data: Data, contenders: dict[Key, Call]) -> dict[str, str]:
    """Call everything once, drop rivals that cannot run, and raise if the others do not compute the same."""
    missing: dict[str, str] = {}
    first: tuple[str, Any, list[Any]] | None = None
    names = [name for measure, name in contenders if measure == "both"]
    for name in sorted(names, key=lambda name: name != "eager"):
        try:
            start = time.perf_counter()
            value: Any = contenders["both", name]()
            seconds = time.perf_counter() - start
            if seconds <= PATIENCE or name not in suites.of(case).FEWER:
                _ = contenders["forward", name]()
            else:
                missing[name] = f"its first step took {seconds:.0f} s"
        except Exception as error:
            if name != "compile":
                raise
            missing[name] = type(error).__name__  # no compiler, most often; the text would name paths
        if name in missing:
            del contenders["forward", name], contenders["both", name]
            data.forget()
            continue
        value, grads = value.double(), [x.grad for x in data.leaves]
        data.forget()
        if first is None:
            first = name, value, grads
            continue
        other, value_, grads_ = first
        pairs = [(value, value_), *zip(grads, grads_, strict=True)]
        allowed = LOOSER.get(name, SAME)
        if not all((a - b).norm() <= allowed * b.norm() for a, b in pairs):
            raise RuntimeError(
                f"{name} and {other} differ by more than {allowed:.0%} in {case.name}; run `make test` first"
            )
    return missing


def _sample(
    case: AnyCase, data: Data, contenders: dict[Key, Call], plan: tuple[int, int, dict[str, int]]
) -> dict[Key, Times]:
    """Return the times of all rounds; the plan is how many, how many go before, and who takes part in the first few."""
    rounds, warmup, fewer = plan
    samples: dict[Key, Times] = {key: [] for key in contenders}
    order, shuffle = list(contenders), random.Random(0).shuffle
    _ = gc.collect()
    gc.disable()
    try:
        for turn in range(warmup + rounds):
            shuffle(order)
            for key in order:
                if key[1] in fewer and not 0 <= turn - warmup < fewer[key[1]]:
                    continue
                seconds = _timed(contenders[key], case.repeat)
                data.forget()
                if turn >= warmup:
                    samples[key].append(seconds)
    finally:
        gc.enable()
    return samples


def _timed(call: Call, repeat: int) -> float:
    """Return the seconds of one call; memory that it returns is given back after the clock has stopped."""
    result: object = None
    start = time.perf_counter()
    for _ in range(repeat):
        result = call()
    seconds = (time.perf_counter() - start) / repeat
    del result
    return rounded(seconds)


def _times(samples: dict[Key, Times], measure: str, limits: dict[str, tuple[str, ...]]) -> Record:
    """Return the times of a measure, their medians, and the medians of their quotients round by round."""
    times = {name: value for (kind, name), value in samples.items() if kind == measure}
    ours = times["crossent"]
    speedup = {name: ratio([theirs], [ours]) for name, theirs in times.items() if name != "crossent"}
    floors = {name: value for (kind, name), value in samples.items() if kind == "floor"}
    limits = {limit: parts for limit, parts in limits.items() if floors.keys() >= set(parts)}
    of_limit = {limit: ratio([ours], [floors[name] for name in parts]) for limit, parts in limits.items()}
    times |= {name: floors[name] for parts in limits.values() for name in parts}
    medians = {name: statistics.median(value) for name, value in times.items()}
    return {"median_seconds": medians, "speedup_over": speedup, "times_limit": of_limit, "seconds": times}


def rounded(value: float) -> float:
    """Return a number with the five digits that a record gives it."""
    return float(f"{value:.5g}")
