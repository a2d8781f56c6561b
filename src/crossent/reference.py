"""The reference: the row functions in plain NumPy float64, one line per formula.

Tests hold every backend against it, and it is the shortest description of a backend.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crossent.arrays import weighted
from crossent.spec import Scores, Target
from crossent.stats import FIELDS, Cotangents, PairCotangents, RowStats, Teacher


def score_and_slope(logits: Any, scores: Scores) -> tuple[Any, Any]:
    """Return s = phi(z) and phi'(z)."""
    own: Any = scores.row_temperature
    T: Any = scores.temperature if own is None else np.asarray(own, np.float64)[:, None]
    z = np.asarray(logits, np.float64) / T
    if scores.softcap is None:
        return z, np.full_like(z, 1.0) / T
    t, u = np.tanh(z / scores.softcap), np.exp(-2.0 * np.abs(z / scores.softcap))
    return scores.softcap * t, 4.0 * u / (1.0 + u) ** 2 / T  # 1 − t² without the cancellation


def target_measure(target: Target, rows: int, columns: int) -> tuple[Any, Any]:
    """Return the target measure p (N, V) as written in `Target`, and which rows have a target at all (N,)."""
    base, valid = np.zeros((rows, columns)), np.ones(rows, bool)
    if target.index is None:
        base = np.asarray(target.prob, np.float64)
    else:
        index = np.asarray(target.index)
        index = index[:, None] if index.ndim == 1 else index
        prob = np.ones(index.shape) if target.prob is None else np.asarray(target.prob, np.float64)
        if target.prob is None:
            valid = index[:, 0] != target.ignore_index
        local = index.astype(np.int64) - target.first_class
        row, k = np.nonzero((local >= 0) & (local < columns) & valid[:, None])
        np.add.at(base, (row, local[row, k]), prob[row, k])
    num_classes = columns if target.num_classes is None else target.num_classes
    p = (1.0 - target.smoothing) * base + target.smoothing / num_classes
    return p if target.weight is None else p * np.asarray(target.weight, np.float64), valid


def row_stats(logits: Any, target: Target, scores: Scores = Scores()) -> RowStats:  # noqa: B008  frozen
    """Return the record of each row of logits (N, V); an ignored row has peak 0, total 1 and zeros."""
    s, _ = score_and_slope(logits, scores)
    p, valid = target_measure(target, *s.shape)
    peak = s.max(axis=1, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        shifted = s - np.where(np.isneginf(peak), 0.0, peak)[:, None]
        e = np.exp(shifted)
        record = RowStats(
            peak=peak,
            total=e.sum(axis=1),
            target_score=np.where(p == 0, 0.0, p * shifted).sum(axis=1),
            mass=p.sum(axis=1),
            tilt=np.where(e == 0, 0.0, e * shifted).sum(axis=1),
        )
    return RowStats(**{name: np.where(valid, getattr(record, name), float(name == "total")) for name in FIELDS})


def row_grad(logits: Any, target: Target, scores: Scores, stats: RowStats, cotangents: Cotangents) -> Any:
    """Return phi'(z) (q (a + b log q) − c p) for the cotangents (N,) of loss, lse and entropy.

    Ignored rows, and rows with a, b and c all zero, have gradient zero for any values.
    """
    s, slope = score_and_slope(logits, scores)
    p, valid = target_measure(target, *s.shape)
    given = [np.zeros(len(s)) if g is None else np.asarray(g, np.float64) for g in cotangents]
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b, c = (np.asarray(x)[:, None] for x in stats.coefficients(*given))
        below = np.where(valid[:, None], s - stats.peak[:, None], 0.0)
        logq = below - np.log(stats.total)[:, None]
        q = np.exp(logq)
        grad = slope * (q * (a + b * np.where(q == 0, 0.0, logq)) - c * p)
    return np.where(valid[:, None] & ((a != 0) | (b != 0) | (c != 0)), grad, 0.0)


def pair_stats(logits: Any, scores: Scores, stats: RowStats, teacher: Teacher, beta: float | None = None) -> Any:
    """Return KL(p‖q) and KL(q‖p) of each row, and with beta KL(p‖m) and KL(q‖m), m = β p + (1 − β) q: (2 or 4, N).

    p is the teacher's softmax and q that of the logits (N, V). Each is a sum of terms p h(log p − log q) that are never
    negative, h(x) = x + e^−x − 1: it is Σ p (log p − log q) because the probabilities of either sum to 1.
    """
    logp, logq, delta = log_pair(logits, scores, stats, teacher)
    terms = [_terms(logp, logq, delta), _terms(logq, logp, -delta)]
    if beta is not None:
        with np.errstate(invalid="ignore"):
            logm = np.logaddexp(np.log(beta) + logp, np.log1p(-beta) + logq)
        terms += [_terms(logp, logm, _above_mixture(delta, beta)), _terms(logq, logm, _above_mixture(-delta, 1 - beta))]
    return np.stack([term.sum(axis=1) for term in terms])


def pair_grad(
    logits: Any,
    target: Target,
    scores: Scores,
    stats: RowStats,
    teacher: Teacher,
    beta: float | None,
    sums: Any,
    cotangents: PairCotangents,
) -> Any:
    """Return the gradient of `row_grad`, plus the derivatives of kl, reverse_kl and js by the logits (N, V).

    They are phi'(z) times q − p, −q (δ + KL(q‖p)) with δ = log p − log q, and (1 − β) q (log q − log m − KL(q‖m)).
    """
    plain = row_grad(logits, target, scores, stats, Cotangents(*cotangents[:3]))
    given = [np.zeros(len(plain)) if g is None else np.asarray(g, np.float64) for g in cotangents[3:]]
    g_kl, g_reverse, g_js = (g[:, None] for g in given)
    _, valid = target_measure(target, *plain.shape)
    _, slope = score_and_slope(logits, scores)
    logp, logq, delta = log_pair(logits, scores, stats, teacher)
    with np.errstate(invalid="ignore", over="ignore"):  # the record of an ignored row is not of its logits
        p, q = np.exp(logp), np.exp(logq)
        pair = weighted(g_kl, np.where(delta >= 0, p, -q) * np.expm1(-np.abs(delta)))
        pair = pair - weighted(g_reverse, weighted(q, delta + sums[1][:, None]))
        if beta is not None:
            share = _above_mixture(-delta, 1 - beta) - sums[3][:, None]
            pair = pair + weighted(g_js, (1 - beta) * weighted(q, share))
        return np.where(valid[:, None] & np.any([g != 0 for g in given], axis=0)[:, None], plain + slope * pair, plain)


def log_pair(logits: Any, scores: Scores, stats: RowStats, teacher: Teacher) -> tuple[Any, Any, Any]:
    """Return log p, log q and log p − log q, which is 0 where both are −inf."""
    with np.errstate(invalid="ignore", divide="ignore"):
        logq = score_and_slope(logits, scores)[0] - stats.peak[:, None] - np.log(stats.total)[:, None]
        its = RowStats(*teacher.record)
        logp = score_and_slope(teacher.logits, teacher.scores)[0] - its.peak[:, None] - np.log(its.total)[:, None]
        return logp, logq, np.where(np.isneginf(logp) & np.isneginf(logq), 0.0, logp - logq)


def _terms(logp: Any, logq: Any, x: Any) -> Any:
    """Return p (x + e^−x − 1) for x = log p − log q, with relative accuracy and without overflow of e^−x.

    Where x is negative it is q (1 − (1 + |x|) e^−|x|), and where it is small p x² / 2 (1 − x/3 + …).
    """
    size = np.abs(x)
    with np.errstate(invalid="ignore"):
        above = np.where(np.isposinf(x), np.inf, np.exp(logp) * (size + np.expm1(-size)))
        below = np.exp(logq) * (1.0 - np.where(np.isposinf(size), 0.0, (1.0 + size) * np.exp(-size)))
        near = np.clip(x, -0.5, 0.5)
        series = np.zeros_like(near)
        for k in range(19, 1, -1):
            series = 1.0 - near / (k + 1.0) * series
        return np.where(size < 0.5, np.exp(logp) * (near * near / 2.0 * series), np.where(x >= 0, above, below))


def _above_mixture(x: Any, beta: float) -> Any:
    """Return log p − log m, m = β p + (1 − β) q, for x = log p − log q: −log(β + (1 − β) e^−x)."""
    with np.errstate(invalid="ignore"):
        return np.where(
            x >= 0,
            -np.log1p((1.0 - beta) * np.expm1(-np.abs(x))),
            -np.abs(x) - np.log1p(beta * np.expm1(-np.abs(x))),
        )


def binary_loss(logits: Any, target: Any, weight: Any = 1.0, pos_weight: Any = 1.0) -> Any:
    """Return w (r t softplus(−x) + (1 − t) softplus(x)) for logits x, targets t, weights w and positive weights r.

    A factor of 0 removes its term, here and in the gradient.
    """
    x, t = np.asarray(logits, np.float64), np.asarray(target, np.float64)
    tail = np.log1p(np.exp(-np.abs(x)))
    positive, negative = (np.maximum(-x, 0) + tail, np.maximum(x, 0) + tail)
    return weighted(weight, weighted(pos_weight * t, positive) + weighted(1 - t, negative))


def binary_grad(logits: Any, target: Any, weight: Any = 1.0, pos_weight: Any = 1.0) -> Any:
    """Return the derivative of `binary_loss` with respect to the logits, w ((1 − t) σ(x) − r t σ(−x))."""
    x, t = np.asarray(logits, np.float64), np.asarray(target, np.float64)
    small = np.exp(-np.abs(x))
    right, left = np.where(x > 0, 1, small) / (1 + small), np.where(x > 0, small, 1) / (1 + small)
    return weighted(weight, weighted(1 - t, right) - weighted(pos_weight * t, left))
