"""The pictures of guide/one-hot.md."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from pictures.drawing import LINE, MAIN, MUTED, WARM, note, picture


@picture(
    "Three classes with their truth, their prediction and their terms of the sum: only the true class has a term", 2.3
)
def collapse(figure: Figure) -> None:
    """Draw p, q and −p log q of three classes side by side."""
    classes, p, q = ("cat", "dog", "bird"), np.array([1.0, 0.0, 0.0]), np.array([0.7, 0.2, 0.1])
    panels = (("truth p", p, MUTED), ("prediction q", q, MAIN), ("−p log q, nats", -p * np.log(q), WARM))
    for k, (title, heights, colour) in enumerate(panels, 1):
        axes = figure.add_subplot(1, 3, k)
        _ = axes.bar(classes, heights, width=0.62, color=colour)
        for place, height in enumerate(heights):
            text = f"{height:.3f}" if k == 3 and height else f"{height:.1f}".removesuffix(".0")
            _ = axes.annotate(text, (place, height), xytext=(0, 3), textcoords="offset points", ha="center")
        _ = axes.set(ylim=(0, 1.13), yticks=[])
        _ = axes.set_title(title, fontsize=9.0, color=MUTED)
        _ = axes.axhline(0, color=LINE)


@picture("The loss of a label over the probability that it got, from 0 at one to infinity at zero")
def penalty(figure: Figure) -> None:
    """Draw −log q with the two predictions of the worked example."""
    axes = figure.add_subplot()
    q = np.geomspace(0.02, 1.0, 300)
    _ = axes.plot(q, -np.log(q), color=MAIN)
    for x, text in ((0.7, "0.7 costs 0.357"), (0.1, "0.1 costs 2.303")):
        _ = axes.plot([x], [-np.log(x)], "o", color=WARM, markersize=5)
        note(axes, text, x, -np.log(x), xytext=(7, 3))
    _ = axes.set(xlabel="probability that the true class got", ylabel="loss, nats", xlim=(0, 1.02), ylim=(-0.06, 4))
