"""What a call is given, checked and brought into the form of the kernels, or refused with a reason."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import torch
from torch import Tensor

from crossent.torch.base.libtorch import why_no_backend
from crossent.torch.operators.plain import loss_dtype


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
class Logits:
    """How the axes of logits, which need not exist, are meant: batch axes, then the class axis, then spatial ones."""

    shape: torch.Size
    axis: int
    rows: torch.Size
    """Shape of the losses: that of the logits without the class axis."""
    name: str = "logits"

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.shape[self.axis]

    def flat(self, x: Tensor) -> Tensor:
        """Return logits, or an array beside them, in the form of the kernels: (N, V) or (outer, V, inner)."""
        if self.axis != 1:
            x = x.flatten(0, self.axis - 1) if self.axis else x.unsqueeze(0)
        return x if x.ndim == 2 else x.flatten(2)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The target of a call in the form of the kernels; which of the two are there says its kind."""

    logits: Logits
    index: Tensor | None
    prob: Tensor | None


_REAL = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
_INTEGER = frozenset(
    {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64}
)


def check_input(input: Tensor) -> None:
    """Raise unless the input is a tensor of a dtype and on a device that there are kernels for."""
    if not isinstance(input, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"input must be a tensor, got {type(input).__name__}; use torch.as_tensor first")
    if input.dtype not in _REAL:
        raise TypeError(f"input must be float32, float64, bfloat16 or float16, got {input.dtype}; use input.float()")
    if input.is_cpu or input.is_meta or torch.compiler.is_compiling():
        return
    reason = why_no_backend(input.device.type)
    if reason is not None:
        raise NotImplementedError(
            f"crossent has no backend for tensors on {input.device} here: {reason}. It does not copy them behind your "
            "back; use input.cpu(), or torch's own loss on that device"
        )


def is_dtensor(x: Any) -> bool:
    """Return whether this is a DTensor; nobody has one who has not imported them."""
    if type(x) in (Tensor, torch.nn.Parameter):
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)  # pyright: ignore


def check_companion(name: str, tensor: Tensor, input: Tensor) -> None:
    """Raise unless this is a tensor on the device of the input."""
    if not isinstance(tensor, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}; use torch.as_tensor first")
    if is_dtensor(tensor) and not is_dtensor(input):
        raise TypeError(
            f"{name} is a DTensor and the input is not; use {name}.full_tensor(), or make the input a DTensor"
        )
    if tensor.device != input.device:
        raise ValueError(f"{name} is on {tensor.device}, input on {input.device}; use {name}.to(input.device)")


def check_constant(name: str, tensor: Tensor | None) -> None:
    """Raise unless this is a floating-point tensor that wants no gradient, or None."""
    if tensor is None:
        return
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating-point, got {tensor.dtype}; use {name}.float()")
    if tensor.requires_grad:
        raise ValueError(f"{name} is a constant of the loss and gets no gradient; use {name}.detach()")


def has_autocast(tensor: Tensor) -> bool:
    """Return whether torch.autocast knows the device of a tensor."""
    return torch.amp.is_autocast_available(tensor.device.type)


def check_number(name: str, value: float | None) -> None:
    """Raise if this is a tensor that wants a gradient: it would be dropped in silence."""
    if isinstance(value, Tensor) and value.requires_grad:
        raise ValueError(f"{name} is a constant of the loss and gets no gradient; use float({name})")


def check_options(input: Tensor, classes: int, weight: Tensor | None, label_smoothing: float, z_loss: float) -> None:
    """Raise unless the options are in their ranges and fit the input."""
    check_numbers(label_smoothing, z_loss)
    if weight is not None:
        check_companion("weight", weight, input)
        check_weight(weight, classes)


def check_numbers(label_smoothing: float, z_loss: float) -> None:
    """Raise unless smoothing and z-loss are in their ranges."""
    check_number("label_smoothing", label_smoothing)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must be between 0.0 and 1.0, got {label_smoothing}")
    check_number("z_loss", z_loss)
    if not 0.0 <= z_loss < float("inf"):
        raise ValueError(f"z_loss must be a finite number ≥ 0, got {z_loss}; 0.0 is no penalty")


def check_weight(weight: Tensor, classes: int) -> None:
    """Raise unless this is a weight for each class that wants no gradient."""
    if weight.shape != (classes,):
        raise ValueError(
            f"weight must have one entry for each of the {classes} classes, got shape {tuple(weight.shape)}"
        )
    check_constant("weight", weight)


def check_ignore_index(ignore_index: int) -> None:
    """Raise unless this is a whole number."""
    if isinstance(ignore_index, (bool, float)) or not isinstance(ignore_index, int):  # pyright: ignore
        raise TypeError(f"ignore_index must be a whole number, a class or none at all, got {ignore_index!r}")


def check_chunk_bytes(chunk_bytes: int) -> None:
    """Raise unless this is a positive whole number."""
    if isinstance(chunk_bytes, bool) or not isinstance(chunk_bytes, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"chunk_bytes must be a whole number of bytes, got {chunk_bytes!r}")
    if chunk_bytes < 1:
        raise ValueError(f"chunk_bytes must be positive, got {chunk_bytes}; None is the default")


def logits_of(input: Tensor, *, shard: bool = False) -> Logits:
    """Return how the axes of logits in torch's convention are meant: (C), (N, C) or (N, C, d1, …).

    A shard of them may have no classes.
    """
    check_input(input)
    full = input.shape
    if len(full) == 0:
        raise ValueError("input must have a class axis: shape (C), (N, C) or (N, C, d1, …); got a number")
    axis = min(len(full) - 1, 1)
    rows = full[:axis] if len(full) <= 2 else torch.Size((full[0], *full[2:]))
    if full[axis] == 0 and rows.numel() > 0 and not shard:
        raise ValueError(f"input of shape {tuple(full)} has no classes; the class axis is axis 1, or 0 of a vector")
    return Logits(full, axis, rows, "input")


def logits_of_layer(input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, *, shard: bool = False) -> Logits:
    """Return how the axes of a layer's logits are meant; raise if its operands do not fit each other."""
    check_input(input)
    for name, x in (("linear_weight", linear_weight), ("linear_bias", linear_bias)):
        if x is None:
            continue
        check_companion(name, x, input)
        if x.dtype != input.dtype:
            raise TypeError(
                f"{name} is {x.dtype} and input {input.dtype}; use {name}.to(input.dtype), or torch.autocast"
            )
    given = tuple(linear_weight.shape)
    if input.ndim == 0 or linear_weight.ndim < 2 or given[-1] != input.shape[-1]:
        raise ValueError(
            f"input of shape {tuple(input.shape)} and linear_weight of shape {given} do not fit: they must be (…, D) "
            "and (C, D), or (C, d1, …, D), with the same number D of features"
        )
    if linear_bias is not None and linear_bias.shape != given[:-1]:
        raise ValueError(
            f"linear_bias must have shape {given[:-1]}, one entry for each row of linear_weight, "
            f"got {tuple(linear_bias.shape)}"
        )
    batch, classes, spatial = input.shape[:-1], given[0], given[1:-1]
    if spatial and not batch:
        raise ValueError(
            f"linear_weight of shape {given} makes a K-dimensional loss, which needs a batch of inputs; "
            "use input.unsqueeze(0)"
        )
    rows = torch.Size((*batch, *spatial))
    if classes == 0 and rows.numel() > 0 and not shard:
        raise ValueError(f"linear_weight of shape {given} has no classes; they are its axis 0")
    return Logits(torch.Size((*batch, classes, *spatial)), len(batch), rows)


def rows_of(logits: Logits, input: Tensor, target: Tensor | TopK, ignore_index: int) -> Rows:
    """Return the target in the form of the kernels; raise if shapes, dtypes or devices do not fit the logits."""
    check_ignore_index(ignore_index)
    if isinstance(target, TopK):
        index, prob = _topk_rows(logits, input, target)
    else:
        index, prob = _dense_or_index(logits, input, target)
    if prob is not None and ignore_index >= 0:
        raise ValueError(
            "ignore_index applies to class indices, not to probabilities; use sample_weight=0 for such rows"
        )
    return Rows(logits, index, prob)


def _dense_or_index(logits: Logits, input: Tensor, target: Tensor) -> tuple[Tensor | None, Tensor | None]:
    check_companion("target", target, input)
    given = target.shape
    if given == logits.shape:
        if target.dtype not in _REAL:
            raise TypeError(
                f"a target in the shape of the {logits.name} {tuple(given)} holds class probabilities and must be "
                f"floating-point, got {target.dtype}; use target.float(), or class indices of shape "
                f"{tuple(logits.rows)}"
            )
        return None, logits.flat(target)
    if given == logits.rows:
        if target.dtype not in _INTEGER:
            raise TypeError(f"class indices must have an integer dtype, got {target.dtype}; use target.long()")
        return target if target.ndim == 1 else target.reshape(-1), None
    raise ValueError(
        f"target of shape {tuple(given)} fits no {logits.name} of shape {tuple(logits.shape)}: class indices have "
        f"shape {tuple(logits.rows)}, class probabilities {tuple(logits.shape)}"
    )


def _topk_rows(logits: Logits, input: Tensor, target: TopK) -> tuple[Tensor, Tensor]:
    index, prob = target.index, target.prob
    check_companion("TopK.index", index, input)
    check_companion("TopK.prob", prob, input)
    axis = logits.axis
    wanted = (*logits.shape[:axis], "K", *logits.shape[axis + 1 :])
    fits = index.ndim == len(wanted) and all(a in ("K", b) for a, b in zip(wanted, index.shape, strict=True))
    if not fits or index.shape != prob.shape:
        text = ", ".join(map(str, wanted))
        raise ValueError(
            f"TopK(index, prob) beside {'an input' if logits.name == 'input' else 'logits'} of shape "
            f"{tuple(logits.shape)} needs two tensors of shape ({text}), "
            f"got {tuple(index.shape)} and {tuple(prob.shape)}"
        )
    if index.dtype not in _INTEGER:
        raise TypeError(f"TopK.index must have an integer dtype, got {index.dtype}")
    if prob.dtype not in _REAL:
        raise TypeError(f"TopK.prob must be floating-point, got {prob.dtype}")
    k = index.shape[axis]
    return tuple(logits.flat(x).movedim(1, -1).reshape(logits.rows.numel(), k) for x in (index, prob))  # pyright: ignore[reportReturnType]


def sample_weight_of(sample_weight: Tensor | None, rows: Rows, input: Tensor) -> Tensor | None:
    """Return the sample weights as a vector of the dtype of losses, or None; raise unless they fit the rows."""
    if sample_weight is None:
        return None
    check_companion("sample_weight", sample_weight, input)
    if sample_weight.is_complex():
        raise TypeError(f"sample_weight must be real, got {sample_weight.dtype}")
    shape = rows.logits.rows
    if sample_weight.shape != shape:
        raise ValueError(
            f"sample_weight of shape {tuple(sample_weight.shape)} does not match the rows, shape {tuple(shape)}"
        )
    return sample_weight.reshape(-1).to(loss_dtype(input.dtype))


def most_probable_of_topk(index: Tensor, prob: Tensor) -> Tensor:
    """Return the most probable of K classes of each row; a class that is picked twice counts twice."""
    index, order = index.sort(1)
    begins = index[:, 1:] != index[:, :-1]
    group = torch.nn.functional.pad(begins.long().cumsum(1), (1, 0))
    best = torch.zeros_like(prob).scatter_add(1, group, prob.gather(1, order)).argmax(1, keepdim=True)
    return torch.zeros_like(index).scatter(1, group, index).gather(1, best).squeeze(1)


def broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    """Return whether an array of this shape can be expanded to the other one."""
    if len(shape) > len(to):
        return False
    return all(a == 1 or a == b for a, b in zip(reversed(shape), reversed(to), strict=False))  # noqa: PLR1714
