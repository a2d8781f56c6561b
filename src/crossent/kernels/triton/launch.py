"""Launches of kernels: one that is compiled is started at once, without Triton working out again which one it is.

Triton looks at every argument of every launch, which takes a host longer than a GPU needs for a small call. The
launcher finds it here: dtypes of arrays, and whether they are aligned. All else is constant, or a number whose type is
annotated and for whose value no kernel is specialized: no tuple, whose numbers Triton specializes for all the same.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from triton.runtime.jit import JITFunction

_HERE: AbstractContextManager[Any] = nullcontext()
_compiled: dict[Any, Any] = {}
"""Compiled kernels by constants and kinds of arguments, with the constants in the order of the parameters."""


class Launch:
    """A launch but for its arrays, which are of the same dtypes, and as well aligned, every time.

    Called with the arrays it runs the kernel. Parameters of a kernel are arrays, numbers, and last constants in any
    order.
    """

    __slots__ = ("_constants", "_grid", "_kernel", "_numbers", "_options", "_rest", "_run")

    def __init__(
        self,
        kernel: Any,
        grid: tuple[int, int, int],
        numbers: tuple[Any, ...],
        constants: dict[str, Any],
        **options: Any,
    ) -> None:
        self._kernel, self._grid, self._numbers = kernel, grid, numbers
        self._constants, self._options = constants, options
        self._run: Any = None
        self._rest: tuple[Any, ...] = ()

    @property
    def kernel(self) -> Any:
        """The kernel."""
        return self._kernel

    def __call__(self, *arrays: Any) -> None:
        """Run the kernel."""
        if self._run is not None:
            self._run(*arrays, *self._rest)
        elif is_interpreted(self._kernel):
            self._kernel[self._grid](*arrays, *self._numbers, **self._constants)
        else:
            self._first(arrays)

    def _first(self, arrays: tuple[Any, ...]) -> None:
        """Run the kernel, and store the launch for later calls with other arrays."""
        kernel, grid, numbers, constants = self._kernel, self._grid, self._numbers, self._constants
        key = (kernel.fn, *constants.values(), *self._options.values(), *kinds(arrays))
        known = _compiled.get(key)
        compiled = kernel[grid](*arrays, *numbers, **constants, **self._options) if known is None else known
        if compiled is None:
            return
        names = [name for name in kernel.arg_names if name in constants]
        self._run, self._rest = compiled[grid], (*numbers, *(constants[name] for name in names))
        if known is None:
            _compiled[key] = compiled  # and Triton has run it
        else:
            self._run(*arrays, *self._rest)


def is_interpreted(kernel: Any) -> bool:
    """Return whether Triton runs a kernel in NumPy."""
    return not isinstance(kernel, JITFunction)


def kinds(arrays: tuple[Any, ...]) -> list[Any]:
    """Return the compile-time values of a kernel: device, dtypes and alignment of arrays."""
    found: list[Any] = [arrays[0].device]
    for x in arrays:
        found += (None, None) if x is None else (x.dtype, x.data_ptr() % 16 == 0)
    return found


def on_device_of(tensor: Any) -> AbstractContextManager[Any]:
    """Return a context in which kernels run on the device of a tensor."""
    if not tensor.is_cuda or tensor.device.index == torch.cuda.current_device():
        return _HERE
    return torch.cuda.device(tensor.device)
