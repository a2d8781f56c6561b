"""What torch's own library lends: its threads to the CPU backend, and functions that Python does not see."""

from __future__ import annotations

import ctypes
import functools
import pathlib
from typing import Any

import torch

from crossent import kernels

BACKENDS = {"cpu": "cpu", "cuda": "triton"}
"""The backend for tensors on each type of device; torch calls AMD's GPUs cuda too."""


def backend(x: torch.Tensor) -> Any:
    """Return the backend for a tensor on a device of this type."""
    return _ready(BACKENDS[x.device.type])


@functools.cache
def why_no_backend(device_type: str) -> str | None:
    """Return None if there is a backend for tensors on devices of this type, else the reason."""
    if device_type not in BACKENDS:
        return f"there is none for devices of type {device_type!r}"
    return kernels.why_not(BACKENDS[device_type])


@functools.cache
def _ready(name: str) -> Any:
    """Return a backend, the CPU's running on torch's own threads where this torch lends them."""
    module = kernels.get(name)
    parallel_for = torch_function("torch_parallel_for") if name == "cpu" else None
    if parallel_for is not None:
        module.lend_threads(ctypes.cast(parallel_for, ctypes.c_void_p).value)
    return module


def torch_function(name: str) -> Any:
    """Return the C function of this name that torch's CPU library exports, or None."""
    folder = pathlib.Path(torch.__file__).parent / "lib"
    for library in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        if (folder / library).exists():
            return getattr(ctypes.CDLL(str(folder / library)), name, None)
    return None
