"""Options shared by several commands, as typer reads them, and their translation to arguments of `ScoreState`."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand

from crossent.errors import Argument, UsageError, quoted

MOST_BINS = 100
"""Most bins of a numeric column. Repeats `input.arguments`, whose import would load NumPy just for the help."""
FILES, PREDICTIONS, ROWS, RESULT, CHECKS = "Files", "Predictions", "Rows", "Result", "Checks"
"""Groups of options in the help of a command."""

FilesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE...",
        help="Prediction files: csv, jsonl, parquet, arrow, xlsx, safetensors, npz or npy; csv and jsonl may be "
        "compressed. Also folders of part files, patterns, zip archives, URLs such as s3://…, and - for standard "
        "input. Several files are read as one table.",
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Format of all files, such as csv. Default: the ending of each file name.",
        rich_help_panel=FILES,
    ),
]
DelimiterOption = Annotated[
    str | None,
    typer.Option(metavar="MARK", help="Separator of the values in a line, such as ';' or tab.", rich_help_panel=FILES),
]
DecimalOption = Annotated[
    str | None,
    typer.Option(metavar="MARK", help="Decimal mark of numbers, such as ','.", rich_help_panel=FILES),
]
EncodingOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Text encoding of csv files, such as cp1252. Default: UTF-8.", rich_help_panel=FILES
    ),
]
SheetOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Sheet of a workbook. Default: the first.", rich_help_panel=FILES),
]
ProbsOption = Annotated[
    str | None,
    typer.Option(
        help="Columns of probabilities, separated by commas or as a pattern such as 'p_*'. A single column holds "
        "lists, or the probability of the positive class.",
        rich_help_panel=PREDICTIONS,
    ),
]
LogitsOption = Annotated[
    str | None, typer.Option(help="Columns of logits, instead of --probs.", rich_help_panel=PREDICTIONS)
]
LogprobsOption = Annotated[
    str | None, typer.Option(help="Columns of log-probabilities, instead of --probs.", rich_help_panel=PREDICTIONS)
]
_EACH = "Repeat it for each model if one file holds several models."
SeveralProbsOption = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Columns of probabilities, separated by commas or as a pattern such as 'p_*'. {_EACH}",
        rich_help_panel=PREDICTIONS,
    ),
]
SeveralLogitsOption = Annotated[
    list[str] | None, typer.Option(help=f"Columns of logits, instead of --probs. {_EACH}", rich_help_panel=PREDICTIONS)
]
SeveralLogprobsOption = Annotated[
    list[str] | None,
    typer.Option(help=f"Columns of log-probabilities, instead of --probs. {_EACH}", rich_help_panel=PREDICTIONS),
]
ClassesOption = Annotated[
    str | None,
    typer.Option(
        help="Class names in the order of the columns, separated by commas; quote a name that holds a comma. @FILE "
        "reads one name per line, or JSON such as a model's config.json. Default: the column names, or 0, 1, …",
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
        help="Smallest probability in the loss: smaller ones count as this one. The default, inf, changes nothing: "
        "probability 0 gives an infinite loss.",
        rich_help_panel=PREDICTIONS,
    ),
]
LabelOption = Annotated[
    str | None,
    typer.Option(
        help="Column of true classes. Default: recognised from the columns of the table.", rich_help_panel=ROWS
    ),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        help="Columns of labels in multi-label data, such as 'y_*', each 0 or 1; each needs its own column in --probs.",
        rich_help_panel=ROWS,
    ),
]
WeightOption = Annotated[str | None, typer.Option(help="Column of weights.", rich_help_panel=ROWS)]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        help="Column of cluster ids, such as documents or patients: rows of a cluster count as dependent.",
        rich_help_panel=ROWS,
    ),
]
ByOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Column to slice by: each of its values gets a loss. May be repeated. Numeric columns with many values "
        "are cut into bins; age:5 asks for five.",
        rich_help_panel=ROWS,
    ),
]
DifferencesOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Column to slice by: each of its values gets a difference. May be repeated. Numeric columns with many "
        "values are cut into bins.",
        rich_help_panel=ROWS,
    ),
]
IdOption = Annotated[
    str | None,
    typer.Option(
        "--id", "--on", help="Column of row ids. Default: row numbers, which count from 0.", rich_help_panel=ROWS
    ),
]
PairsOption = Annotated[
    str | None,
    typer.Option(
        "--id", "--on", help="Column of row ids to pair the rows by. Default: their order.", rich_help_panel=ROWS
    ),
]
TruthOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="File with the true classes, if the predictions lack them. --on names the id column of both files; "
        "without it, rows are paired by their order.",
        rich_help_panel=ROWS,
    ),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Leave out rows with this label; may be repeated. '' stands for rows without a label, and so does nan "
        "unless a class has that name.",
        rich_help_panel=ROWS,
    ),
]
NaOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Text of a missing value; may be repeated. Default in numeric columns: an empty cell, NA, nan and null.",
        rich_help_panel=ROWS,
    ),
]
LevelOption = Annotated[float, typer.Option("--ci", help="Confidence level of the intervals.", rich_help_panel=RESULT)]
WorstOption = Annotated[
    int, typer.Option(min=0, help="Number of rows with the largest loss to list.", rich_help_panel=RESULT)
]
RegressionsOption = Annotated[
    int, typer.Option(min=0, help="Number of rows with the largest increase in loss to list.", rich_help_panel=RESULT)
]
BitsOption = Annotated[
    bool,
    typer.Option(
        "--bits",
        help="Print losses and read --max-loss in bits instead of nats. A report has both.",
        rich_help_panel=RESULT,
    ),
]
DifferencesInBitsOption = Annotated[
    bool,
    typer.Option(
        "--bits",
        help="Print losses, and read --max-regression, in bits instead of nats; the report of --html too.",
        rich_help_panel=RESULT,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=RESULT)]
CostOption = Annotated[
    str | None,
    typer.Option(
        "--cost",
        metavar="fp=1,fn=5",
        help="Costs of a false positive and of a false negative; adds the best decision threshold for two classes.",
        rich_help_panel=RESULT,
    ),
]
RowsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Write one line per row to a parquet, arrow or csv file: id, loss, predicted class, the probabilities of "
        "the predicted and the true class, and slices.",
        rich_help_panel=RESULT,
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        help="Memory limit, such as 4G. Default: half of the machine's memory.",
        rich_help_panel=CHECKS,
    ),
]
HtmlOption = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Write an HTML report with pictures.", rich_help_panel=RESULT)
]

Require = Callable[..., None]
_LISTS = {
    "probs": "columns", "logits": "columns", "logprobs": "columns", "labels": "columns", "classes": "names",
    "cost": "costs",
}  # fmt: skip
"""Options that take several values, separated by commas, and the noun for these."""


class Once(TyperCommand):
    """A command whose options of one value may be passed once: typer itself would silently keep the last value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments of the command.

        Raises
        ------
        UsageError
            If an option of one value was passed several times.
        """
        *_, passed = self.make_parser(ctx).parse_args(list(args))
        for option in dict.fromkeys(passed):
            single = getattr(option, "multiple", True) is False and not getattr(option, "is_flag", False)
            if single and (times := passed.count(option)) > 1:
                raise UsageError(_repeated(option, "twice" if times == 2 else f"{times} times", args))
        return super().parse_args(ctx, args)


def _repeated(option: Any, times: str, args: list[str]) -> str:
    from crossent.scoring.cli.reading import as_option

    if option.name not in _LISTS:
        return f"{option.opts[0]} was passed {times}; pass it once"
    values = [after for flag, after in pairwise(args) if flag in option.opts]
    values += [value for flag, equal, value in (arg.partition("=") for arg in args) if equal and flag in option.opts]
    together = as_option(Argument(option.name, values))
    return f"{option.opts[0]} was passed {times}; separate {_LISTS[option.name]} by commas: {together}"


def state_options(
    classes: str | None, ignore: list[str] | None, *, normalize: bool, zero: str, ci: float, worst: int
) -> dict[str, Any]:
    """Return the options as arguments of `ScoreState`."""
    try:
        smallest = "inf" if zero == "inf" else float(zero)
    except ValueError as error:
        raise UsageError(f"--zero must be inf or a probability between 0 and 1; got {quoted(zero)}") from error
    return {
        "classes": None if classes is None else _classes(classes),
        "ignore": ignore or None,
        "normalize": normalize,
        "zero": smallest,
        "ci": ci,
        "worst": worst,
    }


def _classes(classes: str) -> Any:
    """Return the option --classes as the argument `classes`."""
    if classes.startswith("@"):
        from crossent.scoring.cli.reading import input_errors
        from crossent.scoring.input.class_files import read_classes

        with input_errors(Path(classes[1:])):
            return read_classes(Path(classes[1:]))
    try:
        named = next(csv.reader(io.StringIO(classes, newline=""), skipinitialspace=True), [])
    except csv.Error as error:
        raise UsageError(f"--classes must be names separated by commas, got {quoted(classes)}") from error
    return named and [name.strip() for name in named]


def costs_of(text: str | None) -> dict[str, float] | None:
    """Return the option --cost as the argument `costs`.

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
    """The columns of --by, and the number of bins of some."""

    by: list[str] | None
    bins: dict[str, int]


def sliced(by: list[str] | None) -> Sliced:
    """Split the values of --by into columns and numbers of bins.

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


def amount(loss: float, unit: str) -> str:
    """Return a loss with its unit.

    Examples
    --------
    >>> amount(1.0, "nats"), amount(0.25, "bits")
    ('1 nat', '0.25 bits')
    """
    number = f"{loss:.6g}"
    return f"{number} {unit.removesuffix('s') if number == '1' else unit}"


def put(text: str) -> None:
    """Print a text and a line break on standard output."""
    _ = sys.stdout.write(text + "\n")
