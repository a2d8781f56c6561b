"""Shared tools of the pictures: a decorator that makes an SVG element of a drawing, in the colours of the page."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, LogFormatter

from crossent.html import INK, LINE, MAIN, MUTED, WARM, own_style, svg
from crossent.scoring.show.words import power

__all__ = [
    "DASHED",
    "INK",
    "LINE",
    "MAIN",
    "MUTED",
    "WARM",
    "legend",
    "name_lines",
    "note",
    "of_classes",
    "on_line",
    "picture",
]

WIDTH = 4.4
"""Inches, so that 9-point text is readable when the picture is as wide as a telephone."""
LINE_HEIGHT = 0.2
"""Inches from one line of text to the next."""
DASHED: Any = (0, (4, 3))

Draw = Callable[[Figure], None]


def picture(
    title: str, height: float = 2.6, caption: Callable[[], str] | None = None
) -> Callable[[Draw], Callable[[], str]]:
    """Turn a function that draws on a figure into one that returns an SVG element.

    Screen readers speak the title in place of the picture. What `caption` returns stands below it, after the caption
    that the page gives: numbers that follow from what is drawn.
    """

    def decorate(draw: Draw) -> Callable[[], str]:
        name = f"{draw.__module__.rpartition('.')[2]}-{draw.__name__}".replace("_", "-")

        @functools.wraps(draw)
        def drawn() -> str:
            with own_style(name, **{"xtick.major.pad": 7.0, "ytick.major.pad": 5.0}):
                figure = Figure(figsize=(WIDTH, height), layout="constrained")
                draw(figure)
                for axes in figure.axes:
                    for axis in (axes.xaxis, axes.yaxis):
                        if axis.get_scale() == "log" and isinstance(axis.get_major_formatter(), LogFormatter):
                            axis.set_major_formatter(FuncFormatter(lambda x, _: power(round(math.log10(x)))))
                return svg(figure, name, title)

        drawn.caption = caption  # pyright: ignore[reportAttributeAccessIssue]
        return drawn

    return decorate


def of_classes(figure: Figure, names: Iterable[str]) -> list[SubFigure]:
    """Return a part of the figure for each class of processors, each as high as the figure was, with room for a legend.

    The name of the class stands above its part.
    """
    wanted = list(names)
    figure.set_figheight(figure.get_figheight() * len(wanted))
    parts: list[SubFigure] = list(figure.subfigures(len(wanted), 1, squeeze=False)[:, 0])
    for part, name in zip(parts, wanted, strict=True):
        _ = part.suptitle(f"{name}\n ", x=0.02, ha="left", color=INK, fontsize=9.0)
    return parts


def legend(part: SubFigure, names: Iterable[tuple[str, str]], mark: str = "●") -> None:
    """Write names in their colours below the name of a part's class."""
    wanted = list(names)
    top = 1.0 - LINE_HEIGHT / (part.bbox.height / part.figure.dpi)
    for k, (text, colour) in enumerate(wanted):
        x = 0.02 + 0.98 * k / len(wanted)
        _ = part.text(x, top, f"{mark} {text}", color=colour, va="top", fontsize=8.5)


def note(axes: Axes, text: str, x: float, y: float, colour: str = INK, **options: Any) -> None:
    """Write a text beside a point of the data."""
    _ = axes.annotate(text, (x, y), color=colour, **{"xytext": (5, 0), "textcoords": "offset points", **options})


def on_line(axes: Axes, text: str, x: float, y: float, colour: str) -> None:
    """Write a text on a line; its halo interrupts the line."""
    _ = axes.annotate(text, (x, y), color=colour, ha="center", va="center")


def name_lines(axes: Axes, ends: list[tuple[float, str, str]], gap: float = 0.085) -> None:
    """Write names right of the axes at the ends (y, text, colour) of lines, moved apart where they would overlap."""
    to_share = axes.transData + axes.transAxes.inverted()
    wanted = [float(to_share.transform((axes.get_xlim()[1], y))[1]) for y, _, _ in ends]
    places = list(wanted)
    order = sorted(range(len(ends)), key=lambda k: wanted[k])
    for before, k in pairwise(order):
        places[k] = max(places[k], places[before] + gap)
    back = (sum(places) - sum(wanted)) / len(ends)  # names move up to make room; then all move down by the mean
    for (_, text, colour), place in zip(ends, places, strict=True):
        _ = axes.annotate(text, (1.02, place - back), xycoords="axes fraction", color=colour, va="center")
