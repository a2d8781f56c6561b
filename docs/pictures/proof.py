"""The pictures of proof.md, drawn from benchmarks/results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from benchmarks import proof
from benchmarks.common.grid import at, number
from benchmarks.common.records import Record
from benchmarks.logits import growth_report
from pictures.drawing import DASHED, INK, MAIN, MUTED, WARM, legend, of_classes, picture

Case = dict[str, Record]
Line = tuple[str, str, Callable[[Case], float | None]]
"""A name, a colour, and a number of a case or None."""


@picture("How many times as long torch takes, eager and compiled, for forward and backward of each case", 3.6)
def logits(figure: Figure) -> None:
    """Draw the speed-ups of every case."""
    of_class = proof.cases("logits")
    for part, cases in zip(of_classes(figure, of_class), of_class.values(), strict=True):
        axes = part.subplots()
        for k, case in enumerate(reversed(cases.values())):
            for rival, colour in (("compile", MUTED), ("eager", WARM)):
                times = at(case["both"], "speedup_over", rival)
                if times is not None:
                    _ = axes.plot([times], [k], "o", color=colour, markersize=5)
        _ = axes.plot([1.0, 1.0], [-0.6, len(cases) - 0.4], color=INK, linewidth=1.0, linestyle=DASHED)
        _ = axes.set(yticks=range(len(cases)), yticklabels=list(reversed(cases)), xlim=(0, None))
        _ = axes.set(xlabel="time over crossent's", ylim=(-0.6, len(cases) - 0.4))
        axes.tick_params(axis="y", labelcolor=INK)
        _ = axes.grid(visible=True, axis="both")
        legend(part, (("torch eager", WARM), ("torch.compile", MUTED)))


@picture(
    "Time of the linear loss over N, D and V, with the three matrix products as the floor",
    2.9,
)
def time(figure: Figure) -> None:
    """Draw the sweeps of time."""
    lines: tuple[Line, ...] = (
        ("torch eager", WARM, lambda case: at(case["both"], "median_seconds", "eager")),
        ("crossent", MAIN, lambda case: at(case["both"], "median_seconds", "crossent")),
        ("floor", INK, lambda case: at(case["both"], "median_seconds", "gemms")),
    )
    _sweeps(figure, "seconds", lines)


@picture("Peak memory of the linear loss over N, D and V: crossent beside torch eager", 2.9)
def memory(figure: Figure) -> None:
    """Draw the sweeps of memory."""
    lines: tuple[Line, ...] = (
        ("torch eager", WARM, lambda case: case["memory"]["extra_bytes"]["eager"] / 1e6),
        ("crossent", MAIN, lambda case: case["memory"]["extra_bytes"]["crossent"] / 1e6),
    )
    _sweeps(figure, "MB", lines)


@picture("Relative error of dW and of the loss over N, D and V: crossent beside torch eager", 2.9)
def error(figure: Figure) -> None:
    """Draw the sweeps of errors."""
    lines: tuple[Line, ...] = (
        ("eager, dW", WARM, lambda case: case["error"]["errors"]["eager"]["dW"]),
        ("crossent, dW", MAIN, lambda case: case["error"]["errors"]["crossent"]["dW"]),
        ("eager, loss", MUTED, lambda case: case["error"]["errors"]["eager"]["loss"]),
        ("crossent, loss", INK, lambda case: case["error"]["errors"]["crossent"]["loss"]),
    )
    _sweeps(figure, "relative", lines)


def _spreads() -> str:
    """Return in words how far from flat the lines of growth are."""
    said: list[str] = []
    for name, cases in proof.cases("growth").items():
        found = growth_report.sweeps(cases)
        classes, logits = (
            " and ".join(f"{who} {number(growth_report.spread(points, who))}" for who in ("crossent", "eager"))
            for points in found
        )
        said.append(f"{name}: over the classes {classes}; over the logits {logits}.")
    many = f"{growth_report.MANY:,} logits and more"
    return f"The longest time for a logit over the shortest, among calls of {many}. {' '.join(said)}"


@picture("Time for a logit over the number of classes and over the number of logits", 2.9, caption=_spreads)
def growth(figure: Figure) -> None:
    """Draw the time that a logit takes, for any number of classes and of logits."""
    of_class = proof.cases("growth")
    names = (("torch eager", "eager", WARM), ("crossent", "crossent", MAIN))
    for part, cases in zip(of_classes(figure, of_class), of_class.values(), strict=True):
        found = growth_report.sweeps(cases)
        panels = part.subplots(1, 2, sharey=True)
        for axes, points, field, of in zip(panels, found, ("V", "logits"), ("classes", "logits"), strict=True):
            sizes = [getattr(point, field) for point in points]
            for _, who, colour in names:
                times = [getattr(point, who) for point in points]
                _ = axes.loglog(sizes, times, color=colour, marker="o", markersize=3)
            _ = axes.set(xlabel=of, xticks=[sizes[0], sizes[-1]], xticklabels=[f"{n:,}" for n in (sizes[0], sizes[-1])])
            axes.tick_params(labelsize=8.0)
            axes.minorticks_off()
        panels[0].set_ylabel("ns for a logit")
        legend(part, [(text, colour) for text, _, colour in names])


def _sweeps(figure: Figure, unit: str, lines: tuple[Line, ...]) -> None:
    """Draw a panel for each of N, D and V, from the cases that differ from the base in it alone."""
    of_class = proof.cases("scaling")
    for part, cases in zip(of_classes(figure, of_class), of_class.values(), strict=True):
        _sweeps_of_class(part.subplots(1, 3, sharey=True), list(cases.values()), unit, lines)
        legend(part, [(text, colour) for text, colour, _ in lines])


def _sweeps_of_class(panels: Any, cases: list[Case], unit: str, lines: tuple[Line, ...]) -> None:
    shapes = [tuple(case["both"]["shape"]) for case in cases]
    base = max(set(shapes), key=lambda shape: sum(_differ(shape, other) <= 1 for other in shapes))
    for place, (axes, name) in enumerate(zip(panels, "NDV", strict=True)):
        others = [k for k in range(3) if k != place]
        found = sorted((shape[place], k) for k, shape in enumerate(shapes) if all(shape[i] == base[i] for i in others))
        for text, colour, value_of in lines:
            points = [(n, value) for n, k in found if (value := value_of(cases[k])) is not None]
            style = DASHED if text == "floor" else "-"
            _ = axes.loglog(*zip(*points, strict=True), color=colour, linestyle=style, marker="o", markersize=3)
        ends = [found[0][0], found[-1][0]]
        _ = axes.set(xlabel=name, xticks=ends, xticklabels=[f"{n:,}" for n in ends])
        axes.tick_params(labelsize=8.0)
        axes.minorticks_off()
    panels[0].set_ylabel(unit)


def _differ(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Return in how many places two shapes differ."""
    return sum(x != y for x, y in zip(a, b, strict=True))
