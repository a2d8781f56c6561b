"""Compile what the calls of the backend launch: the launcher runs as it is, with a driver that only compiles."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from tools.gpu_build.budgets import Built
from tools.gpu_build.calls import DTYPES, Call, calls
from tools.gpu_build.chips import CHIPS, Chip, NoGpu
from tools.gpu_build.facts import Tile, facts

SHARES = 4
"""Processes that share the work for one target, one after the other on each processor."""


_JOINED = 16
"""Columns of a lane that the statistics have at once in wide tiles, however many one access has."""


class Job(NamedTuple):
    """One share of all kernels for one target, compiled in a process of its own."""

    target: str
    share: int


class Launched(NamedTuple):
    """A launch: the kernel by name and as it was compiled, its programs, its arguments, and how long compiling took."""

    name: str
    kernel: Any
    programs: int
    arguments: dict[str, Any]
    seconds: float


def build(job: Job) -> list[Built]:
    """Compile one share of all kernels for one target, in a process of its own."""
    return compiled(job.target, calls(), job.share)


def compiled(target: str, wanted: Iterable[Call], share: int | None = None) -> list[Built]:
    """Compile what calls launch for a target, or a share of it; of calls that lead to one kernel the first is named."""
    results: dict[str, Built] = {}
    with _launches(CHIPS[target], share) as made:
        for call in wanted:
            made.clear()
            _ = call.run()
            for launched in made:
                if launched.kernel.hash not in results:
                    results[launched.kernel.hash] = _built(target, call, launched)
    return list(results.values())


@contextmanager
def _launches(chip: Chip, share: int | None) -> Iterator[list[Launched]]:
    """Let every launch of Triton compile for a chip and nothing else, and append it to a list.

    Kernels take turns in the shares; those of other shares are left out.
    """
    made: list[Launched] = []
    turns: dict[Any, int] = {}
    run, hip = JITFunction.run, torch.version.hip

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        dtypes = [x.dtype if isinstance(x, torch.Tensor) else None for x in args]
        turn = turns.setdefault((id(self), *dtypes, *sorted(options.items(), key=itemgetter(0))), len(turns))
        if share is not None and turn % SHARES != share:
            return None
        begin = time.perf_counter()
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        arguments = dict(zip(self.arg_names, args, strict=False)) | options
        programs = 1
        for length in grid:
            programs *= length
        made.append(Launched(self.fn.__name__, kernel, programs, arguments, time.perf_counter() - begin))
        return kernel

    driver.set_active(NoGpu(chip.target))
    torch.version.hip = "compiled" if chip.target.backend == "hip" else None  # type: ignore[assignment]
    JITFunction.run = compile_only
    try:
        yield made
    finally:
        JITFunction.run, torch.version.hip = run, hip  # type: ignore[assignment]


def _built(target: str, call: Call, launched: Launched) -> Built:
    threads = launched.kernel.metadata.num_warps * CHIPS[target].target.warp_size
    takes = any(x.numel() == call.logits for x in _tensors(launched.arguments.values()))
    rowwise = call.function.startswith(("row", "pair"))
    tile = _tile(call, launched, threads) if takes and rowwise else None
    warp_a_row = launched.programs * threads >= call.rows * CHIPS[target].target.warp_size
    return Built(
        target, launched.name, call.function, call.layout, call.kind, call.dtype, call.label,
        takes and rowwise and warp_a_row, facts(launched.kernel, target, tile), launched.seconds,
    )  # fmt: skip


def _tile(call: Call, launched: Launched, threads: int) -> Tile:
    R, M, U = (launched.arguments.get(name, 0) for name in "RMU")
    if launched.name == "row_stats" and launched.arguments["WIDE"]:
        U = _JOINED
    arrays = (2 if "dense" in call.kind else 1) + call.function.startswith("pair")
    return Tile(R * M * U / threads, DTYPES[call.dtype].itemsize, arrays)


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from _tensors(value)
