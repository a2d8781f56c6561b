"""Output of the demonstration on a terminal: three small tables, and a progress bar while it trains."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from crossent.demo.data import LearningTask
from crossent.demo.numbers import SCALES, TRUTH, Cost, Identity, ScaleCurves, Summary, row_text
from crossent.demo.train import Fit, fit


def show_textbook(console: Console, costs: Sequence[Cost]) -> None:
    """Print the textbook example."""
    table = _table(f"The textbook example in nats: truth p = {row_text(TRUTH)}", "prediction q")
    for heading in ("H(p, q)", "loss, one-hot", "loss, index", "bits"):
        table.add_column(heading, justify="right", vertical="bottom")
    for cost in costs:
        numbers = (cost.measure, cost.one_hot, cost.index, cost.bits)
        table.add_row(row_text(cost.prediction), *(f"{number:.3f}" for number in numbers))
    console.print(table, "")


def train_live(console: Console, tasks: Sequence[LearningTask], *, epochs: int, seed: int) -> list[Fit]:
    """Train all tasks under a live progress bar that shows both losses."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("epochs{task.fields[losses]}"),
    )
    fits: list[Fit] = []
    console.print("Training", style="bold")
    with Progress(*columns, console=console) as progress:
        bars = [progress.add_task(task.title, total=epochs, losses="") for task in tasks]
        for task, bar in zip(tasks, bars, strict=True):

            def advance(train: float, test: float) -> None:
                progress.update(bar, advance=1, losses=f", loss {train:.3f} train, {test:.3f} test")  # noqa: B023  used at once

            fits.append(fit(task, epochs=epochs, seed=seed, on_epoch=advance))
    console.print()
    return fits


def show_summaries(console: Console, summaries: Sequence[Summary]) -> None:
    """Print the results on the test rows."""
    table = _table("Cost per test row in nats", "")
    for heading in ("rows", "loss", "in bits", "sklearn\nlog_loss", "guessing", "accuracy", "skill"):
        table.add_column(heading, justify="right", vertical="bottom")
    for s in summaries:
        costs = (f"{number:.4f}" for number in (s.loss, s.bits, s.log_loss, s.guess))
        table.add_row(s.title, str(s.rows), *costs, f"{s.accuracy:.1%}", f"{s.skill:.1%}")
    console.print(table, "")


def show_likelihood(console: Console, identities: Sequence[Identity], scaled: Sequence[ScaleCurves]) -> None:
    """Print that the loss is −log-likelihood / N, and the scale of the weights that is best for each."""
    table = _table("Minimising the loss is maximising the likelihood L", "")
    for heading in ("N", "log L", "−log L / N", "loss", "difference"):
        table.add_column(heading, justify="right", vertical="bottom")
    for i in identities:
        ratio = -i.log_likelihood / i.rows
        numbers = (f"{i.log_likelihood:.4f}", f"{ratio:.6f}", f"{i.loss:.6f}", f"{i.difference:.0e}")
        table.add_row(i.title, str(i.rows), *numbers)
    console.print(table, "")
    for title, best in zip((i.title for i in identities[1::2]), scaled, strict=True):
        edge = ", an end of the range" if best.smallest_loss in (SCALES[0], SCALES[-1]) else ""
        console.print(
            f"{title}, weights × s: least loss at s = {best.smallest_loss:.2f}, "
            f"greatest L at s = {best.largest_likelihood:.2f}{edge}",
            highlight=False,
        )
    console.print()


def _table(title: str, first: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    table.add_column(first, vertical="bottom")
    return table
