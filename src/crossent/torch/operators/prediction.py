"""crossent::most_probable, and what else `Stats` hold of the prediction of each row of logits."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from crossent.torch.base.operator_call import OperatorCall, operator_call
from crossent.torch.base.register import Forward, register
from crossent.torch.base.values import PredictionResults
from crossent.torch.operators.rows import RowCall, row_stats
from crossent.torch.sources.beside import without_target
from crossent.torch.sources.most_probable import Peaks, no_peaks, peaks_of


@operator_call
class MostProbableCall(OperatorCall):
    """Logits (N, V) or (outer, V, inner), the first of their classes, and the groups of ranks with other classes."""

    logits: Tensor
    first_class: int = 0
    groups: tuple[str, ...] = ()


def _most_probable(call: MostProbableCall) -> Peaks:
    value, at = peaks_of(call.logits)
    return Peaks(value, at + call.first_class).over(call.groups)


def _most_probable_fake(call: MostProbableCall) -> Peaks:
    logits = call.logits
    rows = logits.shape[0] if logits.ndim == 2 else logits.shape[0] * logits.shape[2]
    value = logits.new_empty((rows,), dtype=torch.float64)
    return Peaks(value, torch.empty_like(value, dtype=torch.int64))


def _most_probable_plain(call: MostProbableCall) -> Peaks:
    logits = call.logits.detach()
    if logits.shape[1] == 0:
        return no_peaks(_most_probable_fake(call).at.shape[0], call.first_class, logits).over(call.groups)
    value, at = logits.max(1)
    return Peaks(value.reshape(-1).double(), at.reshape(-1) + call.first_class).over(call.groups)


_peaks = register(
    "most_probable", MostProbableCall, Peaks, Forward(_most_probable, _most_probable_fake, _most_probable_plain)
)


def most_probable(call: RowCall) -> Peaks:
    """Return the largest logit and its class of each row of a call; they are constants."""
    return _peaks(MostProbableCall(call.source.logits.detach(), call.target.first_class, call.groups))


def prediction(call: RowCall) -> PredictionResults:
    """Return the results of the predictions of a call; `squares_lse` is differentiable by the logits."""
    target = without_target(call.target, call.number, call.logits.device)
    squares = row_stats(dataclasses.replace(call, target=target, scores=call.scores.doubled, recorded=True))
    peaks = most_probable(call)
    return PredictionResults(squares.lse, squares.record, peaks.at, peaks.value)
