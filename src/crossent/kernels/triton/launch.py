"""Launches of kernels: one that is compiled is started at once, without Triton working out again which one it is.

Triton looks at every argument of every launch, which takes a host longer than a GPU needs for a small call. What it
looks for is known here: dtypes of arrays, and whether they are aligned. All else is constant, or a number whose type is
annotated and for whose value no kernel is specialized: no tuple, whose numbers Triton specializes for all the same.
"""

from __future__ import annotations

from typing import Any

from triton.runtime.jit import JITFunction

_compiled: dict[Any, Any] = {}
"""Compiled kernels by constants and kinds of arguments, with the constants in the order of the parameters."""


def launch(
    kernel: Any,
    grid: tuple[int, int, int],
    arrays: tuple[Any, ...],
    numbers: tuple[Any, ...],
    constants: dict[str, Any],
    **options: Any,
) -> None:
    """Run a kernel. Its parameters are arrays, numbers, and last constants in any order."""
    if not isinstance(kernel, JITFunction):  # interpreted
        kernel[grid](*arrays, *numbers, **constants)
        return
    key = (kernel.fn, *constants.values(), *options.values(), *kinds(arrays))
    found = _compiled.get(key)
    if found is None:
        compiled = kernel[grid](*arrays, *numbers, **constants, **options)
        if compiled is not None:
            _compiled[key] = compiled, tuple(constants[name] for name in kernel.arg_names if name in constants)
        return
    compiled, ordered = found
    compiled[grid](*arrays, *numbers, *ordered)


def kinds(arrays: tuple[Any, ...]) -> list[Any]:
    """Return what a kernel is compiled for: device, dtypes and alignment of arrays."""
    found: list[Any] = [arrays[0].device]
    for x in arrays:
        found += (None, None) if x is None else (x.dtype, x.data_ptr() % 16 == 0)
    return found
