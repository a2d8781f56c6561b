"""Peaks of memory, in processes of their own: systems reclaim what a long test run has piled up."""

from __future__ import annotations

import pytest

from benchmarks.common import memory
from tests.benchmarks.fresh import in_fresh_process


def test_peak_of_memory_is_what_a_call_takes_and_gives_back():
    if memory.why_not() is not None:
        pytest.skip(memory.why_not())
    size = 2**26
    imports = "import numpy as np; from benchmarks.common import memory"
    some = in_fresh_process(imports, f"memory.peak(lambda: np.ones({size}, np.uint8).sum())")
    assert some == pytest.approx(size, abs=memory.RESOLUTION)
    assert in_fresh_process(imports, "memory.peak(lambda: None)") <= memory.RESOLUTION
