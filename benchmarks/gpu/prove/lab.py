"""Runs the items of a stage: each becomes records, and one that raises becomes a record that says why."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.common import machine
from benchmarks.common.records import Record
from benchmarks.gpu.contenders import reason
from benchmarks.gpu.device import Device


@dataclass(frozen=True, slots=True)
class Lab:
    """The device of a stage, whether cases are small, when to stop, and which share of the items is this process's."""

    device: Device
    small: bool
    deadline: float
    """On the clock of `time.monotonic`."""
    share: int = 0
    shares: int = 1
    commit: str | None = None

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    @property
    def threads(self) -> int:
        """Processors for this process, where the others of its stage have as many."""
        return max(1, machine.cores() // self.shares)

    def pick(self, whole: int, small: int) -> int:
        """Return a size, or the one that stands in for it where cases are small."""
        return small if self.small else whole


class Item(NamedTuple):
    """A part of a stage: its name, and a function that measures it and returns what its records say."""

    case: str
    measure: Callable[[], Iterable[Record]]


def run(items: Iterable[Item], lab: Lab, emit: Callable[[Record], None]) -> None:
    """Measure the items of this process in their order; none is begun after the deadline."""
    for number, item in enumerate(items):
        if number % lab.shares == lab.share:
            _run(item, lab, emit)


def _run(item: Item, lab: Lab, emit: Callable[[Record], None]) -> None:
    if lab.left <= 0:
        emit({"case": item.case, "status": "not started", "reason": "the stage had used up its seconds"})
        return
    emit({"case": item.case, "status": "begun"})
    begin = time.monotonic()
    try:
        for record in item.measure():
            emit({"case": item.case, "status": "ok", "item_seconds": round(time.monotonic() - begin, 2), **record})
    except Exception as error:
        error.__traceback__ = None  # it holds what the item had in memory
        emit({"case": item.case, "status": "failed", "reason": reason(error)})
    try:
        lab.device.clear()
    except Exception as error:  # a device that no longer works: whoever comes next says so
        emit({"case": item.case, "status": "failed", "reason": reason(error)})


def verdict(shares: dict[str, float]) -> Record:
    """Return what a record says of errors, each as a share of the error that is allowed."""
    shares = {name: float(f"{share:.4g}") for name, share in shares.items()}
    wrong = {name: share for name, share in shares.items() if not share <= 1}  # NaN is wrong
    found: Record = {"shares": shares}
    if wrong:
        words = ", ".join(f"{name} {share:.3g}" for name, share in wrong.items())
        found |= {"status": "failed", "reason": f"errors as multiples of what is allowed: {words}"}
    return found


def beside(record: Record) -> Record:
    """Return the record of a contender, of which only crossent's failure makes the proof fail."""
    theirs = record["contender"] != "crossent" and record["status"] == "failed"
    return record | {"status": "missing"} if theirs else record


def together(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    """Return the largest of each share; NaN is larger than any."""
    found: dict[str, float] = {}
    for part in parts:
        for name, share in part.items():
            before = found.get(name, 0.0)
            found[name] = share if math.isnan(share) else max(before, share)
    return found
