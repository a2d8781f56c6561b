"""What kernels may need: the memory of a chip for all of them, and a budget for those that losses spend their time in.

The budgets are of the machine code for sm_90. An H200 copies 4.3 TB/s with 132 multiprocessors that issue four warps'
instructions in each of 1.98e9 cycles a second: 15 instructions for a column of bfloat16 that is read, 31 for one that
is read and written. Fewer than 32 resident warps do not keep enough loads in flight for that. What a row costs once is
spread over its columns: 300 instructions in 8 warps are 1.5 more for each of 50257 columns.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from tools.gpu_build.chips import CHIPS
from tools.gpu_build.facts import Facts

WIDE = ("long", "even", "middle", "one read")
"""Layouts whose tiles are made for accesses of 16 bytes."""


FEW_LAYOUTS = ("few", "few beside")
"""Layouts of few classes, whose rows have no record."""


class Built(NamedTuple):
    """A kernel as it was compiled for a target, and the first call that led to it."""

    target: str
    kernel: str
    function: str
    """The function of the backend that launched it."""
    layout: str
    kind: str
    """The kind of target that it was launched for, and whether there is a softcap, and entropy is wanted."""
    dtype: str
    call: str
    sweeps: bool
    """Whether it takes the logits and has a warp or more for each row."""
    facts: Facts
    seconds: float

    @classmethod
    def read(cls, row: list) -> Built:
        """Return what JSON holds as a list."""
        return cls(*row[:8], Facts.read(row[8]), row[9])


class Budget(NamedTuple):
    """What a kernel that sweeps the columns may need on sm_90."""

    instructions: int
    """Most instructions a column."""
    warps: int = 32
    """Fewest resident warps on a multiprocessor."""
    once: int = 300
    """Most instructions outside of column loops."""


BUDGETS = {
    ("row_loss", "index"): Budget(10),
    ("row_grad", "index"): Budget(20),
    ("row_loss", "index capped"): Budget(25),
    ("row_grad", "index capped"): Budget(35, once=340),
}
"""By function of the backend and kind of target, for gradients of the loss; for the layouts and dtypes below.

The goal of 300 instructions once a row is missed under a softcap, whose tanh is computed again at the two edges of a
row and at its class: 333 in float32 (docs/decisions/0027).
"""
BUDGETED_LAYOUTS = ("long", "even")
BUDGETED_DTYPES = ("bf16", "f32")
BUDGETED_CHIP = "sm_90"


def faults(built: Built) -> list[str]:
    """Return what is wrong with a kernel."""
    return _faults_of_all(built) + _faults_of_budget(built) + _faults_of_few(built)


def _faults_of_all(built: Built) -> list[str]:
    f, most = built.facts, CHIPS[built.target].shared_program
    found = [f"{f.spilled} bytes spilled"] if f.spilled else []
    if f.warps == 0:
        found.append(f"{f.registers} registers, too many for its warps: it cannot start")
    if f.shared > most:
        found.append(f"{f.shared} bytes of shared memory, more than {most}")
    writes = built.kernel in {"row_grad", "row_fused"}  # a call that wants a gradient launches row_stats first
    narrow = f.load < 128 or (writes and f.store < (64 if "to bf16" in built.call else 128))
    if built.layout in WIDE and built.sweeps and narrow:
        found.append(f"narrow: loads of {f.load} bits, stores of {f.store}")
    return found


def _faults_of_few(built: Built) -> list[str]:
    """Return where rows of few classes wait for each other between two columns."""
    if built.layout not in FEW_LAYOUTS:
        return []
    return [
        f"{loop.barriers} barriers in the loop at {loop.name}" for loop in built.facts.column_loops if loop.barriers
    ]


def budget_of(built: Built) -> Budget | None:
    """Return the budget of a kernel, None if it has none."""
    return budget_at(built.function, built.kind, built.layout, built.dtype) if built.sweeps else None


def budget_at(function: str, kind: str, layout: str, dtype: str) -> Budget | None:
    """Return the budget of the kernel that sweeps the columns of a call, None if it has none."""
    if layout not in BUDGETED_LAYOUTS or dtype not in BUDGETED_DTYPES:
        return None
    return BUDGETS.get((function, kind))


def without_kernel(built: list[Built]) -> list[str]:
    """Return the budgets that no kernel was compiled for.

    One layout is enough: calls of two layouts may lead to one kernel, which is named by the first.
    """
    found = {(b.function, b.kind, b.dtype) for b in built if b.target == BUDGETED_CHIP and budget_of(b) is not None}
    return [
        f"{BUDGETED_CHIP} {function}, {kind}, {dtype}: there is a budget, but no kernel was compiled"
        for (function, kind), dtype in product(BUDGETS, BUDGETED_DTYPES)
        if (function, kind, dtype) not in found
    ]


def _faults_of_budget(built: Built) -> list[str]:
    budget, f = budget_of(built), built.facts
    if budget is None:
        return []
    found = [] if f.column_loops else ["no column loop was found"]
    for loop in f.column_loops:
        if loop.barriers:
            found.append(f"{loop.barriers} barriers in the loop at {loop.name}")
        if loop.load != 16:
            found.append(f"loads of {loop.load} bytes in the loop at {loop.name}")
        if built.target == BUDGETED_CHIP and loop.each > budget.instructions:
            found.append(f"{loop.each:.1f} instructions a column at {loop.name}, more than {budget.instructions}")
    if built.target == BUDGETED_CHIP:
        if f.warps < budget.warps:
            found.append(f"{f.warps} resident warps, fewer than {budget.warps}")
        if f.once > budget.once:
            found.append(f"{f.once} instructions once a row, more than {budget.once}")
    return found
