"""Peak memory of one forward and backward beyond its inputs and the gradients, measured in a process of its own.

Linux keeps the largest resident size of a process and forgets it on request, so the peak of one call can be read.
`python -m benchmarks.memory CASE` prints the bytes of each contender as JSON; `measure` runs that.
"""

from __future__ import annotations

import gc
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import suites
from benchmarks.contenders import step
from benchmarks.suites import AnyCase

ROOT = Path(__file__).parents[1]
PROC = Path("/proc/self")
# glibc otherwise keeps what was freed, and the next call's memory would be there already
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4096", "MALLOC_TRIM_THRESHOLD_": "0"}
ROUNDS = 3
RESOLUTION = 2**18
"""Bytes that a peak may be off by: Linux counts the pages of each processor in batches of 32 (× 4 KiB) and more."""


def why_not() -> str | None:
    """Return None if peaks can be read on this system, else the reason."""
    return None if os.access(PROC / "clear_refs", os.W_OK) else "peaks of memory are read from Linux's /proc"


def measure(case: AnyCase, contenders: list[str]) -> dict[str, int]:
    """Return the extra bytes of each contender, measured in a child process."""
    command = [sys.executable, "-m", "benchmarks.memory", case.name, *contenders]
    environment = {**os.environ, **ALLOCATOR}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure_here(case: AnyCase, contenders: list[str]) -> dict[str, int]:
    """Return the extra bytes of each contender, measured in this process."""
    data = case.make()
    found: dict[str, int] = {}
    for name, loss in suites.of(case).losses(case, compiled="compile" in contenders).items():
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


def peak(call: Callable[[], object]) -> int:
    """Return by how many bytes the resident size rises at most during a call."""
    _ = gc.collect()
    _ = (PROC / "clear_refs").write_text("5")  # forgets the peak so far
    before = _status("VmRSS")
    _ = call()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", (PROC / "status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"Linux's /proc/self/status has no {field}; peaks of memory cannot be measured here")
    return 1024 * int(found[1])


if __name__ == "__main__":
    chosen = next(case for case in suites.cases() if case.name == sys.argv[1])
    print(json.dumps(measure_here(chosen, sys.argv[2:])))
