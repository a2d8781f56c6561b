"""What a call returns: the reduced loss in its shape, and `Stats` of the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction as _legacy

from crossent import closing
from crossent.closing import Reduction
from crossent.numbers import switch
from crossent.spec import Target
from crossent.stats import RowStats
from crossent.torch.base.values import RowResults
from crossent.torch.call.arguments import CheckedRows
from crossent.torch.call.targets import most_probable_of_topk
from crossent.torch.ranks.records import most_probable
from crossent.torch.ranks.shards import held


@dataclasses.dataclass(frozen=True, slots=True)
class Stats:
    """Statistics of the prediction q = softmax of each row, in nats; 0 (and False) in ignored rows.

    Each has the shape of the loss with reduction="none". `lse`, `logprob` and `entropy` are differentiable.

    Attributes
    ----------
    lse
        Log of the normaliser, log Σ e^s.
    logprob
        Log-probability of the target class; for soft targets its expectation Σ base · log q. Class weights and
        smoothing do not enter.
    entropy
        Entropy of the prediction, −Σ q log q.
    confidence
        Probability of the most probable class.
    correct
        Whether no class has a higher score than the target's (than the most probable one of a soft target).
    """

    lse: Tensor
    logprob: Tensor
    entropy: Tensor
    confidence: Tensor
    correct: Tensor


def reduction_of(reduction: str, size_average: bool | None = None, reduce: bool | None = None) -> Reduction:
    """Return the reduction of a call, with torch's deprecated pair applied; raise ValueError for an unknown one."""
    if size_average is not None or reduce is not None:
        pair = (("size_average", size_average), ("reduce", reduce))
        switches: Any = [None if x is None else switch(name, x) for name, x in pair]
        reduction = _legacy.legacy_get_string(*switches)
    closing.check_reduction(reduction)
    return reduction  # pyright: ignore[reportReturnType]


def finished(
    rows: CheckedRows, results: RowResults, again: Callable[[Target], RowResults]
) -> Tensor | tuple[Tensor, Stats]:
    """Return the loss of the call, or (loss, Stats); `again` gives results of the same logits for another target."""
    loss = rows.row_closing.reduced(results.loss, results.lse)
    if rows.closing.reduction == "none" and len(rows.layout.rows) != 1:
        loss = loss.reshape(rows.layout.rows)
    return (loss, stats_of(rows, results, again)) if rows.return_stats else loss


def stats_of(rows: CheckedRows, results: RowResults, again: Callable[[Target], RowResults]) -> Stats:
    """Return the Stats of the rows; `again` gives results of the same logits for another target."""
    target, loss, record = rows.target, results.loss, results.record
    plain = results
    if target.weight is not None or target.smoothing != 0.0:
        plain = again(dataclasses.replace(target, weight=None, smoothing=0.0))
    confidence = record[1].reciprocal().to(loss.dtype)
    of_best = plain.record
    if target.kind != "index":
        with torch.no_grad():
            best = _most_probable(rows)
            of_best = again(dataclasses.replace(target, index=best, prob=None, weight=None, smoothing=0.0)).record
    else:
        index: Any = target.index
        confidence = torch.where(index.long() != target.ignore_index, confidence, 0.0)
    best_stats = RowStats(*of_best)
    correct = (best_stats.target_score >= 0) & (best_stats.mass > 0)
    parts = (results.lse, -plain.loss, results.entropy, confidence, correct)
    return Stats(*(part.reshape(rows.layout.rows) for part in parts))


def _most_probable(rows: CheckedRows) -> Tensor:
    """Return the most probable class of each row of a soft target."""
    target = rows.target
    index: Any = target.index
    prob: Any = target.prob
    if index is not None:
        best = most_probable_of_topk(index.long(), prob)
        return torch.where((prob != 0).any(1), best, target.ignore_index)  # the classes of padding are none
    here = held(prob.shape[1], target.first_class, target.num_classes)
    return most_probable(prob[:, :here], target, rows.ranks.groups)
