"""The pictures of the report of a language model: losses by the place of tokens, of tokens, and of documents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from crossent.html import INK, MAIN, WARM, own_style, svg
from crossent.scoring.lm_values import LanguageModelValues, PositionLoss
from crossent.scoring.parts import Bar
from crossent.scoring.show.pictures import grouped
from crossent.scoring.show.words import number, power, share

_WIDTH = 4.0  # inches, so that 9-point text is readable when the picture is as wide as a telephone
_MOST_LABELS = 8


def positions(parts: Sequence[PositionLoss]) -> str:
    """Draw the loss per token over the place of tokens in their documents."""
    name = "positions"
    with own_style(name):
        figure, axes = _axes(2.8)
        places, losses = range(len(parts)), [part.loss for part in parts]
        shown = [loss if math.isfinite(loss) else math.nan for loss in losses]
        _ = axes.plot(places, shown, "o-", color=MAIN, markersize=4.5, gid="positions", clip_on=False)
        every = math.ceil(len(parts) / _MOST_LABELS)
        axes.set_xticks(places[::every], [_short(part.first) for part in parts][::every])
        finite = [loss for loss in shown if not math.isnan(loss)] or [1.0]
        _ = axes.set(xlabel="position of the token in its document, from", ylim=(0, 1.1 * max(finite) or 1.0))
        said = "; ".join(
            f"{part.first} to {part.last}: {number(part.loss)} nats, {part.tokens} tokens" for part in parts
        )
        return svg(figure, name, "Loss per token by position in the document", said)


def losses(score: LanguageModelValues) -> str:
    """Draw the distribution of the losses of tokens on a logarithmic axis; zero and infinity are bars of their own."""
    name = "token-losses"
    bars = grouped(score.histogram)
    total = sum(bar.weight for bar in bars)
    inner = [bar for bar in bars if bar.low > 0 and math.isfinite(bar.high)]
    ends = [math.log10(x) for bar in inner for x in (bar.low, bar.high)] or [-1.0, 1.0]
    first, last = min(ends), max(ends)
    apart = 0.06 * max(last - first, 1.0)
    with own_style(name):
        figure, axes = _axes(2.8)
        ticks = {float(k): _tick(k) for k in range(math.ceil(first), math.floor(last) + 1)}
        step = max(1, math.ceil(len(ticks) / 6))
        ticks = dict([*ticks.items()][::step])
        for k, bar in enumerate(bars):
            left, right = (
                (last + apart, last + 2 * apart) if not math.isfinite(bar.high)
                else (first - 2 * apart, first - apart) if bar.low <= 0
                else (math.log10(bar.low), math.log10(bar.high))
            )  # fmt: skip
            colour = MAIN if math.isfinite(bar.high) else WARM
            _ = axes.bar(left, bar.weight / total, right - left, align="edge", color=colour, linewidth=0, gid=f"bar{k}")
            if bar.low <= 0 or not math.isfinite(bar.high):
                ticks[(left + right) / 2] = "∞" if bar.low > 0 else "0"
        most = max(bar.weight for bar in bars) / total
        axes.set_xticks([*ticks], [*ticks.values()])
        axes.set_yticks([most / 2, most], [_percent(most / 2), _percent(most)])
        _ = axes.set(xlabel="loss of a token, nats (logarithmic)", ylim=(0, 1.15 * most))
        mean = score.loss if not math.isnan(score.loss) else score.covered_loss
        if math.isfinite(mean) and mean > 0:
            _line(axes, math.log10(mean), f"mean {number(mean)}", (first + last) / 2)
        said = "; ".join(
            f"{number(b.low)} to {number(b.high)} nats: {share(b.weight / total)}" for b in bars if b.weight
        )
        return svg(figure, name, "Distribution of the losses of tokens", said)


def documents(bars: Sequence[Bar], mean: float) -> str:
    """Draw the distribution of the losses per token of documents."""
    name = "document-losses"
    with own_style(name):
        figure, axes = _axes(2.8)
        for k, bar in enumerate(bars):
            wide = bar.high - bar.low
            _ = axes.bar(bar.low, bar.weight, wide, align="edge", color=MAIN, linewidth=0, gid=f"bar{k}")
        most = max(bar.weight for bar in bars)
        _ = axes.set(xlabel="loss of a document, nats per token", ylim=(0, 1.15 * most))
        axes.set_yticks([most], [f"{most:,.0f}"])
        if math.isfinite(mean):
            _line(axes, mean, f"mean {number(mean)}", (bars[0].low + bars[-1].high) / 2)
        said = "; ".join(f"{number(b.low)} to {number(b.high)} nats: {b.weight:.0f}" for b in bars if b.weight)
        return svg(figure, name, "Distribution of the losses per token of documents", said)


def _line(axes: Any, place: float, text: str, middle: float) -> None:
    """Draw a broken line, with its text on the side that has more room."""
    left = place > middle
    _ = axes.axvline(place, color=INK, linewidth=1.1, linestyle=(0, (4, 3)))
    _ = axes.annotate(
        text, (place, 0.995), xycoords=("data", "axes fraction"), xytext=(-4 if left else 4, 0),
        textcoords="offset points", ha="right" if left else "left", va="top",
    )  # fmt: skip


def _axes(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height))
    return figure, figure.add_axes((0.135, 0.16, 0.835, 0.8))


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %" if part >= 0.0995 else f"{100 * part:.2g} %"


def _tick(exponent: int) -> str:
    return f"{10.0**exponent:.4g}" if -3 <= exponent <= 3 else power(exponent)


def _short(place: int) -> str:
    """Return a place with few characters: 512, 2k, 1M."""
    for size, letter in ((1 << 20, "M"), (1 << 10, "k")):
        if place >= size:
            return f"{place // size}{letter}"
    return str(place)
