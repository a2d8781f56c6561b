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

from benchmarks import memory
from benchmarks.cases import Case, Data
from benchmarks.contenders import RIVALS, Call, Key, calls

Times = list[float]
Record = dict[str, Any]

LIMITS = {"forward": ("read",), "backward": ("copy",), "both": ("read", "clone")}
"""Floors whose times add up to the least that a measure can take."""

SAME = 0.02
"""By how much losses and gradients may differ, relative to their norm, before they are not of the same function."""


def measure(case: Case, rounds: int, *, warmup: int = 2, compiled: bool = True) -> list[Record]:
    """Return one record for each measure of time in this case."""
    data = case.make()
    with _threads(case.threads or torch.get_num_threads()):
        contenders = calls(case, data, compiled=compiled)
        missing = _check(case, data, contenders)
        samples = _sample(case, data, contenders, rounds, warmup)
    about = {**describe(case), "rounds": rounds, "repeat": case.repeat, "missing": missing}
    wanted = [measure for measure in LIMITS if (measure, "crossent") in samples]
    return [{**about, "measure": name, "bytes": _bytes(data, name), **_times(samples, name)} for name in wanted]


def measure_memory(case: Case, *, compiled: bool = True) -> Record:
    """Return the record of the peak memory in this case."""
    contenders = ["crossent", *(name for name in RIVALS if compiled or name != "compile")]
    extra = memory.measure(case, contenders)
    per_row = {name: _rounded(size / case.rows) for name, size in extra.items()}
    return {
        **describe(case),
        "rounds": memory.ROUNDS,
        "measure": "memory",
        "resolution_bytes": memory.RESOLUTION,
        "extra_bytes": extra,
        "extra_bytes_per_row": per_row,
    }


def describe(case: Case) -> Record:
    """Return what a record says of its case."""
    return {
        "case": case.name,
        "model": case.model,
        "shape": list(case.shape),
        "dtype": case.dtype,
        "target": case.target,
        "smoothing": case.smoothing,
        "weighted": case.weighted,
        "rows": case.rows,
        "threads": case.threads or torch.get_num_threads(),
    }


def ratio(over: list[Times], under: list[Times]) -> float:
    """Return the median over rounds of quotients of sums of times."""
    pairs = zip(zip(*over, strict=True), zip(*under, strict=True), strict=True)
    return _rounded(statistics.median(sum(a) / sum(b) for a, b in pairs))


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(case: Case, data: Data, contenders: dict[Key, Call]) -> dict[str, str]:
    """Call everything once, drop rivals that cannot run, and raise if the others do not compute the same."""
    missing: dict[str, str] = {}
    results: dict[str, Any] = {}
    for name in [name for measure, name in contenders if measure == "both"]:
        try:
            _ = contenders["forward", name]()
            value: Any = contenders["both", name]()
        except Exception as error:
            if name != "compile":
                raise
            missing[name] = type(error).__name__  # no compiler, most often; the text would name paths
            del contenders["forward", name], contenders["both", name]
        else:
            results[name] = value.double(), data.logits.grad
    data.logits.grad = None
    value, grad = results["eager"]
    for name, (value_, grad_) in results.items():
        same = abs(value_ - value) <= SAME * abs(value) and (grad_ - grad).norm() <= SAME * grad.norm()
        if not same:
            raise RuntimeError(f"{name} and eager differ by more than {SAME:.0%} in {case.name}; run `make test` first")
    return missing


def _sample(case: Case, data: Data, contenders: dict[Key, Call], rounds: int, warmup: int) -> dict[Key, Times]:
    samples: dict[Key, Times] = {key: [] for key in contenders}
    order, shuffle = list(contenders), random.Random(0).shuffle
    _ = gc.collect()
    gc.disable()
    try:
        for turn in range(warmup + rounds):
            shuffle(order)
            for key in order:
                seconds = _timed(contenders[key], case.repeat)
                data.logits.grad = None
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
    return _rounded(seconds)


def _times(samples: dict[Key, Times], measure: str) -> Record:
    """Return the times of a measure, their medians, and the medians of their quotients round by round."""
    times = {name: value for (kind, name), value in samples.items() if kind == measure}
    limit = [samples["floor", name] for name in LIMITS[measure] if ("floor", name) in samples]
    ours = times["crossent"]
    speedup = {name: ratio([times[name]], [ours]) for name in RIVALS if name in times}
    of_limit = {"limit": ratio([ours], limit)} if limit else {}
    times |= dict(zip(LIMITS[measure], limit, strict=False))
    if measure == "forward" and ("floor", "raw") in samples:
        times["raw"] = samples["floor", "raw"]
        of_limit["raw"] = ratio([ours], [times["raw"]])
    medians = {name: statistics.median(value) for name, value in times.items()}
    return {"median_seconds": medians, "speedup_over": speedup, "times_limit": of_limit, "seconds": times}


def _bytes(data: Data, measure: str) -> int:
    """Return the bytes that the limit of a measure moves."""
    read = sum(x.nbytes for x in data.operands())
    written = data.logits.nbytes
    return {"forward": read, "backward": read + written, "both": 2 * read + written}[measure]


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
