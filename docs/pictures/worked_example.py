"""The pictures of guide/worked-example.md."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from pictures.drawing import INK, LINE, MAIN, MUTED, WARM, picture


@picture("The two predictions of the worked example, and what each costs: 0.357 and 2.303 nats", 2.9)
def costs(figure: Figure) -> None:
    """Draw two predictions of three classes above the loss of each."""
    both = figure.subplots(1, 2, sharey=True)
    for axes, q, colour in zip(both, ([0.7, 0.2, 0.1], [0.1, 0.3, 0.6]), (MAIN, WARM), strict=True):
        _ = axes.bar(["cat", "dog", "bird"], q, width=0.62, color=[colour, LINE, LINE])
        for place, share in enumerate(q):
            _ = axes.annotate(f"{share}", (place, share), xytext=(0, 3), textcoords="offset points", ha="center")
        _ = axes.set(ylim=(0, 0.85), yticks=[])
        _ = axes.axhline(0, color=MUTED, linewidth=0.8)
        _ = axes.set_title(f"−log {q[0]} = {-np.log(q[0]):.3f} nats", fontsize=10.0, color=INK)
        _ = axes.set_xlabel("the label is cat")
