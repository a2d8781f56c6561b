"""Launches of kernels: one that is compiled is started at once, without Triton working out again which one it is.

Triton looks at every argument of every launch, which takes a host longer than a GPU needs for a small call. What it
looks for is known here: dtypes, how pointers are aligned, and which integers need 64 bits. All else is constant, or
arguments are not specialized for it.
"""

from __future__ import annotations

from typing import Any

import torch
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
    """Run a kernel. Its parameters are arrays, numbers, which may come in tuples, and last constants in any order."""
    if not isinstance(kernel, JITFunction):  # interpreted
        kernel[grid](*arrays, *numbers, **constants)
        return
    key = (kernel.fn, *constants.values(), *options.values(), *kinds(arrays, numbers))
    found = _compiled.get(key)
    if found is None:
        compiled = kernel[grid](*arrays, *numbers, **constants, **options)
        if compiled is not None:
            _compiled[key] = compiled, tuple(constants[name] for name in kernel.arg_names if name in constants)
        return
    compiled, ordered = found
    compiled[grid](*arrays, *numbers, *ordered)


def kinds(arrays: tuple[Any, ...], numbers: tuple[Any, ...]) -> list[Any]:
    """Return what a kernel is compiled for: dtypes and alignment of arrays, in tuples too, and the widest number."""
    found: list[Any] = []
    for x in arrays:
        if isinstance(x, torch.Tensor):
            found.append(x.dtype)
            found.append(x.data_ptr() % 16)
        elif x is None:
            found.append(None)
        else:
            found += [each.dtype for each in x]
    found.append(arrays[0].device)
    for x in numbers:
        if isinstance(x, int):
            found.append(-(2**31) <= x < 2**31)
        elif isinstance(x, tuple):
            found.append([-(2**31) <= each < 2**31 for each in x] if max(x) >= 2**31 or min(x) < -(2**31) else None)
    return [tuple(x) if isinstance(x, list) else x for x in found]
