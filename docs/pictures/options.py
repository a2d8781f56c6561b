"""The pictures of guide/options.md."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from pictures.drawing import DASHED, INK, LINE, MAIN, MUTED, WARM, name_lines, note, on_line, picture


@picture("Four targets of the same row: a label, a smoothed label, a teacher's top two, and a whole distribution", 2.2)
def targets(figure: Figure) -> None:
    """Draw four kinds of targets over five classes."""
    kinds = (
        ("label", [0, 1, 0, 0, 0]),
        ("smoothed", [0.04, 0.84, 0.04, 0.04, 0.04]),
        ("top 2", [0, 0.7, 0, 0.25, 0]),
        ("dense", [0.1, 0.55, 0.05, 0.25, 0.05]),
    )
    for axes, (title, p), colour in zip(
        figure.subplots(1, 4, sharey=True), kinds, (MUTED, MAIN, WARM, MUTED), strict=True
    ):
        _ = axes.bar(range(5), p, width=0.75, color=colour)
        _ = axes.axhline(0, color=LINE)
        _ = axes.set(xticks=[], yticks=[], ylim=(0, 1.05))
        _ = axes.set_title(title, fontsize=9.0, color=INK)


@picture("Scores over logits: divided by a temperature of 2, and softly bounded at 5")
def scores(figure: Figure) -> None:
    """Draw the scores s = phi(z) of a temperature and of a softcap."""
    axes = figure.add_subplot()
    z = np.linspace(-15, 15, 300)
    capped = 5 * np.tanh(z / 5)
    _ = axes.plot(z, z, color=MUTED, linewidth=1.2, linestyle=DASHED)
    _ = axes.plot(z, z / 2, color=MAIN)
    _ = axes.plot(z, capped, color=WARM)
    _ = axes.set(xlabel="logit z", ylabel="score s", xlim=(-15, 15), ylim=(-12, 12))
    name_lines(axes, [(z[-1] / 2, "temperature 2", MAIN), (capped[-1], "softcap 5", WARM)], gap=0.11)
    note(axes, "as it is", 10, 10, MUTED, xytext=(-6, 3), ha="right")


@picture("Focal loss over the probability of the true class, for gamma 0, 1, 2 and 5: easy rows count less and less")
def focal(figure: Figure) -> None:
    """Draw (1 − q)^gamma times −log q."""
    axes = figure.add_subplot()
    q = np.linspace(0.02, 1, 300)
    for gamma, colour, x in ((0, MAIN, 0.7), (1, MUTED, 0.51), (2, WARM, 0.38), (5, INK, 0.23)):
        _ = axes.plot(q, (1 - q) ** gamma * -np.log(q), color=colour)
        on_line(axes, f"γ = {gamma}", x, (1 - x) ** gamma * -np.log(x), colour)
    _ = axes.set(xlabel="probability of the true class", ylabel="nats", xlim=(0, 1), ylim=(0, 2.5))


@picture("The loss of ten classes over the lead of the label, for three amounts of smoothing")
def smoothing(figure: Figure) -> None:
    """Draw the loss of ten classes over the lead of the true logit, with and without smoothing."""
    axes = figure.add_subplot()
    lead, V = np.linspace(0, 12, 300), 10
    lse = np.log(np.exp(lead) + V - 1)
    ends = []
    for eps, colour in ((0.0, MUTED), (0.05, MAIN), (0.2, WARM)):
        loss = lse - (1 - eps + eps / V) * lead
        _ = axes.plot(lead, loss, color=colour)
        least = int(loss.argmin())
        if eps:
            _ = axes.plot([lead[least]], [loss[least]], "o", color=colour, markersize=5)
        ends.append((loss[-1], f"ε = {eps:g}", colour))
    _ = axes.set(xlabel="lead of the label over nine others", ylabel="nats", xlim=(0, 12), ylim=(-0.15, 2.6))
    name_lines(axes, ends)
