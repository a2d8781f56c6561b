"""Peak memory of a call: Linux keeps the largest resident size of a process and forgets it on request.

The process should run with the variables of ALLOCATOR, and hold little else: systems reclaim what it has piled up.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable
from pathlib import Path

PROC = Path("/proc/self")
# glibc otherwise keeps what was freed, and the next call's memory would be there already
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4096", "MALLOC_TRIM_THRESHOLD_": "0"}
RESOLUTION = 2**18
"""Bytes that a peak may be off by: Linux counts the pages of each processor in batches of 32 (× 4 KiB) and more."""


def why_not() -> str | None:
    """Return None if peaks can be read on this system, else the reason."""
    return None if os.access(PROC / "clear_refs", os.W_OK) else "peaks of memory are read from Linux's /proc"


def peak(call: Callable[[], object]) -> int:
    """Return by how many bytes the resident size rises at most during a call."""
    _ = gc.collect()
    _ = (PROC / "clear_refs").write_text("5")  # forgets the peak so far
    before = _status("VmRSS")
    _ = call()
    return _status("VmHWM") - before


def rise(call: Callable[[], object]) -> int:
    """Return by how many bytes the memory of this process has risen after a call while its result is held."""
    _ = gc.collect()
    before = _anonymous()
    result = call()
    found = _anonymous() - before
    del result
    return found


def _anonymous() -> int:
    """Return the bytes that belong to no file, as Linux counts them in the page tables when it is asked."""
    found = re.search(r"^Anonymous:\s+(\d+) kB$", (PROC / "smaps_rollup").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError("Linux's /proc/self/smaps_rollup has no line Anonymous; memory cannot be measured here")
    return 1024 * int(found[1])


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", (PROC / "status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"Linux's /proc/self/status has no {field}; peaks of memory cannot be measured here")
    return 1024 * int(found[1])
