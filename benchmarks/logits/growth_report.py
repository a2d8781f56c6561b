"""What is printed and shown of how time grows with the number of classes, and with that of logits."""

from __future__ import annotations

import math
from typing import NamedTuple

from benchmarks.common.grid import at, draw, number, timing
from benchmarks.common.records import Record
from benchmarks.logits.everyday import FEW, LOGITS

GROUPS = (
    ("", ("case", "logits")),
    ("forward + backward, fresh", ("time", "×eager", "/limit")),
    ("ns for a logit", ("crossent", "eager")),
)

LEGEND = """\
CPU time on one thread. ×: time of torch over that of crossent, larger is better. /: time of crossent over that of
x.sum() and x.clone(), smaller is better."""

MANY = 10**5
"""Logits from which a call takes its time for each of them, and not for being called."""


class Point(NamedTuple):
    """A point of a sweep: how many classes and logits there are, and the nanoseconds that each logit takes."""

    V: int
    logits: int
    crossent: float
    eager: float


class Sweeps(NamedTuple):
    """Both sweeps, in the order of what grows."""

    of_classes: list[Point]
    of_logits: list[Point]


def sweeps(cases: dict[str, dict[str, Record]]) -> Sweeps:
    """Return the points of each sweep: about LOGITS logits of any number of classes, and FEW classes."""
    points = [_point(measures["both"]) for measures in cases.values()]
    # the rows are whole, so that the last points have a little less than the logits of the others
    of_classes = [point for point in points if abs(point.logits - LOGITS) < 0.1 * LOGITS]
    of_logits = [point for point in points if point.V == FEW]
    return Sweeps(sorted(of_classes), sorted(of_logits, key=lambda point: point.logits))


def spread(points: list[Point], who: str) -> float:
    """Return the longest time for a logit over the shortest, among the points of many logits."""
    times = [getattr(point, who) for point in points if point.logits >= MANY]
    return max(times) / min(times)


def _point(both: Record) -> Point:
    logits = math.prod(both["shape"])
    times = [1e9 * at(both, "median_seconds", who) / logits for who in ("crossent", "eager")]
    return Point(both["shape"][1], logits, *times)


def grids(cases: dict[str, dict[str, Record]]) -> list[str]:
    """Return the lines of the grid for a terminal."""
    return draw(GROUPS, [_cells(measures["both"]) for measures in cases.values()])


def notes(measures: dict[str, Record]) -> list[str]:
    """Return what is to be said of one case below the grid: nothing."""
    _ = measures
    return []


def _cells(both: Record) -> list[str]:
    point = _point(both)
    shape = "×".join(map(str, both["shape"])) + f" {both['dtype']}"
    return [both["case"], shape, *timing(both, ("eager",), ("limit",)), number(point.crossent), number(point.eager)]
