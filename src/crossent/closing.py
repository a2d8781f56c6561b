"""Closings: functions of vectors (N,) that turn row losses into one loss.

They are plain arithmetic, so they work on arrays of NumPy, torch and JAX alike, and each framework differentiates them.
"""

from __future__ import annotations

from typing import Any, Literal

from crossent.arrays import namespace, total
from crossent.numbers import shown

Reduction = Literal["none", "mean", "sum"]


def check_reduction(reduction: str) -> None:
    """Raise ValueError unless reduction is "none", "mean" or "sum", as torch has them."""
    if not isinstance(reduction, str) or reduction not in ("none", "mean", "sum"):  # pyright: ignore
        raise ValueError(f"{shown(reduction)} is not a valid value for reduction; use 'mean', 'sum' or 'none'")


def reduce(loss: Any, reduction: Reduction, *, sample_weight: Any = None, row_weight: Any = None) -> Any:
    """Return the sample-weighted losses of rows, their sum, or their mean.

    For losses l (N,), sample weights s and row weights r: "none" is s l, "sum" is Σ s l, "mean" is Σ s l / Σ s r. A
    row weight is the class weight of the row's label, and 0 for an ignored row. Weights of None are 1. A mean over
    nothing is NaN, as in torch. A sample weight of 0 removes its row, even if the loss is infinite or NaN.
    """
    weighted = loss if sample_weight is None else without_removed(loss, sample_weight) * sample_weight
    if reduction == "none":
        return weighted
    if reduction == "sum":
        return total(weighted)
    if row_weight is None and sample_weight is None:
        return total(weighted) / weighted.shape[0] if weighted.shape[0] else weighted.mean()
    counts: Any = sample_weight if row_weight is None else row_weight
    if row_weight is not None and sample_weight is not None:
        counts = row_weight * sample_weight
    return total(weighted) / total(counts)


def without_removed(loss: Any, sample_weight: Any) -> Any:
    """Return the losses with 0 for one that is infinite or NaN and has the weight 0; derivatives do not meet it."""
    xp = namespace(loss)
    return xp.where((sample_weight == 0) & ~xp.isfinite(loss), 0.0, loss)


def z_loss(lse: Any, strength: float) -> Any:
    """Return the penalty strength · lse² of each row (PaLM, https://arxiv.org/abs/2204.02311, section 5)."""
    return strength * lse * lse


def focal(loss: Any, gamma: float) -> Any:
    """Return the focal loss (1 − q)^gamma · l of each row, for a loss l = −log q (https://arxiv.org/abs/1708.02002)."""
    return (-namespace(loss).expm1(-loss)) ** gamma * loss
