"""Says on standard error which case is measured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec


@contextmanager
def progress(total: int) -> Generator[Callable[[str], None]]:
    """Give a function that says which case begins: with a bar on a terminal where rich is installed."""
    if find_spec("rich") is None or not sys.stderr.isatty():
        yield lambda text: print(text, file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task, begun = bar.add_task("", total=total), 0

        def say(text: str) -> None:
            nonlocal begun
            begun += 1
            bar.update(task, completed=begun, description=text)

        yield say
