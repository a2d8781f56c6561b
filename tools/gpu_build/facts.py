"""What a compiled kernel needs of a GPU, read off its machine code.

In one turn of a loop over columns a program works on a tile [R, M, U], so that each of its threads handles R · M · U /
threads columns. A **column loop** is an innermost loop of a kernel with such a tile that reads at least the logits of
so many columns in each thread. **Instructions a column** are all instructions of its body, both sides of a branch,
divided by these columns: a loop that the compiler unrolled would count too many, never too few. **Once a row** are all
instructions that can be reached outside of column loops; those of any other loop count once, though it may turn several
times, or never.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from tools.gpu_build import amd, nvidia
from tools.gpu_build.chips import CHIPS, resident_warps
from tools.gpu_build.code import Instruction, innermost_loops, reachable


class Tile(NamedTuple):
    """What a launch says of the columns of a program."""

    columns: float
    """Columns of a tile for each thread, 0 if the kernel has no tile [R, M, U]."""
    logit: int
    """Bytes of a logit."""
    arrays: int
    """Arrays with a number for each column."""


class LoopFacts(NamedTuple):
    """An innermost loop: where it stands in the source, and what one turn of it does in each thread."""

    name: str
    columns: float
    """0 if this is no column loop."""
    instructions: int
    barriers: int
    shared: int
    """Accesses to shared memory."""
    load: int
    """Bytes of the narrowest load from global memory, 0 if there is none."""
    store: int
    """Bytes of the narrowest store to global memory, 0 if there is none."""

    @property
    def each(self) -> float:
        """Instructions a column."""
        return self.instructions / self.columns if self.columns else 0.0


class Facts(NamedTuple):
    """Registers, spilled bytes and shared memory of a kernel, and what its machine code does."""

    registers: int
    spilled: int
    shared: int
    load: int
    """Bits of the widest load from global memory."""
    store: int
    """Bits of the widest store to global memory."""
    warps: int
    """Warps that are resident on a multiprocessor."""
    once: int
    """Instructions outside of column loops."""
    loops: tuple[LoopFacts, ...] = ()

    @property
    def column_loops(self) -> list[LoopFacts]:
        """The loops over columns."""
        return [loop for loop in self.loops if loop.columns]

    @classmethod
    def read(cls, row: Any) -> Facts:
        """Return the facts that JSON holds as a list."""
        return cls(*row[:-1], tuple(LoopFacts(*loop) for loop in row[-1]))


def facts(kernel: Any, chip: str, tile: Tile | None) -> Facts:
    """Read off machine code and assembly what a compiled kernel needs; without a tile it has no column loops."""
    maker = nvidia if "cubin" in kernel.asm else amd
    needed, code = maker.registers(kernel), maker.instructions(kernel)
    load, store = widest_of_nvidia(kernel.asm["ptx"]) if maker is nvidia else widest_of_amd(kernel.asm["amdgcn"])
    shared = kernel.metadata.shared
    warps = resident_warps(CHIPS[chip], needed.number, kernel.metadata.num_warps, shared)
    loops, once = loops_of(code, tile)
    return Facts(needed.number, needed.spilled, shared, load, store, warps, once, loops)


def widest_of_nvidia(ptx: str) -> tuple[int, int]:
    """Return how many bits the widest load and store of global memory have."""
    widest = []
    for op in ("ld", "st"):
        found = re.findall(rf"\b{op}\.global[.\w:]*?(?:\.v(\d))?\.b(\d+) ", ptx)
        widest.append(max((int(lanes or 1) * int(bits) for lanes, bits in found), default=0))
    return widest[0], widest[1]


def widest_of_amd(asm: str) -> tuple[int, int]:
    """Return how many bits the widest load and store of global memory have."""
    widest = []
    for op in ("load", "store"):
        found = re.findall(rf"(?:global|buffer|flat)_{op}_dword(?:x(\d))?\b", asm)
        widest.append(max((32 * int(lanes or 1) for lanes in found), default=0))
    return widest[0], widest[1]


def loops_of(code: list[Instruction], tile: Tile | None) -> tuple[tuple[LoopFacts, ...], int]:
    """Return the innermost loops of a kernel, and its instructions outside of column loops."""
    found = innermost_loops(code)
    bodies = [[code[at] for at in sorted(loop.body)] for loop in found]
    loops = tuple(
        _loop(loop.name, body, 0.0 if tile is None else _columns(body, tile))
        for loop, body in zip(found, bodies, strict=True)
    )
    swept = [loop.body for loop, of in zip(found, loops, strict=True) if of.columns]
    return loops, len(reachable(code).difference(*swept))


def _loop(name: str, body: list[Instruction], columns: float) -> LoopFacts:
    number = {kind: sum(x.kind == kind for x in body) for kind in ("barrier", "shared")}
    narrowest = {kind: min((x.size for x in body if x.kind == kind), default=0) for kind in ("load", "store")}
    return LoopFacts(
        name, columns, len(body), number["barrier"], number["shared"], narrowest["load"], narrowest["store"]
    )


def _columns(body: list[Instruction], tile: Tile) -> float:
    """Return how many columns a thread handles in one turn of a loop, 0 if it reads fewer than a tile has."""
    read = sum(x.size for x in body if x.kind == "load")
    return tile.columns if read >= tile.columns * tile.logit * tile.arrays else 0.0
