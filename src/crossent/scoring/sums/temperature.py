"""Whether one temperature would cut the loss: the loss of softmax(z / T) and its slope at a few T, from enough rows.

The loss is convex in β = 1 / T (Guo et al. 2017, https://arxiv.org/abs/1706.04599). Its values and slopes at powers of
two fix a polynomial around the least one, whose minimum is the best T to about three digits. There is no minimum where
the loss still rises with β at 0 (on average, the logit of the true class is not above the mean of its row) or still
falls as β grows without bound (in every row the true class is the most probable one); then the reason is kept. Of many
rows a sample is enough: the rows whose hash, of their number and of the largest probability, has enough leading zeros.
How many zeros are enough follows from the number of rows, so that the sample does not depend on blocks.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from crossent.scoring.input.batch import Batch
from crossent.scoring.parts import Temperature
from crossent.scoring.sums.costs import row_losses
from crossent.scoring.sums.counted import CountedRows
from crossent.scoring.sums.totals import Sum

GRID = 2.0 ** np.arange(-4, 5)
FLAT = 2.0**49
"""A T at which all classes are equally probable."""
LEVELS = 48
ELEMENTS, ROWS = 1 << 18, 1024
"""How many logits are enough, and how many rows if a row has very many."""
_EQUAL = 1e-12
_CHANCE = 3.841458820694124  # χ² with one degree of freedom exceeds it in 5 % of samples


class Fitted(NamedTuple):
    """The best temperature, or the reason why there is none."""

    temperature: Temperature | None
    reason: str | None = None


class Temperatures:
    """Loss and slope at every T of the grid, by the level of the rows: how many leading zeros they have.

    `beaten` counts the rows in which another class is more probable than the true one.
    """

    def __init__(self) -> None:
        self.seen = 0
        self.level = 0
        self.rows: Any = np.zeros(LEVELS, np.int64)
        self.beaten: Any = np.zeros(LEVELS, np.int64)
        self.weight = Sum(LEVELS)
        self.sums = Sum(2, len(GRID) + 1, LEVELS)

    def expect(self, rows: int, columns: int) -> None:
        """Choose the level for this many more rows."""
        self.seen += rows
        enough = max(ROWS, ELEMENTS // columns)
        while self.seen >> self.level > enough and self.level < LEVELS - 1:
            self.level += 1

    def add(self, rows: CountedRows) -> None:
        """Add rows of a batch."""
        batch = rows.batch
        hashed = _hash(rows.numbers.astype(np.uint64), rows.costs.confidence)
        picked = (hashed < np.uint64(2**64 - 1 >> self.level)) & np.isfinite(rows.costs.loss)
        if not picked.any():
            return
        places = rows.places[picked]
        level = np.clip(64 - np.frexp(hashed[picked].astype(np.float64))[1], 0, LEVELS - 1)
        weight = np.ones(len(places)) if rows.weight is None else rows.weight[picked]
        step = max(1, ELEMENTS // (2 if batch.binary else batch.values.shape[1]))
        found = np.concatenate([_losses(batch, places[k : k + step]) for k in range(0, len(places), step)], axis=2)
        sums = np.stack([np.bincount(level, weight * part, LEVELS) for part in found.reshape(-1, len(places))])
        self.sums.add(sums.reshape(2, len(GRID) + 1, LEVELS))
        self.weight.add(np.bincount(level, weight, LEVELS))
        self.rows = self.rows + np.bincount(level, minlength=LEVELS)
        less = rows.costs.probability[picked] < (1.0 - _EQUAL) * rows.costs.confidence[picked]
        beaten = less & ~rows.right[picked]
        self.beaten = self.beaten + np.bincount(level[beaten], minlength=LEVELS)

    def merge(self, other: Temperatures, columns: int) -> None:
        """Add the sums of other rows."""
        self.expect(other.seen, columns)
        self.rows, self.beaten = self.rows + other.rows, self.beaten + other.beaten
        self.weight.merge(other.weight)
        self.sums.merge(other.sums)

    def best(self) -> Fitted:
        """Return the best temperature, or why none can be named."""
        rows, weight = int(self.rows[self.level :].sum()), float(self.weight.value[self.level :].sum())
        if weight == 0:
            return Fitted(None, "there is no best temperature: none makes an infinite loss finite")
        losses, slopes = self.sums.value[..., self.level :].sum(axis=-1) / weight
        if not np.isfinite(losses).all():
            return Fitted(None, "there is no best temperature: the logits are too far apart")
        flat, losses = float(losses[-1]), losses[:-1]
        slopes = -slopes / np.append(GRID, FLAT)  # by log T: dβ = −dT / T²
        now = float(losses[len(GRID) // 2])
        if max(abs(losses - now)) <= _EQUAL * now:
            return Fitted(None, "there is no best temperature: none changes the loss")
        if slopes[-1] <= 0 and now - flat > _EQUAL * now:
            return Fitted(
                None,
                "there is no best temperature: the true classes have logits no higher than the average of their rows, "
                "so every "
                "larger T lowers the loss, until all classes are equally probable. Are the classes in the order "
                f"of the columns?{_few(rows, now - flat)}",
            )
        if not self.beaten[self.level :].any():
            return Fitted(
                None,
                f"there is no best temperature: in all {rows} rows the true class is the most probable one, so every "
                f"smaller T lowers the loss further, towards 0.{_few(rows, now)}",
            )
        least = _minimum(np.log(GRID), losses, slopes[:-1])
        gain = now - least.value
        helps = gain > 0.01 * now and not _by_chance(rows, gain)
        return Fitted(Temperature(math.exp(least.place), now, least.value, rows, helps))


def _by_chance(rows: int, gain: float) -> bool:
    """Return whether a likelihood-ratio test takes a gain for chance."""
    return 2.0 * rows * gain <= _CHANCE


def _few(rows: int, gain: float) -> str:
    """Return a sentence about rows that are too few for a gain to be more than chance, else nothing."""
    return " But these are too few rows to tell." if _by_chance(rows, gain) else ""


class _Minimum(NamedTuple):
    """Place and value of the minimum of a function."""

    place: float
    value: float


def _losses(batch: Batch, places: Any) -> Any:
    """Return loss and slope of some rows at every T, the flat one last, (2, T, rows)."""
    logits, label = _logits(batch, places), batch.label[places]
    return np.stack([row_losses(logits, label, t) for t in (*GRID, FLAT)], axis=1)


def _hash(number: Any, confidence: Any) -> Any:
    """Return 64 bits of each row, the upper ones well mixed.

    Numbers alone would favour the first rows where many small parts merge, and values alone are too few in some data.
    """
    with np.errstate(over="ignore"):
        z = (number * np.uint64(0x9E3779B97F4A7C15) + confidence.view(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        return (z ^ (z >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)


def _logits(batch: Batch, places: Any) -> Any:
    """Return the logits of some rows as float64, contiguous; for one column, of both classes."""
    values = batch.values[places]
    values = values.double().numpy() if hasattr(values, "detach") else np.asarray(values, np.float64)
    with np.errstate(divide="ignore"):
        if batch.binary:
            if batch.kind == "probs":
                values = np.clip(values, 0.0, 1.0)  # rounding is all that can be beyond
                first, second = np.log1p(-values), np.log(values)
            elif batch.kind == "logprobs":
                second = np.minimum(values, 0.0)
                first = np.log(-np.expm1(second))
            else:  # infinite odds are a probability of 0 beside one of 1
                first = np.where(values == np.inf, -np.inf, 0.0)
                second = np.where(values == np.inf, 0.0, values)
            return np.stack([first, second], axis=1)
        return np.ascontiguousarray(np.log(np.maximum(values, 0.0)) if batch.kind == "probs" else values)


def _minimum(x: Any, value: Any, slope: Any) -> _Minimum:
    """Return the minimum of a function that has one, from its values and slopes at x."""
    from scipy.interpolate import KroghInterpolator
    from scipy.optimize import brentq

    if slope[0] >= 0 or slope[-1] <= 0:
        end = 0 if slope[0] >= 0 else -1
        return _Minimum(float(x[end]), float(value[end]))
    right = int(np.argmax(slope > 0))
    near = slice(max(0, right - 2), right + 2)
    smooth = KroghInterpolator(np.repeat(x[near], 2), np.stack([value[near], slope[near]], axis=1).reshape(-1))
    ends = x[right - 1], x[right]
    low, high = (float(smooth.derivative(end)) for end in ends)
    if low >= 0.0 or high <= 0.0:  # the slope at an end is 0 but for rounding, as where T = 1 is the best already
        place: Any = ends[0] if low >= 0.0 else ends[1]
    else:
        place = brentq(lambda at: float(smooth.derivative(at)), *ends, xtol=1e-15)
    return _Minimum(float(place), float(smooth(place)))
