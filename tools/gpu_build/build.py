"""Compile what the calls of the backend launch for a chip, and read from the machine code what it needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch

from tools.gpu_build.brief import brief
from tools.gpu_build.budgets import Built
from tools.gpu_build.calls import DTYPES, Call, calls
from tools.gpu_build.chips import CHIPS
from tools.gpu_build.facts import Tile, facts
from tools.gpu_build.launches import Launched, launches

SHARES = 4
"""Processes that share the work for one target, one after the other on each processor."""
BRIEF = "brief"
"""In place of the number of a share: the few calls that `make test` compiles."""


_JOINED = 16
"""Columns of a lane that the statistics have at once in wide tiles, however many one access has."""


class Job(NamedTuple):
    """One share of all kernels for one target, or its brief calls, compiled in a process of its own."""

    target: str
    share: int | str
    """A number below `SHARES`, or `BRIEF`."""


def build(job: Job) -> list[Built]:
    """Compile one job, in a process of its own."""
    if job.share == BRIEF:
        return compiled(job.target, brief(job.target))
    return compiled(job.target, calls(), job.share)


def compiled(target: str, wanted: Iterable[Call], share: int | str | None = None) -> list[Built]:
    """Compile what calls launch for a target, or a share of it; of calls that lead to one kernel the first is named."""
    results: dict[str, Built] = {}
    with launches(CHIPS[target], lambda turn: share is None or turn % SHARES == share) as made:
        for call in wanted:
            made.clear()
            _ = call.run()
            for launched in made:
                if launched.kernel is not None and launched.kernel.hash not in results:
                    results[launched.kernel.hash] = _built(target, call, launched)
    return list(results.values())


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
