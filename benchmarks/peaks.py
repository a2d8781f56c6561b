"""Memory of a case: the peak of a step, and what lies between forward and backward, in a process of its own.

`python -m benchmarks.peaks CASE CONTENDER ...` prints the bytes of each contender as JSON; `measure` runs that.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

from benchmarks import suites
from benchmarks.common import pages
from benchmarks.common.losses import Data, step
from benchmarks.common.memory import ALLOCATOR, RESOLUTION, peak, rise
from benchmarks.common.records import Record, rounded
from benchmarks.suites import AnyCase

ROUNDS = 3
SLOW = 2.0
"""Seconds of a step whose memory is measured once; a median of several would say the same."""

Bytes = dict[str, dict[str, int]]
"""Bytes by what is measured and by contender."""


def record(case: AnyCase, contenders: list[str]) -> Record:
    """Return the record of the memory of contenders in this case."""
    found = measure(case, contenders)
    per_row = {f"{name}_per_row": {who: rounded(x / case.rows) for who, x in of.items()} for name, of in found.items()}
    return {
        **suites.describe(case),
        "rounds": ROUNDS,
        "one_round_above_seconds": SLOW,
        "measure": "memory",
        "resolution_bytes": RESOLUTION,
        **found,
        **per_row,
    }


def measure(case: AnyCase, contenders: list[str]) -> Bytes:
    """Return the bytes of each contender, measured in a child process."""
    command = [sys.executable, "-m", "benchmarks.peaks", case.name, *contenders]
    environment = {**os.environ, **ALLOCATOR}
    done = subprocess.run(command, cwd=pages.ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure_here(case: AnyCase, contenders: list[str]) -> Bytes:
    """Return the bytes of each contender, measured in this process.

    `extra_bytes` is the peak of a step beyond its inputs and the gradients. Losses of logits also say what lies between
    forward and backward: `kept_bytes` is what the forward has made and left there, beyond logits and target that the
    caller has anyway. `held_bytes` is the same where the caller lets go of the logits, as a layer of a model does; a
    loss whose backward reads them again then holds them.
    """
    data = case.make()
    found: Bytes = {"extra_bytes": {}}
    for name, loss in suites.of(case).contenders.losses(case, compiled="compile" in contenders).items():
        if name not in contenders:
            continue
        begun = time.perf_counter()
        _ = step(loss, data)  # compiles, and starts threads
        rounds = ROUNDS if time.perf_counter() - begun < SLOW else 1
        extra = _median(lambda loss=loss: peak(lambda: step(loss, data)), data, rounds)
        found["extra_bytes"][name] = max(0, extra - sum(x.nbytes for x in data.leaves))
        if len(data.leaves) == 1:
            kept = partial(rise, partial(loss, data.logits, data.target, **data.options))
            held = partial(rise, lambda loss=loss: loss(data.logits * 1.0, data.target, **data.options))
            found.setdefault("kept_bytes", {})[name] = max(0, _median(kept, data))
            found.setdefault("held_bytes", {})[name] = max(0, _median(held, data))
    return found


def _median(bytes_of: Callable[[], int], data: Data, rounds: int = ROUNDS) -> int:
    """Return the median of some rounds, none of which finds gradients of another."""
    sizes: list[int] = []
    for _ in range(rounds):
        data.forget()
        sizes.append(bytes_of())
    data.forget()
    return int(statistics.median(sizes))


if __name__ == "__main__":
    chosen = next(case for case in suites.cases() if case.name == sys.argv[1])
    print(json.dumps(measure_here(chosen, sys.argv[2:])))
