"""What the compiler made of the kernels that this process launched: registers, spills, resident warps."""

from __future__ import annotations

from typing import Any

from benchmarks.common.records import Record

REGISTERS, GRANULE, MOST_WARPS = 65536, 8, 64
"""Registers of a multiprocessor, in what steps a thread takes them, and its warps: NVIDIA's, from sm_80 on."""


class Compiled:
    """Remembers every kernel that Triton loads onto the device, in this process, from now on."""

    def __init__(self) -> None:
        self._loaded: list[Any] = []
        from triton.compiler import CompiledKernel

        load: Any = CompiledKernel._init_handles

        def remember(kernel: Any) -> None:
            fresh = kernel.module is None
            load(kernel)
            if fresh:
                self._loaded.append(kernel)

        CompiledKernel._init_handles = remember

    def records(self) -> list[Record]:
        """Return a record for each kernel, variants that need the same counted together."""
        found: dict[tuple[Any, ...], Record] = {}
        for kernel in self._loaded:
            about = _about(kernel)
            same = found.setdefault(tuple(about.values()), {"case": kernel.name, "kernel": about, "variants": 0})
            same["variants"] += 1
        return list(found.values())


def _about(kernel: Any) -> Record:
    registers, warps = kernel.n_regs, kernel.metadata.num_warps
    return {
        "name": kernel.name,
        "registers": registers,
        "spilled": kernel.n_spills,
        "shared": kernel.metadata.shared,
        "warps": warps,
        "resident_warps": resident(registers, warps),
    }


def resident(registers: int, warps: int) -> int:
    """Return how many warps of such programs a multiprocessor can hold at once, as far as registers go."""
    each = 32 * -(-max(1, registers) // GRANULE) * GRANULE
    return min(REGISTERS // each, MOST_WARPS) // warps * warps
