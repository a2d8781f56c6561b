"""The pictures of the demonstration's report: inline SVG in the colours of the page (see `crossent.html`)."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from crossent.demo.numbers import SCALES, ScaleCurves, Summary, predicted_class, row_costs, truth_probability
from crossent.demo.train import Fit
from crossent.html import INK, MAIN, MUTED, WARM, own_style, svg

_SIZE = (4.6, 3.3)  # inches, so that 9-point text is readable when the picture is as wide as a telephone


def loss_curves(fit: Fit, summary: Summary) -> str:
    """Draw training and test loss after each epoch, on a logarithmic axis, with the loss of guessing."""
    name = f"loss-{fit.task.name}"
    with own_style(name):
        figure = Figure(figsize=_SIZE)
        axes = figure.add_axes((0.09, 0.12, 0.71, 0.86))
        epochs = np.arange(len(fit.test_curve))
        _ = axes.plot(epochs, fit.train_curve, color=MUTED)
        _ = axes.plot(epochs, fit.test_curve, color=MAIN)
        _ = axes.axhline(summary.guess, color=WARM, linewidth=1.2, linestyle=(0, (4, 3)))
        best = int(np.argmin(fit.test_curve))
        _ = axes.plot([best], [fit.test_curve[best]], "o", color=MAIN, markersize=5)
        axes.set(xlim=(0, epochs[-1]), yscale="log", xlabel="epoch")
        low, high = axes.get_ylim()
        axes.set_ylim(low / 1.15, high * 1.15)
        steps = (1.0, 2.0, 5.0) if high / low < 30 else (1.0, 3.0) if high / low < 3000 else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=steps))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.minorticks_off()
        _end_labels(
            axes,
            [
                EndLabel(summary.guess, WARM, f"guessing {summary.guess:.2f}"),
                EndLabel(fit.test_curve[-1], MAIN, f"test {_short(fit.test_curve[-1])}"),
                EndLabel(fit.train_curve[-1], MUTED, f"training {_short(fit.train_curve[-1])}"),
            ],
        )
        return svg(figure, name, f"{fit.task.title}: loss per epoch on training and test rows, in nats")


def penalty_curve(fit: Fit, summary: Summary) -> str:
    """Draw the cost −log q over q, with every test row on it at the probability that its true class got."""
    name = f"penalty-{fit.task.name}"
    with own_style(name):
        figure = Figure(figsize=_SIZE)
        axes = figure.add_axes((0.07, 0.12, 0.91, 0.86))
        y, said = fit.task.test.y, predicted_class(fit.test_logits)
        q = truth_probability(fit.test_logits, y)
        cost = row_costs(fit.test_logits, y)
        top = 1.08 * max(cost.max(), 3.0)
        curve = np.geomspace(np.exp(-top), 1.0, 300)
        _ = axes.plot(curve, -np.log(curve), color=MUTED, linewidth=1.2)
        for rows, colour in ((said == y, MAIN), (said != y, WARM)):
            _ = axes.scatter(q[rows], cost[rows], s=22, color=colour, alpha=0.6, linewidths=0, zorder=3)
        _ = axes.axhline(summary.loss, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02 * top, top), xlabel="probability q of the true class")
        _label_worst(axes, fit, q, cost, top)
        _legend(axes, int((said == y).sum()), int((said != y).sum()), summary.loss)
        return svg(figure, name, f"{fit.task.title}: cost of each test row over the probability of its true class")


def likelihood(fit: Fit, curves: ScaleCurves) -> str:
    """Draw the likelihood of the test rows above their loss, both along the scale of the fitted weights."""
    name = f"likelihood-{fit.task.name}"
    with own_style(name):
        figure = Figure(figsize=_SIZE)
        upper = figure.add_axes((0.09, 0.57, 0.89, 0.36))
        lower = figure.add_axes((0.09, 0.12, 0.89, 0.32))
        best = curves.smallest_loss
        relative = np.exp(curves.log_likelihoods - curves.log_likelihoods.max())
        fitted = float(np.interp(1.0, SCALES, curves.losses))
        for axes, values, colour in ((upper, relative, WARM), (lower, curves.losses, MAIN)):
            _ = axes.plot(SCALES, values, color=colour)
            _ = axes.axvline(best, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
            axes.set_xlim(SCALES[0], SCALES[-1])
        _ = upper.fill_between(SCALES, relative, color=WARM, alpha=0.15, linewidth=0)
        upper.set(ylim=(0, 1.08), yticks=[0, 0.5, 1], xticklabels=[])
        lower.set(ylim=(0, min(curves.losses.max(), 4 * fitted) * 1.05), xlabel="factor s on the fitted weights")
        _ = lower.plot([1.0], [fitted], "o", color=MAIN, markersize=5)
        free = (4, -12) if best < 1 else (4, 7)  # beside the rising branch there is room below, else above
        _ = lower.annotate(
            f"the fitted model, {_short(fitted)}", (1.0, fitted), xytext=free, textcoords="offset points"
        )
        side = ("right", -0.06) if best > 2.4 else ("left", 0.06)
        _ = upper.text(best + side[1], 1.0, f"s = {best:.2f}", ha=side[0], va="center")
        _ = upper.set_title("likelihood of the test rows, largest = 1", loc="left", fontsize=9, color=WARM)
        _ = lower.set_title("loss in nats", loc="left", fontsize=9, color=MAIN)
        return svg(figure, name, f"{fit.task.title}: likelihood and loss along a factor on the fitted weights")


def pixels(image: Any, name: str, description: str) -> str:
    """Draw one grey image (h, w) in [0, 1] as ink on the page, one path per level of grey."""
    levels = np.rint(np.asarray(image) * 16).astype(int)
    paths = "".join(
        f'<path fill-opacity="{level / 16:g}" d="'
        + "".join(f"M{column} {row}h1v1h-1z" for row, column in np.argwhere(levels == level))
        + '"/>'
        for level in np.unique(levels[levels > 0])
    )
    height, width = levels.shape
    return (
        f'<svg id="{name}" class="pixels" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(description)}" fill="currentColor" shape-rendering="crispEdges">{paths}</svg>'
    )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return the heights moved down, from the top on, until none are closer than gap."""
    placed = list(heights)
    above = float("inf")
    for k in sorted(range(len(heights)), key=lambda k: -heights[k]):
        above = placed[k] = min(heights[k], above - gap)
    return placed


class EndLabel(NamedTuple):
    """A label to the right of the axes, at the height of a value."""

    value: float
    colour: str
    text: str


def _end_labels(axes: Axes, labels: Sequence[EndLabel]) -> None:
    """Write labels to the right of the axes, none over another."""
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform((0.0, label.value))[1]) for label in labels]
    for height, label in zip(spread(heights, 0.07), labels, strict=True):
        _ = axes.text(1.02, height, label.text, color=label.colour, va="center", transform=axes.transAxes)


def _label_worst(axes: Axes, fit: Fit, q: Any, cost: Any, top: float) -> None:
    """Label the points of the three costliest rows, as far as they lie in the left half."""
    worst = [k for k in np.argsort(-cost, kind="stable")[:3] if q[k] < 0.5]
    y, said, classes = fit.task.test.y, predicted_class(fit.test_logits), fit.task.classes
    for k, height in zip(worst, spread(cost[worst].tolist(), 0.07 * top), strict=True):
        _ = axes.annotate(
            f"{classes[y[k]]} taken for {classes[said[k]]}: {cost[k]:.2f}",
            (q[k], cost[k]),
            xytext=(max(0.08, q[k] + 0.05), height),
            va="center",
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 3},
        )


def _legend(axes: Axes, right: int, wrong: int, loss: float) -> None:
    """Write the meaning of the two colours of points and of the broken line in the empty upper corner."""
    entries = ((MAIN, f"{right} rows right"), (WARM, f"{wrong} rows wrong"), (INK, f"mean {_short(loss)}"))
    for height, (colour, text) in zip((0.95, 0.88, 0.81), entries, strict=True):
        _ = axes.text(0.98, height, text, color=colour, ha="right", va="center", transform=axes.transAxes)


def _short(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
