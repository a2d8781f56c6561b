"""Results of a call: the reduced loss in its shape, and `Stats` of the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import _reduction as _legacy

from crossent import closing
from crossent.closing import Reduction
from crossent.numbers import switch
from crossent.spec import Target
from crossent.torch.base.values import PredictionResults, RowResults
from crossent.torch.call.arguments import CheckedRows, row_closing
from crossent.torch.call.closings import RowView


@dataclasses.dataclass(frozen=True, slots=True)
class Stats:
    """Statistics of the prediction q = softmax of each row, in nats; 0 (False, and no class) in ignored rows.

    Each has the shape of the loss with reduction="none"; `logprob` of `logprobs` has that of the classes. `lse`,
    `logprob`, `entropy` and `log_sum_squares` are differentiable.

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
        Whether no class has a higher score than the target's (than the most probable one of a soft target, or than the
        best of several selected classes).
    log_sum_squares
        Log of Σ q², the probability that two draws from the prediction agree; −log_sum_squares is its Rényi entropy of
        order 2.
    predicted
        The most probable class, int64, the first of equal ones; −1 in ignored rows and where a row holds NaN.
    """

    lse: Tensor
    logprob: Tensor
    entropy: Tensor
    confidence: Tensor
    correct: Tensor
    log_sum_squares: Tensor
    predicted: Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class DivergenceStats:
    """Statistics of a student's and a teacher's prediction of each row, in nats; 0 (False) in ignored rows.

    The student is q, the teacher p, both a softmax of scores. Each has the shape of the rows, and all but `agreement`
    are differentiable by the logits of both.

    Attributes
    ----------
    lse, teacher_lse
        Logs of the normalisers, log Σ e^s. A `TopK` teacher has none: None.
    entropy, teacher_entropy
        Entropies −Σ q log q and −Σ p log p.
    kl
        Forward: KL(teacher‖student) = Σ p (log p − log q).
    reverse_kl
        Reverse: KL(student‖teacher) = Σ q (log q − log p).
    js
        β KL(teacher‖m) + (1 − β) KL(student‖m) of the mixture m = β · teacher + (1 − β) · student.
    logprob
        Log-probability of the target class under the student (its expectation for soft targets); None without a target.
    agreement
        Whether the most probable classes of both, the first of equal ones, are the same.
    """

    lse: Tensor
    teacher_lse: Tensor | None
    entropy: Tensor
    teacher_entropy: Tensor
    kl: Tensor
    reverse_kl: Tensor
    js: Tensor
    logprob: Tensor | None
    agreement: Tensor


DIFFERENTIABLE = ("lse", "logprob", "entropy", "log_sum_squares")
"""The statistics that have gradients."""


def reduction_of(reduction: str, size_average: bool | None = None, reduce: bool | None = None) -> Reduction:
    """Return the reduction of a call, with torch's deprecated pair applied; raise ValueError for an unknown one."""
    if size_average is not None or reduce is not None:
        pair = (("size_average", size_average), ("reduce", reduce))
        switches: Any = [None if x is None else switch(name, x) for name, x in pair]
        reduction = _legacy.legacy_get_string(*switches)
    closing.check_reduction(reduction)
    return reduction  # pyright: ignore[reportReturnType]


def finished(
    rows: CheckedRows,
    results: RowResults,
    again: Callable[[Target], RowResults],
    predict: Callable[[RowResults], PredictionResults],
) -> Tensor | tuple[Tensor, Stats]:
    """Return the loss of the call, or (loss, Stats).

    `again` gives results of the same logits for another target, and `predict` the results of the predictions.
    """
    view = view_of(rows, results, again)
    loss = row_closing(rows).closed(view)
    if rows.closing.reduction == "none" and len(rows.layout.rows) != 1:
        loss = loss.reshape(rows.layout.rows)
    return (loss, stats_of(rows, view, predict(results))) if rows.return_stats else loss


def view_of(rows: CheckedRows, results: RowResults, again: Callable[[Target], RowResults]) -> RowView:
    """Return the row results of a call; `again` gives results of the same logits for another target."""
    return RowView(rows.target, results, again, rows.ranks)


def stats_of(rows: CheckedRows, view: RowView, prediction: PredictionResults) -> Stats:
    """Return the Stats of the rows."""
    lse, entropy = view.results.lse, view.results.entropy
    parts = (
        lse, view.logprob, entropy, view.confidence, view.correct,
        prediction.log_sum_squares, predicted_of(lse, prediction, view.valid),
    )  # fmt: skip
    return Stats(*(part.reshape(rows.layout.rows) for part in parts))


def predicted_of(lse: Tensor, prediction: PredictionResults, valid: Tensor | None = None) -> Tensor:
    """Return the most probable class of each row, −1 for an invalid row or one without a normaliser."""
    there = ~lse.isnan() if valid is None else valid & ~lse.isnan()
    return prediction.predicted.masked_fill(~there, -1)
