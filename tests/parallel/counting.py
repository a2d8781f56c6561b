"""What a call sends, as torch's profiler saw it, below everything of ours."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

Sent = Counter[tuple[str, int]]
"""How often which collective ran on how many numbers: those of this rank, and of all ranks for reduce_scatter."""


def sent(call: Callable[[], Any]) -> tuple[Any, Sent]:
    """Return what a call returns, and what it sent."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as events:
        result = call()
    found: Sent = Counter()
    for event in events.events() or ():
        size = max((math.prod(shape) for shape in event.input_shapes if shape), default=0)
        if event.name.startswith("gloo:"):
            found[event.name.removeprefix("gloo:"), size] += 1
        elif event.name == "c10d::_reduce_scatter_base_":  # which gloo does by an all_reduce
            found.update({("reduce_scatter", size): 1, ("all_reduce", size): -1})
    return result, +found
