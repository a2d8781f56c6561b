"""Predictions that are too sure by a known temperature, and slow exact answers to what a fit finds."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax


class Drawn(NamedTuple):
    """Logits (N, V), true classes (N,) drawn from softmax(logits / T), and weights (N,)."""

    logits: Any
    label: Any
    weight: Any


def drawn(n: int, columns: int, temperature: float = 1.7, *, seed: int = 0, dtype: Any = np.float64) -> Drawn:
    rng = np.random.default_rng(seed)
    logits = (3.0 * rng.normal(size=(n, columns))).astype(dtype)
    label = (logits / temperature + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return Drawn(logits, label, rng.exponential(size=n))


def slope(logits: Any, label: Any, weight: Any, beta: float) -> float:
    """Return d/dβ of Σ w loss, from the whole softmax in float64."""
    z = np.asarray(logits, np.float64)
    finite = np.where(np.isneginf(z), 0.0, z)
    expected = (softmax(beta * z, axis=1) * finite).sum(axis=1)
    return float(weight @ (expected - z[np.arange(len(z)), label]))


def best_temperature(logits: Any, label: Any, weight: Any = None) -> float:
    """Return the temperature where the slope is 0, by bisection."""
    w = np.ones(len(label)) if weight is None else np.asarray(weight)
    beta: Any = brentq(lambda b: slope(logits, label, w, b), 1e-6, 1e6, xtol=1e-16, rtol=1e-14)
    return 1.0 / float(beta)


def loss(logits: Any, label: Any, weight: Any = None) -> float:
    """Return the mean loss by scipy's log_softmax."""
    rows = -log_softmax(np.asarray(logits, np.float64), axis=1)[np.arange(len(label)), label]
    return float(np.average(rows, weights=weight))
