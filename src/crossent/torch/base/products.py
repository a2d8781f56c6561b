"""The floating-point operations of operators that multiply matrices, for those who count them.

torch's `FlopCounterMode` knows operators by a table. Its module takes half a second to import and is seldom there, so
the table is filled when somebody counts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import _get_current_dispatch_mode_stack  # pyright: ignore[reportPrivateUsage]


def tell_counters(operator: Any, count: Callable[..., int]) -> None:
    """Let torch's counters know an operator: `count` takes its flat arguments and returns its operations."""
    counting: Any = sys.modules.get("torch.utils.flop_counter")
    if counting is None:
        return
    modes: list[Any] = [
        mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, counting._FlopCounterMode)
    ]
    for table in (counting.flop_registry, *(mode.counter.flop_registry for mode in modes)):
        table.setdefault(operator.overloadpacket, count)
