"""What the losses of the soak must be, by formulas written here in NumPy float64, and how far off each may be.

Nothing of crossent is used. Every result is a `Near`, so that its bound follows from the formula. Where the arithmetic
of the library has more roundings than the formula, or fewer, this module says so:

* scores without a softcap are (z − peak) · (1 / T), three roundings; with one, the argument of tanh has three, tanh is
  off by 3.5 ulp (7 u), its slope by 6 ulp (12 u), and two products follow;
* the sum of exponentials counts its peak as exactly 1 in float64, so log(total) of a confident row is off by 2⁻⁵² at
  least (the declared floor of 10⁻¹⁶), and else by the relative error of the others alone;
* target measures have four roundings: of 1 − ε times the class weight, its product with the probability, the share of
  the smoothing, and their sum;
* in float64 nothing wider holds the record, so scores are z / T less peak / T there, each of them rounded;
* the gradient of a class that the target names is (q − 1) a + (a − c p) + q b log q in float64, with q as (q − 1) + 1,
  so off by a few 2⁻⁵³ (|a| + |c p| + |b log q|);
  of a plain class index without weights, smoothing and entropy it is g · expm1(−loss), as precise as the loss;
* logits of a linear layer are sums of D products and a bias, off by (D + 2) u Σ |x| |w|, whatever their order; where
  bfloat16 is multiplied natively, gradients of logits are rounded to it first;
* the gradient with respect to probabilities is made in torch operations: scores are rounded before the peak is
  subtracted, and the sum of exponentials is a plain one;
* a gradient is rounded to the dtype of its operand once for each of its three parts (loss, lse and entropy, logprob),
  once more where parts are added, and once more where a backward scales what the forward found.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from tests.laws.near import LOG, TINY, Near, product

TANH, TANH_SLOPE = 7.0, 12.0
PROBABILITY = 4.0
TORCH = 8.0
"""Roundings of a transcendental function of torch, 4 ulp: SLEEF states 1, and its logsigmoid uses two of them."""


class Precision(NamedTuple):
    """What rounding to a dtype costs: half a unit in the last place of 1, half the smallest number; and its largest."""

    half_ulp: float
    least: float
    most: float


@dataclasses.dataclass(frozen=True)
class Softmax:
    """Rows of logits: statistics of the scores, their target measure, and the class weights and smoothing in it."""

    z: Near
    d: Near
    lse: Near
    log_total: Near
    q: Near
    slope: Near
    spread: Any
    """How far the scores themselves may be off in torch operations."""
    u: float

    @classmethod
    def of(cls, z: Near, temperature: Any, softcap: float | None) -> Softmax:
        """Return the statistics of the scores of logits (N, V), for one temperature or those of the rows (N, 1)."""
        u, rows = z.u, np.arange(len(z.value))
        if softcap is None:
            inner, slope = z, Near.exact(np.full(z.value.shape, 1.0 / temperature), u).rounded(2)
        else:
            inner, slope = _capped(z, temperature, softcap)
        top = inner.value.argmax(1)
        peak = Near.of(inner.value[rows, top], inner.off.max(1), u)
        d = inner - peak[:, None]
        d = Near.of(np.where(inner.value == peak.value[:, None], 0.0, d.value), d.off, u)
        if softcap is None:
            of_row = np.reshape(temperature, -1)
            d, peak = d.map(lambda x: x / temperature).rounded(2), peak.map(lambda x: x / of_row).rounded(2)
            if u < 2.0**-50 and np.any(of_row != 1):
                d = d.less_precise(2 * u * (np.abs(d.value) + 2 * np.abs(peak.value[:, None])))
        e = d.exp()
        others = np.ones(z.value.shape, bool)
        others[rows, top] = False
        rest = e.where(others)
        total = rest.sum(1).less_precise(2.0 * (z.value.shape[1] - 1) * u * rest.value.sum(1) + 2.0**-52)
        log_total = total.log1p()
        q = e / (total + 1.0)[:, None]
        spread = u * (np.abs(d.value) + 2.0 * np.abs(peak.value[:, None])) + d.off
        return cls(z, d, peak + log_total, log_total, q, slope, np.where(np.isfinite(d.value), spread, 0.0), u)

    @property
    def logq(self) -> Near:
        """Log of the prediction."""
        return self.d - self.log_total[:, None]

    @property
    def entropy(self) -> Near:
        """Entropy of the prediction: both terms are never negative."""
        return self.log_total + (self.q * -self.d).sum(1)

    def loss(self, p: Near) -> Near:
        """Return Σ p · log total − Σ p d for a measure p."""
        return p.sum(1) * self.log_total + (p * -self.d).sum(1)

    def gradient(self, p: Near, g: tuple[Near, Near, Near], named: Any, plain: Any = None) -> Near:
        """Return the gradient by the logits for cotangents of loss, lse and entropy of each row.

        `named` (N, V) are the classes that the target names by index; `plain` (N,) are labels without weights and
        smoothing.
        """
        g_loss, g_lse, g_entropy = g
        a = g_loss * p.sum(1) + g_lse - g_entropy * self.entropy
        inner = self.q * (a[:, None] - g_entropy[:, None] * self.logq) - g_loss[:, None] * p
        if plain is not None:  # the labels (N,): q a − c is a (q − 1) + (a − c), in float64
            rows = np.arange(len(plain))
            loss = -self.logq[rows, plain]
            minus = Near.of(np.expm1(-loss.value), np.exp(-loss.value) * np.expm1(np.minimum(loss.off, 700)), self.u)
            exact = g_loss * minus.rounded() + g_lse * (minus + 1.0)
            value, off = inner.value.copy(), inner.off.copy()
            value[rows, plain], off[rows, plain] = exact.value, exact.off
            inner = Near(value, off, self.u)
        size = np.abs(a.value)[:, None] + np.abs(g_loss.value[:, None] * p.value)
        size = size + np.abs(product(g_entropy.value[:, None], 1 + np.abs(self.logq.value)))
        inner = inner.less_precise(np.where(named, 2.0**-51 * size, 0.0))
        unused = (g_loss.value == 0) & (g_lse.value == 0) & (g_entropy.value == 0)
        # e^d is 0 where its product with |a| + |b|, rounded down to a power of two, would be below the normal numbers
        log = np.where(g_entropy.value[:, None] != 0, np.minimum(-self.logq.value, 1100), 0.0)
        vanishing = 2 * (1 + np.abs(a.value)[:, None] + (1 + np.abs(g_entropy.value[:, None])) * log)
        size = TINY[self.u] * vanishing * (2 + np.abs(self.slope.value))
        return (self.slope * inner).less_precise(size).where(~unused[:, None])

    def cost(self) -> Near:
        """Return log total − d of each class, as torch operations make it."""
        n, u = self.d.value.shape[1], self.u
        off = np.log((self.q.value * np.exp(np.minimum(self.spread, 700))).sum(1)) + (n + TORCH) * u
        log_total = Near.of(self.log_total.value, off + TORCH * u * self.log_total.value, u)
        return log_total[:, None] - self.d.less_precise(self.spread)


def _capped(z: Near, temperature: Any, softcap: float) -> tuple[Near, Near]:
    """Return scores softcap · tanh(z / (T · softcap)) and their slope."""
    u, y = z.u, z.value / (temperature * softcap)
    off_y = z.off / (temperature * softcap) + np.where(np.isfinite(y), 3 * u * np.abs(y), 0.0)
    tanh, small = np.tanh(y), np.exp(-2 * np.abs(y))
    slope = 4 * small / (1 + small) ** 2 / temperature
    flat = np.minimum(np.abs(tanh) * 3 * u + z.off / (temperature * softcap), off_y)
    s = Near.of(softcap * tanh, softcap * (flat + (TANH + 3) * u * np.abs(tanh)), u)
    off = slope * (np.expm1(2 * np.minimum(off_y, 300)) + (TANH_SLOPE + 4) * u) + 8 * TINY[u] / temperature
    return s, Near.of(slope, off, u)


def measure(base: Any, weight: Any, smoothing: float, u: float, wide: bool) -> Near:
    """Return p = weight · ((1 − ε) base + ε / V); a weight of 0 removes what it multiplies."""
    p = (1 - smoothing) * base + smoothing / max(1, base.shape[1])
    p = p if weight is None else np.where(weight == 0, 0.0, p * weight)
    return Near.exact(p, u).rounded(PROBABILITY + wide)


@dataclasses.dataclass(frozen=True)
class Closing:
    """A reduction with its weights: what is made of the losses of rows and of their lse."""

    reduction: str
    z_loss: float
    samples: Any
    counts: Any
    """Weight of each row in the mean of the losses."""
    valid: Any
    massive: Any
    """Which rows have a target measure that is not 0: the others have no part in their mean, were it 0 / 0."""
    learned: bool
    """Whether the sample weights want a gradient."""

    @property
    def undefined(self) -> bool:
        """Whether this is a mean over weights that add up to 0, of rows that cost something or by learned weights."""
        s = np.ones(len(self.valid)) if self.samples is None else self.samples
        cost = bool((self.valid & self.massive & (s != 0)).any()) or self.learned
        return self.reduction == "mean" and cost and not (s * self.counts).any()

    def _reduced(self, rows: Near, counts: Any) -> Near:
        weighted = rows if self.samples is None else (rows.rounded() * self.samples).where(self.samples != 0)
        if self.reduction == "none":
            return weighted.rounded()
        return weighted.sum() if self.reduction == "sum" else weighted.sum() / self._normaliser(counts, rows.u)

    def _normaliser(self, counts: Any, u: float) -> Near:
        s = np.ones(len(counts)) if self.samples is None else self.samples
        return (Near.exact(s, u) * counts).sum()

    def loss(self, losses: Near, lse: Near) -> Near:
        """Return the loss of the call."""
        loss = self._reduced(losses.where(self.valid), self.counts)
        if self.z_loss == 0:
            return loss
        return loss + self._reduced((lse * lse * self.z_loss).rounded().where(self.valid), 1.0 * self.valid)

    def shares(self, g: Any, lse: Near) -> tuple[Near, Near]:
        """Return the cotangents of each row's loss and lse for the cotangent of the call's loss."""
        u, n = lse.u, len(self.valid)
        s = np.ones(n) if self.samples is None else self.samples
        each = Near.exact(np.broadcast_to(g, (n,)) * s * self.valid, u).rounded(2)
        of_loss = of_lse = each
        if self.reduction == "mean":
            of_loss, of_lse = each / self._normaliser(self.counts, u), each / self._normaliser(1.0 * self.valid, u)
        counted = self.massive | (self.reduction != "mean") | bool((s * self.counts).any())
        of_loss, of_lse = of_loss.where((each.value != 0) & counted), of_lse.where(each.value != 0)
        return of_loss, of_lse * lse * (2 * self.z_loss)

    def by_samples(self, g: Any, losses: Near, lse: Near) -> Near:
        """Return the gradient by the sample weights."""
        parts = [(losses, self.counts)]
        if self.z_loss != 0:
            parts.append((lse * lse * self.z_loss, 1.0 * self.valid))
        found = Near.exact(np.zeros(len(self.valid)), losses.u)
        for rows, counts in parts:
            part = rows.where(self.valid)
            if self.reduction == "mean":
                normaliser, mean = self._normaliser(counts, losses.u), self._reduced(part, counts)
                part = (part / normaliser).rounded() - mean * counts / normaliser
            found += (part * g).rounded()
        return found.rounded(2)


def close(parts: list[Near], precision: Precision) -> Near:
    """Return the sum of the parts of a gradient that are each rounded to a dtype.

    A part may be rounded twice, by the forward that found it and by the backward that scaled it. Where parts, which are
    added in any order, may reach beyond the largest number of the dtype, the sum may be anything.
    """
    value = np.zeros_like(parts[0].value)
    off, reach = np.zeros_like(value), np.zeros_like(value)
    for part in parts:
        value = value + part.value
        off = off + part.off + precision.half_ulp * (2 * np.abs(part.value) + np.abs(value)) + 3 * precision.least
        reach = reach + np.abs(part.value) + part.off
    beyond = np.isfinite(reach) & (reach > precision.most)
    return Near.of(value, np.where(beyond & (len(parts) > 1), np.inf, off), parts[0].u)


@dataclasses.dataclass(frozen=True)
class Binary:
    """Elements of a binary loss: what a target of one and of zero cost, and the derivatives of both by the input."""

    of_one: Near
    of_zero: Near
    slope_one: Near
    slope_zero: Near

    @classmethod
    def of_logits(cls, x: Any, pos_weight: Any, u: float) -> Binary:
        """Return softplus(−x), times the positive weight, and softplus(x)."""
        small = np.exp(-np.abs(x))
        tail = Near.of(small, 2.5 * u * small + TINY[u], u).log1p()
        right, left = np.where(x > 0, 1.0, small) / (1 + small), np.where(x > 0, small, 1.0) / (1 + small)
        one = (tail + np.maximum(-x, 0)) * pos_weight
        slopes = [Near.exact(y, u).rounded(2.5 + 3).less_precise(TINY[u]) for y in (left, right)]
        return cls(one, tail + np.maximum(x, 0), -slopes[0] * pos_weight, slopes[1])

    @classmethod
    def of_probabilities(cls, q: Any, u: float) -> Binary:
        """Return −log q and −log(1 − q)."""
        costs = [Near.exact(y, u).rounded(LOG) for y in (-np.log(q), -np.log1p(-q))]
        slopes = [Near.exact(y, u).rounded(2) for y in (-1 / q, 1 / (1 - q))]
        return cls(*costs, *slopes)

    def _mixed(self, t: Any, weight: Any, one: Near, zero: Near) -> Near:
        u = one.u
        left = Near.of(1 - t, u * np.abs(t) + u * np.abs(1 - t), u)  # t is rounded to the arithmetic before
        both = one * Near.exact(t, u).rounded() + zero * left.where(t != 1)
        return (both * Near.exact(weight, u).rounded()).where(weight != 0)

    def loss(self, t: Any, weight: Any) -> Near:
        """Return the loss of each element."""
        return self._mixed(t, weight, self.of_one, self.of_zero)

    def gradient(self, t: Any, weight: Any, g: Any) -> Near:
        """Return the derivative by the input."""
        return self._mixed(t, weight, self.slope_one, self.slope_zero) * g

    def by_target(self, weight: Any, g: Any) -> Near:
        """Return the derivative by the target, in which the loss is linear."""
        u = self.of_one.u
        each = self.of_one.rounded(TORCH) - self.of_zero.rounded(TORCH)
        return ((each * Near.exact(weight, u).rounded()).where(weight != 0) * g).rounded(2)
