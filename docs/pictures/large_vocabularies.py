"""The pictures of guide/large-vocabularies.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator

from benchmarks import proof
from crossent.torch.sources.plan import GPU, SourceCosts, default_chunk_bytes, one_sweep
from pictures.drawing import INK, LINE, MAIN, MUTED, WARM, legend, note, of_classes, picture

N, D, V = 8192, 4096, 128256
HEAD = SourceCosts(rows=N, logits=V, features=D, dtype=torch.bfloat16, product_dtype=torch.bfloat16, device=GPU)


class Bytes(NamedTuple):
    """A part of a step's memory: its name, its size and the colour of its bar."""

    name: str
    size: int
    colour: str


def held() -> list[Bytes]:
    """Return the memory of crossent's plan for this head on a GPU."""
    sweep = one_sweep(HEAD, default_chunk_bytes(HEAD))
    if sweep is None or sweep.kept < N:
        raise ValueError("the picture and its caption say that all gradients of logits are kept")
    return [
        Bytes("crossent: a chunk, float32", 4 * sweep.rows * V, MAIN),
        Bytes("and gradients, bfloat16", 2 * N * V, MAIN),
    ]


@picture("Bytes of a step: input, head and their gradients, and the logits in six forms", 2.9)
def where(figure: Figure) -> None:
    """Draw what a step of Llama 3's head holds, by arithmetic alone."""
    axes = figure.add_subplot()
    parts = [
        *held()[::-1],
        Bytes("gradient, float32", 4 * N * V, WARM),
        Bytes("log-softmax, float32", 4 * N * V, WARM),
        Bytes("the same in float32", 4 * N * V, WARM),
        Bytes("logits, bfloat16", 2 * N * V, WARM),
        Bytes("weight and its gradient", 2 * 2 * V * D, MUTED),
        Bytes("input and its gradient", 2 * 2 * N * D, MUTED),
    ]  # from below
    for k, part in enumerate(parts):
        _ = axes.barh(k, part.size / 1e9, color=part.colour, height=0.66)
        note(axes, f"{part.size / 1e9:.2f} GB", part.size / 1e9, k, va="center")
    _ = axes.set(yticks=range(len(parts)), yticklabels=[part.name for part in parts], xlim=(0, 5.4), xticks=[])
    axes.tick_params(axis="y", labelcolor=INK)
    _ = axes.grid(visible=False)


@picture(
    "A chunk of rows of the logits is made, turned into its gradient, and multiplied away",
    2.5,
)
def sweep(figure: Figure) -> None:
    """Draw how a chunk of rows becomes its gradient and is multiplied away."""
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


@picture("Peak memory of crossent beside torch eager and torch's chunked loss, as measured", 4.6)
def memory(figure: Figure) -> None:
    """Draw the measured peaks of every head."""
    _bars(figure, "MB", _memory)


def _memory(cases: proof.Cases) -> dict[str, dict[str, float]]:
    found = {name: case["memory"]["extra_bytes"] for name, case in cases.items() if "memory" in case}
    return {name: {who: max(size, 2**18) / 1e6 for who, size in of.items()} for name, of in found.items()}


@picture("Time over that of three matrix products: crossent, torch eager and torch chunked", 4.6)
def time(figure: Figure) -> None:
    """Draw the measured times of every head whose products were measured."""
    _bars(figure, "time, in that of three products", _time)


def _time(cases: proof.Cases) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name, case in cases.items():
        floor = case["both"]["times_limit"].get("gemms")
        if floor is not None:
            times = {"crossent": 1.0, **case["both"]["speedup_over"]}
            found[name] = {who: floor * ratio for who, ratio in times.items()}
    return found


def _bars(figure: Figure, xlabel: str, numbers: Callable[[proof.Cases], dict[str, dict[str, float]]]) -> None:
    """Draw three bars for each case on a logarithmic axis, class by class."""
    of_class = {name: numbers(cases) for name, cases in proof.cases("linear").items()}
    rivals = (("torch chunked", MUTED), ("eager", WARM), ("crossent", MAIN))
    for part, found in zip(of_classes(figure, of_class), of_class.values(), strict=True):
        axes = part.subplots()
        names = list(reversed(found))
        shown = [of[who] for of in found.values() for who, _ in rivals if who in of]
        left, right = 0.7 * min(shown), 1.15 * max(shown)
        for k, name in enumerate(names):
            for row, (who, colour) in enumerate(rivals):
                if who in found[name]:
                    _ = axes.barh(k + 0.26 * (row - 1), found[name][who] - left, 0.24, left=left, color=colour)
        _ = axes.set(xscale="log", yticks=range(len(names)), yticklabels=names, xlabel=xlabel, xlim=(left, right))
        _ = axes.set_ylim(-0.6, len(names) - 0.4)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.minorticks_off()
        _ = axes.grid(visible=True, axis="x")
        _ = axes.grid(visible=False, axis="y")
        legend(part, reversed(rivals), mark="■")
