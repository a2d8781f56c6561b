"""Peak memory of a case: of one forward and backward beyond its inputs and the gradients, in a process of its own.

`python -m benchmarks.peaks CASE CONTENDER ...` prints the bytes of each contender as JSON; `measure` runs that.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

from benchmarks import suites
from benchmarks.common import pages
from benchmarks.common.losses import step
from benchmarks.common.memory import ALLOCATOR, RESOLUTION, peak
from benchmarks.common.records import Record, rounded
from benchmarks.suites import AnyCase

ROUNDS = 3


def record(case: AnyCase, contenders: list[str]) -> Record:
    """Return the record of the peak memory of contenders in this case."""
    extra = measure(case, contenders)
    per_row = {name: rounded(size / case.rows) for name, size in extra.items()}
    return {
        **suites.describe(case),
        "rounds": ROUNDS,
        "measure": "memory",
        "resolution_bytes": RESOLUTION,
        "extra_bytes": extra,
        "extra_bytes_per_row": per_row,
    }


def measure(case: AnyCase, contenders: list[str]) -> dict[str, int]:
    """Return the extra bytes of each contender, measured in a child process."""
    command = [sys.executable, "-m", "benchmarks.peaks", case.name, *contenders]
    environment = {**os.environ, **ALLOCATOR}
    done = subprocess.run(command, cwd=pages.ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure_here(case: AnyCase, contenders: list[str]) -> dict[str, int]:
    """Return the extra bytes of each contender, measured in this process."""
    data = case.make()
    found: dict[str, int] = {}
    for name, loss in suites.of(case).contenders.losses(case, compiled="compile" in contenders).items():
        if name not in contenders:
            continue
        _ = step(loss, data)  # compiles, and starts threads
        peaks: list[int] = []
        for _ in range(ROUNDS):
            data.forget()
            peaks.append(peak(lambda loss=loss: step(loss, data)))
        found[name] = max(0, int(statistics.median(peaks)) - sum(x.nbytes for x in data.leaves))
        data.forget()
    return found


if __name__ == "__main__":
    chosen = next(case for case in suites.cases() if case.name == sys.argv[1])
    print(json.dumps(measure_here(chosen, sys.argv[2:])))
