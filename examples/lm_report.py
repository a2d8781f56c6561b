"""Print and draw the runs of `finetune_lm.py`."""

from dataclasses import dataclass
from math import exp
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

TITLES = {False: "without crossent", True: "with crossent"}


class Step(NamedTuple):
    """A step of a running training: its loss in nats per token, and the speed so far."""

    loss: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Run:
    """A finished training: losses in nats per token, of each step, and of the held-out text before and after.

    `tokens_per_second` is the speed of the step at the first quartile of the times, because other work of the machine
    slows some steps. `peak` is the largest resident size of the process in bytes from the first validation on, or None
    where the system has no record of it.
    """

    fused: bool
    losses: list[float]
    seconds: list[float]
    tokens_per_second: float
    before: float
    after: float
    peak: int | None
    prompt: str
    continuations: list[str]


def show(console: Any, runs: list[Run]) -> None:
    """Print the results, their differences, and the model's continuation of a held-out text."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    for run in runs:
        table.add_column(TITLES[run.fused], justify="right")
    rows = {
        "held-out loss before, nats per token": [f"{run.before:.4f}" for run in runs],
        "held-out loss after": [f"{run.after:.4f}" for run in runs],
        "perplexity before": [f"{exp(run.before):.2f}" for run in runs],
        "perplexity after": [f"{exp(run.after):.2f}" for run in runs],
        "tokens per second": [f"{run.tokens_per_second:.0f}" for run in runs],
        "peak memory": ["not measured" if run.peak is None else f"{run.peak / 1e6:.0f} MB" for run in runs],
    }
    for title, cells in rows.items():
        table.add_row(title, *cells)
    console.print(table, "")
    if len(runs) == 2:
        difference = max(abs(a - b) for a, b in zip(runs[0].losses, runs[1].losses, strict=True))
        faster = median(a / b for a, b in zip(runs[0].seconds, runs[1].seconds, strict=True))
        console.print(
            f"At no step do the two losses differ by more than {difference:.1g} nats.\n"
            f"With crossent: {_memory(*runs)}{faster:.2f} × the speed (median of steps).\n",
            highlight=False,
        )
    before, after = runs[-1].continuations
    console.print("A held-out topic begins", style="bold")
    for title, words in (("", runs[-1].prompt), ("continued before training", before), ("and after", after)):
        if title:
            console.print(title, style="bold")
        console.print(Text(f"{words.rstrip()}\n"), soft_wrap=True)


def _memory(without: Run, fused: Run) -> str:
    if without.peak is None or fused.peak is None:
        return ""
    return f"{fused.peak / without.peak:.2f} × the peak memory, "


def draw(path: Path, runs: list[Run]) -> None:
    """Draw the losses of each run over its steps, and next to them its peak memory."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    losses, memory = figure.subplots(1, 2, width_ratios=[3, 1])
    looks = {False: {"color": "#e2b488", "linewidth": 4.0}, True: {"color": "#1f5fa8", "linewidth": 1.3}}
    for run in runs:
        steps = len(run.losses)
        losses.plot(range(1, steps + 1), run.losses, label=f"{TITLES[run.fused]}, each batch", **looks[run.fused])
        ends = [run.before, run.after]
        losses.plot([0, steps], ends, "o--", label="held-out text, before and after", **looks[run.fused])
        megabytes = (run.peak or 0) / 1e6
        bar = memory.bar(TITLES[run.fused].replace(" ", "\n"), megabytes, color=looks[run.fused]["color"], width=0.6)
        memory.bar_label(bar, ["not measured" if run.peak is None else f"{megabytes:.0f}"])
    losses.set(xlabel="step", ylabel="loss in nats per token")
    losses.legend(frameon=False, fontsize=8, ncols=len(runs))
    losses.margins(y=0.2)
    memory.set(ylabel="peak memory in MB")
    for axes in (losses, memory):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.5, alpha=0.5)
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=150)
