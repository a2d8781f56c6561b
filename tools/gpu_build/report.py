"""What kernels need, in lines and in a table, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence

from tools.gpu_build.budgets import BUDGETED_CHIP, Built, faults, without_kernel


def show_one(b: Built) -> None:
    """Print what one kernel needs, and each of its loops."""
    f = b.facts
    print(
        f"{b.target} {b.kernel}, {b.function}, {b.layout}, {b.call}: {f.registers} registers, {f.warps} resident "
        f"warps, {f.shared} bytes shared, {f.spilled} spilled, {f.once} instructions once, {b.seconds:.2f} s"
    )
    for loop in f.loops:
        each = f"{loop.each:.1f} a column" if loop.columns else "no column loop"
        print(
            f"    loop at {loop.name}: {loop.instructions} instructions, {each}, {loop.barriers} barriers, "
            f"{loop.shared} accesses of shared memory, loads of {loop.load} bytes, stores of {loop.store}"
        )


def show(built: list[Built]) -> None:
    """Print what the variants of each kernel need at most, and how wide their widest accesses are at least."""
    titles = f"{'target':8}{'kernel':15}{'layout':10}{'variants':>8}{'registers':>10}{'warps':>6}{'shared':>8}"
    print(f"{titles}{'load':>6}{'store':>6}{'a column':>9}{'barriers':>9}{'once':>6}")
    groups = sorted({(b.target, b.kernel, b.layout) for b in built})
    for group in groups:
        of_group = [b.facts for b in built if (b.target, b.kernel, b.layout) == group]
        loops = [loop for f in of_group for loop in f.column_loops]
        target, kernel, layout = group
        print(
            f"{target:8}{kernel:15}{layout:10}{len(of_group):8}{max(f.registers for f in of_group):10}"
            f"{min(f.warps for f in of_group):6}{max(f.shared for f in of_group):8}"
            f"{min(f.load for f in of_group):6}{min(f.store for f in of_group):6}"
            f"{max((loop.each for loop in loops), default=0.0):9.1f}"
            f"{max((loop.barriers for loop in loops), default=0):9}{max(f.once for f in of_group):6}"
        )


def verdict(built: list[Built], targets: Sequence[str]) -> int:
    """Print what is wrong with the kernels for some targets, and return 1 if anything is."""
    wrong = [(b, found) for b in built if (found := faults(b))]
    for b, found in wrong:
        print(f"{b.target} {b.kernel}, {b.call}: {'; '.join(found)}")
    missing = [name for name in targets if all(b.target != name for b in built)]
    lines = [f"{name}: no kernel was compiled" for name in missing]
    lines += without_kernel(built) if BUDGETED_CHIP in targets else []
    for line in lines:
        print(line)
    print(f"{len(wrong)} of {len(built)} wrong")
    return 1 if wrong or lines or not built else 0
