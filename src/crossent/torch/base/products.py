"""Counts of floating-point operations of the operators that multiply matrices.

torch's `FlopCounterMode` looks operators up in a table. Its module takes half a second to import and is seldom loaded,
so the table is filled on first use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import _get_current_dispatch_mode_stack  # pyright: ignore[reportPrivateUsage]


def tell_counters(operator: Any, count: Callable[..., int]) -> None:
    """Register an operator with torch's counters: `count` takes its flat arguments and returns its operations."""
    counting: Any = sys.modules.get("torch.utils.flop_counter")
    if counting is None:
        return
    modes: list[Any] = [
        mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, counting._FlopCounterMode)
    ]
    for table in (counting.flop_registry, *(mode.counter.flop_registry for mode in modes)):
        table.setdefault(operator.overloadpacket, count)
