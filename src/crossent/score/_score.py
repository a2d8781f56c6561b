"""`Score`: what predictions cost, from one pass over them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossent.score._result import Bar, Bin, Calibration, Interval, Row, Slice, Zero, bits

if TYPE_CHECKING:
    from crossent.score._state import ScoreState


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Score:
    """What predictions cost.

    Losses are in nats. `n` counts the rows with a positive weight, `weight` is the sum of their weights, `clusters` the
    number of clusters (None if rows are independent). `ci` holds the ends of the interval that covers the expected loss
    with probability `level`, `se` is the standard error. `baseline` is the loss of predicting the frequencies of the
    classes, `skill` = 1 − loss / baseline (NaN where there is only one class), `entropy` what the predictions expect
    to cost by their own account. `zero` is the probability below which none was charged, or "inf".
    """

    loss: float
    ci: Interval
    se: float
    n: int
    weight: float
    level: float
    baseline: float
    skill: float
    skill_ci: Interval
    entropy: float
    accuracy: float
    clusters: int | None
    zero: Zero
    classes: tuple[Hashable, ...]
    per_class: tuple[Slice, ...]
    by: Mapping[str, tuple[Slice, ...]]
    calibration: Calibration | None
    reliability: tuple[Bin, ...]
    histogram: tuple[Bar, ...]
    worst: tuple[Row, ...]
    warnings: tuple[str, ...]
    state: ScoreState | None = field(default=None)

    @property
    def bits(self) -> float:
        """The loss in bits."""
        return bits(self.loss)

    @property
    def bits_ci(self) -> Interval:
        """The interval of the loss in bits."""
        return bits(self.ci[0]), bits(self.ci[1])

    @property
    def perplexity(self) -> float:
        """e^loss: among how many equally probable classes the model hesitates."""
        return _exp(self.loss)

    @property
    def perplexity_ci(self) -> Interval:
        """The interval of the perplexity."""
        return _exp(self.ci[0]), _exp(self.ci[1])


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
