"""The pictures of guide/softmax.md."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from crossent.torch import cross_entropy
from pictures.drawing import DASHED, INK, LINE, MAIN, MUTED, WARM, name_lines, note, picture


@picture("Logits of five classes, their softmax, and the gradient: the softmax, minus one at the label", 2.5)
def gradient(figure: Figure) -> None:
    """Draw logits z, their softmax q, and the gradient q − p, whose bars add up to zero."""
    z, y = np.array([2.0, 1.0, 0.2, -0.5, 0.8]), 1
    p = (np.arange(5) == y).astype(float)
    q = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    panels = (("logits z", z, MUTED), ("prediction q", q, MAIN), ("gradient q − p", q - p, WARM))
    for k, (title, heights, colour) in enumerate(panels, 1):
        axes = figure.add_subplot(1, 3, k)
        _ = axes.bar(range(5), heights, width=0.7, color=colour)
        _ = axes.axhline(0, color=INK, linewidth=0.8)
        _ = axes.set(xticks=range(5), xticklabels=["a", "b", "c", "d", "e"])
        _ = axes.set_title(title, fontsize=9.0, color=MUTED)
        axes.tick_params(labelsize=8.0)
    _ = axes.annotate("the label", (1, q[1] - p[1]), xytext=(6, 2), textcoords="offset points", fontsize=8.5)


@picture("The loss of two classes, and its gradient, over the lead of the true logit")
def margin(figure: Figure) -> None:
    """Draw log(1 + e^−lead) and its slope over the lead."""
    axes = figure.add_subplot()
    lead = np.linspace(-6, 6, 400)
    _ = axes.plot(lead, np.logaddexp(0, -lead), color=MAIN)
    _ = axes.plot(lead, 1 / (1 + np.exp(lead)), color=WARM)
    _ = axes.plot([-6, 0], [6, 0], color=MUTED, linewidth=1.0, linestyle=DASHED)
    note(axes, "loss", -4.4, 4.5, MAIN, xytext=(8, 3))
    note(axes, "size of the gradient, 1 − q", -5.9, 1.0, WARM, xytext=(0, -14))
    _ = axes.set(
        xlabel="lead of the true class, z_y − z_other", ylabel="loss, nats; gradient", xlim=(-6, 6), ylim=(0, 6)
    )


@picture("Relative error of the loss over the size of the logits in float32, computed in three ways")
def stability(figure: Figure) -> None:
    """Draw the errors of three ways to compute a loss, by float64 beside float32."""
    axes = figure.add_subplot()
    random = np.random.default_rng(0)
    offsets = np.geomspace(1.0, 3e4, 60)
    errors: dict[str, list[float]] = {"naive": [], "lse − z_y": [], "crossent": []}
    for offset in offsets:
        z = (offset + random.standard_normal((64, 100))).astype(np.float32)
        wide = z.astype(np.float64)
        shifted = wide - wide.max(1, keepdims=True)
        exact = np.log(np.exp(shifted).sum(1)) - shifted[:, 0]
        with np.errstate(over="ignore", invalid="ignore"):
            naive = -np.log(np.exp(z)[:, 0] / np.exp(z).sum(1))
        peak = z.max(1)
        lse = (np.log(np.exp(z - peak[:, None]).sum(1)) + peak).astype(np.float32)
        ours = cross_entropy(torch.from_numpy(z), torch.zeros(64, dtype=torch.int64), reduction="none").numpy()
        for name, found in zip(errors, (naive, lse - z[:, 0], ours), strict=True):
            errors[name].append(float(np.mean(np.abs(found - exact) / exact)))
    ends = []
    for (name, line), colour in zip(errors.items(), (MUTED, WARM, MAIN), strict=True):
        values = np.array(line)
        _ = axes.loglog(offsets, values, color=colour)
        last = values[np.isfinite(values)][-1]
        if name == "naive":
            there = offsets[np.isfinite(values)][-1]
            _ = axes.plot([there], [last], "x", color=colour, markersize=7, markeredgewidth=1.8)
            note(axes, "naive: NaN from here", there, last, colour, xytext=(6, 8))
        else:
            ends.append((last, name, colour))
    _ = axes.set(
        xlabel="size of the logits", ylabel="relative error", xlim=(offsets[0], offsets[-1]), ylim=(1e-8, 3e-3)
    )
    axes.minorticks_off()
    name_lines(axes, ends)
    _ = axes.axhline(2.0**-24, color=LINE, linewidth=1.0)
