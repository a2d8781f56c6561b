"""A progress bar on a terminal, of the part of the work that is done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

Shown = Callable[[float], None]
"""Called with the part that is done, 0 to 1."""


@contextmanager
def bar(title: str, *, wanted: bool = True) -> Generator[Shown | None, None, None]:
    """Yield a function that draws progress, or None if standard error is not a terminal."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    drawn = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with drawn:
        task = drawn.add_task(title, total=1.0)
        yield lambda part: drawn.update(task, completed=part)
