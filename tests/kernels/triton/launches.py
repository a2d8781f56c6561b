"""Launches of the Triton backend on a machine without a GPU, and without a compiler: which kernels, under which keys.

Triton's launcher runs as it does on a GPU, up to the two places where it would need one: where it compiles a kernel
under a key that is new, and where it starts it. Tensors are torch's on the CPU, so that addresses are as well aligned
as a GPU's. `install` changes the process for good, and wants one in which Triton does not interpret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton.compiler
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from crossent.kernels import triton as backend
from crossent.torch.base import backends, transforms
from tools.gpu_build.chips import NoGpu

HOPPER = GPUTarget("cuda", 90, 32)
_NO_KERNEL = ("empty", "new_empty", "_unsafe_view")


class Key(NamedTuple):
    """What Triton compiles a kernel for: its name, and how its arguments are specialised, with the options."""

    kernel: str
    key: str


class Log:
    """What happened since `clear`: kernels compiled, kernels of Triton launched, operations of torch that launch."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.launched: list[str] = []

    def clear(self) -> None:
        """Forget everything."""
        self.keys.clear()
        self.launched.clear()


LOG = Log()


class Uncompiled:
    """Stands in for a compiled kernel: it is started like one, and nothing runs."""

    function, packed_metadata, metadata, module, n_regs, n_spills = 0, (), None, None, 0, 0

    def __init__(self, name: str, key: str) -> None:
        self.name, self.hash = name, key

    def launch_metadata(self, *_: Any) -> None:
        """Return what hooks of launches are told: there are none."""

    def run(self, *_: Any) -> None:
        """Start the kernel as Triton does, with grid, stream and arguments."""
        LOG.launched.append(self.name)

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return self.run


def install() -> None:
    """Let Triton compile and run nothing in this process, and CPU tensors go to the Triton backend."""

    def compile_nothing(source: Any, **options: Any) -> Uncompiled:
        name = source.fn.__name__
        key = f"{source.signature} {source.constants} {source.attrs} {options.get('options')}"
        LOG.keys.append(Key(name, key))
        return Uncompiled(name, key)

    triton.compiler.compile = compile_nothing
    driver.set_active(NoGpu(HOPPER))
    backend.why_not = lambda: None
    backends.BACKENDS["cpu"] = "triton"


class _Operations(TorchDispatchMode):
    """Counts operations of torch that launch a kernel on a GPU: all but those that only make a view, or memory."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            raise AssertionError("a number is read: on a GPU the call would wait for it")
        aliases = [x.alias_info for x in func._schema.returns]
        is_view = any(x is not None and not x.is_write for x in aliases)
        if not is_view and not name.startswith(_NO_KERNEL):
            LOG.launched.append(f"torch.{name}")
        return func(*args, **(kwargs or {}))


@contextmanager
def counted() -> Iterator[list[str]]:
    """Yield the kernels that are launched within, those of torch too; the way of a call is that of plain eager mode."""
    LOG.clear()
    modes: Any = transforms._number_of_modes
    transforms._number_of_modes = lambda: 0
    try:
        with _Operations():
            yield LOG.launched
    finally:
        transforms._number_of_modes = modes


def tensors(rows: int, classes: int, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return logits of memory that is never touched, which want a gradient, and labels."""
    return torch.empty(rows, classes, dtype=dtype, requires_grad=True), torch.zeros(rows, dtype=torch.long)
