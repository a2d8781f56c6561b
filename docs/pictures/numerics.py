"""The pictures of guide/numerics.md."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import log_loss

import crossent
from benchmarks import proof
from crossent.torch import cross_entropy
from pictures.drawing import DASHED, INK, MAIN, MUTED, WARM, name_lines, note, picture


@picture("The loss of a probability in float32: crossent follows minus log q, scikit-learn's log_loss ends at 15.9")
def clipping(figure: Figure) -> None:
    """Draw what two libraries charge for one row as its probability goes to zero."""
    axes = figure.add_subplot()
    powers = np.linspace(-30, -0.1, 90)
    q = (10.0**powers).astype(np.float32)
    rows = [np.array([[x, np.float32(1) - x]], dtype=np.float32) for x in q]
    ours = [crossent.score([0], probs=row).loss for row in rows]
    theirs = [log_loss([0], row, labels=[0, 1]) for row in rows]
    _ = axes.plot(-powers, theirs, color=WARM)
    _ = axes.plot(-powers, ours, color=MAIN)
    _ = axes.set(xlabel="k in q = 10⁻ᵏ", ylabel="nats", xlim=(0, 30), ylim=(0, 72))
    name_lines(axes, [(ours[0], "−log q,\ncrossent", MAIN), (theirs[0], "clipped,\nlog_loss", WARM)])


@picture(
    "Errors of the loss and of the gradient of the weight over the number of chunks, in bfloat16, as measured", 3.0
)
def chunks(figure: Figure) -> None:
    """Draw the errors of a bfloat16 head beside how many chunks its logits came in."""
    record = proof.record("linear", "smollm2-head-bf16", "error")
    axes = figure.add_subplot()
    ours = sorted((count, name) for name, count in record["chunks"].items())
    for key, colour, text in (("loss", MAIN, "loss"), ("dW", INK, "dW")):
        _ = axes.loglog(
            [n for n, _ in ours], [record["errors"][name][key] for _, name in ours], "o-", color=colour, markersize=4
        )
        n, name = ours[-1]
        note(axes, f"crossent, {text}", n, record["errors"][name][key], colour, xytext=(-2, 7), ha="right")
    for name, style in (("eager", DASHED), ("torch chunked", (0, (1, 2)))):
        for key in ("loss", "dW"):
            value = record["errors"][name][key]
            _ = axes.axhline(value, color=WARM if name == "torch chunked" else MUTED, linewidth=1.2, linestyle=style)
            note(
                axes,
                f"{name}, {key}",
                ours[0][0],
                value,
                WARM if name == "torch chunked" else MUTED,
                xytext=(0, 4),
                fontsize=8.0,
            )
    _ = axes.set(xlabel="chunks", ylabel="relative error")
    axes.minorticks_off()


@picture("The loss of a row that is right with confidence: usual float32 ends at a lead of 17")
def confident(figure: Figure) -> None:
    """Draw the loss of two classes over the lead of the right one, in float32."""
    axes = figure.add_subplot()
    lead = np.linspace(0, 60, 200, dtype=np.float32)
    z = np.stack([lead, np.zeros_like(lead)], 1)
    ours = cross_entropy(torch.from_numpy(z), torch.zeros(len(z), dtype=torch.int64), reduction="none").numpy()
    ours = np.where(ours > 0, ours, np.nan)
    shifted = z - z.max(1, keepdims=True)
    usual = np.log(np.exp(shifted).sum(1, dtype=np.float32)) - shifted[:, 0]
    _ = axes.semilogy(lead, ours, color=MAIN)
    shown = usual > 0
    _ = axes.semilogy(lead[shown], usual[shown], color=WARM, linewidth=1.4, linestyle=DASHED)
    last = int(np.flatnonzero(shown)[-1])
    _ = axes.plot([lead[last]], [usual[last]], "x", color=WARM, markersize=7, markeredgewidth=1.8)
    note(axes, "log(Σ) in float32: zero from here", lead[last], usual[last], WARM, xytext=(9, 2))
    note(axes, "crossent, to the end\nof float64", 33, 1e-14, MAIN, xytext=(14, 0), va="center")
    _ = axes.set(xlabel="lead of the right class", ylabel="nats", xlim=(0, 60), ylim=(1e-18, 3))
    axes.minorticks_off()
