"""The last step of a score: from the sums of a state to a `Score`."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import replace

import numpy as np

from crossent.errors import Argument, InputError, Message, quoted
from crossent.scoring.input.batch import Layout
from crossent.scoring.input.classes import in_order
from crossent.scoring.measured import measures
from crossent.scoring.parts import Blame, Calibration, FiniteRows, Floor, Interval, Slice
from crossent.scoring.result import MergeableState, Score
from crossent.scoring.sums.curve import take_apart
from crossent.scoring.sums.details import FLOORS
from crossent.scoring.sums.interval import Mean
from crossent.scoring.sums.row_sums import RowSums
from crossent.scoring.sums.slicing import Binned
from crossent.scoring.sums.temperature import Fitted
from crossent.scoring.sums.totals import Totals

_RARE = 5
_MANY = 30


def finish(sums: RowSums, state: MergeableState) -> Score:
    """Return the score of all rows in the sums; it keeps the state, so that scores merge.

    Raises
    ------
    InputError
        If no row counts.
    """
    totals, layout, level = sums.totals, sums.layout, sums.options.ci
    if layout is None or not totals.count.any():
        raise InputError(_no_rows(sums))
    weight = totals.weight
    whole = float(weight.sum())
    mean = totals.overall()
    share = weight / whole
    with np.errstate(divide="ignore", invalid="ignore"):
        price = np.where(share > 0, -np.log(share), 0.0)
    baseline = float(share @ price) + 0.0
    relative = totals.ratio(price)
    low, high = _interval(relative, level)
    per_class = _slices(zip(layout.classes, range(len(layout.classes)), strict=True), totals, level)
    wanted = dict(sums.options.bins)
    binned = {name: each.binned(wanted.get(name)) for name, each in sums.by.items()}
    if words := [name for name in wanted if not binned[name].bins]:
        raise InputError(
            f"column {quoted(words[0])} holds no numbers to cut into bins; slice by it without bins", argument="bins"
        )
    return Score(
        loss=float(mean.value[0]),
        ci=_interval(mean, level),
        se=float(mean.se[0]),
        n=sums.n,
        weight=whole,
        level=level,
        baseline=baseline,
        skill=1.0 - float(relative.value[0]) if baseline > 0 else np.nan,
        skill_ci=(1.0 - high, 1.0 - low) if baseline > 0 else (np.nan, np.nan),
        entropy=float(sums.details.entropy.value / whole),
        accuracy=float(totals.right.value.sum() / whole),
        clusters=totals.clusters,
        zero=sums.options.zero,
        classes=layout.classes,
        per_class=per_class,
        by={name: _of_column(each, level) for name, each in binned.items()},
        bins={name: each.bins for name, each in binned.items() if each.bins},
        calibration=_calibration(sums, layout, whole),
        reliability=sums.details.curve.bins(),
        histogram=sums.details.histogram(),
        worst=tuple(sums.details.worst),
        warnings=tuple(_warnings(sums, layout, whole, per_class)),
        finite=_finite(sums, whole, layout.classes),
        **measures(sums),
        state=state,
    )


def _finite(sums: RowSums, whole: float, classes: tuple[Hashable, ...]) -> FiniteRows | None:
    """Return the loss of the rows with a finite loss, and of all rows at some floors; None if every loss is finite."""
    totals = sums.totals
    infinite = float(sums.totals.infinite.value.sum())
    if not infinite:
        return None
    mean = sums.totals.finite()
    weight, loss = whole - infinite, float(mean.value[0])
    known = weight * loss if weight > 0 else 0.0
    excess = sums.details.excess.value.tolist()
    return FiniteRows(
        n=sums.n - int(sums.totals.infinite_count.sum()),
        weight=weight,
        loss=loss,
        ci=_interval(mean, sums.options.ci),
        se=float(mean.se[0]),
        floors=tuple(
            Floor(zero, (known - over - infinite * math.log(zero)) / whole)
            for zero, over in zip(FLOORS, excess, strict=True)
        ),
        blame=tuple(
            Blame(classes[k], int(each), float(totals.infinite.value[k]), int(totals.count[k]))
            for k, each in enumerate(totals.infinite_count.tolist())
            if each
        ),
        ids=tuple(sums.details.blamed),
    )


def _no_rows(sums: RowSums) -> str:
    notes = sums.notes
    if notes.left_out + notes.weightless == 0:
        return "there are no rows to score"
    return Message(
        f"there are no rows to score: {notes.left_out} are left out by ",
        Argument("ignore", list(sums.options.ignore)),
        f" and {notes.weightless} by a weight of 0",
    )


def _interval(mean: Mean, level: float) -> Interval:
    low, high = mean.interval(level, 0.0)
    return float(low[0]), float(high[0])


def _slices(names: Iterable[tuple[Hashable, int]], totals: Totals, level: float) -> tuple[Slice, ...]:
    """Return the slices that have rows, of the values with these numbers."""
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


def _of_column(found: Binned, level: float) -> tuple[Slice, ...]:
    """Return the slices of a column in the order of its values; bins are in order already, and come first."""
    slices = _slices(zip(found.values, range(len(found.values)), strict=True), found.totals, level)
    bins = set(found.values[: found.bins])
    first = tuple(part for part in slices if part.value in bins)
    return first + tuple(
        sorted((part for part in slices if part.value not in bins), key=lambda part: in_order(part.value))
    )


def _calibration(sums: RowSums, layout: Layout, whole: float) -> Calibration:
    """Return the loss taken apart; an infinite one is all miscalibration."""
    details, binary = sums.details, len(layout.classes) == 2
    loss = float(sums.totals.overall().value[0]) if binary else float(details.top.value) / whole
    if not binary and details.top_infinite:
        loss = np.inf
    found = take_apart(details.curve.points())
    fitted = sums.temperatures.best()
    if sums.notes.impossible:
        fitted = Fitted(None, "there is no best temperature: a probability of 0 stays 0 at each of them")
    ece = sum(part.weight * abs(part.predicted - part.observed) for part in details.curve.bins()) / whole
    return Calibration(
        of="positive class" if binary else "top label",
        loss=loss,
        miscalibration=loss - found.recalibrated,
        discrimination=found.uncertainty - found.recalibrated,
        uncertainty=found.uncertainty,
        ece=ece,
        curve=found.curve,
        temperature=fitted.temperature,
        no_temperature=fitted.reason,
    )


def _warnings(sums: RowSums, layout: Layout, whole: float, per_class: tuple[Slice, ...]) -> list[Message]:
    options, n = sums.options, sums.n
    by_chance = layout.binary and n < _MANY  # a few log-odds may all lie between 0 and 1
    notes = replace(
        sums.notes,
        distributions=sums.notes.distributions and not by_chance,
        opposite=sums.notes.opposite and n >= _RARE,  # a few logits may sum to 1
    )
    said = notes.warnings(whole, layout.kind, options.zero)
    if options.ignore and not notes.left_out:
        ignore = Argument("ignore", list(options.ignore))
        said.append(Message("no row has a label of ", ignore, ", so none was left out"))
    if len(per_class) == 1:
        said.append(
            Message(
                f"all rows have the class {quoted(per_class[0].value)}: there is no baseline to compare with, so "
                "no skill"
            )
        )
    else:
        rare = min(per_class, key=lambda part: part.n)
        if rare.n < _RARE:
            rows = "row" if rare.n == 1 else "rows"
            said.append(
                Message(
                    f"class {quoted(rare.value)} has {rare.n} {rows} only: its loss and the intervals rest on very few "
                    "cases"
                )
            )
    if len(per_class) > 10 and n < 10 * len(per_class):
        low = (len(per_class) - 1) / (2.0 * n)  # Miller 1955
        said.append(
            Message(
                f"{n} rows of {len(per_class)} classes make the baseline, and with it the skill, too low: by about "
                f"{low:.2g} nats; compare losses instead"
            )
        )
    if (sums.totals.clusters or n) == 1:
        what = "all rows belong to one cluster" if layout.clustered else "there is one row only"
        said.append(Message(f"{what}: a single independent observation has no interval"))
    return said
