"""The demonstration: two classifiers trained with crossent's losses, a report about them, and their predictions.

`data` has the tables, `train` fits a model to each, `numbers` computes results, `console` prints them, `pictures` and
`report` make the page, `predictions` writes files. The folder imports `crossent.torch`, the measures and
`crossent.html`; only the command `crossent demo` imports it.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from crossent.html import load_matplotlib
from crossent.outputs import write_whole


def run(out: Path, *, seed: int, epochs: int, console: Any = None) -> list[Path]:
    """Train, print, and write the report and the predictions.

    Parameters
    ----------
    out
        Directory to write to, which is created if it does not exist. Files of an earlier run are replaced.
    seed
        Seed of the split into training and test rows, and of the order of training rows.
    epochs
        Passes over the training rows.
    console
        A `rich.console.Console` to print to; by default one on standard output.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    OSError
        If `out` cannot be written to, before the training.
    """
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=out):
        pass

    load_matplotlib()  # before anything else imports it
    from rich.console import Console

    from crossent.demo import console as printed
    from crossent.demo import data, numbers
    from crossent.demo.predictions import write_predictions
    from crossent.demo.report import render

    console = Console() if console is None else console
    costs = numbers.textbook()
    printed.show_textbook(console, costs)
    fits = printed.train_live(console, [data.digits(seed), data.breast_cancer(seed)], epochs=epochs, seed=seed)
    summaries = [numbers.summarise(fit) for fit in fits]
    printed.show_summaries(console, summaries)
    scaled = [numbers.scale_curves(fit) for fit in fits]
    printed.show_likelihood(console, [i for fit in fits for i in numbers.identities(fit)], scaled)

    paths = [out / name for name in ("report.html", "predictions.csv", "predictions_breast_cancer.csv")]
    write_whole(paths[0], render(costs, fits, summaries, scaled, seed=seed))
    for path, fit in zip(paths[1:], fits, strict=True):
        write_predictions(path, fit)
    console.print("Written", style="bold")
    for path in paths:
        console.print(f"  {path}", soft_wrap=True, highlight=False)
    return paths
