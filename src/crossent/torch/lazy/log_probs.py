"""Lazy log-probabilities: of some classes per row, their sum over the classes, and torch's nll_loss.

Log-probabilities are lazy logits after a log_softmax, and perhaps multiplied by numbers. So the label smoother of
Hugging Face's Trainer, log_softmax with gather, and nll_loss give their numbers without the logits. So do, in full
precision, the logits of some classes and the log-normaliser that trainers subtract from them. Each function takes the
arguments of torch's function of that name, and returns NotImplemented where the numbers are needed after all.
"""

# pyright: reportPrivateUsage=false
# Attributes of a tensor that is not torch's own begin with an underscore, so that they hide none of torch's.

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.spec import Scores
from crossent.torch.base.dequantized import sum_over_classes
from crossent.torch.base.values import loss_dtype
from crossent.torch.call.arguments import NOT_SHARDED, Arguments, Closing
from crossent.torch.call.layout import LayerOperands
from crossent.torch.call.results import Stats, reduction_of
from crossent.torch.lazy.logits import LazyLogits, lazily
from crossent.torch.lazy.results import results_of
from crossent.torch.linear import loss_of_layer
from crossent.torch.ranks.shards import NO_SHARDS
from crossent.torch.selected_classes import SelectedClasses, rows_arguments, selected_of_layer
from crossent.torch.sources.linear import costs_of
from crossent.torch.sources.plan import default_chunk_bytes

_NONE_IGNORED = torch.iinfo(torch.int64).min
"""An ignore_index that no class has: where torch ignores none."""
_ROWS = Closing("none", None, 0.0)


class _LogProbs(NamedTuple):
    """How log-probabilities were made: the scores of the layer's output, the factor since, and the dtype of a loss."""

    scores: Scores
    factor: float
    dtype: torch.dtype


def _log_probs(logits: LazyLogits) -> _LogProbs | None:
    """Return the logits of these lazy log-probabilities, or None if a layer's loss cannot give them."""
    parts = logits._deferred.log_probs()
    dtype = loss_dtype(logits.dtype)
    if parts is None or logits.numel() == 0 or dtype != loss_dtype(logits._deferred.hidden.dtype):
        return None
    scores = parts[0].scores()
    if scores is None:
        return None
    logits.check()
    return _LogProbs(scores, parts[1], dtype)


def _rows_of(operands: LayerOperands) -> LayerOperands:
    """Return the operands with one axis of rows."""
    return operands._replace(input=operands.input.reshape(-1, operands.input.shape[-1]))


def _chunk_bytes(operands: LayerOperands, dtype: torch.dtype) -> int:
    """Return how much memory there is for logits: less than for all of them, which would be kept for the backward."""
    rows, classes = len(operands.input), len(operands.linear_weight)
    whole = rows * classes * dtype.itemsize
    return max(1, min(default_chunk_bytes(costs_of(operands.input, operands.linear_weight)), whole - 1))


@lazily("gather")
def _gather(logits: LazyLogits, dim: Any, index: Any, **options: Any) -> Any:
    """Return the log-probabilities, or the logits, of K classes in each row."""
    if options or dim not in (-1, logits.ndim - 1) or type(index) is not Tensor or index.dtype != torch.int64:
        return NotImplemented
    if index.ndim != logits.ndim or index.shape[:-1] != logits.shape[:-1] or index.device != logits.device:
        return NotImplemented
    known = _log_probs(logits)
    if known is None:
        return _logits_of_classes(logits, index)
    if index.shape[-1] == 1:
        return _of_one_class(logits, index, known)
    scores, factor, dtype = known

    def of_operands(operands: LayerOperands) -> tuple[Tensor, ...]:
        return (factor * _of_classes(operands, index, scores, dtype).logprob,)

    (found,) = results_of(logits, lambda numbers: (numbers.to(dtype).gather(-1, index).flatten(0, -2),), of_operands)
    return found.to(logits.dtype).reshape(index.shape)


def _of_classes(operands: LayerOperands, index: Tensor, scores: Scores, dtype: torch.dtype) -> Stats:
    """Return the statistics of the rows of a layer, and the log-probabilities of K classes of each, (N, K)."""
    operands = _rows_of(operands)
    classes = SelectedClasses(index.reshape(-1, index.shape[-1]), _NONE_IGNORED)
    arguments = rows_arguments(operands, classes, scores, NOT_SHARDED)
    return selected_of_layer(arguments, _chunk_bytes(operands, dtype))


def _full_scores(logits: LazyLogits) -> Scores | None:
    """Return the scores that these logits are in full precision, or None if they are something else."""
    layer, dtype = logits._deferred, logits.dtype
    if layer.shifted or logits.numel() == 0 or dtype != loss_dtype(layer.hidden.dtype):
        return None
    logits.check()
    return layer.scores()


def _logits_of_classes(logits: LazyLogits, index: Tensor) -> Any:
    """Return the logits of K classes in each row: their log-probabilities and the log-normaliser, added up."""
    scores = _full_scores(logits)
    if scores is None:
        return NotImplemented

    def of_numbers(numbers: Tensor) -> tuple[Tensor, ...]:
        return numbers.gather(-1, index).flatten(0, -2), numbers.logsumexp(-1).reshape(-1)

    def of_operands(operands: LayerOperands) -> tuple[Tensor, ...]:
        stats = _of_classes(operands, index, scores, logits.dtype)
        return stats.logprob + stats.lse[:, None], stats.lse

    found, lse = results_of(logits, of_numbers, of_operands)
    result: Any = found.reshape(index.shape)
    # trainers subtract the log-normaliser next, maybe a few rows at a time
    result._log_normaliser = lse.reshape(logits.shape[:-1])
    logits._log_normaliser = weakref.ref(result._log_normaliser)  # pyright: ignore[reportAttributeAccessIssue]
    return result


@lazily("logsumexp")
def _logsumexp(logits: LazyLogits, dim: Any, keepdim: bool = False) -> Any:
    """Return the log-normaliser of each row."""
    if isinstance(dim, (tuple, list)) and len(dim) == 1:  # pyright: ignore[reportUnknownArgumentType]
        dim = dim[0]
    scores = _full_scores(logits)
    if scores is None or dim not in (-1, logits.ndim - 1):
        return NotImplemented
    shared, rows = _known_normaliser(logits), logits.shape[:-1]
    if shared is None or (torch.is_grad_enabled() and logits.requires_grad and not shared.requires_grad):

        def of_operands(operands: LayerOperands) -> tuple[Tensor, ...]:
            operands = _rows_of(operands)
            target = operands.input.new_zeros(len(operands.input), dtype=torch.int64)
            found: Any = loss_of_layer(_arguments(operands, target, scores), _chunk_bytes(operands, logits.dtype))
            return (found[1].lse,)

        (shared,) = results_of(logits, lambda numbers: (numbers.logsumexp(-1).reshape(-1),), of_operands)
    return shared.reshape((*rows, 1) if keepdim else rows)


def _known_normaliser(logits: LazyLogits) -> Tensor | None:
    """Return the log-normaliser of these logits if it was computed for them, or for logits that these are rows of."""
    found: Tensor | None = getattr(logits, "_log_normaliser", lambda: None)()
    origin = logits._origin
    if found is not None or origin is None or origin.rows is None:
        return found
    every = _known_normaliser(origin.logits)
    return None if every is None else origin.rows(every.unsqueeze(-1)).squeeze(-1)


def _of_one_class(logits: LazyLogits, index: Tensor, known: _LogProbs) -> Any:
    """Return the log-probability of one class in each row."""
    shape, (scores, factor, dtype) = index.shape, known
    target, V = index.reshape(-1), logits.shape[-1]

    def of_numbers(numbers: Tensor) -> tuple[Tensor, ...]:
        numbers = numbers.to(dtype)
        found = numbers.gather(-1, index).reshape(-1), numbers.sum(-1).reshape(-1)
        return found if scores.softcap is None else found[:1]

    def of_operands(operands: LayerOperands) -> tuple[Tensor, ...]:
        operands = _rows_of(operands)
        found: Any = loss_of_layer(_arguments(operands, target, scores), _chunk_bytes(operands, dtype))
        loss, stats = found
        if scores.softcap is not None:
            return (-factor * loss,)
        # also the sum over the classes, which label smoothing needs next: the lse is here, the rest is cheap
        summed = _sum_of_logits(operands, dtype)
        return -factor * loss, factor * (summed / scores.temperature - V * stats.lse)

    of_class, *of_all = results_of(logits, of_numbers, of_operands)
    result: Any = of_class.to(logits.dtype).reshape(shape)
    if of_all:
        # kept alive by the result: by the logits it would be a circle, through the graph of autograd
        result._of_all_classes = of_all[0]
        logits._of_all_classes = weakref.ref(of_all[0])  # pyright: ignore[reportAttributeAccessIssue]
    return result


def _sum_of_logits(operands: LayerOperands, dtype: torch.dtype) -> Tensor:
    """Return the sum of each row's logits, from the sum of all weights."""
    x, weight, bias, adapter = operands
    columns = [sum_over_classes(w, dtype) for w in (weight, adapter) if w is not None]
    summed = x.to(dtype) @ torch.cat(columns)
    return summed if bias is None else summed + bias.sum(dtype=dtype)


@lazily("sum")
def _sum(logits: LazyLogits, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Return the sum of the log-probabilities of all classes, in each row."""
    return _sum_over_classes(logits, dim, keepdim, dtype, 1)


@lazily("mean")
def _mean(logits: LazyLogits, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Return the mean of the log-probabilities of all classes, in each row."""
    return _sum_over_classes(logits, dim, keepdim, dtype, logits.shape[-1])


def _sum_over_classes(logits: LazyLogits, dim: Any, keepdim: bool, dtype: Any, divisor: int) -> Any:
    known = _log_probs(logits)
    if isinstance(dim, (tuple, list)) and len(dim) == 1:  # pyright: ignore[reportUnknownArgumentType]
        dim = dim[0]
    dtype = logits.dtype if dtype is None else dtype
    if known is None or dim not in (-1, logits.ndim - 1) or not dtype.is_floating_point:
        return NotImplemented
    shared: Any = getattr(logits, "_of_all_classes", lambda: None)()
    wants = torch.is_grad_enabled() and logits.requires_grad
    total = _uniform(logits, known) if shared is None or (wants and not shared.requires_grad) else shared
    rows = logits.shape[:-1]
    return (total / divisor).to(dtype).reshape((*rows, 1) if keepdim else rows)


def _uniform(logits: LazyLogits, known: _LogProbs) -> Tensor:
    """Return the sum over the classes of each row: -V times the loss of the uniform target."""
    V = logits.shape[-1]

    def of_numbers(numbers: Tensor) -> tuple[Tensor, ...]:
        return (numbers.sum(-1, dtype=known.dtype).reshape(-1),)

    def of_operands(operands: LayerOperands) -> tuple[Tensor, ...]:
        operands = _rows_of(operands)
        target = operands.input.new_zeros(len(operands.input), dtype=torch.int64)
        arguments = _arguments(operands, target, known.scores)._replace(label_smoothing=1.0, return_stats=False)
        loss: Any = loss_of_layer(arguments, _chunk_bytes(operands, known.dtype))
        return (-V * known.factor * loss,)

    return results_of(logits, of_numbers, of_operands)[0]


@lazily("nll_loss")
def _nll_loss(
    logits: LazyLogits,
    target: Any,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Any:
    """Return torch.nn.functional.nll_loss of log-probabilities."""
    known = _log_probs(logits)
    if known is None or logits.ndim > 2 or type(target) is not Tensor or target.shape != logits.shape[:-1]:
        return NotImplemented
    if target.dtype not in (torch.int64, torch.uint8):
        return NotImplemented
    closing = Closing(reduction_of(reduction, size_average, reduce), None, 0.0)

    def of_numbers(numbers: Tensor) -> tuple[Tensor, ...]:
        options: Any = {"ignore_index": ignore_index, "reduction": closing.reduction}
        return (torch.nn.functional.nll_loss(numbers.to(known.dtype), target, weight, **options),)

    def of_operands(operands: LayerOperands) -> tuple[Tensor, ...]:
        given = _arguments(operands, target, known.scores)
        options: Any = {"weight": weight, "ignore_index": ignore_index, "closing": closing, "return_stats": False}
        chunk_bytes = _chunk_bytes(_rows_of(operands), known.dtype) if closing.reduction == "none" else None
        loss: Any = loss_of_layer(given._replace(**options), chunk_bytes)
        return (known.factor * loss,)

    return results_of(logits, of_numbers, of_operands)[0]


def _arguments(operands: LayerOperands, target: Tensor, scores: Scores) -> Arguments:
    """Return the arguments of the loss of each row, with its statistics."""
    return Arguments(operands, target, None, _NONE_IGNORED, 0.0, scores, _ROWS, True, NOT_SHARDED, NO_SHARDS)
