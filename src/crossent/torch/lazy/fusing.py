"""A cross-entropy of lazy logits is a linear cross-entropy of the layer that would have made them."""

# pyright: reportPrivateUsage=false
# Attributes of a tensor that is not torch's own begin with an underscore, so that they hide none of torch's.

from __future__ import annotations

from typing import Any

from torch import Tensor

from crossent.spec import Scores
from crossent.torch.base.values import loss_dtype, without_autocast
from crossent.torch.call.arguments import NOT_SHARDED, Arguments, Closing
from crossent.torch.call.layout import LayerOperands
from crossent.torch.call.results import reduction_of
from crossent.torch.call.targets import TargetKind
from crossent.torch.lazy import operations
from crossent.torch.lazy.logits import LazyLogits, lazily
from crossent.torch.linear import loss_of_layer
from crossent.torch.ranks.shards import NO_SHARDS

__all__ = ["fused_loss", "operations"]


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
    scores = _scores(layer.scores(), arguments.scores)
    if scores is None or not same_dtype or logits.ndim > 2 or isinstance(target, LazyLogits):
        return NotImplemented
    logits.check()
    if not isinstance(target, (Tensor, TargetKind)):  # pyright: ignore[reportUnnecessaryIsInstance]
        return NotImplemented
    soft = isinstance(target, TargetKind) or target.shape == logits.shape
    if soft and ignore_index is not None and ignore_index < 0:
        ignore_index = None
    operands = LayerOperands(layer.hidden, layer.weight, layer.bias)
    with without_autocast(layer.hidden):
        found: Any = loss_of_layer(arguments._replace(operands=operands, scores=scores, ignore_index=ignore_index))
    logits._family.fused = True
    loss, *stats = found if isinstance(found, tuple) else (found,)
    logits._family.tell([loss, *(x for s in stats for x in (s.lse, s.logprob, s.entropy))])
    return found


def _scores(steps: Scores | None, loss: Scores) -> Scores | None:
    """Return the scores of logits after their own steps, or None if temperature and softcap do not say them."""
    if steps is None or (steps.softcap is not None and loss.softcap is not None):  # a cap of a cap is neither
        return None
    softcap = loss.softcap
    if steps.softcap is not None:  # cap tanh(z) / t = (cap / t) tanh(z)
        softcap = steps.softcap / loss.temperature
    return Scores(steps.temperature * loss.temperature, softcap)
