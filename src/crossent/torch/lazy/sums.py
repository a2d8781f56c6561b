"""The sum of the lazy outputs of two layers over the same rows and classes: the output of one layer, still lazy.

f x Wᵀ + g u Bᵀ = f (x Wᵀ + (g / f) u Bᵀ) is the layer of the first, with an adapter: u and B of the second. So an
adapter whose last layer is lazy computes no logits, in any library.
"""

# pyright: reportPrivateUsage=false
# Attributes of a tensor that is not torch's own begin with an underscore, so that they hide none of torch's.

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.torch.call.layout import LayerOperands
from crossent.torch.lazy.deferred import Deferred, Step
from crossent.torch.lazy.graph import defer
from crossent.torch.lazy.logits import LazyLogits


class _Output(NamedTuple):
    """A layer, the factor of its output, and the dtype of the result."""

    layer: LayerOperands
    factor: float
    dtype: torch.dtype


def sum_of_layers(first: LazyLogits, other: LazyLogits) -> Any:
    """Return the sum of both, or NotImplemented if it takes their numbers."""
    if first.shape != other.shape or first.device != other.device or not other.stays_lazy():
        return NotImplemented
    if first._deferred.weight.shape[1] < other._deferred.weight.shape[1]:
        first, other = other, first
    if 2 * other._deferred.hidden.shape[-1] > first._deferred.weight.shape[1]:  # no adapter, but a second head
        return NotImplemented
    own, its = _output(first), _output(other)
    if own is None or its is None or own.factor == 0:
        return NotImplemented
    first.check()
    other.check()
    layer = own.layer
    if its.layer.linear_weight.dtype.itemsize > 4 and layer.input.dtype.itemsize < 8:  # float64 is not rounded
        return NotImplemented
    scale = its.factor / own.factor
    features, columns = _in_dtype(its.layer, scale, layer)
    if layer.linear_adapter is not None:
        columns = torch.cat((layer.linear_adapter, columns), -1)
    whole = LayerOperands(
        torch.cat((layer.input, features), -1), layer.linear_weight, _bias(layer, its.layer, scale), columns
    )
    deferred = Deferred.of_layer(whole, first._deferred.notice or other._deferred.notice)
    steps = [Step("mul", own.factor)] if own.factor != 1.0 else []
    dtype = torch.promote_types(own.dtype, its.dtype)
    if dtype != layer.input.dtype:
        steps.append(Step("to", dtype))
    for step in steps:
        deferred = deferred.then(*step)
    return defer(deferred)


def _output(logits: LazyLogits) -> _Output | None:
    """Return the layer that logits are a multiple of, with its place in the graph; None if they are anything else."""
    deferred, root = logits._deferred, logits
    while root._origin is not None:
        if root._in_use or root._origin.rows is not None:
            return None
        root = root._origin.logits
    if root._in_use or not all(step.name in ("mul", "div", "to") for step in deferred.steps):
        return None
    return _Output(root._deferred.operands, deferred.factor, deferred.dtype)


def _in_dtype(its: LayerOperands, scale: float, layer: LayerOperands) -> tuple[Tensor, Tensor]:
    """Return features and columns of an adapter: everything of the other layer, times the scale."""
    features = its.input if scale == 1.0 else its.input * scale
    weight: Any = its.linear_weight
    columns = weight if its.linear_adapter is None else torch.cat((weight, its.linear_adapter), -1)
    return features.to(layer.input.dtype), columns.to(layer.linear_weight.dtype)


def _bias(layer: LayerOperands, its: LayerOperands, scale: float) -> Tensor | None:
    """Return the bias of the sum."""
    own, other = layer.linear_bias, its.linear_bias
    if other is None:
        return own
    added = (other * scale).to(layer.linear_weight.dtype)
    return added if own is None else own + added
