"""Access to libtorch: C functions that torch's CPU library exports and that have no Python bindings."""

from __future__ import annotations

import ctypes
import pathlib
from typing import Any

import torch


def torch_function(name: str) -> Any:
    """Return the C function of this name that torch's CPU library exports, or None."""
    folder = pathlib.Path(torch.__file__).parent / "lib"
    for library in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        if (folder / library).exists():
            return getattr(ctypes.CDLL(str(folder / library)), name, None)
    return None
