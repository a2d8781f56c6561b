"""Costs of rows, from their predictions and labels, by the core's row functions.

Nothing of the size of the predictions is allocated: probabilities are read in place, and logits become float64 in small
pieces, so that results do not depend on the stored type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from crossent.kernels import cpu
from crossent.kernels.backend import RowOutputs
from crossent.scoring.input.batch import Batch
from crossent.scoring.input.matching import IGNORED
from crossent.scoring.parts import Kind
from crossent.spec import Scores, Target
from crossent.stats import FIELDS, RowStats

PIECE = 1 << 17
"""Elements of a piece of logits that becomes float64."""
EXACT = 1e-6
"""Rounding allowed in a probability or a sum of probabilities of any type."""


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """Costs of n rows, each (n,).

    loss = −log q_y in nats, `probability` q_y of the true class y, `confidence` max q of the most probable class, which
    is `predicted`, and `entropy` −Σ q log q. `total` is Σ q before any normalising. `least` and `plain` are the
    smallest and the sum of the numbers as the caller stored them. With two classes `positive` is q of the second one,
    for any true class; else it is None.
    """

    loss: Any
    probability: Any
    confidence: Any
    predicted: Any
    entropy: Any
    total: Any
    least: Any
    plain: Any
    positive: Any | None = None

    def rows(self, chosen: Any) -> Costs:
        """Return the costs of the chosen rows."""
        parts = (getattr(self, field.name) for field in fields(self))
        return Costs(*(None if part is None else part[chosen] for part in parts))


class LossAndSlope(NamedTuple):
    """Losses of rows at a temperature T, and their derivatives by 1 / T, (n,) each."""

    loss: Any
    slope: Any


class _Summary(NamedTuple):
    """Statistics of each row of stored numbers x, (n,): x_y, Σ x, max x and its place, min x, and −Σ x log x or 0."""

    picked: Any
    total: Any
    peak: Any
    least: Any
    entropy: Any
    place: Any


def costs(batch: Batch, begin: int, end: int, *, normalize: bool) -> Costs:
    """Return the costs of rows [begin, end) of a batch; costs of rows that are left out are undefined.

    With `normalize` the probabilities are divided by their sum.
    """
    values, label = batch.values[begin:end], batch.label[begin:end]
    if batch.binary:
        return _of_one_number(batch.kind, as_float64(values), label == 1)
    if batch.kind == "probs":
        return _of_probabilities(values, label, normalize)
    step = max(1, PIECE // values.shape[1])
    pieces = [slice(k, k + step) for k in range(0, len(label), step)]
    return _joined([_of_logits(values[piece], label[piece], batch.kind, normalize) for piece in pieces])


def row_losses(logits: Any, label: Any, temperature: float) -> LossAndSlope:
    """Return −log softmax(logits / T)_label and its derivative by 1 / T, of logits (n, V) float64."""
    record, loss = np.empty((len(FIELDS), len(label))), np.empty(len(label))
    cpu.row_stats(logits, Target(index=label), Scores(temperature), record, RowOutputs(loss))
    rows = RowStats(*record)
    # T (E log q − log q_y), where the peaks and the normalisers cancel
    return LossAndSlope(loss, temperature * (rows.tilt / rows.total - rows.target_score))


def _of_probabilities(values: Any, label: Any, normalize: bool) -> Costs:
    positive = as_float64(values[:, 1]) if values.shape[1] == 2 else None
    row = _summary(values, label, entropic=True)
    np.maximum(row.picked, 0.0, out=row.picked, where=row.picked >= -EXACT)
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = 0.0 - np.log(row.picked)
        if not normalize:
            return Costs(loss, row.picked, row.peak, row.place, row.entropy, row.total, row.least, row.total, positive)
        scale = np.log(row.total)
        return Costs(
            loss=loss + scale,
            probability=row.picked / row.total,
            confidence=row.peak / row.total,
            predicted=row.place,
            entropy=row.entropy / row.total + scale,
            total=row.total,
            least=row.least,
            plain=row.total,
            positive=None if positive is None else positive / row.total,
        )


def _of_logits(values: Any, label: Any, kind: Kind, normalize: bool) -> Costs:
    wide, rows = as_float64(values), len(label)
    row = _summary(wide, label, entropic=False)
    record, loss, lse, entropy = np.empty((len(FIELDS), rows)), np.empty(rows), np.empty(rows), np.empty(rows)
    cpu.row_stats(wide, Target(index=label, ignore_index=IGNORED), Scores(), record, RowOutputs(loss, lse, entropy))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        two = values.shape[1] == 2
        if kind == "logprobs" and not normalize:
            return Costs(
                loss=-row.picked,
                probability=np.exp(row.picked),
                confidence=np.exp(row.peak),
                predicted=row.place,
                entropy=entropy,
                total=np.exp(lse),
                least=row.least,
                plain=row.total,
                positive=np.exp(wide[:, 1]) if two else None,
            )
        return Costs(
            loss=loss,
            probability=np.exp(-loss),
            confidence=RowStats(*record).confidence,
            predicted=row.place,
            entropy=entropy,
            total=np.exp(lse) if kind == "logprobs" else np.where(np.isnan(lse), np.nan, 1.0),
            least=row.least,
            plain=row.total,
            positive=1.0 / (1.0 + np.exp(wide[:, 0] - wide[:, 1])) if two else None,
        )


def _of_one_number(kind: Kind, values: Any, positive: Any) -> Costs:
    """Return the costs of rows with one number for the second of two classes: log-odds, probability or its log."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if kind == "logits":
            loss_second, loss_first = np.logaddexp(0.0, -values), np.logaddexp(0.0, values)
            q_second, q_first = np.exp(-loss_second), np.exp(-loss_first)
        elif kind == "probs":
            q_second = np.where(np.abs(values - 0.5) <= 0.5 + EXACT, np.clip(values, 0.0, 1.0), values)
            q_first = 1.0 - q_second
            loss_second, loss_first = 0.0 - np.log(q_second), 0.0 - np.log1p(-q_second)
        else:
            log_q = np.where((values > 0.0) & (values <= EXACT), 0.0, values)
            q_second, q_first = np.exp(log_q), -np.expm1(log_q)
            loss_second = 0.0 - log_q
            loss_first = np.where(q_second < 0.5, -np.log1p(-q_second), -np.log(q_first))
        parts = ((q_second, loss_second), (q_first, loss_first))
        return Costs(
            loss=np.where(positive, loss_second, loss_first),
            probability=np.where(positive, q_second, q_first),
            confidence=np.maximum(q_second, q_first),
            predicted=(q_second > q_first).astype(np.int64),
            entropy=sum(np.where(q > 0.0, q * loss, 0.0) for q, loss in parts),
            total=np.where(np.isnan(values), np.nan, 1.0),
            least=values,
            plain=values,
            positive=q_second,
        )


def _summary(values: Any, label: Any, *, entropic: bool) -> _Summary:
    result, place = np.empty((5, len(label))), np.empty(len(label), np.int64)
    cpu.row_summary(values, label, result, place, entropic=entropic)
    picked, total, peak, least, entropy = result
    return _Summary(picked, total, peak, least, entropy, place)


def _joined(parts: Sequence[Costs]) -> Costs:
    if len(parts) == 1:
        return parts[0]
    columns = [[getattr(part, field.name) for part in parts] for field in fields(Costs)]
    return Costs(*(None if column[0] is None else np.concatenate(column) for column in columns))


def as_float64(values: Any) -> Any:
    """Return numbers of NumPy or torch as float64, contiguous."""
    if hasattr(values, "detach"):
        return values.double().contiguous().numpy()
    return np.ascontiguousarray(values, np.float64)
