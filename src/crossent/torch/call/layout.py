"""How the axes of logits are meant: batch axes, the class axis, spatial axes; of a tensor or of a linear layer."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.torch.base.dequantized import Dequantized, blocks_of
from crossent.torch.call.checks import check_companion, check_input


class LayerOperands(NamedTuple):
    """The operands of a linear layer: input (…, D), weight (V, d1, …, D) and bias (V, d1, …).

    With an adapter (V, d1, …, r) the input has D + r features, and the last r of them meet the adapter.
    """

    input: Tensor
    linear_weight: Tensor
    linear_bias: Tensor | None
    linear_adapter: Tensor | None = None


def logits_of(layer: LayerOperands) -> Tensor:
    """Return the logits of a layer, made all at once in operations of torch."""
    x, weight, bias, adapter = layer
    D, linear = weight.shape[-1], torch.nn.functional.linear
    own = x if adapter is None else x[..., :D]
    if isinstance(weight, Dequantized):
        logits = torch.cat([linear(own, block.dequantize()) for block in blocks_of(weight)], -1)  # pyright: ignore
        logits = logits if bias is None else logits + bias
    else:
        logits = linear(own, weight, bias)
    return logits if adapter is None else logits + linear(x[..., D:], adapter)


class LogitsLayout(NamedTuple):
    """Axes of logits (batch axes, the class axis, spatial axes), their dtype and device; the logits need not exist."""

    shape: torch.Size
    axis: int
    rows: torch.Size
    """Shape of the losses: the shape of the logits without the class axis."""
    dtype: torch.dtype
    device: torch.device
    name: str = "logits"

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.shape[self.axis]

    def flat(self, x: Tensor) -> Tensor:
        """Return logits, or an array of their shape, in the form of the kernels: (N, V) or (outer, V, inner)."""
        if self.axis != 1:
            x = x.flatten(0, self.axis - 1) if self.axis else x.unsqueeze(0)
        return x if x.ndim == 2 else x.flatten(2)


def layout_of(input: Tensor, *, shard: bool = False) -> LogitsLayout:
    """Return how the axes of logits in torch's convention are meant: (V), (N, V) or (N, V, d1, …).

    A shard of them may have no classes.
    """
    check_input(input)
    full = input.shape
    if len(full) == 0:
        raise ValueError("input must have a class axis: shape (V), (N, V) or (N, V, d1, …); got a number")
    axis = min(len(full) - 1, 1)
    rows = full[:axis] if len(full) <= 2 else torch.Size((full[0], *full[2:]))
    if full[axis] == 0 and rows.numel() > 0 and not shard:
        raise ValueError(f"input of shape {tuple(full)} has no classes; the class axis is axis 1, or 0 of a vector")
    return LogitsLayout(full, axis, rows, input.dtype, input.device, "input")


def layout_of_rows(logits: Tensor, *, shard: bool = False) -> LogitsLayout:
    """Return how the axes of logits (…, V) are meant that have the classes on the last one."""
    check_input(logits)
    if logits.ndim == 0:
        raise ValueError("logits must have a class axis, the last one: shape (…, V); got a number")
    rows = logits.shape[:-1]
    if logits.shape[-1] == 0 and rows.numel() > 0 and not shard:
        raise ValueError(f"logits of shape {tuple(logits.shape)} have no classes; the class axis is the last one")
    return LogitsLayout(logits.shape, logits.ndim - 1, rows, logits.dtype, logits.device)


def under_autocast(layer: LayerOperands) -> LayerOperands:
    """Return the operands in the dtype of torch.autocast, if it is on."""
    device = layer.input.device.type if isinstance(layer.input, Tensor) else "cpu"  # pyright: ignore[reportUnnecessaryIsInstance]
    known = device in {"cpu", "cuda"} or torch.amp.is_autocast_available(device)  # torch 2.10 compiles no such question
    if not (known and torch.is_autocast_enabled(device)):
        return layer
    dtype = torch.get_autocast_dtype(device)
    operands: Any = [
        x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64 else x
        for x in layer
    ]
    return LayerOperands(*operands)


class LayerNames(NamedTuple):
    """Names of a layer's operands in errors."""

    input: str = "input"
    weight: str = "linear_weight"
    bias: str = "linear_bias"


LAYER_NAMES = LayerNames()


def layout_of_layer(
    layer: LayerOperands,
    *,
    shard: bool = False,
    names: LayerNames = LAYER_NAMES,
) -> LogitsLayout:
    """Return how the axes of a layer's logits are meant; raise if its operands do not fit each other."""
    x, linear_weight, linear_bias, adapter = layer
    check_input(x, names.input)
    others: dict[str, Any] = {names.weight: linear_weight}
    if linear_bias is not None:
        others[names.bias] = linear_bias
    for name, operand in others.items():
        check_companion(name, operand, x.device)
        if operand.dtype != x.dtype:
            own = names.input
            raise TypeError(
                f"{name} is {operand.dtype} and {own} {x.dtype}; use {name}.to({own}.dtype), or torch.autocast"
            )
    given = tuple(linear_weight.shape)
    rank = 0 if adapter is None else adapter.shape[-1]
    if x.ndim == 0 or linear_weight.ndim < 2 or given[-1] + rank != x.shape[-1]:
        turned = x.ndim > 0 and len(given) == 2 and given[0] == x.shape[-1]
        raise ValueError(
            f"{names.input} of shape {tuple(x.shape)} and {names.weight} of shape {given} do not fit: they must be "
            "(…, D) and (V, D), or (V, d1, …, D), with the same number D of features"
            + (f"; use {names.weight}.t()" if turned else "")
        )
    if linear_bias is not None and linear_bias.shape != given[:-1]:
        raise ValueError(
            f"{names.bias} must have shape {given[:-1]}, one entry for each row of {names.weight}, "
            f"got {tuple(linear_bias.shape)}"
        )
    batch, classes, spatial = x.shape[:-1], given[0], given[1:-1]
    if spatial and not batch:
        raise ValueError(
            f"{names.weight} of shape {given} makes a K-dimensional loss, which needs a batch of inputs; "
            f"use {names.input}.unsqueeze(0)"
        )
    rows = torch.Size((*batch, *spatial))
    if classes == 0 and rows.numel() > 0 and not shard:
        raise ValueError(f"{names.weight} of shape {given} has no classes; they are its axis 0")
    shape = torch.Size((*batch, classes, *spatial))
    return LogitsLayout(shape, len(batch), rows, x.dtype, x.device)
