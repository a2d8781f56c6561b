"""The backend of a tensor: which of `crossent.kernels` computes rows on its device, on torch's own threads."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch

from crossent import kernels
from crossent.torch.base.libtorch import torch_function

BACKENDS = {"cpu": "cpu", "cuda": "triton"}
"""The backend for tensors on each type of device; torch calls AMD's GPUs cuda too."""


def backend(x: torch.Tensor) -> Any:
    """Return the backend for a tensor on a device of this type."""
    return _ready(BACKENDS["cpu" if x.is_cpu else x.device.type])


def few_classes(x: torch.Tensor) -> int:
    """Return how many classes of logits on the device of a tensor need no record."""
    name = BACKENDS.get("cpu" if x.is_cpu else x.device.type)
    return 0 if name is None else kernels.few_classes(name)


def adds_bias(x: torch.Tensor) -> bool:
    """Return whether the backend of a tensor adds a bias to logits where it reads them."""
    name = BACKENDS.get(x.device.type)
    return name is not None and kernels.adds_bias(name)


@functools.cache
def why_no_backend(device_type: str) -> str | None:
    """Return None if there is a backend for tensors on devices of this type, else the reason."""
    if device_type not in BACKENDS:
        return f"there is none for devices of type {device_type!r}"
    return kernels.why_not(BACKENDS[device_type])


@functools.cache
def _ready(name: str) -> Any:
    """Return a backend, the CPU's running on torch's own threads where this torch lends them."""
    module: Any = kernels.get(name)
    parallel_for = torch_function("torch_parallel_for") if name == "cpu" else None
    if parallel_for is not None:
        module.lend_threads(ctypes.cast(parallel_for, ctypes.c_void_p).value)
    return module
