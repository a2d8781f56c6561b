"""What a score must be, computed another way: in mpmath, NumPy or scipy, from formulas, with every row at hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import mpmath
import numpy as np
from scipy.optimize import brentq
from scipy.special import log_softmax
from scipy.stats import t as student

import crossent


def exact_mean(probabilities: Any, weight: Any = None) -> float:
    """−Σ w log p / Σ w to 60 digits."""
    values = [float(p) for p in probabilities]
    weights = [1.0] * len(values) if weight is None else [float(w) for w in weight]
    with mpmath.workdps(60):
        total = mpmath.fsum(-mpmath.mpf(w) * mpmath.log(mpmath.mpf(p)) for p, w in zip(values, weights, strict=True))
        return float(total / mpmath.fsum(map(mpmath.mpf, weights)))


def softmax(logits: Any) -> Any:
    return np.exp(log_softmax(np.asarray(logits, np.float64), axis=-1))


def losses(y: Any, probs: Any) -> Any:
    """Loss of each row of probabilities; a single column is that of class 1."""
    p = np.asarray(probs, np.float64)
    label = np.asarray(y, np.int64)
    if p.ndim == 1:
        return np.where(label == 1, -np.log(p), -np.log1p(-p))
    return -np.log(p[np.arange(label.size), label])


@dataclasses.dataclass
class Moments:
    """Mean, standard error and skewness of the residuals of independent parts; how they go with weights, and how many
    equal parts would be as good.
    """

    mean: float
    se: float
    skew: float
    n: int
    lean: float
    even: float

    @classmethod
    def of(cls, loss: Any, weight: Any = None, cluster: Any = None, *, size: Any = None) -> Moments:
        """Of Σ a / Σ b over parts with the totals a = Σ w l and b = Σ w, by linearisation; `size` instead of w says how
        unequal parts are.
        """
        w = np.ones(len(loss)) if weight is None else np.asarray(weight, np.float64)
        size = w if size is None else size
        mean = math.fsum(w * loss) / math.fsum(w)
        residual = w * (loss - mean)
        if cluster is not None:
            _, place = np.unique(np.asarray(cluster), return_inverse=True)
            residual, w, size = (np.bincount(place, part) for part in (residual, w, size))
        n = residual.size
        second, third = math.fsum(residual**2) / n, math.fsum(residual**3) / n
        se = math.sqrt(second * n * n / (n - 1)) / math.fsum(w) if n > 1 else math.nan
        lean = math.fsum(residual * w) / math.fsum(w) / math.sqrt(second * n) if second else 0.0
        even = math.fsum(size**2) ** 2 / math.fsum(size**4)
        return cls(mean, se, third / second**1.5 if second else 0.0, n, lean, even)

    def hall(self, level: float = 0.95) -> tuple[float, float]:
        """The ratios t at which the bent ratio of docs/intervals.md is ± Student's quantile, by bisection."""
        z = student.ppf(0.5 + level / 2, self.even - 1)
        k = self.skew / math.sqrt(self.n)
        a = k / 3 - self.lean

        def bent(t: float) -> float:
            if a * t <= 0:
                return t + a * t**2 + a**2 * t**3 / 3 + k / 6
            s = -math.log(1 - 3 * a * t) / (3 * a)
            return s - a / 2 * s**2 + a**2 / 12 * s**3 + k / 6

        def where(x: float) -> float:
            ends = [-1e4, 1e4]
            if a != 0:  # the logarithm ends at 1 / 3a
                ends[a > 0] = (1 - 1e-15) / (3 * a)
            return brentq(lambda t: bent(t) - x, *ends, xtol=1e-15, rtol=8.9e-16)

        return self.mean - self.se * where(z), self.mean - self.se * where(-z)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every number and name of a score's dictionary by its path."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{path}.{key}").items()}
    if isinstance(value, list):
        return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{path}[{i}]").items()}
    return {path: value}


# differences of sums, and (value) the place of a minimum, which is as sure as its valley is steep
SPREADS = ("ci", "se", "skill_ci", "bits_ci", "perplexity_ci", "low", "high", "value")


def assert_same(a: crossent.Score, b: crossent.Score, *, rel: float = 1e-13, rough: float = 1e-9) -> None:
    """Every field of two scores is the same; the error is relative to numbers above 1, absolute below.

    Spreads of a few nearly equal losses are small differences of moments, which may lose half of their digits: `rough`.
    """
    left, right = flat(a.to_dict()), flat(b.to_dict())
    assert left.keys() == right.keys(), sorted(left.keys() ^ right.keys())
    for path, value in left.items():
        other = right[path]
        if isinstance(value, float) and isinstance(other, float):
            bound = max(rel, rough) if rel and path.split(".")[-1].split("[")[0] in SPREADS else rel
            assert abs(value - other) <= bound * max(1.0, abs(value), abs(other)), (path, value, other)
        else:
            assert value == other, (path, value, other)


def made(seed: int, n: int, classes: int, spread: float = 1.5) -> tuple[Any, Any]:
    """Labels drawn from the softmax of logits that are somewhat too confident."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * spread
    p = softmax(logits / 1.3)
    y = (p.cumsum(1) > rng.random((n, 1))).argmax(1)
    return y, logits


def model(classes: int = 4, n: int = 500, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Labels, probabilities, weights and clusters of n rows."""
    y, z = made(seed, n, classes)
    rng = np.random.default_rng(seed + 1)
    return y, softmax(z), rng.gamma(1.0, size=n) + 0.01, rng.integers(0, n // 10, size=n)


def near(a: Any, b: Any, rel: float = 1e-11) -> None:
    assert np.allclose(a, b, rtol=rel, atol=rel), (a, b)


def close(value: Any, expected: Any, rel: float = 1e-13) -> None:
    assert abs(value - expected) <= rel * max(abs(expected), 1.0), (value, expected)
