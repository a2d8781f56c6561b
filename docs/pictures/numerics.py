"""The pictures of guide/numerics.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import log_loss
from torch import Tensor
from torch.nn import LinearCrossEntropyOptions, functional

import crossent
from crossent.torch import cross_entropy, linear_cross_entropy
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


@picture("Errors of loss and dW of a bfloat16 head over the number of chunks: torch's grow, crossent's stay", 3.0)
def chunks(figure: Figure) -> None:
    """Draw the errors of a small head in bfloat16 beside how many chunks its logits came in."""
    N, D, V = 1024, 64, 2000
    random = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, D, generator=random).div_(D**0.25).bfloat16().requires_grad_() for n in (N, V))
    y = torch.randint(V, (N,), generator=random)
    exact = step(functional.linear_cross_entropy, x.detach().double(), w.detach().double(), y)
    counts = [2**k for k in range(8)]
    ways = {
        "torch chunked": [LinearCrossEntropyOptions(batch_chunk_size=N // n) for n in counts],
        "crossent": [6 * V * N // n for n in counts],  # a bfloat16 logit and its float32 gradient
    }
    axes = figure.add_subplot()
    ends = []
    for who, sizes in ways.items():
        loss = functional.linear_cross_entropy if who == "torch chunked" else linear_cross_entropy
        name = "options" if who == "torch chunked" else "chunk_bytes"
        found = [step(loss, x, w, y, **{name: size}) for size in sizes]
        for k, (of, colours) in enumerate((("loss", (MUTED, MAIN)), ("dW", (WARM, INK)))):
            errors = [float((f[k] - exact[k]).norm() / exact[k].norm()) for f in found]
            colour = colours[who == "crossent"]
            _ = axes.loglog(counts, errors, "o-", color=colour, markersize=4)
            ends.append((errors[-1], f"{who.removesuffix(' chunked')}, {of}", colour))
    _ = axes.set(xlabel="chunks", ylabel="relative error", xlim=(0.9, counts[-1] * 1.15), xticks=counts)
    _ = axes.set_xticklabels([str(n) for n in counts])
    axes.minorticks_off()
    name_lines(axes, ends, gap=0.09)


def step(loss: Callable[..., Tensor], x: Tensor, w: Tensor, y: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Return the loss and the gradient of the weight in float64."""
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    value = loss(x, w, y, **options)
    value.backward()
    return value.detach().double(), w.grad.double()


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
    note(axes, "crossent", 33, 1e-14, MAIN, xytext=(14, 0), va="center")
    _ = axes.set(xlabel="lead of the right class", ylabel="nats", xlim=(0, 60), ylim=(1e-27, 3))
    axes.minorticks_off()
