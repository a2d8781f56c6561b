"""Closings: everything that happens to a loss after its rows, as pure functions of (N,) vectors.

They are plain arithmetic, so they work on NumPy, torch and JAX arrays alike and each framework differentiates them.
"""

from __future__ import annotations

from typing import Any, Literal

from crossent.arrays import namespace, total

Reduction = Literal["none", "mean", "sum"]


def check_reduction(reduction: str) -> None:
    """Raise ValueError unless reduction is one of torch's three."""
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction!r} is not a valid value for reduction; use 'mean', 'sum' or 'none'")


def reduce(loss: Any, reduction: Reduction, *, sample_weight: Any = None, row_weight: Any = None) -> Any:
    """Reduce row losses l: none → s l, sum → Σ s l, mean → Σ s l / Σ s r.

    s is `sample_weight` and r is `row_weight`, what a row counts for in the mean (the class weight of its label, 0 for
    an ignored row); each is 1 where not given. A mean over nothing is NaN, as in torch.
    """
    weighted = loss if sample_weight is None else loss * sample_weight
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


def z_loss(lse: Any, strength: float) -> Any:
    """Penalty strength · lse² on the log-normaliser of each row (PaLM, https://arxiv.org/abs/2204.02311, section 5)."""
    return strength * lse * lse


def focal(loss: Any, gamma: float) -> Any:
    """Focal loss (1 − e^(−l))^gamma · l of a row loss l = −log p (https://arxiv.org/abs/1708.02002)."""
    return (-namespace(loss).expm1(-loss)) ** gamma * loss
