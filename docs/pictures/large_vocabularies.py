"""The pictures of guide/large-vocabularies.md."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import proof
from crossent.torch._plan import default_chunk_bytes
from pictures.drawing import INK, LINE, MAIN, MUTED, WARM, note, picture

N, D, V = 8192, 4096, 128256


def chunk_bytes() -> int:
    """Return the size of a chunk of this head on a GPU, which needs none to be asked."""
    with FakeTensorMode():
        features, weight = (torch.empty(n, D, dtype=torch.bfloat16, device="cuda") for n in (N, V))
        return default_chunk_bytes(features, weight)


@picture("Bytes of a step: input, head and their gradients, and the logits in five forms")
def where(figure: Figure) -> None:
    """Draw what a step of Llama 3's head holds, by arithmetic alone."""
    axes = figure.add_subplot()
    parts = [
        ("input and its gradient", 2 * 2 * N * D, MUTED),
        ("weight and its gradient", 2 * 2 * V * D, MUTED),
        ("logits, bfloat16", 2 * N * V, WARM),
        ("the same in float32", 4 * N * V, WARM),
        ("log-softmax, float32", 4 * N * V, WARM),
        ("gradient, float32", 4 * N * V, WARM),
        ("crossent: one chunk", chunk_bytes(), MAIN),
    ]
    for k, (_, size, colour) in enumerate(reversed(parts)):
        _ = axes.barh(k, size / 1e9, color=colour, height=0.66)
        note(axes, f"{size / 1e9:.2f} GB", size / 1e9, k, va="center")
    _ = axes.set(
        yticks=range(len(parts)), yticklabels=[name for name, _, _ in reversed(parts)], xlim=(0, 5.4), xticks=[]
    )
    axes.tick_params(axis="y", labelcolor=INK)
    _ = axes.grid(visible=False)


@picture(
    "A chunk of rows of the logits is made, turned into its gradient, and multiplied away",
    2.5,
)
def sweep(figure: Figure) -> None:
    """Draw the way of a chunk."""
    axes = figure.add_subplot()
    axes.set_axis_off()
    _ = axes.set(xlim=(0, 10), ylim=(0, 6.2))
    _ = axes.add_patch(Rectangle((0.2, 0.6), 1.5, 4.4, facecolor="none", edgecolor=MUTED, linewidth=1.2))
    _ = axes.add_patch(Rectangle((0.2, 3.1), 1.5, 0.9, facecolor=MAIN, alpha=0.7, linewidth=0))
    _ = axes.add_patch(
        Rectangle((2.6, 0.6), 5.2, 4.4, facecolor="none", edgecolor=LINE, linewidth=1.2, linestyle=(0, (4, 3)))
    )
    _ = axes.add_patch(Rectangle((2.6, 3.1), 5.2, 0.9, facecolor=WARM, alpha=0.75, linewidth=0))
    _ = axes.text(0.95, 5.25, "input, N × D", ha="center")
    _ = axes.text(5.2, 5.25, "logits, N × V: never whole", ha="center", color=MUTED)
    _ = axes.text(5.2, 3.42, "one chunk: z, then ∂ℓ/∂z in place", ha="center", color=INK)
    _ = axes.text(
        5.2, 1.6, "· weight → rows of dX\n · input → added to dW, in float32", ha="center", color=INK, linespacing=1.5
    )
    _ = axes.annotate("", (2.55, 3.55), (1.75, 3.55), arrowprops={"arrowstyle": "->", "color": INK})
    _ = axes.annotate("", (5.2, 2.5), (5.2, 3.05), arrowprops={"arrowstyle": "->", "color": INK})
    _ = axes.annotate("", (8.7, 3.55), (7.85, 3.55), arrowprops={"arrowstyle": "->", "color": INK})
    _ = axes.text(8.8, 3.42, "loss", color=INK)


@picture(
    "Peak memory of crossent beside torch eager and torch's chunked loss, as measured",
    3.4,
)
def memory(figure: Figure) -> None:
    """Draw the measured peaks of every head."""
    _bars(figure, "memory", "extra_bytes", 1e6, "MB")


@picture(
    "Time over that of three matrix products: crossent, torch eager and torch chunked",
    3.4,
)
def time(figure: Figure) -> None:
    """Draw the measured times of every head."""
    axes = figure.add_subplot()
    cases = proof.cases("linear")
    names = [name for name, case in cases.items() if "gemms" in case["both"]["times_limit"]]
    for k, name in enumerate(reversed(names)):
        both = cases[name]["both"]
        ours = both["times_limit"]["gemms"]
        for rival, colour, size in (("torch chunked", MUTED, 5), ("eager", WARM, 5)):
            if rival in both["speedup_over"]:
                _ = axes.plot([ours * both["speedup_over"][rival]], [k], "o", color=colour, markersize=size)
        _ = axes.plot([ours], [k], "o", color=MAIN, markersize=6)
    _finish(axes, names, "time, in products of matrices")
    _ = axes.axvline(1.0, color=INK, linewidth=1.0)


def _bars(figure: Figure, measure: str, field: str, unit: float, name_of_unit: str) -> None:
    axes = figure.add_subplot()
    cases = proof.cases("linear")
    names = [name for name, case in cases.items() if measure in case]
    for k, name in enumerate(reversed(names)):
        extra = cases[name][measure][field]
        for rival, colour in (("torch chunked", MUTED), ("eager", WARM), ("crossent", MAIN)):
            if rival in extra:
                _ = axes.plot(
                    [max(extra[rival], 2**18) / unit], [k], "o", color=colour, markersize=5 + (rival == "crossent")
                )
    _finish(axes, names, name_of_unit)


def _finish(axes: Axes, names: list[str], xlabel: str) -> None:
    _ = axes.set(yticks=range(len(names)), yticklabels=list(reversed(names)), xscale="log", xlabel=xlabel)
    _ = axes.set_ylim(-0.6, len(names) - 0.4 + 1.1)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.minorticks_off()
    _ = axes.grid(visible=True, axis="both")
    for k, (text, colour) in enumerate((("crossent", MAIN), ("eager", WARM), ("torch chunked", MUTED))):
        _ = axes.annotate(f"● {text}", (0.02 + 0.31 * k, 0.985), xycoords="axes fraction", color=colour, va="top")
