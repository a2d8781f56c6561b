"""What torch's own library lends: its threads to the CPU backend, and functions that Python does not see."""

from __future__ import annotations

import ctypes
import functools
import pathlib
from typing import Any

import torch

from crossent import kernels


@functools.cache
def backend() -> Any:
    """Return the CPU backend, running on torch's own threads where this torch lends them."""
    cpu = kernels.get("cpu")
    parallel_for = torch_function("torch_parallel_for")
    if parallel_for is not None:
        cpu.lend_threads(ctypes.cast(parallel_for, ctypes.c_void_p).value)
    return cpu


def torch_function(name: str) -> Any:
    """Return the C function of this name that torch's CPU library exports, or None."""
    folder = pathlib.Path(torch.__file__).parent / "lib"
    for library in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        if (folder / library).exists():
            return getattr(ctypes.CDLL(str(folder / library)), name, None)
    return None
