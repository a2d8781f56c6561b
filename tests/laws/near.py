"""Numbers with a bound on the error of whoever computes the same formula with roundings of a known size.

A `Near` is a float64 array and, for each of its entries, how far off a computation may be in which every operation
rounds once by the factor 1 ± u. The rules are those of a forward error analysis (Higham, Accuracy and Stability of
Numerical Algorithms, 2002, chapters 2 to 4):

    x + y     off x + off y + u |x + y|
    x · y     |x| off y + |y| off x + off x · off y + u |x y|
    x / y     (off x + |x / y| off y) / (|y| − off y) + u |x / y|
    Σ of n    Σ off + (n − 1) u Σ |x|, in any order
    e^x       e^x expm1(off x) + roundings of exp · u e^x
    log1p(x)  off x / (1 + x − off x) + roundings of log · u |log1p(x)|

so a bound is derived from the formula and never set by hand. 0 · (±∞) is 0, and neither an infinite value nor what is
made of one has an error.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

EXP, LOG = 2.5, 4.0
"""Roundings of exp and of log, 1.25 and 2 ulp: what `cpp/math.h` states and tests/conformance/test_math.py holds."""
TINY = {2.0**-24: 2.0**-126, 2.0**-53: 2.0**-1022}
"""Smallest normal number by the unit roundoff u; smaller results may vanish (docs/decisions/0004)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Near:
    """Values, how far off they may be, and the unit roundoff u of the arithmetic."""

    value: Any
    off: Any
    u: float

    @classmethod
    def of(cls, value: Any, off: Any, u: float) -> Near:
        """Return values with their errors; infinite values have none."""
        value, finite = np.asarray(value, np.float64), np.isfinite(value)
        return cls(value, off if finite.all() else np.where(finite, off, 0.0), u)

    @classmethod
    def exact(cls, value: Any, u: float) -> Near:
        """Return values without an error."""
        value = np.asarray(value, np.float64)
        return cls(value, np.zeros_like(value), u)

    def rounded(self, times: float = 1.0) -> Near:
        """Return the same after so many more roundings."""
        return Near.of(self.value, self.off + times * self.u * np.abs(self.value), self.u)

    def less_precise(self, off: Any) -> Near:
        """Return the same with an error added."""
        return Near.of(self.value, self.off + off, self.u)

    def __add__(self, other: Any) -> Near:
        y = self._near(other)
        value = self.value + y.value
        return Near.of(value, self.off + y.off + self.u * np.abs(value), self.u)

    def __sub__(self, other: Any) -> Near:
        return self + -self._near(other)

    def __neg__(self) -> Near:
        return Near(-self.value, self.off, self.u)

    def __mul__(self, other: Any) -> Near:
        x, y = self, self._near(other)
        value = product(x.value, y.value)
        off = product(np.abs(x.value), y.off) + product(np.abs(y.value), x.off) + product(x.off, y.off)
        off = off + self.u * np.abs(value) + TINY[self.u]
        if not (np.isfinite(x.value).all() and np.isfinite(y.value).all()):
            off = np.where(np.isinf(x.value) | np.isinf(y.value), 0.0, off)
        return Near.of(value, off, self.u)

    def __truediv__(self, other: Any) -> Near:
        y = self._near(other)
        value = self.value / y.value
        left = np.maximum(np.abs(y.value) - y.off, 0.0)
        return Near.of(value, (self.off + np.abs(value) * y.off) / left + self.u * np.abs(value), self.u)

    def __getitem__(self, at: Any) -> Near:
        return Near(self.value[at], self.off[at], self.u)

    def map(self, function: Any) -> Near:
        """Return the same with a function that only moves numbers applied to values and errors."""
        return Near(function(self.value), function(self.off), self.u)

    def sum(self, axis: int | None = None) -> Near:
        """Return the sum, added one by one."""
        n = self.value.size if axis is None else self.value.shape[axis]
        value, size = self.value.sum(axis), np.abs(self.value).sum(axis)
        return Near.of(value, self.off.sum(axis) + max(0, n - 1) * self.u * size, self.u)

    def exp(self) -> Near:
        """Return e^x for x ≤ 0: at most 1, however far off x may be."""
        value = np.exp(self.value)
        off = product(value, np.expm1(np.minimum(self.off, 700.0)) + EXP * self.u) + TINY[self.u]
        return Near.of(value, np.minimum(off, 1.0), self.u)

    def log1p(self) -> Near:
        """Return log(1 + x) for x ≥ 0."""
        value = np.log1p(self.value)
        off = self.off / np.maximum(1.0 + self.value - self.off, 1e-300)
        return Near.of(value, off + LOG * self.u * np.abs(value), self.u)

    def where(self, condition: Any, other: Any = 0.0) -> Near:
        """Return this where the condition holds, and elsewhere the other."""
        y = self._near(other)
        return Near(np.where(condition, self.value, y.value), np.where(condition, self.off, y.off), self.u)

    def _near(self, other: Any) -> Near:
        return other if isinstance(other, Near) else Near.exact(other, self.u)


def product(x: Any, y: Any) -> Any:
    """Return x · y, and 0 where either is 0."""
    found = np.asarray(x * y)
    return np.where((x == 0) | (y == 0), 0.0, found) if np.isnan(found).any() else found
