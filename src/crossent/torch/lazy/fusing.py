"""A cross-entropy of lazy logits is a linear cross-entropy of the layer that would have made them."""

# pyright: reportPrivateUsage=false
# Attributes of a tensor that is not torch's own begin with an underscore, so that they hide none of torch's.

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from crossent.spec import Scores
from crossent.torch.base.values import loss_dtype
from crossent.torch.call.arguments import NOT_SHARDED, Arguments, Closing
from crossent.torch.call.layout import LayerOperands
from crossent.torch.call.results import DIFFERENTIABLE, reduction_of
from crossent.torch.call.targets import TargetKind
from crossent.torch.lazy import divergences, log_probs, operations
from crossent.torch.lazy.deferred import combined
from crossent.torch.lazy.logits import LazyLogits, lazily, with_numbers_of
from crossent.torch.lazy.results import results_of
from crossent.torch.linear import loss_of_layer
from crossent.torch.logits import loss_of_logits
from crossent.torch.ranks.shards import NO_SHARDS
from crossent.torch.selected_classes import selected_of_layer, selected_of_logits

__all__ = ["divergences", "fused_loss", "log_probs", "operations"]


@lazily("cross_entropy")
def _cross_entropy(
    logits: LazyLogits,
    target: Any,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """Return torch.nn.functional.cross_entropy of lazy logits."""
    closing = Closing(reduction_of(reduction, size_average, reduce), None, 0.0)
    return fused_loss(
        Arguments(
            logits, target, weight, ignore_index, label_smoothing, Scores(), closing, False, NOT_SHARDED, NO_SHARDS
        ).bound()
    )


def fused_loss(arguments: Arguments) -> Any:
    """Return the linear cross-entropy of lazy logits (V) or (N, V), or NotImplemented if it takes their numbers."""
    logits: LazyLogits = arguments.operands
    layer, target, ignore_index = logits._deferred, arguments.target, arguments.ignore_index
    same_dtype = loss_dtype(layer.dtype) == loss_dtype(layer.hidden.dtype)
    scores = combined(layer.scores(), arguments.scores)
    if scores is None or not same_dtype or logits.ndim > 2:
        return NotImplemented
    closing = arguments.closing
    if layer.shifted and (arguments.return_stats or closing.z_loss != 0.0 or closing.function is not None):
        return NotImplemented
    logits.check()
    if not isinstance(target, (Tensor, TargetKind)):  # pyright: ignore[reportUnnecessaryIsInstance]
        return NotImplemented
    target = with_numbers_of(target, "cross_entropy")  # of a teacher's probabilities, say
    soft = isinstance(target, TargetKind) or target.shape == logits.shape
    if soft and ignore_index is not None and ignore_index < 0:
        ignore_index = None
    arguments = arguments._replace(ignore_index=ignore_index, target=target)
    made: list[Any] = []  # statistics that have no gradient come along

    def of_operands(operands: LayerOperands) -> tuple[Tensor, ...]:
        made.append(loss_of_layer(arguments._replace(operands=operands, scores=scores)))
        return _differentiable(made[0])

    def of_numbers(numbers: Tensor) -> tuple[Tensor, ...]:
        return _differentiable(loss_of_logits(arguments._replace(operands=numbers)))

    loss, *stats = results_of(logits, of_numbers, of_operands)
    if not stats:
        return loss
    return loss, dataclasses.replace(made[0][1], **dict(zip(DIFFERENTIABLE, stats, strict=True)))


def fused_selected(arguments: Arguments) -> Any:
    """Return lse and statistics of lazy logits (V) or (N, V) beside several classes a row, or NotImplemented."""
    logits: LazyLogits = arguments.operands
    layer = logits._deferred
    scores = combined(layer.scores(), arguments.scores)
    if scores is None or layer.shifted or loss_dtype(layer.dtype) != loss_dtype(layer.hidden.dtype) or logits.ndim > 2:
        return NotImplemented
    logits.check()
    made: list[Any] = []

    def of_operands(operands: LayerOperands) -> tuple[Tensor, ...]:
        made.append(selected_of_layer(arguments._replace(operands=operands, scores=scores), None))
        return _statistics(made[0])

    def of_numbers(numbers: Tensor) -> tuple[Tensor, ...]:
        return _statistics(selected_of_logits(arguments._replace(operands=numbers)))

    stats = results_of(logits, of_numbers, of_operands)
    return stats[0], dataclasses.replace(made[0], **dict(zip(DIFFERENTIABLE, stats, strict=True)))


def _statistics(stats: Any) -> tuple[Tensor, ...]:
    return tuple(getattr(stats, name) for name in DIFFERENTIABLE)


def _differentiable(found: Any) -> tuple[Tensor, ...]:
    """Return the results of a loss that have gradients."""
    if isinstance(found, Tensor):
        return (found,)
    loss, stats = found
    return loss, *_statistics(stats)
