"""The row record: five numbers that summarise a row of scores and its target, and the merge of two records."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from crossent.arrays import log, namespace, weighted
from crossent.spec import Scores

# A new row statistic is a field of `RowStats`, the last, with its line in `merge` and a property for its use
# for; its formula in `reference.row_stats`, its bound in `tests/oracle.py`, its values in `tests/test_stats.py` and
# `tests/test_reference.py`; in the core the places that `cpp/record.h` lists, and for GPUs `kernels/triton/record.py`.
# Code that allocates or copies records takes their number from `FIELDS`. In every backend the record of an ignored row
# is peak 0, total 1 and zeros, a new field included.


@dataclass(frozen=True, slots=True)
class RowStats:
    """Statistics of rows of scores s, with softmax q, and of their targets p, each (N,), relative to the row's peak.

    peak = max_v s_v, total = Σ e^(s−peak), target_score = Σ p (s−peak), mass = Σ p, tilt = Σ e^(s−peak) (s−peak).

    The fields are arrays of NumPy, torch or JAX; every derived quantity is an array of the same kind, in nats.
    The record of no columns is peak = −inf and zeros; `merge` with it changes nothing.
    """

    peak: Any
    total: Any
    target_score: Any
    mass: Any
    tilt: Any

    @property
    def lse(self) -> Any:
        """Log of the normaliser, log Σ e^s."""
        return self.peak + log(self.total)

    @property
    def loss(self) -> Any:
        """Cross-entropy of target and softmax, mass · lse − Σ p s; 0 for a target without mass, for any scores."""
        xp = namespace(self.mass)
        return self.mass * log(xp.where(self.mass == 0, 1.0, self.total)) - self.target_score

    @property
    def entropy(self) -> Any:
        """Entropy of the softmax, −Σ q log q."""
        return log(self.total) - self.tilt / self.total

    @property
    def confidence(self) -> Any:
        """Probability of the most probable class."""
        return 1.0 / self.total

    def merge(self, other: RowStats) -> RowStats:
        """Return the record of the union of two disjoint sets of columns.

        Both records shift to the larger peak and add; a set whose peak is −inf weighs nothing.
        """
        xp = namespace(self.peak)
        peak = xp.maximum(self.peak, other.peak)
        reference = xp.where(xp.isinf(peak) & (peak < 0), 0.0, peak)
        mine, its = self._relative_to(reference), other._relative_to(reference)
        return RowStats(
            peak=peak,
            total=mine.total + its.total,
            target_score=mine.target_score + its.target_score,
            mass=mine.mass + its.mass,
            tilt=mine.tilt + its.tilt,
        )

    def _relative_to(self, peak: Any) -> RowStats:
        """Return the record with every sum relative to another, finite peak."""
        xp = namespace(self.peak)
        shift = self.peak - peak
        scale = xp.exp(shift)
        return RowStats(
            peak=peak,
            total=scale * self.total,
            target_score=self.target_score + self.mass * xp.where(self.mass == 0, 0.0, shift),
            mass=self.mass,
            tilt=scale * (self.tilt + self.total * xp.where(scale == 0, 0.0, shift)),
        )

    def coefficients(self, g_loss: Any, g_lse: Any = 0.0, g_entropy: Any = 0.0) -> Coefficients:
        """Return a, b, c of the row gradient phi'(z) (q (a + b log q) − c p).

        They follow from the cotangents of loss, lse and entropy. The loss of a target without mass has no gradient, for
        any values of the row.
        """
        xp = namespace(self.mass)
        finite = xp.isfinite(self.peak + self.total + g_loss)
        g_loss = xp.where((self.mass == 0) & (self.target_score == 0) & ~finite, 0.0, g_loss)
        a = weighted(g_loss, self.mass) + g_lse - weighted(g_entropy, self.entropy)
        return Coefficients(a, -g_entropy, g_loss)


FIELDS = tuple(field.name for field in fields(RowStats))
"""Names of the record's fields, in the order of its rows wherever it is one array (5, N)."""


PAIR_SUMS = 4
"""Sums of a row and its teacher's: KL(p‖q), KL(q‖p), KL(p‖m) and KL(q‖m), m = β p + (1 − β) q, in that order."""


class Cotangents(NamedTuple):
    """Derivatives (N,) of a result with respect to loss, lse and entropy of each row; None is zero."""

    loss: Any = None
    lse: Any = None
    entropy: Any = None


class Teacher(NamedTuple):
    """A second model of the same rows and classes: its distribution p = softmax(t), to compare with the student's q."""

    logits: Any
    """(N, V) or (outer, V, inner), as the student's; dtype and strides may be others."""
    scores: Scores
    record: Any
    """(5, N) float64, `FIELDS`: its record over all columns."""


class PairCotangents(NamedTuple):
    """Derivatives (N,) of a result with respect to the pair terms of rows; None is zero."""

    loss: Any = None
    lse: Any = None
    entropy: Any = None
    kl: Any = None
    """Of KL(p‖q)."""
    reverse_kl: Any = None
    """Of KL(q‖p)."""
    js: Any = None
    """Of β KL(p‖m) + (1 − β) KL(q‖m), m = β p + (1 − β) q."""


class Coefficients(NamedTuple):
    """Coefficients (N,) of the row gradient phi'(z) (q (a + b log q) − c p)."""

    a: Any
    b: Any
    c: Any
