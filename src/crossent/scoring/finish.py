"""From the sums of a state to a `Score`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from crossent.scoring.parts import Calibration, Interval, Slice
from crossent.scoring.result import Score
from crossent.scoring.sums.curve import take_apart
from crossent.scoring.sums.interval import Mean
from crossent.scoring.sums.totals import Totals

if TYPE_CHECKING:
    from crossent.scoring.state import ScoreState

_RARE = 5
_MANY = 30


def finish(state: ScoreState) -> Score:
    """Return the score of the rows of a state.

    Raises
    ------
    ValueError
        If no row counts.
    """
    totals, level = state.totals, state.options.ci
    weight = totals.weight
    if state.layout is None or not totals.count.any():
        raise ValueError(_no_rows(state))
    whole = float(weight.sum())
    mean = totals.overall()
    share = weight / whole
    with np.errstate(divide="ignore", invalid="ignore"):
        price = np.where(share > 0, -np.log(share), 0.0)
    baseline = float(share @ price) + 0.0
    relative = totals.ratio(price)
    low, high = _interval(relative, level)
    calibration = _calibration(state, whole)
    per_class = _slices(zip(state.layout.classes, range(len(state.layout.classes)), strict=True), totals, level)
    return Score(
        loss=float(mean.value[0]),
        ci=_interval(mean, level),
        se=float(mean.se[0]),
        n=int(totals.count.sum()),
        weight=whole,
        level=level,
        baseline=baseline,
        skill=1.0 - float(relative.value[0]) if baseline > 0 else np.nan,
        skill_ci=(1.0 - high, 1.0 - low) if baseline > 0 else (np.nan, np.nan),
        entropy=float(state.details.entropy.value / whole),
        accuracy=float(totals.right.value.sum() / whole),
        clusters=totals.clusters,
        zero=state.options.zero,
        classes=state.layout.classes,
        per_class=per_class,
        by={
            name: _sorted(_slices(slicing.number.items(), slicing.totals, level)) for name, slicing in state.by.items()
        },
        calibration=calibration,
        reliability=state.details.curve.bins(),
        histogram=state.details.histogram(),
        worst=tuple(state.details.worst),
        warnings=tuple(_warnings(state, whole, per_class)),
        state=state,
    )


def _no_rows(state: ScoreState) -> str:
    notes = state.notes
    if notes.left_out + notes.weightless == 0:
        return "there are no rows to score"
    return (
        f"there are no rows to score: {notes.left_out} are left out by ignore={list(state.options.ignore)!r} and "
        f"{notes.weightless} by a weight of 0"
    )


def _interval(mean: Mean, level: float) -> Interval:
    low, high = mean.interval(level, 0.0)
    return float(low[0]), float(high[0])


def _slices(names: Iterable[tuple[Any, int]], totals: Totals, level: float) -> tuple[Slice, ...]:
    """Return the slices that have rows."""
    mean = totals.means()
    low, high = mean.interval(level, 0.0)
    with np.errstate(invalid="ignore"):
        accuracy = totals.right.value / mean.weight
    return tuple(
        Slice(
            name, int(totals.count[k]), float(mean.weight[k]), float(mean.value[k]), (float(low[k]), float(high[k])),
            float(mean.se[k]), float(accuracy[k]),
        )
        for name, k in names
        if totals.count[k] > 0
    )  # fmt: skip


def _sorted(slices: tuple[Slice, ...]) -> tuple[Slice, ...]:
    """Return slices in the order of their values, numbers before names."""
    return tuple(sorted(slices, key=lambda s: (isinstance(s.value, str), 0 if s.value is None else s.value)
                        if isinstance(s.value, str | int | float | None) else (True, str(s.value))))  # fmt: skip


def _calibration(state: ScoreState, whole: float) -> Calibration:
    """Return the loss taken apart; an infinite one is all miscalibration."""
    p, weight, truth = state.details.curve.points()
    binary = len(state.layout.classes) == 2
    loss = float(state.totals.overall().value[0]) if binary else float(state.details.top.value) / whole
    if not binary and state.details.top_infinite:
        loss = np.inf
    recalibrated, uncertainty, curve = take_apart(p, weight, truth)
    ece = sum(part.weight * abs(part.predicted - part.observed) for part in state.details.curve.bins()) / whole
    return Calibration(
        of="positive class" if binary else "top label",
        loss=loss,
        miscalibration=loss - recalibrated,
        discrimination=uncertainty - recalibrated,
        uncertainty=uncertainty,
        ece=ece,
        curve=curve,
        temperature=None if state.notes.impossible else state.temperatures.best(),  # no T mends a probability of 0
    )


def _warnings(state: ScoreState, whole: float, per_class: tuple[Slice, ...]) -> list[str]:
    by_chance = state.layout.binary and state.totals.count.sum() < _MANY  # a few log-odds may all lie between 0 and 1
    said = replace(state.notes, distributions=state.notes.distributions and not by_chance).warnings(
        whole, str(state.layout.kind), state.options.zero
    )
    if state.options.ignore and not state.notes.left_out:
        said.append(f"no row has a label of ignore={list(state.options.ignore)!r}, so none was left out")
    if len(per_class) == 1:
        said.append(
            f"all rows have the class {per_class[0].value!r}: there is no baseline to compare with, so no skill"
        )
    else:
        rare = min(per_class, key=lambda part: part.n)
        if rare.n < _RARE:
            rows = "row" if rare.n == 1 else "rows"
            said.append(
                f"class {rare.value!r} has {rare.n} {rows} only: its loss, and the intervals, rest on very few cases"
            )
    n = int(state.totals.count.sum())
    if len(per_class) > 10 and n < 10 * len(per_class):
        low = (len(per_class) - 1) / (2.0 * n)  # Miller 1955
        said.append(
            f"{n} rows of {len(per_class)} classes make a baseline that is too low by about {low:.2g} nats, and so a "
            "skill that is too low; compare losses instead"
        )
    if (state.totals.clusters or state.totals.count.sum()) == 1:
        what = "there is one row only" if state.cluster is None else "all rows are of one cluster"
        said.append(f"{what}: a single independent observation has no interval")
    return said
