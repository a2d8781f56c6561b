"""What a call is given, checked and brought into the form of the kernels, or refused with a reason."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """A sparse target: K classes of each row with their probabilities, as a teacher's top-k gives them.

    Parameters
    ----------
    index
        Classes, any integer dtype, shape (N, K) (or (K,) for one row, (N, K, d1, …) beside logits (N, C, d1, …)).
        The same class may occur twice; its probabilities add.
    prob
        Their probabilities, same shape, any floating dtype. They need not sum to 1.
    """

    index: Tensor
    prob: Tensor


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A call brought into the form of the kernels: logits (N, V) or (outer, V, inner) and one kind of target."""

    logits: Tensor
    index: Tensor | None
    prob: Tensor | None
    shape: torch.Size


def check_input(input: Tensor) -> None:
    if not isinstance(input, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"input must be a tensor, got {type(input).__name__}; use torch.as_tensor first")
    if input.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise TypeError(f"input must be float32, float64, bfloat16 or float16, got {input.dtype}; use input.float()")
    if input.device.type not in ("cpu", "meta"):
        raise NotImplementedError(
            f"crossent has no backend for tensors on {input.device} yet and does not copy them behind your back; "
            "use input.cpu(), or torch's own loss on that device"
        )


def check_companion(name: str, tensor: Tensor, input: Tensor) -> None:
    if not isinstance(tensor, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}; use torch.as_tensor first")
    if tensor.device != input.device:
        raise ValueError(f"{name} is on {tensor.device}, input on {input.device}; use {name}.to(input.device)")


def check_constant(name: str, tensor: Tensor | None) -> None:
    if tensor is None:
        return
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating-point, got {tensor.dtype}; use {name}.float()")
    if tensor.requires_grad:
        raise ValueError(f"{name} is a constant of the loss and gets no gradient; use {name}.detach()")


def check_options(rows: Rows, weight: Tensor | None, label_smoothing: float, z_loss: float) -> None:
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must be between 0.0 and 1.0, got {label_smoothing}")
    if not 0.0 <= z_loss < float("inf"):
        raise ValueError(f"z_loss must be a finite number ≥ 0, got {z_loss}; 0.0 is no penalty")
    if weight is None:
        return
    check_companion("weight", weight, rows.logits)
    V = rows.logits.shape[1]
    if weight.shape != (V,):
        raise ValueError(f"weight must have one entry for each of the {V} classes, got shape {tuple(weight.shape)}")
    check_constant("weight", weight)


def rows_of(input: Tensor, target: Tensor | TopK, ignore_index: int) -> Rows:
    check_input(input)
    if input.ndim == 0:
        raise ValueError("input must have a class axis: shape (C), (N, C) or (N, C, d1, …); got a number")
    sparse = isinstance(target, TopK)
    for name, tensor in (
        (("target.index", target.index), ("target.prob", target.prob)) if sparse else (("target", target),)
    ):
        check_companion(name, tensor, input)
    shape = torch.Size(input.shape[:1] + input.shape[2:] if input.ndim > 1 else ())
    if input.shape[0 if input.ndim == 1 else 1] == 0 and shape.numel() > 0:
        raise ValueError(
            f"input of shape {tuple(input.shape)} has no classes; the class axis is axis 1, or 0 of a vector"
        )
    logits = _flat(input)
    if sparse:
        index, prob = _topk_rows(input, target)
    elif target.shape == input.shape:
        index, prob = None, _flat(target)
        if not target.is_floating_point():
            raise TypeError(
                f"a target in the shape of the input {tuple(input.shape)} holds class probabilities and must be "
                f"floating-point, got {target.dtype}; use target.float(), or class indices of shape {tuple(shape)}"
            )
    elif target.shape == shape:
        index, prob = target.reshape(-1), None
        if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            raise TypeError(f"class indices must have an integer dtype, got {target.dtype}; use target.long()")
    else:
        raise ValueError(
            f"target of shape {tuple(target.shape)} fits no input of shape {tuple(input.shape)}: class indices have "
            f"shape {tuple(shape)}, class probabilities {tuple(input.shape)}"
        )
    if prob is not None and ignore_index >= 0:
        raise ValueError(
            "ignore_index applies to class indices, not to probabilities; use sample_weight=0 for such rows"
        )
    return Rows(logits, index, prob, shape)


def _flat(x: Tensor) -> Tensor:
    if x.ndim == 1:
        return x.unsqueeze(0)
    return x if x.ndim <= 2 else x.flatten(2)


def _topk_rows(input: Tensor, target: TopK) -> tuple[Tensor, Tensor]:
    index, prob = target.index, target.prob
    axis = 0 if input.ndim == 1 else 1
    wanted = (*input.shape[:axis], "K", *input.shape[axis + 1 :])
    fits = index.ndim == input.ndim and all(a in ("K", b) for a, b in zip(wanted, index.shape, strict=True))
    if not fits or index.shape != prob.shape:
        text = ", ".join(map(str, wanted))
        raise ValueError(
            f"TopK(index, prob) beside an input of shape {tuple(input.shape)} needs two tensors of shape ({text}), "
            f"got {tuple(index.shape)} and {tuple(prob.shape)}"
        )
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"TopK.index must have an integer dtype, got {index.dtype}")
    if not prob.is_floating_point():
        raise TypeError(f"TopK.prob must be floating-point, got {prob.dtype}")
    k = index.shape[axis]
    return tuple(_flat(x).movedim(1, -1).reshape(-1, k) for x in (index, prob))  # pyright: ignore[reportReturnType]


def sample_weight_of(sample_weight: Tensor, rows: Rows, dtype: torch.dtype) -> Tensor:
    check_companion("sample_weight", sample_weight, rows.logits)
    if sample_weight.shape != rows.shape:
        raise ValueError(
            f"sample_weight of shape {tuple(sample_weight.shape)} does not match the rows, shape {tuple(rows.shape)}"
        )
    return sample_weight.reshape(-1).to(dtype)


def most_probable(rows: Rows) -> Tensor:
    prob: Any = rows.prob
    if rows.index is not None:
        return rows.index.gather(1, prob.argmax(1, keepdim=True)).squeeze(1)
    return prob.argmax(1).reshape(-1)


def broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))
