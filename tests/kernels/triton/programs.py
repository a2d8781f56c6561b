"""The programs of a launch in Triton's interpreter: in which order they run, and which memory they share.

A GPU runs the programs of a launch in any order and several at once, so that a kernel is right only if no order
matters. The interpreter runs them one after the other. Here the tests choose the order, and every launch is watched:
where a program writes memory that another one reads or writes, the launch raises `Race`.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder

ORDERS = ("given", "reversed", "shuffled")


class Race(AssertionError):
    """Two programs of a launch share memory that one of them writes."""


class Access(NamedTuple):
    """Elements that a program reads or writes: addresses, which of them it does touch, and bytes of an element."""

    program: int
    addresses: Any
    mask: Any
    size: int


class Touched(NamedTuple):
    """Memory in units of a few bytes, in order, and the program that touches each."""

    unit: Any
    program: Any

    @classmethod
    def of(cls, accesses: list[Access], size: int) -> Touched:
        units, programs = [], []
        for access in accesses:
            first = access.addresses[np.broadcast_to(access.mask, access.addresses.shape)].view(np.int64) // size
            each = (first[:, None] + np.arange(access.size // size)).ravel()
            units.append(each)
            programs.append(np.full(len(each), access.program))
        unit, program = np.concatenate(units), np.concatenate(programs)
        order = np.lexsort((program, unit))
        return cls(unit[order], program[order])


class Launches:
    """How the programs of launches are ordered, and what those of the running launch touched."""

    def __init__(self) -> None:
        self.order, self.random = "given", random.Random(0)
        self.watching = True
        self.programs: list[int] = []
        self.running = 0
        self.read: list[Access] = []
        self.written: list[Access] = []

    def begin(self, number: int) -> None:
        """Put the programs of a launch in order."""
        self.read, self.written = [], []
        self.programs = list(range(number))
        if self.order == "reversed":
            self.programs.reverse()
        elif self.order == "shuffled":
            self.random.shuffle(self.programs)

    def touch(self, accesses: list[Access], pointers: Any, mask: Any) -> None:
        """Remember the elements that the running program reads or writes."""
        if self.watching and len(self.programs) > 1:
            size = max(8, pointers.get_element_ty().primitive_bitwidth) // 8
            accesses.append(Access(self.running, pointers.data, mask.data, size))

    def end(self, kernel: str) -> None:
        """Raise if a program wrote what another one read or wrote."""
        if not self.written:
            return
        size = min(access.size for access in (*self.written, *self.read))
        written = Touched.of(self.written, size)
        first, second = (Touched(*(x[part] for x in written)) for part in (slice(-1), slice(1, None)))
        self._refuse(kernel, "write", (first.unit == second.unit) & (first.program != second.program), first, second)
        if self.read and len(written.unit):  # a store may be masked out as a whole
            read = Touched.of(self.read, size)
            at = np.minimum(np.searchsorted(written.unit, read.unit), len(written.unit) - 1)
            writer = Touched(*(x[at] for x in written))
            self._refuse(kernel, "read", (writer.unit == read.unit) & (writer.program != read.program), writer, read)
        self.read, self.written = [], []

    def _refuse(self, kernel: str, verb: str, shared: Any, first: Touched, second: Touched) -> None:
        if shared.any():
            here = int(np.argmax(shared))
            raise Race(
                f"{kernel}: program {second.program[here]} of {len(self.programs)} {verb}s memory that program "
                f"{first.program[here]} writes, in {shared.sum()} places; the result depends on the order of programs"
            )


LAUNCHES = Launches()


@contextmanager
def in_order(order: str, seed: int = 0) -> Iterator[None]:
    """Run the programs of each launch in an order of `ORDERS`; what is shuffled depends on the seed."""
    before = LAUNCHES.order, LAUNCHES.random
    LAUNCHES.order, LAUNCHES.random = order, random.Random(seed)
    try:
        yield
    finally:
        LAUNCHES.order, LAUNCHES.random = before


@contextmanager
def unwatched() -> Iterator[None]:
    """Let launches be races, to see what comes of it."""
    LAUNCHES.watching = False
    try:
        yield
    finally:
        LAUNCHES.watching = True


@pytest.fixture(autouse=True)
def program_order(request: Any) -> Iterator[str]:
    """The order of the programs: that of the parametrization, or CROSSENT_PROGRAM_ORDER, or one that the test draws.

    It is drawn by the name of the test and the seed of pytest-randomly, which pytest prints.
    """
    seed = request.config.getoption("randomly_seed", 0)
    drawn = random.Random(f"{seed} {zlib.crc32(request.node.nodeid.encode())}")
    order = getattr(request, "param", None) or os.environ.get("CROSSENT_PROGRAM_ORDER") or drawn.choice(ORDERS)
    with in_order(order, drawn.randrange(2**32)):
        yield order


def install() -> None:
    """Change the interpreter of this process for good."""
    set_number, set_program = InterpreterBuilder.set_grid_dim, InterpreterBuilder.set_grid_idx
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    launch = interpreter.GridExecutor.__call__

    def begin(self: Any, *number: int) -> None:
        LAUNCHES.begin(int(np.prod(number)))
        set_number(self, *number)

    def choose(self: Any, *program: int) -> None:
        turn = int(np.ravel_multi_index(program, self.grid_dim))
        LAUNCHES.running = LAUNCHES.programs[turn]
        set_program(self, *(int(k) for k in np.unravel_index(LAUNCHES.running, self.grid_dim)))

    def read(self: Any, pointers: Any, mask: Any, *rest: Any, **options: Any) -> Any:
        LAUNCHES.touch(LAUNCHES.read, pointers, mask)
        return load(self, pointers, mask, *rest, **options)

    def write(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **options: Any) -> Any:
        LAUNCHES.touch(LAUNCHES.written, pointers, mask)
        return store(self, pointers, value, mask, *rest, **options)

    def run(self: Any, *arrays: Any, **options: Any) -> None:
        launch(self, *arrays, **options)
        LAUNCHES.end(self.fn.__name__)

    InterpreterBuilder.set_grid_dim, InterpreterBuilder.set_grid_idx = begin, choose
    InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store = read, write
    interpreter.GridExecutor.__call__ = run
