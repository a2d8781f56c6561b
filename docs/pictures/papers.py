"""The picture of guide/papers.md, drawn from benchmarks/results."""

from __future__ import annotations

import statistics
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.common import pages
from benchmarks.common.grid import number
from benchmarks.common.records import Record
from pictures.drawing import DASHED, INK, MAIN, MUTED, WARM, legend, note, of_classes, picture


class Way(NamedTuple):
    """A way to train: what its records call it, what the picture calls it, its colour, and the width of its line."""

    measure: str
    name: str
    colour: str
    width: float


WAYS = (Way("logits", "all logits", WARM, 5.0), Way("crossent", "crossent", MAIN, 1.4))


def _differences() -> str:
    """Return how the ways differ in memory, speed and rewards."""
    found: list[str] = []
    for name, records in pages.by_processor("grpo").items():
        of, options, steps = records[0]["comparison"], records[0]["options"], len(records[0]["rewards"])
        tokens = options["prompts"] * options["responses"] * options["length"]
        memory, time = number(of["memory"]), number(1 / of["speed"])
        then = "" if of["same_steps"] == steps else "; then rounding lets a sample be another token"
        found.append(
            f"{name}, threads: {options['threads']}; {tokens:,} tokens a step, {options['features']} features, "
            f"{options['classes']:,} classes. With crossent the steps take {memory} times the memory without the grey, "
            f"and all but sampling {time} times the time. The rewards are the same in the first {of['same_steps']} of "
            f"{steps} steps{then}."
        )
    return " ".join(found)


@picture("Rewards of GRPO by crossent and with all logits, and their memory and time", 4.0, _differences)
def grpo(figure: Figure) -> None:
    """Draw rewards that rise, and below them memory and time."""
    of_class = pages.by_processor("grpo")
    for part, records in zip(of_classes(figure, of_class), of_class.values(), strict=True):
        axes = part.subplot_mosaic([["reward", "reward"], ["memory", "time"]], height_ratios=[2.4, 1.0])
        of_way = {record["measure"]: record for record in records}
        _rewards(axes["reward"], of_way)
        for k, way in enumerate(WAYS):
            record = of_way[way.measure]
            sampling, training = (statistics.median(record[name]) for name in ("sampling", "training"))
            peak = record["peak"] / 1e6
            _bar(axes["memory"], way, -k, record["resting"] / 1e6, peak, f"{peak:,.0f}")
            _bar(axes["time"], way, -k, sampling, sampling + training, f"{sampling + training:.1f}")
        for name, label in (("memory", "peak memory, MB"), ("time", "CPU seconds a step")):
            _ = axes[name].set(xticks=[], yticks=[], xlabel=label)
            axes[name].margins(x=0.35)
            _ = axes[name].grid(visible=False)
        legend(part, [(way.name, way.colour) for way in WAYS], mark="■")


def _rewards(axes: Axes, of_way: dict[str, Record]) -> None:
    """Draw the rewards of the steps, and what they begin at."""
    for way in WAYS:
        rewards = of_way[way.measure]["rewards"]
        _ = axes.plot(range(1, len(rewards) + 1), rewards, color=way.colour, linewidth=way.width)
    _ = axes.axhline(1 / 3, color=INK, linewidth=1.0, linestyle=DASHED)
    steps = len(of_way["logits"]["rewards"])
    note(axes, "before: a third", steps, 1 / 3, MUTED, xytext=(0, -4), ha="right", va="top")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _ = axes.set(xlabel="step", ylabel="mean reward", ylim=(0, 1.02), xlim=(1, steps))


def _bar(axes: Axes, way: Way, y: float, first: float, whole: float, text: str) -> None:
    """Draw a bar whose first part is the same both ways."""
    _ = axes.barh(y, first, color=MUTED, height=0.7, alpha=0.5)
    _ = axes.barh(y, whole - first, left=first, color=way.colour, height=0.7)
    note(axes, text, whole, y, va="center")
