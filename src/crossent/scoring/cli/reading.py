"""Files of a command become states: columns looked up, rows read with a progress bar, errors said as options."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossent.errors import Argument, InputError, UsageError
from crossent.scoring.input.arrow import arguments
from crossent.scoring.input.classes import Classes, chosen, numbers_of, of_columns
from crossent.scoring.input.columns import Columns
from crossent.scoring.input.files import open_table
from crossent.scoring.input.reader import Portion
from crossent.scoring.state import ScoreState

LONG = 1 << 25
"""Bytes of a file beyond which progress is shown."""
_FLAGS = {"normalize"}
_REPEATED = {"ignore", "by"}


def as_option(argument: Argument) -> str:
    """Return an argument as an option of the commands, quoted where a shell needs it.

    Examples
    --------
    >>> as_option(Argument("ignore", float("nan"))), as_option(Argument("ignore", ["no one", 5]))
    ('--ignore nan', "--ignore 'no one' --ignore 5")
    >>> as_option(Argument("normalize", True)), as_option(Argument("classes", ["a", "b"])), as_option(Argument("id"))
    ('--normalize', '--classes a,b', '--id')
    """
    option = f"--{argument.name.replace('_', '-')}"
    several = isinstance(argument.value, list | tuple)
    if not argument.has_value or argument.name in _FLAGS or (several and not argument.value):
        return option
    values = [_cell(value) for value in (argument.value if several else [argument.value])]
    if argument.name not in _REPEATED:
        values = [",".join(f'"{value}"' if several and "," in value else value for value in values)]
    return " ".join(f"{option} {shlex.quote(value)}" for value in values)


def _cell(value: Any) -> str:
    """Return a value as a cell of a table would hold it; a missing one is nan."""
    if value is None:
        return "nan"
    return repr(value).replace("e-0", "e-") if isinstance(value, float) else str(value)


@contextmanager
def input_errors(path: Path | None = None) -> Generator[None, None, None]:
    """Turn errors about files and data into `UsageError`s that name the file and speak of options."""
    try:
        yield
    except OSError as error:
        where = error.filename if error.filename is not None else path
        raise UsageError(f"cannot read {where}: {error.strerror or error}") from error
    except InputError as error:
        said = error.spelled(as_option)
        raise UsageError(said if path is None or str(path) in said else f"{path}: {said}") from error


def state_of(path: Path, columns: Columns, options: Mapping[str, Any]) -> ScoreState:
    """Return the state of all rows of a file; `options` are the arguments of `ScoreState`."""
    with input_errors(path):
        table = open_table(path)
        found = columns.among(table.columns)
        named = chosen(options.get("classes")) or of_columns(found.values if len(found.values) > 1 else ())
        settled: dict[str, Any] = {**options, "ignore": _ignored(options.get("ignore"), named)}
        state = ScoreState(**settled)
        texts = [found.label, found.cluster, *(found.by or ()), found.id]
        portions = table.batches(found.needed, [name for name in texts if name is not None])
        with progress(path, portions) as batches:
            for batch in batches:
                if len(batch):
                    _ = state.update(**arguments(batch, found, state.sums.seen))
        return state


def _ignored(labels: Sequence[str] | None, classes: Classes) -> list[Any] | None:
    """Return the labels to ignore; nan stands for rows without a label too, unless a class is called so."""
    if labels is None:
        return None
    nan = [math.nan] if any(label.strip().lower() == "nan" for label in labels) else []
    return [*labels, *([] if numbers_of(classes).find("nan") else nan)]


@contextmanager
def progress(path: Path, portions: Iterator[Portion]) -> Generator[Iterator[Any], None, None]:
    """Yield the batches of a file, and show on a terminal how much of a long one has been read."""
    if not sys.stderr.isatty() or path.stat().st_size < LONG:
        yield (portion.batch for portion in portions)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True, refresh_per_second=30,
    )  # fmt: skip
    with bar as shown:
        task = shown.add_task(path.name, total=1.0)

        def batches() -> Iterator[Any]:
            for portion in portions:
                yield portion.batch
                shown.update(task, completed=portion.done)

        yield batches()
