"""What a score is: numbers with their intervals, tables of parts, and sentences about what to do."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal, get_args

Interval = tuple[float, float]
Zero = float | Literal["inf"]
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
    """The rows whose probability lay in [low, high): n of them, the mean of what was predicted and what came true."""

    low: float
    high: float
    n: int
    weight: float
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Bar:
    """How much weight the rows with a loss in [low, high) nats have; the last bar may be [inf, inf]."""

    low: float
    high: float
    weight: float


@dataclass(frozen=True, slots=True)
class Row:
    """One row among the worst: its name (its number if it has none), and what it was given.

    `probability` is what the true class `label` got, `confidence` what the `predicted` class got.
    """

    id: Hashable
    loss: float
    label: Hashable
    probability: float
    predicted: Hashable
    confidence: float


@dataclass(frozen=True, slots=True)
class Temperature:
    """The temperature T that minimises the loss of softmax(log p / T), from `n` rows, and what it would change.

    `loss` is that of the same rows as they are, `scaled` that at T, both in nats. `helps` says whether the gain is at
    least a hundredth of the loss and more than chance (a likelihood-ratio test at 5 %).
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

    It is that of the positive class (`of` = "positive class"), or of the question whether the most probable class is
    the true one (`of` = "top label"). `curve` holds the isotonic regression of what came true on what was predicted:
    pairs (probability, frequency) in ascending order. `ece` is the expected calibration error of the bins in
    `Score.reliability`.
    """

    of: Literal["positive class", "top label"]
    loss: float
    miscalibration: float
    discrimination: float
    uncertainty: float
    ece: float
    curve: tuple[tuple[float, float], ...]
    temperature: Temperature | None


def bits(nats: float) -> float:
    """Return nats in bits."""
    return nats / math.log(2)


def perplexity(nats: float) -> float:
    """Return e^nats, infinity where it is more than a float holds."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
