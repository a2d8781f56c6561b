"""The frozen pieces of a score, and `ScoreValues`, which holds them all and which pictures, texts and pages read."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Interval = tuple[float, float]
Zero = float | Literal["inf"]
Unit = Literal["nats", "bits"]
"""Units of losses."""
Kind = Literal["probs", "logits", "logprobs"]
"""Kinds of predictions: probabilities, unnormalised log-probabilities, log-probabilities."""
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Slice:
    """The rows that share a value: of a class or of a column of `by`. Losses in nats; `weight` is Σ w."""

    value: Hashable
    n: int
    weight: float
    loss: float
    ci: Interval
    se: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Bin:
    """The n rows whose probability lay in [low, high): the mean probability predicted, and the frequency observed."""

    low: float
    high: float
    n: int
    weight: float
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Bar:
    """The weight of the rows with a loss in [low, high) nats; the last bar may be [inf, inf]."""

    low: float
    high: float
    weight: float


@dataclass(frozen=True, slots=True)
class Row:
    """One row among the worst: its id (its number if it has none), loss in nats, and predictions.

    `probability` is the probability of the true class `label`, `confidence` that of the `predicted` class.
    """

    id: Hashable
    loss: float
    label: Hashable
    probability: float
    predicted: Hashable
    confidence: float


@dataclass(frozen=True, slots=True)
class Floor:
    """The loss in nats if `zero` were the smallest probability that is charged."""

    zero: float
    loss: float


@dataclass(frozen=True, slots=True)
class FiniteRows:
    """The rows with a finite loss, where others have an infinite one, and what all rows would cost at some floors.

    `loss`, its interval `ci` and its standard error `se`, in nats, are those of the `n` rows of total `weight` whose
    true class got a positive probability. `floors` has the loss of all rows for some smallest probabilities.
    """

    n: int
    weight: float
    loss: float
    ci: Interval
    se: float
    floors: tuple[Floor, ...]


@dataclass(frozen=True, slots=True)
class Temperature:
    """The temperature T that minimises the loss of softmax(log q / T), from `n` rows, and what it would change.

    `loss` is the loss of the same rows as they are, `scaled` their loss at T, both in nats. `helps` says whether the
    gain is at least a hundredth of the loss and more than chance (a likelihood-ratio test at 5 %).
    """

    value: float
    loss: float
    scaled: float
    n: int
    helps: bool

    @property
    def saving(self) -> float:
        """Share of the loss that scaling saves."""
        return 1.0 - self.scaled / self.loss if self.loss > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """A binary loss taken apart: loss = miscalibration − discrimination + uncertainty, in nats.

    It is the loss of the positive class (`of` = "positive class"), or of the question whether the most probable class
    is the true one (`of` = "top label"). `curve` holds the isotonic regression of the truth on the prediction: pairs
    (probability, frequency) in ascending order. `ece` is the expected calibration error of the bins in
    `Score.reliability`. Where `temperature` is None, `no_temperature` says why.
    """

    of: Literal["positive class", "top label"]
    loss: float
    miscalibration: float
    discrimination: float
    uncertainty: float
    ece: float
    curve: tuple[tuple[float, float], ...]
    temperature: Temperature | None
    no_temperature: str | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ScoreValues:
    """Numbers, parts and warnings of a score, without the sums behind them and without methods that show them.

    `Score` describes the fields.
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
    finite: FiniteRows | None = None

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
        return perplexity(self.loss)

    @property
    def perplexity_ci(self) -> Interval:
        """The interval of the perplexity."""
        return perplexity(self.ci[0]), perplexity(self.ci[1])


def bits(nats: float) -> float:
    """Return nats in bits."""
    return nats / math.log(2)


def perplexity(nats: float) -> float:
    """Return e^nats, infinity where it is more than a float holds."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
