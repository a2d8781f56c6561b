"""Files of a command become states: column lookup, reading with a progress bar, and errors in terms of options."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from crossent.errors import Argument, InputError, UsageError, one_line, quoted
from crossent.scoring.cli.row_files import RowWriter
from crossent.scoring.input.arrow import arguments
from crossent.scoring.input.classes import Classes, numbers_of, of_columns
from crossent.scoring.input.columns import Columns
from crossent.scoring.input.reader import FileOptions, Portion
from crossent.scoring.input.several import Tables, open_tables
from crossent.scoring.input.survey import settled
from crossent.scoring.input.truth import Joined, joined
from crossent.scoring.state import ScoreState

Names = str | Path | Sequence[str | Path]
"""Files as a user names them: one or several."""

LONG = 1 << 25
"""Bytes of a file beyond which progress is shown."""
_FLAGS = {"normalize"}
_REPEATED = {"ignore", "by"}


def as_option(argument: Argument, label: str | None = None) -> str:
    """Return an argument as an option of the commands, quoted where a shell needs it.

    The argument `y` has no option: it is the column of labels, if its name is known.

    Examples
    --------
    >>> as_option(Argument("ignore", float("nan"))), as_option(Argument("ignore", ["no one", 5]))
    ('--ignore nan', "--ignore 'no one' --ignore 5")
    >>> as_option(Argument("normalize", True)), as_option(Argument("classes", ["a", "b"])), as_option(Argument("id"))
    ('--normalize', '--classes a,b', '--id')
    >>> as_option(Argument("y", is_subject=True), "truth")
    "'truth'"
    """
    if argument.name == "y":
        return "y" if label is None else quoted(label)
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
def input_errors(path: Path | str | None = None, label: str | None = None) -> Generator[None, None, None]:
    """Turn errors about files and data into `UsageError`s that name the file and speak of options.

    `label` is the column of true classes, which errors about labels name.
    """
    try:
        yield
    except UsageError:  # which has been said in full
        raise
    except OSError as error:
        where = error.filename if error.filename is not None else path
        if where is None:  # of standard output, which is full or closed
            raise
        raise UsageError(f"cannot read {where}: {error.strerror or error}") from error
    except InputError as error:
        said = error.spelled(partial(as_option, label=label))
        raise UsageError(said if path is None or str(path) in said else f"{path}: {said}") from error


def state_of(
    paths: Names, columns: Columns, options: Mapping[str, Any], files: FileOptions | None = None
) -> ScoreState:
    """Return the state of all rows of a table in one or several files.

    Parameters
    ----------
    paths
        What `several.open_tables` takes: files, folders, patterns, URLs or "-", one or several.
    columns
        The columns to read, by name or pattern.
    options
        The arguments of `ScoreState`.
    files
        What the user says about the files.
    """
    with opened(paths, files) as tables:
        return state_from(tables, columns, options)


@contextmanager
def opened(paths: Names, files: FileOptions | None = None) -> Generator[Tables, None, None]:
    """Open files as one table, and report automatic choices."""
    with input_errors(), open_tables(paths, files) as tables:
        for said in tables.said:
            say(said)
        yield tables


@contextmanager
def opened_with_truth(
    paths: Names, files: FileOptions | None, truth: str | None, columns: Columns
) -> Generator[tuple[Tables | Joined, Columns], None, None]:
    """Open predictions, joined with labels of another file if there is one; yield them and the columns to read."""
    with opened(paths, files) as tables:
        if truth is None:
            yield tables, columns
            return
        with opened(truth) as labels:
            with input_errors():
                both, named = joined(tables, labels, columns)
            if both.said:
                say(both.said)
            yield both, named


def say(recognised: str) -> None:
    """Print on standard error how a file was recognised."""
    print(f"read as {one_line(recognised)}", file=sys.stderr)


def state_from(
    tables: Tables | Joined, columns: Columns, options: Mapping[str, Any], write: Callable[[Any], None] | None = None
) -> ScoreState:
    """Return the state of all rows of a table; `options` are the arguments of `ScoreState`.

    `write` gets a table of pyarrow for each block of rows.
    """
    with input_errors(tables.name):
        asked = settled(tables, columns, options.get("classes"))
        if asked.said:
            print(one_line(asked.said), file=sys.stderr)
        found = asked.columns
        ignore = _ignored(options.get("ignore"), asked.named or of_columns(()))
        arguments_of_state: dict[str, Any] = {**options, "classes": asked.classes, "ignore": ignore}
        state = ScoreState(**arguments_of_state)
        if write is not None:
            state.sums.kept = cast("Any", RowWriter(state, write))
        with progress(tables, tables.batches(found.needed, found.texts)) as portions:
            for portion in portions:
                with input_errors(_where(tables, portion, state.sums.seen), found.label):
                    for piece in asked.pieces(portion.batch):
                        _ = state.update(**arguments(piece, found, state.sums.seen))
        if isinstance(tables, Joined) and (unused := tables.unused()):
            print(one_line(unused), file=sys.stderr)
        return state


def _where(tables: Tables | Joined, portion: Portion, seen: int) -> str | None:
    """Return the name of a portion's file for errors, with its first row, counted through all files."""
    if portion.file is None or len(tables.parts) == 1:
        return portion.file
    place = tables.place(seen)
    first = seen - place.row
    return place.file if first == 0 else f"{place.file} (which begins with row {first})"


def _ignored(labels: Sequence[str] | None, classes: Classes) -> list[Any] | None:
    """Return the labels to ignore; nan also means rows without a label, unless a class has that name."""
    if labels is None:
        return None
    nan = [math.nan] if any(label.strip().lower() == "nan" for label in labels) else []
    return [*labels, *([] if numbers_of(classes).find("nan") else nan)]


@contextmanager
def progress(tables: Tables | Joined, portions: Iterator[Portion]) -> Generator[Iterator[Portion], None, None]:
    """Yield the portions of a table, and show on a terminal how much of a long one has been read."""
    if not sys.stderr.isatty() or tables.size < LONG:
        yield portions
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True, refresh_per_second=30,
    )  # fmt: skip
    with bar as shown:
        task = shown.add_task(Path(tables.name).name, total=1.0)

        def seen() -> Iterator[Portion]:
            for portion in portions:
                yield portion
                shown.update(task, completed=portion.done)

        yield seen()


@contextmanager
def steps(what: str, count: int) -> Generator[Callable[[], None], None, None]:
    """Yield a function to call after each step of long work, and show on a terminal how many are done."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar as shown:
        task = shown.add_task(what, total=count)
        yield lambda: shown.advance(task)
