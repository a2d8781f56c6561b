"""The row record: five numbers that say everything about a row of scores and its target, and how two records merge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crossent.arrays import log, namespace


@dataclass(frozen=True, slots=True)
class RowStats:
    """Statistics of rows of scores s and targets q, each (N,), relative to the row's peak.

    peak = max_v s_v, total = Σ e^(s−peak), target_score = Σ q (s−peak), mass = Σ q, tilt = Σ e^(s−peak) (s−peak).

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
        """Cross-entropy of target and softmax, mass · lse − Σ q s."""
        return self.mass * log(self.total) - self.target_score

    @property
    def entropy(self) -> Any:
        """Entropy of the softmax, −Σ p log p."""
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

        def shifted(part: RowStats) -> tuple[Any, Any, Any]:
            shift = part.peak - reference
            scale = xp.exp(shift)
            target_score = part.target_score + part.mass * xp.where(part.mass == 0, 0.0, shift)
            tilt = scale * (part.tilt + part.total * xp.where(scale == 0, 0.0, shift))
            return scale * part.total, target_score, tilt

        (total, target_score, tilt), (total_, target_score_, tilt_) = shifted(self), shifted(other)
        return RowStats(peak, total + total_, target_score + target_score_, self.mass + other.mass, tilt + tilt_)

    def coefficients(self, g_loss: Any, g_lse: Any = 0.0, g_entropy: Any = 0.0) -> tuple[Any, Any, Any]:
        """Return a, b, c of the row gradient phi'(z) (p (a + b log p) − c q).

        They follow from the cotangents of loss, lse and entropy.
        """
        return g_loss * self.mass + g_lse - g_entropy * self.entropy, -g_entropy, g_loss
