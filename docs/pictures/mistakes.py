"""The picture of guide/mistakes.md: right and wrong numbers of the page's examples."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch.nn.functional import one_hot

from crossent.torch import binary_cross_entropy_with_logits, cross_entropy, next_token_labels
from pictures.drawing import LINE, MUTED, WARM, note, picture


def costs() -> dict[str, tuple[float, float]]:
    """Return the right number of each mistake and the wrong one, in nats."""
    z = torch.tensor([[4.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 2.0, 1.0], [0.0, 1.0, 4.0]])
    y = torch.tensor([0, 1, 2, 2])
    right = cross_entropy(z, y)
    ids = torch.tensor([3, 1, 4, 1, 0, 2, 4, 3])
    model = 6 * one_hot(ids.roll(-1), 5).float()
    padded = torch.tensor([[3, 1, 4, 0, 0, 0], [2, 4, 1, 3, 2, 0]]).flatten()
    logits = 2 * one_hot(padded, 5).float()
    logits[padded == 0] = torch.tensor([5.0, 0, 0, 0, 0])
    far = torch.tensor([[0.0, 120.0]])
    labels, no = torch.arange(1000), torch.full((1000, 1000), -7.0)
    pairs = {
        "softmax twice": (right, cross_entropy(z.softmax(1), y)),
        "labels from 1": (right, cross_entropy(torch.cat((z, torch.zeros(4, 1)), 1), y + 1)),
        "labels not shifted": (cross_entropy(model, next_token_labels(ids)), cross_entropy(model, ids)),
        "label smoothing": (right, cross_entropy(z, y, label_smoothing=0.1)),
        "padding scored": (cross_entropy(logits, padded, ignore_index=0), cross_entropy(logits, padded)),
        "mean of means": (right, (cross_entropy(z[:3], y[:3]) + cross_entropy(z[3:], y[3:])) / 2),
        "clipped logarithm": (cross_entropy(far, torch.tensor([0])), -(far.softmax(1)[0, 0] + 1e-8).log()),
        "binary loss": (cross_entropy(no, labels), binary_cross_entropy_with_logits(no, torch.eye(1000))),
    }
    return {name: (good.item(), bad.item()) for name, (good, bad) in pairs.items()}


@picture("Right and wrong loss of eight mistakes: four wrong numbers are too high, four are too low", 3.0)
def numbers(figure: Figure) -> None:
    """Draw both numbers of each mistake on a line, with a logarithmic axis."""
    axes = figure.add_subplot()
    found = costs()
    for row, (good, bad) in enumerate(found.values()):
        _ = axes.plot([good, bad], [row, row], color=LINE, linewidth=2.0, zorder=1)
        _ = axes.plot([good], [row], "o", color=MUTED, markersize=6)
        _ = axes.plot([bad], [row], "o", color=WARM, markersize=6)
    _ = axes.set(xscale="log", xlabel="loss, nats", xlim=(3e-3, 400), ylim=(len(found) - 0.4, -0.6))
    _ = axes.set_yticks(range(len(found)), list(found))
    axes.tick_params(labelsize=8.5)
    axes.minorticks_off()
    row = list(found).index("labels not shifted")
    for name, value, colour in zip(("right", "wrong"), found["labels not shifted"], (MUTED, WARM), strict=True):
        note(axes, name, value, row, colour, xytext=(0, 7), ha="center")
