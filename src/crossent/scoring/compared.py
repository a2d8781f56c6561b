"""The frozen pieces of a comparison and of a ranking, which texts and pages read."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from crossent.scoring.parts import Bar, Interval, bits

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Regression:
    """A row with a larger loss in a than in b: its id and both losses, in nats."""

    id: Hashable
    a: float
    b: float

    @property
    def difference(self) -> float:
        """The loss in a minus the loss in b."""
        return self.a - self.b


@dataclass(frozen=True, slots=True)
class SliceDifference:
    """The rows of a class, or of a value of a column of `by`: the difference in loss, a minus b.

    Losses in nats; `weight` is Σ w. `p_value` is that of this slice alone. `p_adjusted` allows for all slices of the
    column (Bonferroni): by chance, one of them is below 0.05 in at most 5 % of comparisons.
    """

    value: Hashable
    n: int
    weight: float
    difference: float
    ci: Interval
    se: float
    p_value: float
    p_adjusted: float
    loss_a: float
    loss_b: float


@dataclass(frozen=True, slots=True, repr=False)
class ComparisonValues:
    """Numbers of a comparison; `Comparison` describes the fields."""

    difference: float
    ci: Interval
    se: float
    p_value: float
    share_better: float
    share_worse: float
    n: int
    clusters: int | None
    level: float
    loss_a: float
    loss_b: float
    worst_regressions: tuple[Regression, ...]
    names: tuple[str, str] = ("a", "b")
    per_class: tuple[SliceDifference, ...] = ()
    by: Mapping[str, tuple[SliceDifference, ...]] = field(default_factory=dict[str, tuple[SliceDifference, ...]])
    histogram: tuple[Bar, ...] = ()


@dataclass(frozen=True, slots=True)
class Ranked:
    """A model in a ranking: its loss with its own interval, in nats, its rank, and the letters of its ties.

    `rank` is 1 plus the number of clearly better models. Models that share a letter cannot be distinguished.
    """

    name: str
    loss: float
    ci: Interval
    rank: int
    letters: str


@dataclass(frozen=True, slots=True)
class PairDifference:
    """Two models of a ranking: the loss of a minus that of b, in nats.

    `ci` and `p_adjusted` allow for all pairs (Bonferroni): the intervals of all pairs hold together at the level of the
    ranking, and leave out 0 exactly where `p_adjusted` is below 1 − level.
    """

    a: str
    b: str
    difference: float
    ci: Interval
    p_value: float
    p_adjusted: float


@dataclass(frozen=True, slots=True, repr=False)
class RankingValues:
    """Numbers of a ranking; `ModelRanking` describes the fields."""

    models: tuple[Ranked, ...]
    pairs: tuple[PairDifference, ...]
    n: int
    clusters: int | None
    level: float

    @property
    def pair_level(self) -> float:
        """Level of the interval of one pair, so that all pairs hold together at the level of the ranking."""
        return 1.0 - (1.0 - self.level) / len(self.pairs)


_LOSSES: dict[type, tuple[str, ...]] = {
    ComparisonValues: ("difference", "ci", "se", "loss_a", "loss_b"),
    SliceDifference: ("difference", "ci", "se", "loss_a", "loss_b"),
    Regression: ("a", "b"),
    Bar: ("low", "high"),
    Ranked: ("loss", "ci"),
    PairDifference: ("difference", "ci"),
}
"""Fields in nats, of each part."""


def in_bits(part: T) -> T:
    """Return a comparison, a ranking, or a part of one, with its losses in bits.

    Examples
    --------
    >>> in_bits(Bar(-0.0, 0.6931471805599453, 2.0))
    Bar(low=-0.0, high=1.0, weight=2.0)
    """
    return _converted(part)


def _converted(part: Any) -> Any:
    if isinstance(part, tuple):
        return tuple(map(_converted, part))
    if isinstance(part, dict):
        return {name: _converted(value) for name, value in part.items()}
    if not isinstance(part, (*_LOSSES, RankingValues)):
        return part
    losses = next((names for kind, names in _LOSSES.items() if isinstance(part, kind)), ())
    rest = {f.name: _converted(getattr(part, f.name)) for f in fields(part) if f.name not in losses}
    return replace(part, **rest, **{name: _of_nats(getattr(part, name)) for name in losses})


def _of_nats(nats: Any) -> Any:
    return tuple(map(_of_nats, nats)) if isinstance(nats, tuple) else bits(nats)
