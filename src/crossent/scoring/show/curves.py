"""The pictures of order and of answers: ROC and precision-recall curves, reliability by class, a grid of confusion."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

from crossent.html import LINE, MAIN, MUTED, WARM, own_style, svg
from crossent.scoring.parts import ClassReliability, Confusion, Ranking

_WIDTH, _HEIGHT = 4.0, 3.6


class Line(NamedTuple):
    """A line of a picture: its points, and its colour and width."""

    points: Sequence[tuple[float, float]]
    colour: str
    width: float


def roc(curves: Sequence[Ranking], marked: Ranking) -> str:
    """Draw the true positive rate over the false positive rate of each class, one of them marked."""
    lines = _lines([each.roc for each in curves], marked.roc)
    said = "; ".join(f"area {each.auc:.4f}" for each in curves[:20])
    return _drawn("roc", lines, ("false positive rate", "true positive rate"), ("ROC curves", said), diagonal=True)


def precision_recall(curves: Sequence[Ranking], marked: Ranking) -> str:
    """Draw the precision over the recall of each class, one of them marked."""
    lines = _lines([_stepped(each.pr) for each in curves], _stepped(marked.pr))
    said = "; ".join(f"average precision {each.average_precision:.4f}" for each in curves[:20])
    return _drawn("pr", lines, ("recall", "precision"), ("Precision-recall curves", said), diagonal=False)


def class_reliability(parts: Sequence[ClassReliability], marked: ClassReliability) -> str:
    """Draw the observed frequency over the predicted probability of each class, one of them marked."""

    def points(part: ClassReliability) -> tuple[tuple[float, float], ...]:
        return tuple((each.predicted, each.observed) for each in part.bins)

    lines = _lines([points(part) for part in parts], points(marked))
    said = "; ".join(f"calibration error {100 * part.ece:.2f} %" for part in parts[:20])
    axes = ("predicted probability", "observed frequency")
    return _drawn("classwise", lines, axes, ("Reliability of each class", said), diagonal=True)


def grid(confusion: Confusion, classes: int) -> str:
    """Draw the answers to the rows of each class as a grid without labels, a row for each true class."""
    cells: list[str] = []
    for y, counts in enumerate(confusion.counts):
        whole = sum(counts)
        for x, count in enumerate(counts):
            if count:
                colour = "--main" if x == y else "--warm"
                strength = 0.12 + 0.88 * count / whole
                cells.append(
                    f'<rect x="{x}" y="{y}" width="1" height="1" fill="var({colour})" fill-opacity="{strength:.2f}"/>'
                )
    label = html.escape(f"Answers for the rows of {classes} classes; the diagonal is right")
    return (
        f'<svg class="plot pixels" role="img" aria-label="{label}" viewBox="0 0 {classes} {classes}" '
        f'shape-rendering="crispEdges"><title>{label}</title><rect width="{classes}" height="{classes}" fill="none" '
        f'stroke="var(--line)" stroke-width="{classes / 300:.3f}"/>{"".join(cells)}</svg>'
    )


def _stepped(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the corners of a precision-recall curve, which is not interpolated between its points."""
    found: list[tuple[float, float]] = []
    before = 0.0
    for recall, precision in points:
        found += [(before, precision), (recall, precision)]
        before = recall
    return found


def _lines(curves: Sequence[Sequence[tuple[float, float]]], marked: Sequence[tuple[float, float]]) -> list[Line]:
    if len(curves) == 1:
        return [Line(curves[0], MAIN, 1.8)]
    return [*(Line(curve, MAIN, 0.9) for curve in curves), Line(marked, WARM, 1.8)]


def _drawn(name: str, lines: Sequence[Line], axes: tuple[str, str], said: tuple[str, str], *, diagonal: bool) -> str:
    from matplotlib.figure import Figure

    with own_style(name):
        figure = Figure(figsize=(_WIDTH, _HEIGHT))
        drawn = figure.add_axes((0.15, 0.13, 0.81, 0.84))
        if diagonal:
            _ = drawn.plot([0, 1], [0, 1], color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)))
        for line in lines:
            points = [(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y)]
            if points:
                opacity = 0.6 if line.colour == MAIN and len(lines) > 1 else 1.0
                _ = drawn.plot(*zip(*points, strict=True), color=line.colour, linewidth=line.width, alpha=opacity)
        ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
        _ = drawn.set(xlim=(-0.012, 1.012), ylim=(-0.012, 1.012), xticks=ticks, yticks=ticks)
        _ = drawn.set(xlabel=axes[0], ylabel=axes[1])
        _ = drawn.grid(visible=True, axis="both", color=LINE)
        return svg(figure, name, *said)
