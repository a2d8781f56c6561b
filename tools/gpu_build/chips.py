"""GPUs that kernels are compiled for: what a multiprocessor has, how many warps of a kernel fit, a driver of none."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any, NamedTuple

from triton.backends.compiler import GPUTarget


class Chip(NamedTuple):
    """A GPU, and what one of its multiprocessors (compute units) has for the programs that are resident on it.

    Sources: CUDA's programming guide, table of technical specifications per compute capability; AMD's CDNA 3 ISA
    guide and LLVM's AMDGPU usage (one register file of 512 registers a lane for each of four SIMDs).
    """

    target: GPUTarget
    warps: int
    """Most warps."""
    programs: int
    """Most programs."""
    registers: int
    """Registers of each of the four schedulers, for all threads of the warps that it runs."""
    register_unit: int
    """Registers are given to a warp in multiples of so many."""
    shared: int
    """Bytes of shared memory for all programs."""
    shared_unit: int
    """Shared memory is given to a program in multiples of so many bytes."""
    shared_kept: int
    """Bytes of shared memory that the system keeps for itself in each program."""
    shared_program: int
    """Most bytes of shared memory for one program."""


_SCHEDULERS = 4
_HOPPER = (64, 32, 16384, 256, 233472, 128, 1024, 232448)
CHIPS = {
    "sm_80": Chip(GPUTarget("cuda", 80, 32), 64, 32, 16384, 256, 167936, 128, 1024, 166912),
    "sm_90": Chip(GPUTarget("cuda", 90, 32), *_HOPPER),
    "sm_100": Chip(GPUTarget("cuda", 100, 32), *_HOPPER),
    "gfx942": Chip(GPUTarget("hip", "gfx942", 64), 32, 16, 512 * 64, 8 * 64, 65536, 512, 0, 65536),
}


def resident_warps(chip: Chip, registers: int, warps: int, shared: int) -> int:
    """Return how many warps of a kernel are resident on a multiprocessor, from what a thread and a program need.

    Parameters
    ----------
    chip
        The GPU.
    registers
        Registers of a thread.
    warps
        Warps of a program.
    shared
        Bytes of shared memory of a program.
    """
    of_warp = _multiple(registers * chip.target.warp_size, chip.register_unit)
    by_registers = _SCHEDULERS * (chip.registers // max(1, of_warp))
    by_shared = chip.shared // max(1, _multiple(shared + chip.shared_kept, chip.shared_unit))
    programs = min(chip.programs, chip.warps // warps, by_registers // warps, by_shared)
    return programs * warps


def _multiple(x: int, unit: int) -> int:
    return -(-x // unit) * unit


Launch = Callable[..., None]
_NUMBERS = count()


class NoGpu:
    """Stands in for a GPU's driver: Triton compiles for its target, and nothing runs.

    Each has another number, because Triton keeps the target of a number, and the kernels that it compiled for it. Every
    launch calls `launched(grid, source)`, where `source` is what was compiled, whichever way a launcher takes.
    """

    def __init__(self, target: GPUTarget, launched: Callable[[tuple[int, int, int], Any], None] | None = None) -> None:
        self.target = target
        self.launched = launched
        self.number = next(_NUMBERS)
        properties = {"max_shared_mem": 2**31, "multiprocessor_count": 132, "warpSize": target.warp_size}
        self.utils = SimpleNamespace(
            get_device_properties=lambda _device: properties,
            load_binary=lambda *_: (None, 0, 0, 0, 1024),
            unload_module=lambda _module: None,
        )

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.number

    def get_current_stream(self, _device: int | None = None) -> int:
        return 0

    def map_python_to_cpp_type(self, kind: str) -> str:
        return kind

    def launcher_cls(self, source: Any, _metadata: Any) -> Launch:
        """Return what launches a kernel: here nothing does."""
        launched = self.launched

        def launch(x: int, y: int, z: int, *_: Any) -> None:
            if launched is not None:
                launched((x, y, z), source)

        return launch
