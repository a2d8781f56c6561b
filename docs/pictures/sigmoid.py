"""The pictures of guide/sigmoid.md."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from pictures.drawing import DASHED, INK, MAIN, MUTED, WARM, note, on_line, picture


@picture("The binary loss of a logit for a label of one and a label of zero: mirror images that cross at log 2")
def branches(figure: Figure) -> None:
    """Draw softplus(−z) and softplus(z)."""
    axes = figure.add_subplot()
    z = np.linspace(-6, 6, 300)
    _ = axes.plot(z, np.logaddexp(0, -z), color=MAIN)
    _ = axes.plot(z, np.logaddexp(0, z), color=WARM)
    _ = axes.plot([0], [np.log(2)], "o", color=INK, markersize=5)
    note(axes, "log 2 = 0.693", 0, np.log(2), xytext=(0, 26), ha="center")
    note(axes, "label 1", -5, 5, MAIN, xytext=(6, 2))
    note(axes, "label 0", 5, 5, WARM, xytext=(-6, 2), ha="right")
    _ = axes.set(xlabel="logit z", ylabel="loss, nats", xlim=(-6, 6), ylim=(-0.35, 6))


@picture("The best prediction over the share of positives, for three values of pos_weight")
def pos_weight(figure: Figure) -> None:
    """Draw the prediction that costs least over the share of positives, for three weights."""
    axes = figure.add_subplot()
    p = np.linspace(0, 1, 200)
    for w, colour, x in ((10.0, WARM, 0.16), (3.0, MAIN, 0.52), (1.0, MUTED, 0.5)):
        _ = axes.plot(p, w * p / (w * p + 1 - p), color=colour, linestyle=DASHED if w == 1 else "-")
        on_line(axes, f"pos_weight {w:g}", x, w * x / (w * x + 1 - x), colour)
    _ = axes.set(xlabel="share p of positives", ylabel="best prediction", xlim=(0, 1), ylim=(0, 1.01))
