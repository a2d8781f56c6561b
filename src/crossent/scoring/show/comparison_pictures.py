"""The pictures of a comparison: the distribution of differences, and a dot with whiskers on either side of 0."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crossent.html import INK, MAIN, WARM, own_style, svg
from crossent.scoring.parts import Bar, Interval, Unit
from crossent.scoring.show.words import interval, number, share


def distribution(bars: Sequence[Bar], mean: float, unit: Unit) -> str:
    """Draw the share of the weight by difference: better rows left of 0, worse ones right of it."""
    name = "differences"
    total = sum(bar.weight for bar in bars) or 1.0
    width = bars[1].high - bars[1].low
    with own_style(name):
        from matplotlib.figure import Figure

        drawn = Figure(figsize=(4.0, 2.6))
        axes: Any = drawn.add_axes((0.11, 0.17, 0.86, 0.76))
        edges: list[float] = []
        for k, bar in enumerate(bars):
            left = bar.high - width if k == 0 else bar.low
            edges += [left, left + width]
            colour = WARM if left + width / 2 > 0 else MAIN
            _ = axes.bar(left, bar.weight / total, width, align="edge", color=colour, linewidth=0)
        _ = axes.axvline(0.0, color=INK, linewidth=0.8)
        if edges[0] < mean < edges[-1]:
            _ = axes.axvline(mean, color=INK, linewidth=1.1, linestyle=(0, (4, 3)))
        most = max(bar.weight for bar in bars) / total
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.08 * most), xlabel=f"difference of a row, {unit}")
        axes.set_yticks([most / 2, most], [f"{50 * most:.2g} %", f"{100 * most:.2g} %"])
        axes.locator_params(axis="x", nbins=6)
        return svg(
            drawn,
            name,
            "Distribution of the differences of rows",
            "; ".join(
                f"{number(b.low)} to {number(b.high)} {unit}: {share(b.weight / total)}" for b in bars if b.weight
            ),
        )


@dataclass(frozen=True, slots=True)
class Around:
    """An axis of differences or losses from `low` to `high`, shared by the rows of a table."""

    low: float
    high: float
    unit: Unit

    @classmethod
    def over(cls, values: Sequence[float], ends: Sequence[Interval], unit: Unit, *, zero: bool = True) -> Around:
        """Return an axis long enough for every value, and for the whiskers unless they are much longer."""
        known = [x for x in values if math.isfinite(x)] + ([0.0] if zero else [])
        least, most = min(known, default=0.0), max(known, default=1.0)
        room = 1.5 * (most - least) or 1.0
        reach = [x for pair in ends for x in pair if math.isfinite(x)]
        low = max(min([least, *reach]), least - room)
        high = min(max([most, *reach]), most + room)
        margin = 0.04 * (high - low) or 0.5
        return cls(low - margin, high + margin, unit)

    def place(self, x: float) -> float:
        """Return the place of a value, in percent of the axis."""
        return 100.0 * min(max((x - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self) -> str:
        """Draw the numbers of the axis."""
        room = self.high - self.low
        scale = 10.0 ** math.floor(math.log10(room))
        step = next(k * scale for k in (0.2, 0.5, 1.0, 2.0, 5.0) if room / (k * scale) < 4.2)
        first = math.ceil(self.low / step)
        first += first % 2  # every second one, 0 among them
        texts = [
            f'<text x="{self.place(k * step):.2f}%" y="80%" text-anchor="middle">{k * step:.4g}</text>'.replace(
                "-", "−"
            )
            if k < 0
            else f'<text x="{self.place(k * step):.2f}%" y="80%" text-anchor="middle">{k * step:.4g}</text>'
            for k in range(first, math.floor(self.high / step) + 1, 2)
            if 8 < self.place(k * step) < 92
        ]
        label = f"axis in {self.unit}"
        return f'<svg class="whisker" role="img" aria-label="{label}"><title>{label}</title>{"".join(texts)}</svg>'

    def whisker(self, value: float, ends: Interval) -> str:
        """Draw a value as a dot and its interval as a line."""
        y = 'y1="50%" y2="50%"'
        marks: list[str] = []
        if all(map(math.isfinite, ends)):
            marks.append(f'<line x1="{self.place(ends[0]):.2f}%" x2="{self.place(ends[1]):.2f}%" {y}/>')
        if math.isfinite(value):
            marks.append(f'<circle cx="{self.place(value):.2f}%" cy="50%" r="4"/>')
        label = html.escape(f"{number(value)} {self.unit}, interval {interval(ends)}")
        return (
            f'<svg class="whisker" role="img" aria-label="{label}" fill="currentColor" stroke="none"><title>{label}'
            f'</title><g stroke="currentColor" stroke-width="1.8">{"".join(marks)}</g></svg>'
        )
