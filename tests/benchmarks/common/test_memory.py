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
    calls = f"[memory.peak(lambda: np.ones(n, np.uint8).sum()) for n in (1, {size})]"  # the first reads code from files
    _, some = in_fresh_process(imports, calls)
    assert some == pytest.approx(size, abs=memory.RESOLUTION)
    assert in_fresh_process(imports, "memory.peak(lambda: None)") <= memory.RESOLUTION


def test_a_rise_is_what_is_held_after_a_call_and_not_what_it_took():
    if memory.why_not() is not None:
        pytest.skip(memory.why_not())
    size = 2**24
    imports = "import numpy as np; from benchmarks.common import memory"
    held = f"(np.ones({4 * size}, np.uint8).sum(), np.ones({size}, np.uint8))"
    _, again = in_fresh_process(imports, f"[memory.rise(lambda: {held}) for _ in range(2)]")  # the first makes arenas
    assert again == pytest.approx(size, abs=2**14)
    assert (
        in_fresh_process(imports, f"[memory.rise(lambda: np.ones({size}, np.uint8).sum()) for _ in range(2)]")[1]
        <= 2**14
    )
