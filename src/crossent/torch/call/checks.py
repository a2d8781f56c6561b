"""Checks of single arguments: each raises with the error, its place and the fix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crossent.arrays import readable
from crossent.numbers import whole
from crossent.torch.base.backends import why_no_backend
from crossent.torch.base.dequantized import Dequantized
from crossent.torch.base.values import NUMBERS, REAL, is_dtensor, loss_dtype

_PLAIN = (Tensor, torch.nn.Parameter)


def check_input(input: Tensor, name: str = "input") -> None:
    """Raise unless the input is a tensor of a dtype and on a device that there are kernels for."""
    check_tensor(name, input)
    if input.dtype not in REAL:
        raise TypeError(f"{name} must be float32, float64, bfloat16 or float16, got {input.dtype}; use {name}.float()")
    if input.is_cpu or input.is_meta or torch.compiler.is_compiling():
        return
    reason = why_no_backend(input.device.type)
    if reason is not None:
        raise NotImplementedError(
            f"crossent has no backend for tensors on {input.device} here: {reason}. It does not copy them silently; "
            "use input.cpu(), or torch's own loss on that device"
        )


def check_companion(name: str, tensor: Tensor, device: torch.device) -> None:
    """Raise unless this is a tensor on the device of the input, and a DTensor only if the input is one."""
    check_tensor(name, tensor)
    if is_dtensor(tensor):
        raise TypeError(
            f"{name} is a DTensor and the input is not; use {name}.full_tensor(), or make the input a DTensor"
        )
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, input on {device}; use {name}.to(input.device)")


def check_tensor(name: str, tensor: Tensor) -> None:
    """Raise unless this is a tensor with numbers in memory."""
    if not isinstance(tensor, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        hint = "pass its .weight" if hasattr(tensor, "weight") else "use torch.as_tensor first"
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}; {hint}")
    check_layout(name, tensor)


def check_layout(name: str, tensor: Tensor) -> None:
    """Raise unless each element of this tensor has a place in memory, which the strides give.

    In the usual case, an ordinary tensor with memory, this takes a fifth of a microsecond.
    """
    if isinstance(tensor, Dequantized):  # which has no numbers in memory, and needs none
        if torch.compiler.is_compiling():
            raise NotImplementedError(
                "torch.compile cannot see into a Dequantized; call the loss in a function with torch.compiler.disable"
            )
        return
    if type(tensor) in _PLAIN and not (tensor.is_nested or torch.compiler.is_dynamo_compiling()):
        try:
            if tensor.untyped_storage().nbytes() > 0:
                return
        except NotImplementedError:
            pass  # it has no storage: of another layout, or inside a function transform
    _ = readable(name, tensor)


def check_number_type(name: str, tensor: Tensor) -> None:
    """Raise unless this is a tensor of real numbers, integers or booleans."""
    if tensor.dtype not in NUMBERS:
        raise TypeError(f"{name} must be real, got {tensor.dtype}; use {name}.float()")


def in_kernel_dtype(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return a constant in a dtype that kernels read: its own, else the dtype of losses for a dtype of logits."""
    return tensor if tensor is None or tensor.dtype in REAL else tensor.to(loss_dtype(dtype))


def check_constant(name: str, tensor: Tensor | None) -> None:
    """Raise unless this is None, or a real tensor that requires no gradient."""
    if tensor is None:
        return
    check_number_type(name, tensor)
    if tensor.requires_grad:
        raise ValueError(f"{name} is a constant of the loss and gets no gradient; use {name}.detach()")


def check_numbers(label_smoothing: float, z_loss: float) -> None:
    """Raise unless smoothing and z-loss are in their ranges."""
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must be between 0.0 and 1.0, got {label_smoothing}")
    if not 0.0 <= z_loss < float("inf"):
        raise ValueError(f"z_loss must be a finite number ≥ 0, got {z_loss}; 0.0 is no penalty")


def check_weight(weight: Tensor, classes: int) -> None:
    """Raise unless this has one weight per class and requires no gradient."""
    if weight.shape != (classes,):
        raise ValueError(
            f"weight must have one entry for each of the {classes} classes, got shape {tuple(weight.shape)}"
        )
    check_constant("weight", weight)


def ignore_index_of(ignore_index: Any) -> int:
    """Return the class of rows without a target as an int; raise unless it is a whole number."""
    return whole("ignore_index", ignore_index)


def chunk_bytes_of(chunk_bytes: Any) -> int | None:
    """Return the bytes of a chunk as an int, None for the default; raise unless it is a positive whole number."""
    if chunk_bytes is None:
        return None
    number = whole("chunk_bytes", chunk_bytes, " of bytes")
    if number < 1:
        raise ValueError(f"chunk_bytes must be positive, got {number}; None is the default")
    return number


def broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    """Return whether an array of this shape can be expanded to the other one."""
    if len(shape) > len(to):
        return False
    return all(a == 1 or a == b for a, b in zip(reversed(shape), reversed(to), strict=False))  # noqa: PLR1714
