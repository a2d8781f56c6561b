"""The pictures of guide/why.md."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from pictures.drawing import DASHED, INK, MAIN, MUTED, WARM, note, picture


@picture("Penalty and gradient over the probability of the true class, cross-entropy beside squared error", 3.9)
def penalty(figure: Figure) -> None:
    """Draw both losses, and how hard each pushes the logit of the true class."""
    upper, lower = figure.subplots(2, 1, sharex=True)
    q = np.linspace(0.004, 1.0, 500)
    _ = upper.plot(q, -np.log(q), color=MAIN)
    _ = upper.plot(q, (1 - q) ** 2 + (1 - q) ** 2, color=WARM)
    _ = upper.set(ylim=(0, 5), ylabel="loss")
    note(upper, "−log q", 0.04, 3.2, MAIN, xytext=(9, 3))
    note(upper, "squared error, at most 2", 0.03, 1.88, WARM, xytext=(60, 1))
    _ = lower.plot(q, 1 - q, color=MAIN)
    _ = lower.plot(q, 4 * q * (1 - q) ** 2, color=WARM)
    note(lower, "1 − q: hardest where most wrong", 0.2, 0.8, MAIN, xytext=(8, 1))
    note(lower, "almost nothing\nwhere most wrong", 0.02, 0.06, WARM, xytext=(14, -6), va="center", fontsize=8.5)
    _ = lower.set(ylim=(-0.12, 1.05), ylabel="push on the logit", xlim=(0, 1), xlabel="probability of the true class")


@picture(
    "Seven heads in ten throws: the likelihood and minus the mean loss have their peak at the same place, seven tenths"
)
def likelihood(figure: Figure) -> None:
    """Draw the likelihood of data over the parameter above the loss of the same data."""
    left, right = figure.subplots(1, 2)
    q = np.linspace(0.01, 0.99, 300)
    heads, n = 7, 10
    chance, loss = q**heads * (1 - q) ** (n - heads), -(0.7 * np.log(q) + 0.3 * np.log1p(-q))
    _ = left.plot(q, chance * 1000, color=MAIN)
    _ = right.plot(q, loss, color=WARM)
    for axes in (left, right):
        _ = axes.axvline(0.7, color=INK, linewidth=1.0, linestyle=DASHED)
        _ = axes.set(xticks=[0, 0.7, 1], xlabel="q of heads", xlim=(0, 1))
    _ = left.set_title("likelihood, thousandths", fontsize=9.0, color=MUTED)
    _ = right.set_title("mean loss, nats", fontsize=9.0, color=MUTED)
    _ = left.set(ylim=(0, None))
    _ = right.set(ylim=(0, 2.5))


@picture(
    "Calibration of a linear classifier, of the same with logits three times as large, and three times as small", 3.0
)
def calibration(figure: Figure) -> None:
    """Draw how often the positive class comes true over its predicted probability, on simulated rows."""
    axes = figure.add_subplot()
    random = np.random.default_rng(0)
    x = 1.5 * random.standard_normal(200_000)
    y = random.random(x.size) < 1 / (1 + np.exp(-x))
    ends = []
    for factor, name, colour in (
        (3.0, "3 z: over-confident", WARM),
        (1.0, "z: calibrated", MAIN),
        (1 / 3, "z / 3: too timid", MUTED),
    ):
        q = 1 / (1 + np.exp(-factor * x))
        edges = np.linspace(0, 1, 21)
        bins = np.digitize(q, edges) - 1
        seen = [k for k in range(20) if (bins == k).sum() > 200]
        _ = axes.plot([q[bins == k].mean() for k in seen], [y[bins == k].mean() for k in seen], color=colour)
        loss = -np.log(np.where(y, q, 1 - q)).mean()
        ends.append((name, loss, colour))
    _ = axes.plot([0, 1], [0, 1], color=INK, linewidth=1.0, linestyle=DASHED, zorder=1)
    for k, (name, loss, colour) in enumerate(ends):
        note(axes, f"{name}, {loss:.3f} nats", 0.03, 0.96 - 0.075 * k, colour, xytext=(0, 0), va="top")
    _ = axes.set(xlabel="predicted probability", ylabel="frequency", xlim=(0, 1), ylim=(0, 1))


@picture("What ten rows add to a loss, of which one is a confident mistake")
def rows(figure: Figure) -> None:
    """Draw what ten rows add to a loss, of which one is a confident mistake."""
    axes = figure.add_subplot()
    q = np.array([0.95, 0.9, 0.85, 0.9, 0.97, 0.6, 0.8, 0.92, 0.88, 0.001])
    cost = -np.log(q)
    _ = axes.bar(range(10), cost, color=[MAIN] * 9 + [WARM], width=0.7)
    _ = axes.axhline(cost.mean(), color=INK, linewidth=1.0, linestyle=DASHED)
    note(axes, f"mean {cost.mean():.2f}", 0, cost.mean(), xytext=(-4, 4))
    _ = axes.plot([-0.4, 8.4], [cost[:9].mean()] * 2, color=MUTED, linewidth=1.0, linestyle=DASHED)
    _ = axes.annotate(
        f"mean of the nine {cost[:9].mean():.2f}", (3, cost[:9].mean()), (3, 2.6), color=MUTED, ha="center",
        arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.8},
    )  # fmt: skip
    _ = axes.set(xticks=[0, 5, 9], xticklabels=[f"{q[k]:g}" for k in (0, 5, 9)], ylabel="nats")
    _ = axes.set(xlabel="probability of the true class")
