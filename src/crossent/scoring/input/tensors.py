"""torch tensors as callers pass them, on the CPU and in a form that NumPy or the core reads."""

from __future__ import annotations

from typing import Any

from crossent.arrays import readable
from crossent.errors import InputTypeError

_AS_THEY_ARE = ("float64", "float32", "float16", "bfloat16", "bool")
_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_NARROW = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")


def is_tensor(values: Any) -> bool:
    """Return whether something is a torch tensor, without importing torch."""
    return hasattr(values, "detach")


def from_tensor(values: Any, name: str, argument: str) -> Any:
    """Return a tensor of numbers on the CPU, detached; floats of 8 bits become float32.

    Parameters
    ----------
    values
        The tensor.
    name, argument
        What it is called in errors, and the argument that it is or belongs to.

    Raises
    ------
    InputTypeError
        If it has no numbers to be read: it is sparse, nested, quantised or complex, has no memory, or is on the meta
        device.
    """
    try:
        tensor = readable(name, values.detach())
    except (TypeError, RuntimeError) as error:
        raise InputTypeError(str(error), argument=argument) from None
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in (*_AS_THEY_ARE, *_INTEGERS, *_NARROW):
        raise InputTypeError(f"{name} must hold real numbers, got {kind}; convert it", argument=argument)
    if tensor.is_meta:
        raise InputTypeError(f"{name} is on the meta device, which holds no numbers", argument=argument)
    tensor = tensor.cpu().resolve_neg()
    return tensor.float() if kind in _NARROW else tensor
