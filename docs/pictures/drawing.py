"""Shared tools of the pictures: a decorator that makes an SVG element of a drawing, in the colours of the page."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter

from crossent.html import INK, LINE, MAIN, MUTED, WARM, own_style, svg
from crossent.scoring.show.words import power

__all__ = ["DASHED", "INK", "LINE", "MAIN", "MUTED", "WARM", "name_lines", "note", "on_line", "picture"]

WIDTH = 4.4
"""Inches, so that 9-point text is readable when the picture is as wide as a telephone."""
DASHED: Any = (0, (4, 3))

Draw = Callable[[Figure], None]


def picture(title: str, height: float = 2.6) -> Callable[[Draw], Callable[[], str]]:
    """Turn a function that draws on a figure into one that returns an SVG element.

    Screen readers speak the title in place of the picture.
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

        return drawn

    return decorate


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
