"""Measures one case: contenders in random order, round after round in one process, and what is recorded of them."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import suites
from benchmarks.common import patience
from benchmarks.common.losses import Call, Data, Key
from benchmarks.common.records import Record, Times, rounded
from benchmarks.suites import AnyCase

SAME = 0.02
"""By how much losses and gradients may differ, relative to their norm, before they are not of the same function."""

LOOSER = {"torch chunked": 0.2}
"""Rivals that are known to be off by percents in bfloat16; by how much is measured as their error."""

LEAST = 3
"""Rounds of a case whose rounds do not fit into its seconds."""

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""The clocks that a case may be timed by. Time of the processor is that of all threads of this process."""

Calls = dict[Key, Call]


@dataclass(frozen=True, slots=True)
class Rounds:
    """How many rounds are measured, how many go before them, and who takes part in how few of the measured ones.

    With `seconds`, the measured rounds end with the last one that fits into this time, but not before LEAST of them.
    """

    measured: int
    warmup: int
    fewer: dict[str, int]
    seconds: float | None = None

    def has(self, contender: str, turn: int) -> bool:
        """Whether a contender takes part in a round; the first measured one is 0."""
        return contender not in self.fewer or 0 <= turn < self.fewer[contender]

    def over(self, done: int, spent: float) -> bool:
        """Whether one more round is too much after some that took so long."""
        return self.seconds is not None and done >= LEAST and spent * (done + 1) / done > self.seconds


@dataclass(frozen=True, slots=True)
class Step:
    """What a contender computes in one step: the loss and the gradients of the leaves."""

    contender: str
    loss: Any
    gradients: list[Any]

    def agrees_with(self, other: Step) -> bool:
        """Whether the differences are as small as they must be; NaN is not."""
        allowed = LOOSER.get(self.contender, SAME)
        pairs = [(self.loss, other.loss), *zip(self.gradients, other.gradients, strict=True)]
        return all((a - b).norm() <= allowed * b.norm() for a, b in pairs)


def measure(
    case: AnyCase, rounds: int, *, warmup: int = 2, compiled: bool = True, seconds: float | None = None
) -> list[Record]:
    """Return one record for each measure of time in this case; `seconds` leaves out rounds that do not fit into them.

    Every call is made once before: where that alone takes as long as `seconds`, no round goes before the measured ones.
    """
    suite, data = suites.of(case).contenders, case.make()
    with _threads(case.threads or torch.get_num_threads()):
        calls, missing = suite.calls(case, data, compiled=compiled)
        begun = time.perf_counter()
        missing |= _check(case, data, calls)
        if seconds is not None and time.perf_counter() - begun > seconds:
            warmup = 0
        # a quarter of the rounds, and none to warm up beyond the check
        fewer = {name: min(most, -(-rounds // 4)) for name, most in suite.FEWER.items() if Key("both", name) in calls}
        samples = _sample(calls, case, data, Rounds(rounds, warmup, fewer, seconds))
    done = max(map(len, samples.values()))
    about = {**suites.describe(case), "rounds": done, "repeat": case.repeat, "missing": missing}
    if fewer:
        about["rounds_of"] = fewer
    wanted = [measure for measure in suite.LIMITS if Key(measure, "crossent") in samples]
    return [
        {**about, "measure": name, **suite.work(data, name), **_times(samples, name, suite.LIMITS[name])}
        for name in wanted
    ]


def ratio(over: list[Times], under: list[Times]) -> float:
    """Return the median of quotients of sums of times over the rounds, from the first, that have both."""
    pairs = zip(zip(*over, strict=True), zip(*under, strict=True), strict=False)
    return rounded(statistics.median(sum(a) / sum(b) for a, b in pairs))


@contextmanager
def _threads(number: int) -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(case: AnyCase, data: Data, calls: Calls) -> dict[str, str]:
    """Call everything once, drop rivals that cannot run, and raise if the others do not compute the same."""
    missing: dict[str, str] = {}
    first: Step | None = None
    value: Any = None
    names = [key.contender for key in calls if key.measure == "both"]
    for name in sorted(names, key=lambda name: name != "eager"):
        try:
            start = time.perf_counter()
            value = calls[Key("both", name)]()
            seconds = time.perf_counter() - start
            if seconds > patience.PATIENCE and name in suites.of(case).contenders.FEWER:
                missing[name] = f"its first step took {seconds:.0f} s"
            elif Key("forward", name) in calls:
                _ = calls[Key("forward", name)]()
        except Exception as error:
            if name != "compile":
                raise
            missing[name] = type(error).__name__  # no compiler, most often; the text would name paths
        if name in missing:
            for key in (Key("forward", name), Key("both", name)):
                _ = calls.pop(key, None)
            data.forget()
            continue
        found = Step(name, value.double(), [x.grad for x in data.leaves])
        data.forget()
        if first is None:
            first = found
        elif not found.agrees_with(first):
            allowed = LOOSER.get(name, SAME)
            raise RuntimeError(
                f"{name} and {first.contender} differ by more than {allowed:.0%} in {case.name}; run `make test` first"
            )
    return missing


def _sample(calls: Calls, case: AnyCase, data: Data, rounds: Rounds) -> dict[Key, Times]:
    """Return the times of all rounds."""
    samples: dict[Key, Times] = {key: [] for key in calls}
    order, shuffle = list(calls), random.Random(0).shuffle
    begun = time.perf_counter()
    _ = gc.collect()
    gc.disable()
    try:
        for turn in range(-rounds.warmup, rounds.measured):
            if turn == 0:
                begun = time.perf_counter()
            if rounds.over(turn, time.perf_counter() - begun):
                break
            shuffle(order)
            for key in order:
                if not rounds.has(key.contender, turn):
                    continue
                seconds = _timed(calls[key], case.repeat, CLOCKS[case.clock])
                data.forget()
                if turn >= 0:
                    samples[key].append(seconds)
    finally:
        gc.enable()
    return samples


def _timed(call: Call, repeat: int, clock: Callable[[], float]) -> float:
    """Return the seconds of one call; memory that it returns is given back after the clock has stopped."""
    result: object = None
    start = clock()
    for _ in range(repeat):
        result = call()
    seconds = (clock() - start) / repeat
    del result
    return rounded(seconds)


def _times(samples: dict[Key, Times], measure: str, limits: dict[str, tuple[str, ...]]) -> Record:
    """Return the times of a measure, their medians, and the medians of their quotients round by round."""
    times = {key.contender: value for key, value in samples.items() if key.measure == measure}
    ours = times["crossent"]
    speedup = {name: ratio([theirs], [ours]) for name, theirs in times.items() if name != "crossent"}
    floors = {key.contender: value for key, value in samples.items() if key.measure == "floor"}
    limits = {limit: parts for limit, parts in limits.items() if floors.keys() >= set(parts)}
    of_limit = {limit: ratio([ours], [floors[name] for name in parts]) for limit, parts in limits.items()}
    times |= {name: floors[name] for parts in limits.values() for name in parts}
    medians = {name: statistics.median(value) for name, value in times.items()}
    return {"median_seconds": medians, "speedup_over": speedup, "times_limit": of_limit, "seconds": times}
