"""From rows of predictions to what each row costs, a block of rows at a time, with the core's row functions.

Nothing of the size of the predictions is made: probabilities are read where they are, logits become float64 a small
piece at a time, so that the numbers do not depend on the type that they were stored in.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from crossent.kernels import cpu
from crossent.scoring.input.batch import Batch
from crossent.scoring.input.labels import IGNORED
from crossent.spec import Scores, Target

PIECE = 1 << 17
"""Elements of a piece of logits that becomes float64."""
EXACT = 1e-6
"""How far a probability or a sum of probabilities may be off whatever its type, as rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """What n rows cost, each (n,).

    Loss in nats, probability of the true class, confidence (that of the most probable one, which is the class
    `predicted`), entropy of the prediction, total (the sum of its probabilities before any normalising), and of the
    numbers as they were given the least one and the plain sum. With two classes `positive` is the probability of the
    second one, whatever the true one is; else it is None.
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
        """Return those of the chosen rows."""
        parts = (getattr(self, field.name) for field in fields(self))
        return Costs(*(None if part is None else part[chosen] for part in parts))


def costs(batch: Batch, begin: int, end: int, *, normalize: bool) -> Costs:
    """Return what rows [begin, end) cost; rows that are left out hold anything.

    With `normalize` the probabilities are divided by their sum.
    """
    values, label = batch.values[begin:end], batch.label[begin:end]
    if batch.binary:
        return _binary(batch.kind, _wide(values), label == 1)
    if batch.kind == "probs":
        return _probabilities(values, label, normalize)
    step = max(1, PIECE // values.shape[1])
    parts = [
        _logits(values[k : k + step], label[k : k + step], batch.kind, normalize) for k in range(0, len(label), step)
    ]
    if len(parts) == 1:
        return parts[0]
    columns = zip(*([getattr(part, field.name) for field in fields(Costs)] for part in parts), strict=True)
    return Costs(*(None if column[0] is None else np.concatenate(column) for column in columns))


def row_losses(logits: Any, label: Any, temperature: float) -> tuple[Any, Any]:
    """Return −log softmax(logits / T)_label and its derivative by β = 1 / T, (n,) each, of logits (n, C) float64."""
    record = np.empty((5, len(label)))
    loss = np.empty(len(label))
    cpu.row_stats(logits, Target(index=label), Scores(temperature), record, (loss, None, None))
    _, total, score, _, tilt = record
    return loss, temperature * (tilt / total - score)  # T (E log p − log p_y), the peaks and the normalisers cancel


def _probabilities(values: Any, label: Any, normalize: bool) -> Costs:
    result, place = np.empty((5, len(label))), np.empty(len(label), np.int64)
    cpu.row_summary(values, label, result, place, entropic=True)
    picked, total, peak, least, entropy = result
    np.maximum(picked, 0.0, out=picked, where=picked >= -EXACT)
    positive = _wide(values[:, 1]) if values.shape[1] == 2 else None
    with np.errstate(divide="ignore", invalid="ignore"):
        if not normalize:
            return Costs(0.0 - np.log(picked), picked, peak, place, entropy, total, least, total, positive)
        scale = np.log(total)
        return Costs(
            loss=scale - np.log(picked),
            probability=picked / total,
            confidence=peak / total,
            predicted=place,
            entropy=entropy / total + scale,
            total=total,
            least=least,
            plain=total,
            positive=None if positive is None else positive / total,
        )


def _logits(values: Any, label: Any, kind: str, normalize: bool) -> Costs:
    rows = len(label)
    wide = _wide(values)
    result, place = np.empty((5, rows)), np.empty(rows, np.int64)
    cpu.row_summary(wide, label, result, place, entropic=False)
    picked, plain, peak, least, _ = result
    record, loss, lse, entropy = np.empty((5, rows)), np.empty(rows), np.empty(rows), np.empty(rows)
    target = Target(index=label, ignore_index=IGNORED)
    cpu.row_stats(wide, target, Scores(), record, (loss, lse, entropy))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        two = values.shape[1] == 2
        if kind == "logprobs" and not normalize:
            positive = np.exp(wide[:, 1]) if two else None
            return Costs(-picked, np.exp(picked), np.exp(peak), place, entropy, np.exp(lse), least, plain, positive)
        positive = 1.0 / (1.0 + np.exp(wide[:, 0] - wide[:, 1])) if two else None
        total = np.exp(lse) if kind == "logprobs" else np.where(np.isnan(lse), np.nan, 1.0)
        return Costs(loss, np.exp(-loss), np.divide(1.0, record[1]), place, entropy, total, least, plain, positive)


def _binary(kind: str, values: Any, positive: Any) -> Costs:
    """Cost of rows with one number: probability, log-odds or log-probability of the second of two classes."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if kind == "logits":
            of_one, of_zero = np.logaddexp(0.0, -values), np.logaddexp(0.0, values)
            p, q = np.exp(-of_one), np.exp(-of_zero)
        elif kind == "probs":
            p = np.where(np.abs(values - 0.5) <= 0.5 + EXACT, np.clip(values, 0.0, 1.0), values)
            q, of_one, of_zero = 1.0 - p, 0.0 - np.log(p), 0.0 - np.log1p(-p)
        else:
            given = np.where((values > 0.0) & (values <= EXACT), 0.0, values)
            p, q = np.exp(given), -np.expm1(given)
            of_one, of_zero = 0.0 - given, np.where(p < 0.5, -np.log1p(-p), -np.log(q))
        entropy = np.where(p > 0.0, p * of_one, 0.0) + np.where(q > 0.0, q * of_zero, 0.0)
        total = np.where(np.isnan(values), np.nan, 1.0)
        return Costs(
            np.where(positive, of_one, of_zero), np.where(positive, p, q), np.maximum(p, q), (p > q).astype(np.int64),
            entropy, total, values, values, p,
        )  # fmt: skip


def _wide(values: Any) -> Any:
    """Return values as float64, contiguous, of NumPy or torch."""
    if hasattr(values, "detach"):
        return values.double().contiguous().numpy()
    return np.ascontiguousarray(values, np.float64)
