"""Launches of the backend for a chip: the launcher runs as it is, with a driver that only compiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from tools.gpu_build.chips import Chip, NoGpu


class Launched(NamedTuple):
    """A launch: the kernel by name and as it was compiled, its programs, its arguments, and how long compiling took."""

    name: str
    kernel: Any
    """None if it was not compiled."""
    programs: int
    arguments: dict[str, Any]
    """Arrays, numbers and constants by name."""
    constants: dict[str, Any]
    """Constants of the kernel, and options of the compiler."""
    seconds: float


@contextmanager
def launches(chip: Chip, is_wanted: Callable[[int], bool]) -> Iterator[list[Launched]]:
    """Append every launch of Triton to a list, compiled for a chip if its turn is wanted, and run nothing.

    Kernels take turns, counted from 0. Launches of one kernel with equal constants and dtypes have the same turn.
    """
    made: list[Launched] = []
    turns: dict[Any, int] = {}
    run, hip = JITFunction.run, torch.version.hip

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        dtypes = [x.dtype if isinstance(x, torch.Tensor) else None for x in args]
        turn = turns.setdefault((id(self), *dtypes, *sorted(options.items(), key=itemgetter(0))), len(turns))
        begin = time.perf_counter()
        kernel = run(self, *args, grid=grid, warmup=True, **options) if is_wanted(turn) else None
        arguments = dict(zip(self.arg_names, args, strict=False)) | options
        programs = 1
        for length in grid:
            programs *= length
        made.append(Launched(self.fn.__name__, kernel, programs, arguments, options, time.perf_counter() - begin))
        return kernel

    driver.set_active(NoGpu(chip.target))
    torch.version.hip = "compiled" if chip.target.backend == "hip" else None  # type: ignore[assignment]
    JITFunction.run = compile_only
    try:
        yield made
    finally:
        JITFunction.run, torch.version.hip = run, hip  # type: ignore[assignment]
