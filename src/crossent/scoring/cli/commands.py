"""The commands `crossent score`, `crossent compare` and `crossent lm`: their options, which typer reads."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from crossent.errors import MissedError, UsageError, quoted

PREDICTIONS, ROWS, RESULT, CHECKS = "Predictions", "Rows", "Result", "Checks"
"""Groups of options in the help of a command."""

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="csv or jsonl (.gz and the like too), parquet, arrow, npz or npy.")
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
ClassesOption = Annotated[
    str | None,
    typer.Option(
        help="Classes of the columns, separated by commas, a class with a comma in double quotes; by default the names "
        "of the columns, or 0, 1, …",
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
LabelOption = Annotated[str, typer.Option(help="Column of true classes.", rich_help_panel=ROWS)]
WeightOption = Annotated[str | None, typer.Option(help="Column of weights.", rich_help_panel=ROWS)]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        help="Column of clusters (documents, patients): rows of one cluster depend on each other.", rich_help_panel=ROWS
    ),
]
ByOption = Annotated[
    list[str] | None,
    typer.Option(help="Column whose values get a loss each; may be repeated.", rich_help_panel=ROWS),
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
        help="Text that stands for no value in columns of labels, slices, clusters and ids; may be repeated. Among "
        "labels that are numbers, an empty cell, NA, nan and null do by default.",
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


def add(app: Any, require: Require) -> None:
    """Add the commands to a typer application; `require` raises for missing packages."""

    @app.command()
    def score(  # pyright: ignore[reportUnusedFunction]
        file: FileArgument,
        label: LabelOption,
        probs: ProbsOption = None,
        logits: LogitsOption = None,
        logprobs: LogprobsOption = None,
        classes: ClassesOption = None,
        normalize: NormalizeOption = False,
        zero: ZeroOption = "inf",
        weight: WeightOption = None,
        cluster: ClusterOption = None,
        by: ByOption = None,
        id: IdOption = None,
        ignore: IgnoreOption = None,
        na: NaOption = None,
        ci: LevelOption = 0.95,
        worst: WorstOption = 10,
        bits: BitsOption = False,
        json: JsonOption = False,
        html: HtmlOption = None,
        max_loss: Annotated[
            float | None, typer.Option(help="Exit with 1 if the loss is above this.", rich_help_panel=CHECKS)
        ] = None,
        min_skill: Annotated[
            float | None, typer.Option(help="Exit with 1 if the skill is below this.", rich_help_panel=CHECKS)
        ] = None,
        max_memory: MemoryOption = None,
    ) -> None:
        """Score predictions in a file: their cross-entropy, with an interval, calibration and the costliest rows."""
        require("score", "pyarrow", "scipy", extra="score")
        from crossent.scoring.cli import actions, memory
        from crossent.scoring.input.arguments import RowArguments
        from crossent.scoring.input.columns import columns

        actions.check_thresholds(max_loss=max_loss, min_skill=min_skill)
        if html is not None:
            require("--html", "matplotlib", extra="score")
            actions.check_writable(html, file)
        with actions.input_errors():
            named = columns(label, RowArguments(probs, logits, logprobs, weight, cluster, by or None, id), na or ())
        options = _options(classes, ignore, normalize, zero, ci, worst)
        with memory.limited(memory.bytes_of(max_memory), file):
            found = actions.score_file(file, named, options)
            if html is not None:
                actions.write_report(found, html, file)
            _print((actions.as_json if json else actions.as_text)(found, in_bits=bits))
        actions.hold(found, max_loss, min_skill, in_bits=bits)

    @app.command()
    def compare(  # pyright: ignore[reportUnusedFunction]
        new: Annotated[
            Path, typer.Argument(metavar="NEW", help="Predictions: csv, parquet, arrow, jsonl, npz or npy.")
        ],
        old: Annotated[Path, typer.Argument(metavar="OLD", help="Predictions of the same rows to compare with.")],
        label: LabelOption,
        probs: ProbsOption = None,
        logits: LogitsOption = None,
        logprobs: LogprobsOption = None,
        classes: ClassesOption = None,
        normalize: NormalizeOption = False,
        zero: ZeroOption = "inf",
        weight: WeightOption = None,
        cluster: ClusterOption = None,
        id: PairsOption = None,
        ignore: IgnoreOption = None,
        na: NaOption = None,
        ci: LevelOption = 0.95,
        worst: WorstOption = 10,
        json: JsonOption = False,
        max_regression: Annotated[
            float | None,
            typer.Option(help="Exit with 1 if NEW costs more than OLD by more nats than this.", rich_help_panel=CHECKS),
        ] = None,
        max_memory: MemoryOption = None,
    ) -> None:
        """Compare predictions in two files row by row: the difference in loss, with an interval and a p-value."""
        require("compare", "pyarrow", "scipy", extra="score")
        from crossent.scoring.cli import actions, memory
        from crossent.scoring.input.arguments import RowArguments
        from crossent.scoring.input.columns import columns

        actions.check_thresholds(max_regression=max_regression)
        with actions.input_errors():
            named = columns(label, RowArguments(probs, logits, logprobs, weight, cluster, None, id), na or ())
        options = _options(classes, ignore, normalize, zero, ci, worst)
        with memory.limited(memory.bytes_of(max_memory), new, old):
            found = actions.compare_files(new, old, named, options)
        _print(found.to_json() if json else repr(found))
        if max_regression is not None and not found.difference <= max_regression:
            raise MissedError(
                f"NEW costs {found.difference:.6g} nats more than OLD, above --max-regression {max_regression:g}"
            )

    @app.command()
    def lm(  # pyright: ignore[reportUnusedFunction]
        file: Annotated[
            Path,
            typer.Argument(
                metavar="FILE", help="Log-probabilities of tokens, one JSON object a line; - is standard input."
            ),
        ],
        format: Annotated[
            Literal["auto", "chat", "completions", "responses", "vllm", "lm-eval", "plain"],
            typer.Option(
                metavar="NAME",
                help="Format of the file: auto, chat, completions, responses, vllm, lm-eval or plain.",
            ),
        ] = "auto",
        ci: LevelOption = 0.95,
        worst: Annotated[
            int, typer.Option(min=0, help="Number of costliest tokens and documents to list.", rich_help_panel=RESULT)
        ] = 10,
        json: JsonOption = False,
        max_loss: Annotated[
            float | None, typer.Option(help="Exit with 1 if the loss per token is above this.", rich_help_panel=CHECKS)
        ] = None,
        max_memory: MemoryOption = None,
    ) -> None:
        """Score logged log-probabilities of a language model: loss per token, bits per byte."""
        require("lm", "scipy", extra="score")
        from crossent.scoring import lm as logs
        from crossent.scoring.cli import actions, memory

        actions.check_thresholds(max_loss=max_loss)
        with memory.limited(memory.bytes_of(max_memory), file), actions.input_errors(file):
            found = logs.score_tokens(logs.read(file, format=format), ci=ci, worst=worst)
        _print(found.to_json() if json else repr(found))
        loss = found.bounds[0] if math.isnan(found.loss) else found.loss
        if max_loss is not None and not loss <= max_loss:
            least = "at least " if math.isnan(found.loss) else ""
            raise MissedError(f"the loss per token, {least}{loss:.6g} nats, is above --max-loss {max_loss:g}")


def _options(
    classes: str | None, ignore: list[str] | None, normalize: bool, zero: str, ci: float, worst: int
) -> dict[str, Any]:
    """Return the arguments of `ScoreState` that options stand for."""
    try:
        smallest = "inf" if zero == "inf" else float(zero)
    except ValueError as error:
        raise UsageError(f"--zero must be a probability or inf, got {quoted(zero)}") from error
    try:
        named = (
            None if classes is None else next(csv.reader(io.StringIO(classes, newline=""), skipinitialspace=True), [])
        )
    except csv.Error as error:
        raise UsageError(f"--classes must be names with commas between them, got {quoted(classes)}") from error
    return {
        "classes": named and [name.strip() for name in named],
        "ignore": ignore or None,
        "normalize": normalize,
        "zero": smallest,
        "ci": ci,
        "worst": worst,
    }


def _print(text: str) -> None:
    _ = sys.stdout.write(text + "\n")
