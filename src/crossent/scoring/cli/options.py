"""Options that several commands have, as typer reads them, and the arguments of `ScoreState` that they stand for."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from crossent.errors import UsageError, quoted

MOST_BINS = 100
"""Bins of a column of numbers, as in `input.arguments`, which would load NumPy for the help."""
FILES, PREDICTIONS, ROWS, RESULT, CHECKS = "Files", "Predictions", "Rows", "Result", "Checks"
"""Groups of options in the help of a command."""

FilesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE...",
        help="Files, folders of parts, patterns, zip archives, URLs such as s3://…, or - for standard input: csv or "
        "jsonl (.gz and the like too), parquet, arrow, xlsx, safetensors, npz or npy. Several are one table.",
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Format of all files, such as csv, where the endings of their names do not say it.",
        rich_help_panel=FILES,
    ),
]
DelimiterOption = Annotated[
    str | None,
    typer.Option(metavar="MARK", help="Mark between the values of a line, such as ';' or tab.", rich_help_panel=FILES),
]
DecimalOption = Annotated[
    str | None,
    typer.Option(metavar="MARK", help="Mark before the fractions of numbers, such as ','.", rich_help_panel=FILES),
]
EncodingOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Encoding of csv, such as cp1252; UTF-8 by default.", rich_help_panel=FILES),
]
SheetOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Sheet of a workbook; the first by default.", rich_help_panel=FILES),
]
ProbsOption = Annotated[
    str | None,
    typer.Option(
        help="Columns of probabilities, such as 'p_*'; one column: of the positive class, or of lists.",
        rich_help_panel=PREDICTIONS,
    ),
]
LogitsOption = Annotated[str | None, typer.Option(help="Columns of logits, instead.", rich_help_panel=PREDICTIONS)]
LogprobsOption = Annotated[
    str | None, typer.Option(help="Columns of log-probabilities, instead.", rich_help_panel=PREDICTIONS)
]
_EACH = "of a model; once for each model whose columns are in one file."
SeveralProbsOption = Annotated[
    list[str] | None,
    typer.Option(help=f"Columns of probabilities, such as 'p_*', {_EACH}", rich_help_panel=PREDICTIONS),
]
SeveralLogitsOption = Annotated[
    list[str] | None, typer.Option(help=f"Columns of logits, instead, {_EACH}", rich_help_panel=PREDICTIONS)
]
SeveralLogprobsOption = Annotated[
    list[str] | None, typer.Option(help=f"Columns of log-probabilities, instead, {_EACH}", rich_help_panel=PREDICTIONS)
]
ClassesOption = Annotated[
    str | None,
    typer.Option(
        help="Classes of the columns, separated by commas, a class with a comma in double quotes; @FILE: a file with "
        "a name a line, or JSON such as a model's config.json; by default the names of the columns, or 0, 1, …",
        rich_help_panel=PREDICTIONS,
    ),
]
NormalizeOption = Annotated[
    bool,
    typer.Option("--normalize", help="Divide the probabilities of a row by their sum.", rich_help_panel=PREDICTIONS),
]
ZeroOption = Annotated[
    str,
    typer.Option(
        help="Smallest probability to charge; inf charges each as it is, so that 0 costs infinity.",
        rich_help_panel=PREDICTIONS,
    ),
]
LabelOption = Annotated[
    str | None,
    typer.Option(
        help="Column of true classes; by default that which the shape of the table shows.", rich_help_panel=ROWS
    ),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        help="Columns of labels that a row may have several of, such as 'y_*', each 0 or 1; one of --probs for each.",
        rich_help_panel=ROWS,
    ),
]
WeightOption = Annotated[str | None, typer.Option(help="Column of weights.", rich_help_panel=ROWS)]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        help="Column of clusters (documents, patients): rows of one cluster depend on each other.", rich_help_panel=ROWS
    ),
]
ByOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Column whose values get a loss each; may be repeated. Numbers with many values are cut into bins, age:5 "
        "into five.",
        rich_help_panel=ROWS,
    ),
]
IdOption = Annotated[
    str | None,
    typer.Option(
        "--id", "--on", help="Column of names of the rows, which are numbered by default.", rich_help_panel=ROWS
    ),
]
PairsOption = Annotated[
    str | None,
    typer.Option(
        "--id", "--on", help="Column of names that pairs the rows; their order does by default.", rich_help_panel=ROWS
    ),
]
TruthOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="File with the true classes, where they are not beside the predictions; --on names the column of ids that "
        "both have, by default their order pairs the rows.",
        rich_help_panel=ROWS,
    ),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Label whose rows are left out, '' for rows without a label (nan too, unless a class is called so); "
        "may be repeated.",
        rich_help_panel=ROWS,
    ),
]
NaOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Text that stands for no value; may be repeated. Among numbers and labels that are numbers, empty cells, "
        "NA, nan and null do by default.",
        rich_help_panel=ROWS,
    ),
]
LevelOption = Annotated[
    float, typer.Option("--ci", help="Level of confidence of the intervals.", rich_help_panel=RESULT)
]
WorstOption = Annotated[int, typer.Option(min=0, help="Number of costliest rows to list.", rich_help_panel=RESULT)]
BitsOption = Annotated[
    bool,
    typer.Option(
        "--bits",
        help="Losses printed, and --max-loss, in bits instead of nats; a report has both.",
        rich_help_panel=RESULT,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=RESULT)]
CostOption = Annotated[
    str | None,
    typer.Option(
        "--cost",
        metavar="fp=1,fn=5",
        help="What a false positive and a false negative cost, for the thresholds of two classes.",
        rich_help_panel=RESULT,
    ),
]
RowsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Write every row's id, loss, predicted class, the probabilities of it and of the true class, and slices: "
        "parquet, arrow or csv.",
        rich_help_panel=RESULT,
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        help="Most memory to take, such as 4G; half of the machine's by default.",
        rich_help_panel=CHECKS,
    ),
]
HtmlOption = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Write a report with pictures.", rich_help_panel=RESULT)
]

Require = Callable[..., None]


def state_options(
    classes: str | None, ignore: list[str] | None, *, normalize: bool, zero: str, ci: float, worst: int
) -> dict[str, Any]:
    """Return the arguments of `ScoreState` that options stand for."""
    try:
        smallest = "inf" if zero == "inf" else float(zero)
    except ValueError as error:
        raise UsageError(f"--zero must be a probability or inf, got {quoted(zero)}") from error
    return {
        "classes": None if classes is None else _classes(classes),
        "ignore": ignore or None,
        "normalize": normalize,
        "zero": smallest,
        "ci": ci,
        "worst": worst,
    }


def _classes(classes: str) -> Any:
    """Return the argument `classes` that the option stands for."""
    if classes.startswith("@"):
        from crossent.scoring.cli.reading import input_errors
        from crossent.scoring.input.class_files import read_classes

        with input_errors(Path(classes[1:])):
            return read_classes(Path(classes[1:]))
    try:
        named = next(csv.reader(io.StringIO(classes, newline=""), skipinitialspace=True), [])
    except csv.Error as error:
        raise UsageError(f"--classes must be names with commas between them, got {quoted(classes)}") from error
    return named and [name.strip() for name in named]


def costs_of(text: str | None) -> dict[str, float] | None:
    """Return the argument `costs` that --cost stands for.

    Examples
    --------
    >>> costs_of("fp=1, fn=5"), costs_of(None)
    ({'fp': 1.0, 'fn': 5.0}, None)
    """
    if text is None:
        return None
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, cost = (piece.strip() for piece in part.partition("="))
        try:
            found[name] = float(cost)
        except ValueError:
            found = {}
            break
    if not found or not set(found) <= {"fp", "fn"} or not all(0.0 < cost < math.inf for cost in found.values()):
        raise UsageError(f"--cost must be like fp=1,fn=5 with positive numbers, got {quoted(text)}")
    return found


class Sliced(NamedTuple):
    """The columns that --by names, and how many bins of some are wanted."""

    by: list[str] | None
    bins: dict[str, int]


def sliced(by: list[str] | None) -> Sliced:
    """Return the columns of --by without the numbers of bins behind them.

    Examples
    --------
    >>> sliced(["lang", "age:5"])
    Sliced(by=['lang', 'age'], bins={'age': 5})
    """
    bins: dict[str, int] = {}
    names: list[str] = []
    for name in by or ():
        column, colon, count = name.rpartition(":")
        if colon and column and count.isascii() and count.isdigit():
            bins[column] = int(count)
            if not 1 <= bins[column] <= MOST_BINS:
                raise UsageError(f"--by {name}: the number of bins must be from 1 to {MOST_BINS}")
        names.append(column if column in bins else name)
    return Sliced(names or None, bins)


def put(text: str) -> None:
    """Print a text on standard output, with a line break at its end."""
    _ = sys.stdout.write(text + "\n")
