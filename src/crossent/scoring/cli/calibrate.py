"""The command `crossent calibrate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from crossent.errors import MissedError, one_line
from crossent.scoring.cli.options import (
    FILES,
    RESULT,
    ClassesOption,
    ClusterOption,
    DecimalOption,
    DelimiterOption,
    EncodingOption,
    FilesArgument,
    FormatOption,
    IdOption,
    IgnoreOption,
    JsonOption,
    LabelOption,
    LevelOption,
    LogitsOption,
    LogprobsOption,
    MemoryOption,
    NaOption,
    Once,
    ProbsOption,
    Require,
    SheetOption,
    TruthOption,
    WeightOption,
    put,
    state_options,
)


def add(app: Any, require: Require) -> None:
    """Add the command to a typer application; `require` raises for missing packages."""

    @app.command(cls=Once)
    def calibrate(  # pyright: ignore[reportUnusedFunction]
        file: FilesArgument,
        out: Annotated[
            Path,
            typer.Option(
                metavar="PATH",
                help="Output file, parquet, arrow or csv: the input table with calibrated predictions in place of the "
                "original ones.",
                rich_help_panel=RESULT,
            ),
        ],
        label: LabelOption = None,
        probs: ProbsOption = None,
        logits: LogitsOption = None,
        logprobs: LogprobsOption = None,
        classes: ClassesOption = None,
        truth: TruthOption = None,
        weight: WeightOption = None,
        cluster: ClusterOption = None,
        id: IdOption = None,
        ignore: IgnoreOption = None,
        na: NaOption = None,
        format: FormatOption = None,
        delimiter: DelimiterOption = None,
        decimal: DecimalOption = None,
        encoding: EncodingOption = None,
        sheet: SheetOption = None,
        apply: Annotated[
            str | None,
            typer.Option(
                metavar="FILE",
                help="Other predictions to calibrate with this fit; they need no labels. Default: the predictions of "
                "FILE.",
                rich_help_panel=FILES,
            ),
        ] = None,
        method: Annotated[
            Literal["temperature", "vector"],
            typer.Option(
                metavar="NAME",
                help="temperature: one temperature for all rows; vector: a scale and a bias per class.",
                rich_help_panel=RESULT,
            ),
        ] = "temperature",
        folds: Annotated[
            int,
            typer.Option(
                min=2,
                help="Folds of the cross-fit: each fold is scored with a fit to the other folds.",
                rich_help_panel=RESULT,
            ),
        ] = 5,
        ci: LevelOption = 0.95,
        json: JsonOption = False,
        max_memory: MemoryOption = None,
    ) -> None:
        """Calibrate predictions: fit a temperature or scales, estimate the gain on new rows, and write the result.

        If there is no best fit, nothing is written and the exit code is 1.
        """
        require("calibrate", "pyarrow", "scipy", extra="score")
        from crossent.scoring.calibration.rows import Rows
        from crossent.scoring.cli import actions, calibrating, memory, reading
        from crossent.scoring.cli.row_files import check_ending
        from crossent.scoring.input.arguments import RowArguments
        from crossent.scoring.input.columns import columns
        from crossent.scoring.input.reader import FileOptions

        check_ending(out, "--out")
        with reading.input_errors():
            given = RowArguments(probs, logits, logprobs, weight, cluster, None, id)
            named = columns(label, given, na or (), by_shape=True)
            files = FileOptions(format, delimiter, decimal, encoding, tuple(na or ()), sheet)
        options = state_options(classes, ignore, normalize=False, zero="inf", ci=ci, worst=0)
        with (
            memory.limited(memory.bytes_of(max_memory), *file),
            reading.opened_with_truth(file, files, truth, named) as (tables, wanted),
        ):
            actions.check_writable(out, *tables.inputs)
            asked = calibrating.asked_of(tables, wanted, options)
            if asked.said:
                print(one_line(asked.said), file=sys.stderr)
            rows = Rows(calibrating.Kept(calibrating.reader(tables, asked, options)))
            with reading.steps("fits", folds + 1) as tell:
                scaling, gain, warned = calibrating.fitted(rows, asked, method, folds=folds, level=ci, tell=tell)
            if gain is None:
                raise MissedError(f"{tables.name}: nothing is written, because {scaling.reason_}")
            with reading.opened([apply] if apply else file, None if apply else files) as target:
                actions.check_writable(out, *target.inputs)
                _ = calibrating.write(out, target, asked.columns, scaling)
            put(calibrating.said(scaling, gain, as_json=json, found=warned))
            print(f"wrote {one_line(out)}", file=sys.stderr)
