"""How long a step may take before a contender is left out, and how that is known before the step is made.

Where a processor has no instructions for bfloat16, a product of torch's can take a hundred times as long as in float32.
A step of a large head would then take minutes, so a part of its products is timed first.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

PATIENCE = 10.0
"""Seconds that a step of a slow contender may take; it is not measured where it takes longer."""

ROWS, CLASSES = 32, 4096
"""Size of the part that is timed."""
ENOUGH = 0.2
"""Seconds after which the first call of the part counts, though it was not warm."""


class TooSlowError(Exception):
    """A case is left out on this processor."""


def of_products(features: Tensor, weight: Tensor) -> float:
    """Return the seconds that the three products of a head take in its own dtype, judged by a part of them.

    It is time of the processor, shared out among the threads: what else the machine does changes it least.
    """
    N, V = len(features), len(weight)
    x, w = features.detach()[:ROWS], weight.detach()[:CLASSES]
    seconds = _products(x, w)
    if seconds < ENOUGH:
        seconds = _products(x, w)
    return seconds * (N / len(x)) * (V / len(w))


def why_not(features: Tensor, weight: Tensor) -> str | None:
    """Return why contenders that multiply in the dtype of these operands are left out, or None if they are not."""
    if features.dtype is torch.float32:
        return None
    seconds = of_products(features, weight)
    return f"its products take about {seconds:.0f} s" if seconds > PATIENCE else None


def check(features: Tensor, weight: Tensor) -> None:
    """Raise TooSlowError if products of these operands take too long."""
    reason = why_not(features, weight)
    if reason is not None:
        raise TooSlowError(reason)


def _products(x: Tensor, w: Tensor) -> float:
    begun = time.process_time()
    g = x @ w.t()
    _ = g @ w, g.t() @ x
    return (time.process_time() - begun) / torch.get_num_threads()
