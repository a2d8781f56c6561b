"""What the conformance tests have to know of each backend: which arrays it takes, and how much it can bear.

An adapter has the functions of the contract and takes NumPy arrays, so that one suite and one oracle serve all
backends. NumPy has no bfloat16: wherever numbers are real, an array of uint16 is bfloat16. A new backend is an entry
of `ADAPTERS`, and every test that takes the fixture `backend` runs over it.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from crossent import kernels
from crossent.kernels.backend import (
    NO_OUTPUTS,
    BinaryOperands,
    Cotangents,
    LossScale,
    PairCotangents,
    Reduced,
    RowOutputs,
    Teacher,
)
from tests import data


class Loan:
    """Arrays of one call in the form that a backend takes. This one is for arrays of NumPy, lent as they are."""

    def integers(self, array: Any) -> Any:
        return array

    def reals(self, array: Any) -> Any:
        """Real numbers; uint16 is bfloat16, which only a tensor can say."""
        if array is None or array.dtype != np.uint16:
            return array
        torch = import_module("torch")
        return as_tensor(array).view(torch.bfloat16)

    def target(self, target: Any) -> Any:
        return dataclasses.replace(
            target,
            index=self.integers(target.index),
            prob=self.reals(target.prob),
            weight=self.reals(target.weight),
        )

    def scores(self, scores: Any) -> Any:
        own = scores.row_temperature
        return scores if own is None else dataclasses.replace(scores, row_temperature=self.reals(own))

    def teacher(self, teacher: Any) -> Teacher:
        return Teacher(self.reals(teacher.logits), self.scores(teacher.scores), self.reals(teacher.record))


def as_tensor(array: Any) -> Any:
    """The same memory as a torch tensor, also of an array that is read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return import_module("torch").from_numpy(array)


class Adapter:
    """A backend for NumPy arrays: the CPU's. Others override what they differ in."""

    backwards = True
    """Whether axes of its arrays may run backwards."""
    isas: tuple[str, ...] = ("",)
    """Instruction sets that the tests choose in turn; the empty name is the only, or the best one."""
    slow = False
    """Whether tests are to try a few of their arguments only."""
    raises = True
    """Whether numbers that cannot be are errors; else their rows are NaN."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.module: Any = import_module(f"crossent.kernels.{name}")
        self.few_classes: int = self.module.FEW_CLASSES

    def takes(self, arguments: dict[str, Any]) -> bool:
        """Whether the backend takes part in a test with these arguments."""
        raise NotImplementedError

    def use_isa(self, name: str) -> None:
        """Run on an instruction set from now on."""

    def each_isa(self) -> Iterator[str]:
        """Switch to each instruction set."""
        for name in self.isas:
            self.use_isa(name)
            yield name

    def some(self, values: Iterable[Any], name: str = "") -> list[Any]:
        """The values that a test tries: all of them, or one if the backend is slow, which one depends on the name."""
        values = list(values)
        first = zlib.crc32((name or os.environ["PYTEST_CURRENT_TEST"]).encode()) % len(values)
        return values[first : first + 1] if self.slow else values

    def cases(self, kind: str, V: int, dtype: str, **how: Any) -> Iterator[data.Case]:
        """`data.cases` that the backend takes."""
        yield from data.cases(kind, V, dtype, **how)

    def lending(self) -> AbstractContextManager[Loan]:
        return nullcontext(Loan())

    # The contract

    def row_stats(
        self, logits: Any, target: Any, scores: Any, record: Any, outputs: Any = NO_OUTPUTS, *, extend: bool = False
    ) -> None:
        with self.lending() as lend:
            given, to = lend.reals(logits), RowOutputs(*map(lend.reals, outputs))
            self.module.row_stats(
                given, lend.target(target), lend.scores(scores), lend.reals(record), to, extend=extend
            )

    def row_loss(self, logits: Any, target: Any, scores: Any, record: Any, losses: Any, *, mean: bool) -> Any:
        with self.lending() as lend:
            given, kept = lend.reals(logits), [lend.reals(x) for x in (record, losses)]
            loss, scale = self.module.row_loss(given, lend.target(target), lend.scores(scores), *kept, mean=mean)
            return Reduced(float(loss), float(scale))

    def row_grad(self, logits: Any, target: Any, scores: Any, record: Any, cotangents: Any, grad: Any) -> None:
        with self.lending() as lend:
            given, g = lend.reals(logits), Cotangents(*map(lend.reals, cotangents))
            self.module.row_grad(
                given, lend.target(target), lend.scores(scores), lend.reals(record), g, lend.reals(grad)
            )

    def row_fused(
        self, logits: Any, target: Any, scores: Any, scale: Any, record: Any, grad: Any, outputs: Any = NO_OUTPUTS
    ) -> None:
        with self.lending() as lend:
            given, to = lend.reals(logits), RowOutputs(*map(lend.reals, outputs))
            factors = LossScale(*map(lend.reals, scale))
            self.module.row_fused(
                given, lend.target(target), lend.scores(scores), factors, lend.reals(record), lend.reals(grad), to
            )

    def pair_stats(
        self, logits: Any, scores: Any, record: Any, teacher: Any, beta: Any, sums: Any, *, extend: bool = False
    ) -> None:
        with self.lending() as lend:
            given = lend.reals(logits), lend.scores(scores), lend.reals(record), lend.teacher(teacher)
            self.module.pair_stats(*given, beta, lend.reals(sums), extend=extend)

    def pair_grad(
        self,
        logits: Any,
        target: Any,
        scores: Any,
        record: Any,
        teacher: Any,
        beta: Any,
        sums: Any,
        cotangents: Any,
        grad: Any,
    ) -> None:
        with self.lending() as lend:
            given = lend.reals(logits), lend.target(target), lend.scores(scores), lend.reals(record)
            g = PairCotangents(*map(lend.reals, cotangents))
            self.module.pair_grad(*given, lend.teacher(teacher), beta, lend.reals(sums), g, lend.reals(grad))

    def binary_loss(self, kind: Any, operands: Any, out: Any) -> float:
        with self.lending() as lend:
            return float(self.module.binary_loss(kind, BinaryOperands(*map(lend.reals, operands)), lend.reals(out)))

    def binary_grad(self, kind: Any, operands: Any, cotangent: Any, out: Any) -> None:
        with self.lending() as lend:
            given = BinaryOperands(*map(lend.reals, operands))
            self.module.binary_grad(kind, given, lend.reals(cotangent), lend.reals(out))


class Cpu(Adapter):
    """The C++ core. Arrays of bfloat16 are torch's tensors, where there is a torch; they cannot run backwards."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.isas = self.module.available_isas()

    def use_isa(self, name: str) -> None:
        self.module.use_isa(name)

    def takes(self, arguments: dict[str, Any]) -> bool:
        length = arguments.get("length")
        if arguments.get("dtype") != "bfloat16":
            return length is None or length in data.CLASSES
        return find_spec("torch") is not None and (length is None or length in data.CLASSES[1::2])

    def cases(self, kind: str, V: int, dtype: str, **how: Any) -> Iterator[data.Case]:
        yield from data.cases(kind, V, dtype, backwards=dtype != "bfloat16", **how)


class Memory(NamedTuple):
    """All the memory that an array lies in, as a flat tensor, and where the array begins in it, in elements."""

    whole: Any
    begin: int
    strides: tuple[int, ...]

    @classmethod
    def of(cls, array: Any) -> Memory:
        if not isinstance(array, np.ndarray):
            torch = import_module("torch")
            whole = torch.empty(0, dtype=array.dtype).set_(array.untyped_storage())
            return cls(whole, array.storage_offset(), array.stride())
        owner, base = array, array
        while base is not None:
            owner, base = base if isinstance(base, np.ndarray) else owner, getattr(base, "base", None)
        whole = owner.ravel(order="K").view(array.dtype)
        assert whole.size == 0 or np.shares_memory(whole, owner), "the memory of an array has gaps"
        begin = (array.ctypes.data - whole.ctypes.data) // array.itemsize
        return cls(as_tensor(whole), begin, tuple(step // array.itemsize for step in array.strides))


class Tensors(Loan):
    """Arrays of NumPy or tensors of the host as tensors on a device.

    Their whole memory goes there and comes back, so that guards beside results, and arguments, show what was written.
    """

    def __init__(self, device: str, *, copied: bool) -> None:
        self.torch: Any = import_module("torch")
        self.device, self.copied = device, copied
        self.memories: dict[int, tuple[Any, Any]] = {}  # by address: memory of the host, and what stands for it there

    def integers(self, array: Any) -> Any:
        if array is None:
            return None
        memory = Memory.of(array)
        here = memory.whole
        if here.data_ptr() not in self.memories:
            self.memories[here.data_ptr()] = here, here.to(self.device, copy=self.copied)
        _, there = self.memories[here.data_ptr()]
        return there.view(here.dtype).as_strided(array.shape, memory.strides, memory.begin)

    def reals(self, array: Any) -> Any:
        tensor = self.integers(array)
        return tensor.view(self.torch.bfloat16) if tensor is not None and array.dtype == np.uint16 else tensor

    def bring_back(self) -> None:
        """Copy all memory back, so that the host sees whatever the device wrote."""
        for here, there in self.memories.values():
            if self.copied:
                _ = here.copy_(there)


class Triton(Adapter):
    """Triton on a GPU, or in its interpreter on CPU tensors; tensors cannot run backwards.

    The interpreter needs seconds for what takes a GPU microseconds. It takes some of the lengths, few cases of each,
    and one set of arguments of every other test. CROSSENT_EVERY=1 in the environment makes it take all.
    """

    backwards = raises = False
    slow = os.environ.get("TRITON_INTERPRET") == "1" and os.environ.get("CROSSENT_EVERY") != "1"
    lengths = (1, 2, 17, 64, 65, 513, 2041, 4097, 5003)  # on either side of every change of tile

    def takes(self, arguments: dict[str, Any]) -> bool:
        return not self.slow or arguments.get("length", 1) in self.lengths

    def cases(self, kind: str, V: int, dtype: str, *, every: int | None = None, **how: Any) -> Iterator[data.Case]:
        yield from data.cases(kind, V, dtype, backwards=False, every=24 if self.slow else every, **how)

    @contextmanager
    def lending(self) -> Iterator[Loan]:
        interpreted = self.module.interpreted()
        loan = Tensors("cpu" if interpreted else "cuda", copied=not interpreted)
        with np.errstate(all="ignore"), warnings.catch_warnings():  # a GPU does not warn of NaN and overflow
            warnings.filterwarnings("ignore", "All-NaN slice")
            yield loan
        loan.bring_back()


ADAPTERS: dict[str, type[Adapter]] = {"cpu": Cpu, "triton": Triton}


def adapters() -> dict[str, Adapter]:
    """Return an adapter for each registered backend, usable or not."""
    return {name: ADAPTERS[name](name) for name in kernels.names()}
