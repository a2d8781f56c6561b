"""The pictures of a report: reliability and row losses by matplotlib, and a dot with whiskers per row of a table.

Labels from outside are text of the page, which wraps them, and never part of a picture. Matplotlib is imported when the
first picture is drawn.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

from crossent.html import INK, LINE, MAIN, MUTED, WARM, own_style, svg
from crossent.scoring.parts import Bar, Bin, Interval, ScoreValues, Slice
from crossent.scoring.show.words import interval, number, power, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 4.0  # inches, so that 9-point text is readable when the picture is as wide as a telephone
_PREDICTED, _OBSERVED = "predicted probability", "observed frequency"
_PROBABILITIES = (0.5, 0.1, 0.9, 0.01, 0.99, 1e-4, 0.9999, 1e-10, 1 - 1e-6, 1e-50, 1e-300, 1 - 1e-9)


class Colours(NamedTuple):
    """Colours of a reliability diagram."""

    bins: str
    curve: str
    diagonal: str


class Tick(NamedTuple):
    """A tick of an axis: its place in the axis' coordinates, and its label."""

    place: float
    label: str


def wilson(observed: float, n: int, level: float) -> Interval:
    """Return Wilson's interval of a frequency observed in n rows.

    Wilson (1927), "Probable inference, the law of succession, and statistical inference", J. Am. Stat. Assoc. 22,
    209–212.
    """
    z = NormalDist().inv_cdf((1.0 + level) / 2.0)
    centre = (observed + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(observed * (1 - observed) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def plot(score: ScoreValues, ax: Any = None) -> Any:
    """Draw the reliability diagram on axes of matplotlib, by default new ones, and return them."""
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots()
    _ = _compare(ax, score, Colours(bins="C0", curve="C1", diagonal="0.5"))
    _ = ax.set(xlabel=_PREDICTED, ylabel=_OBSERVED)
    return ax


def reliability(score: ScoreValues) -> str:
    """Draw the observed frequency over the predicted probability, with the isotonic curve, above the rows per bin."""
    name = "reliability"
    with own_style(name):
        figure = _figure(4.15)
        upper = figure.add_axes((0.15, 0.3, 0.81, 0.675))
        lower = figure.add_axes((0.15, 0.092, 0.81, 0.13))
        bins = _compare(upper, score, Colours(bins=MAIN, curve=WARM, diagonal=MUTED))
        _ = lower.bar(
            [part.low for part in bins],
            [part.n for part in bins],
            [min(part.high, 1.0) - part.low for part in bins],
            align="edge",
            color=MAIN,
            alpha=0.55,
            linewidth=0,
        )
        top = _top(bins)
        most = max((part.n for part in bins), default=1)
        ticks = [top * k / 4 for k in range(5)]
        labels = [f"{tick:.{_places(top)}f}" for tick in ticks]
        upper.set(xticks=ticks, yticks=ticks, xticklabels=[], yticklabels=labels, ylabel=_OBSERVED)
        lower.set(xlim=upper.get_xlim(), ylim=(0, 1.02 * most), xticks=ticks, xticklabels=labels)
        lower.set(yticks=[], xlabel=_PREDICTED)
        _ = upper.grid(visible=True, axis="both")
        _ = lower.set_title(f"rows in each bin, at most {most:,}", loc="left", fontsize=8.5, color=MUTED, pad=4)
        return svg(
            figure,
            name,
            "Reliability diagram: observed frequency over predicted probability",
            "; ".join(f"predicted {part.predicted:.3f}, observed {part.observed:.3f}, {part.n} rows" for part in bins),
        )


def _compare(axes: Axes, score: ScoreValues, colours: Colours) -> list[Bin]:
    """Draw the bins, the isotonic curve and the diagonal, and return the bins that were drawn."""
    bins = [part for part in score.reliability if part.n > 0 and math.isfinite(part.predicted + part.observed)]
    curve = score.calibration.curve if score.calibration else ()
    _ = axes.plot([0, 1], [0, 1], color=colours.diagonal, linewidth=1.1, linestyle=(0, (4, 3)))
    if len(curve) > 1:
        _ = axes.plot([p for p, _ in curve], [f for _, f in curve], color=colours.curve, linewidth=1.5, gid="curve")
    for part in bins:
        ends = wilson(part.observed, part.n, score.level)
        _ = axes.plot([part.predicted] * 2, ends, color=colours.bins, linewidth=1.3)
    centres = [part.predicted for part in bins], [part.observed for part in bins]
    _ = axes.plot(*centres, "o", color=colours.bins, markersize=5, gid="bins", clip_on=False, zorder=4)
    top = _top(bins)
    _ = axes.set(xlim=(-0.012 * top, 1.012 * top), ylim=(-0.012 * top, 1.012 * top))
    return bins


def losses(score: ScoreValues) -> str:
    """Draw the distribution of the losses of rows on a logarithmic axis, with zero and infinity as separate bars."""
    name = "losses"
    bars = grouped(score.histogram)
    total = sum(bar.weight for bar in score.histogram)
    inner = [bar for bar in bars if bar.low > 0 and math.isfinite(bar.high)]
    edges = [math.log10(x) for bar in inner for x in (bar.low, bar.high)] or _fallback(score.loss)
    first, last = min(edges), max(edges)
    if last - first < 1:
        first, last = (first + last - 1) / 2, (first + last + 1) / 2
    apart = 0.05 * (last - first)
    with own_style(name):
        figure = _figure(2.95)
        axes = figure.add_axes((0.135, 0.15, 0.835, 0.7))
        ticks = _decades(first, last)
        for k, bar in enumerate(bars):
            if not math.isfinite(bar.high):
                left, right, label = last + apart, last + 2 * apart, "∞"
            elif bar.low <= 0:
                left, right = first - 2 * apart, first - apart
                label = f"<{_tick(math.log10(bar.high))}" if bar.high > 0 else "0"
            else:
                left, right, label = math.log10(bar.low), math.log10(bar.high), ""
            colour = MAIN if math.isfinite(bar.high) else WARM
            _ = axes.bar(left, bar.weight / total, right - left, align="edge", color=colour, linewidth=0, gid=f"bar{k}")
            ticks += [Tick((left + right) / 2, label)] if label else []
        away = [x for x, _ in ticks if not first <= x <= last]
        ticks = sorted(t for t in ticks if t.place in away or all(abs(t.place - x) > 2 * apart for x in away))
        low, high = min(first, ticks[0].place - apart / 2), max(last, ticks[-1].place + apart / 2)
        margin = 0.01 * (high - low)
        most = max(bar.weight for bar in bars) / total
        axes.set(xlim=(low - margin, high + margin), ylim=(0, 1.1 * most), xlabel="loss of a row, nats (logarithmic)")
        axes.set_xticks([tick.place for tick in ticks], [tick.label for tick in ticks])
        axes.set_yticks([most / 2, most], [_percent(most / 2), _percent(most)])
        _mark(axes, score.loss, (first, last))
        _probabilities(axes, first, last)
        return svg(
            figure,
            name,
            "Distribution of the losses of the rows",
            "; ".join(f"{number(b.low)} to {number(b.high)} nats: {share(b.weight / total)}" for b in bars if b.weight),
        )


def quantile(bars: Sequence[Bar], part: float) -> float:
    """Return the loss below which this part of the weight lies, interpolated inside a bar."""
    wanted, passed = part * sum(bar.weight for bar in bars), 0.0
    for bar in bars:
        if bar.weight > 0 and passed + bar.weight >= wanted:
            if not math.isfinite(bar.high) or bar.low <= 0:
                return bar.low
            return bar.low * (bar.high / bar.low) ** ((wanted - passed) / bar.weight)
        passed += bar.weight
    return math.nan


def grouped(bars: Sequence[Bar]) -> list[Bar]:
    """Return at most about 40 bars of equal width on a logarithmic axis, each of one or several octaves.

    Bars without rows between the first and the last are included. The weights at zero and at infinity keep bars of
    their own.
    """
    zero = sum(bar.weight for bar in bars if bar.low <= 0)
    infinite = sum(bar.weight for bar in bars if not math.isfinite(bar.high))
    inner = [bar for bar in bars if bar.low > 0 and math.isfinite(bar.high) and bar.weight > 0]
    octaves = [math.floor((math.log2(bar.low) + math.log2(bar.high)) / 2) for bar in inner]
    wide = math.ceil((max(octaves) - min(octaves) + 1) / 40) if octaves else 1
    heights: dict[int, float] = {}
    for bar, octave in zip(inner, octaves, strict=True):
        heights[octave // wide] = heights.get(octave // wide, 0.0) + bar.weight
    found = [Bar(0.0, max((bar.high for bar in bars if bar.low <= 0), default=0.0), zero)] if zero else []
    for k in range(min(heights, default=0), max(heights, default=-1) + 1):
        found.append(Bar(2.0 ** (k * wide), 2.0 ** ((k + 1) * wide), heights.get(k, 0.0)))
    return [*found, Bar(math.inf, math.inf, infinite)] if infinite else found


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of losses from 0 to `top` nats, shared by the rows of a table."""

    top: float

    @classmethod
    def over(cls, parts: Sequence[Slice], mean: float) -> Axis:
        """Return an axis long enough for every loss, and for the whiskers unless they are much longer."""
        means = [x for x in (mean, *(part.loss for part in parts)) if math.isfinite(x)]
        ends = [part.ci[1] for part in parts if math.isfinite(part.ci[1])]
        most = max(means, default=0.0)
        return cls(1.06 * min(max([most, *ends]), 2.5 * most) or 1.0)

    def place(self, x: float) -> float:
        """Return the place of a loss of x nats, in percent of the axis."""
        return 100.0 * min(max(x / self.top, 0.0), 1.0)

    def ticks(self) -> str:
        """Draw the numbers of the axis."""
        scale = 10.0 ** math.floor(math.log10(self.top))
        most = 5.0 if 0.1 < self.top < 100 else 2.6  # long numbers have less room
        step = next(k * scale for k in (0.5, 1.0, 2.0, 5.0) if self.top / (k * scale) < most)
        count = int(self.top / step)
        texts = [
            _text(self.place(k * step), f"{k * step:.4g}", between=count > 2 and k % 2 == 1)
            for k in range(1, count + 1)
        ]
        return (
            '<svg class="whisker" role="img" aria-label="axis of losses in nats"><title>axis of losses in nats</title>'
            f'<text x="0" y="80%">0</text>{"".join(texts)}</svg>'
        )

    def whisker(self, part: Slice) -> str:
        """Draw a loss as a dot and its interval as a line, with an arrowhead where they go beyond the axis."""
        low, high = part.ci
        y = 'y1="50%" y2="50%"'
        marks: list[str] = []
        if math.isfinite(low) and math.isfinite(high):
            marks.append(f'<line x1="{self.place(low):.2f}%" x2="{self.place(high):.2f}%" {y}/>')
        if high > self.top or math.isinf(part.loss):
            marks.append('<svg x="100%" overflow="visible"><path d="M-5 4.5 0 8.8-5 13.1"/></svg>')
        if math.isfinite(part.loss):
            marks.append(f'<circle cx="{self.place(part.loss):.2f}%" cy="50%" r="4"/>')
        label = html.escape(f"{number(part.loss)} nats, interval {interval(part.ci)}")
        return (
            f'<svg class="whisker" role="img" aria-label="{label}" fill="currentColor" stroke="none"><title>{label}'
            f'</title><g stroke="currentColor" stroke-width="1.8">{"".join(marks)}</g></svg>'
        )


def _text(place: float, text: str, *, between: bool) -> str:
    """Write a number at a place in percent; a narrow page hides the numbers `between` others."""
    anchor = "end" if place > 88 else "middle"
    kind = ' class="between"' if between else ""
    return f'<text{kind} x="{place:.2f}%" y="80%" text-anchor="{anchor}">{text}</text>'


def _figure(height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height))


def _top(bins: Sequence[Bin]) -> float:
    """Return the end of the axes of the reliability diagram: 1, or less if all points are in the lower half."""
    most = max((x for part in bins for x in (part.predicted, part.observed)), default=1.0)
    if most >= 0.5:
        return 1.0
    step = 10.0 ** math.floor(math.log10(max(most, 1e-6)))
    return next(k * step for k in (1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 5.2, 6.0, 8.0, 12.0) if k * step >= 1.1 * most)


def _places(top: float) -> int:
    """Return the number of decimal places that write a quarter of top exactly."""
    return max(2, 2 - math.floor(math.log10(top)))


def _fallback(loss: float) -> list[float]:
    """Return the ends of an axis without bars."""
    centre = math.log10(loss) if math.isfinite(loss) and loss > 0 else 0.0
    return [centre - 0.5, centre + 0.5]


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %" if part >= 0.0995 else f"{100 * part:.2g} %"


def _tick(exponent: float) -> str:
    whole = round(exponent)
    return f"{10.0**exponent:.4g}" if -3 <= whole <= 4 else power(whole)


def _decades(first: float, last: float) -> list[Tick]:
    """Return about six ticks of a logarithmic axis between two exponents of ten."""
    step = max(1, math.ceil((last - first) / 7))
    found = [k for k in range(math.ceil(first), math.floor(last) + 1) if k % step == 0]
    ticks = [Tick(float(k), _tick(k)) for k in found]
    if len(ticks) < 3:
        between = [k + math.log10(m) for k in range(math.floor(first), math.ceil(last) + 1) for m in (2, 5)]
        ticks += [Tick(x, f"{10.0**x:.3g}") for x in between if first <= x <= last]
    middle = (first + last) / 2
    return sorted(ticks) or [Tick(middle, f"{10.0**middle:.3g}")]


def _mark(axes: Axes, loss: float, ends: tuple[float, float]) -> None:
    """Draw the mean as a broken line, with its number on the side that has more room."""
    if not (math.isfinite(loss) and loss > 0):
        return
    x = math.log10(loss)
    left = x > sum(ends) / 2
    _ = axes.axvline(x, color=INK, linewidth=1.1, linestyle=(0, (4, 3)))
    _ = axes.annotate(
        f"loss {number(loss)}",
        (x, 0.995),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if left else 4, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
    )


def _probabilities(axes: Axes, first: float, last: float) -> None:
    """Write probabilities of the true class along the upper edge, at the losses that they have."""
    placed: list[tuple[float, float]] = []  # centre and half of the width of each label
    for p in _PROBABILITIES:
        x = math.log10(-math.log(p))
        label = f"{100 * p:.10g} %" if p >= 0.01 else power(round(math.log10(p)))
        half = (last - first) * (0.014 * len(label) + 0.012)
        if first + half <= x <= last - half and all(abs(x - other) >= half + room for other, room in placed):
            placed.append((x, half))
            _ = axes.text(x, 1.025, label, color=MUTED, ha="center", transform=axes.get_xaxis_transform())
            _ = axes.plot([x, x], [1.0, 1.018], color=LINE, transform=axes.get_xaxis_transform(), clip_on=False)
    note = "probability of the true class"
    _ = axes.text(0.0, 1.115, note, color=MUTED, ha="left", transform=axes.transAxes, fontsize=8.5)
