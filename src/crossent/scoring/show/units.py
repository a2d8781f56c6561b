"""Units of losses: a score with every loss in bits in place of nats."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any, TypeVar

from crossent.scoring.parts import (
    BalancedLoss,
    Bar,
    Calibration,
    FiniteRows,
    Floor,
    Row,
    ScoreValues,
    Slice,
    Temperature,
)

T = TypeVar("T")

_LOSSES: dict[type, tuple[str, ...]] = {
    ScoreValues: ("loss", "ci", "se", "baseline", "entropy"),
    Slice: ("loss", "ci", "se"),
    Calibration: ("loss", "miscalibration", "discrimination", "uncertainty"),
    Temperature: ("loss", "scaled"),
    Bar: ("low", "high"),
    Row: ("loss",),
    FiniteRows: ("loss", "ci", "se"),
    Floor: ("loss",),
    BalancedLoss: ("loss", "ci", "se"),
}
"""Fields in nats, of each part of a score."""


def in_bits(part: T) -> T:
    """Return a score, or a part of one, with its losses in bits.

    Examples
    --------
    >>> in_bits(Floor(zero=1e-6, loss=math.log(2)))
    Floor(zero=1e-06, loss=1.0)
    """
    return _converted(part)


def _converted(part: Any) -> Any:
    if isinstance(part, tuple):
        return tuple(map(_converted, part))
    if isinstance(part, dict):
        return {name: _converted(value) for name, value in part.items()}
    losses = next((names for kind, names in _LOSSES.items() if isinstance(part, kind)), None)
    if losses is None:
        return part
    rest = {f.name: _converted(getattr(part, f.name)) for f in fields(part) if f.name not in losses}
    return replace(part, **rest, **{name: _of_nats(getattr(part, name)) for name in losses})


def _of_nats(nats: Any) -> Any:
    return tuple(map(_of_nats, nats)) if isinstance(nats, tuple) else nats / math.log(2)
