"""The pictures of guide/scoring.md."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

import crossent
from benchmarks.common import pages
from crossent.scoring.show import pictures as of_report
from pictures.drawing import DASHED, INK, MAIN, MUTED, WARM, note, picture


def simulated(n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and over-confident predictions."""
    random = np.random.default_rng(1)
    x = 1.4 * random.standard_normal(n) - 1.0
    return (random.random(n) < 1 / (1 + np.exp(-x))).astype(int), 1 / (1 + np.exp(-1.8 * x))


def reliability() -> str:
    """Draw the reliability diagram of the report."""
    y, q = simulated()
    return of_report.reliability(crossent.score(y, probs=q))


def losses() -> str:
    """Draw the distribution of row losses of the report."""
    y, q = simulated()
    return of_report.losses(crossent.score(y, probs=q))


@picture("Twenty samples, each with its interval, and the loss that they should contain")
def intervals(figure: Figure) -> None:
    """Draw intervals of samples around the loss that they estimate."""
    axes = figure.add_subplot()
    y, q = simulated(400_000)
    truth = crossent.score(y, probs=q).loss
    missed = 0
    for k in range(20):
        rows = slice(500 * k, 500 * (k + 1))
        found = crossent.score(y[rows], probs=q[rows])
        inside = found.ci[0] <= truth <= found.ci[1]
        missed += not inside
        colour = MAIN if inside else WARM
        _ = axes.plot([k, k], found.ci, color=colour, linewidth=1.8)
        _ = axes.plot([k], [found.loss], "o", color=colour, markersize=4)
    _ = axes.axhline(truth, color=INK, linewidth=1.0, linestyle=DASHED)
    _ = axes.set(xticks=[], xlabel=f"20 samples of 500 rows, {missed} of which miss", ylabel="loss, nats")


@picture(
    "How often intervals contained the truth, over skewness: Hall's and the usual one",
    2.9,
)
def coverage(figure: Figure) -> None:
    """Draw measured coverage over skewness for two kinds of intervals."""
    axes = figure.add_subplot()
    records = [r for r in pages.records("coverage") if r["kind"] == "bar" and "normal" in r["coverage"]]
    skew = [abs(r["skewness"]) for r in records]
    for who, colour in (("normal", WARM), ("crossent", MAIN)):
        _ = axes.plot(
            skew, [100 * r["coverage"][who]["covered"] for r in records], "o", color=colour, markersize=4, alpha=0.8
        )
    _ = axes.axhline(95, color=INK, linewidth=1.0, linestyle=DASHED)
    note(axes, "crossent", 0, 97.6, MAIN, xytext=(4, 0))
    note(axes, "mean ± 1.96 se", 0, 82.9, WARM, xytext=(4, 0))
    note(axes, "each point: a kind of data", 0, 81, MUTED, xytext=(4, 0), fontsize=8.0)
    _ = axes.set(xlabel="skewness of the rows' losses", ylabel="covered, %", xlim=(0, None), ylim=(80, 99))
