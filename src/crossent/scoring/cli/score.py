"""The command `crossent score`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from crossent.errors import UsageError
from crossent.scoring.cli.options import (
    CHECKS,
    BitsOption,
    ByOption,
    ClassesOption,
    ClusterOption,
    CostOption,
    DecimalOption,
    DelimiterOption,
    EncodingOption,
    FilesArgument,
    FormatOption,
    HtmlOption,
    IdOption,
    IgnoreOption,
    JsonOption,
    LabelOption,
    LabelsOption,
    LevelOption,
    LogitsOption,
    LogprobsOption,
    MemoryOption,
    NaOption,
    NormalizeOption,
    Once,
    ProbsOption,
    Require,
    RowsOption,
    SheetOption,
    TruthOption,
    WeightOption,
    WorstOption,
    ZeroOption,
    costs_of,
    put,
    sliced,
    state_options,
)


def add(app: Any, require: Require) -> None:
    """Add the command to a typer application; `require` raises for missing packages."""

    @app.command(cls=Once)
    def score(  # pyright: ignore[reportUnusedFunction]
        file: FilesArgument,
        label: LabelOption = None,
        labels: LabelsOption = None,
        probs: ProbsOption = None,
        logits: LogitsOption = None,
        logprobs: LogprobsOption = None,
        classes: ClassesOption = None,
        normalize: NormalizeOption = False,
        zero: ZeroOption = "inf",
        truth: TruthOption = None,
        weight: WeightOption = None,
        cluster: ClusterOption = None,
        by: ByOption = None,
        id: IdOption = None,
        ignore: IgnoreOption = None,
        na: NaOption = None,
        format: FormatOption = None,
        delimiter: DelimiterOption = None,
        decimal: DecimalOption = None,
        encoding: EncodingOption = None,
        sheet: SheetOption = None,
        ci: LevelOption = 0.95,
        worst: WorstOption = 10,
        cost: CostOption = None,
        bits: BitsOption = False,
        json: JsonOption = False,
        html: HtmlOption = None,
        rows: RowsOption = None,
        max_loss: Annotated[
            float | None, typer.Option(help="Exit with code 1 if the loss is above this.", rich_help_panel=CHECKS)
        ] = None,
        min_skill: Annotated[
            float | None, typer.Option(help="Exit with code 1 if the skill is below this.", rich_help_panel=CHECKS)
        ] = None,
        max_memory: MemoryOption = None,
    ) -> None:
        """Score predictions in files: cross-entropy with an interval, calibration, the rows with the largest loss."""
        require("score", "pyarrow", "scipy", extra="score")
        from crossent.scoring.cli import actions, memory, reading
        from crossent.scoring.cli.labels import score_labels
        from crossent.scoring.cli.row_files import check_ending
        from crossent.scoring.input.arguments import RowArguments
        from crossent.scoring.input.columns import columns
        from crossent.scoring.input.reader import FileOptions

        actions.check_thresholds(max_loss=max_loss, min_skill=min_skill)
        if html is not None:
            require("--html", "matplotlib", extra="score")
        if label is not None and labels is not None:
            raise UsageError(
                "pass --label with the column of true classes, or --labels with several columns of 0 and 1"
            )
        if labels is not None and bits:
            raise UsageError("--bits does not work with --labels, whose losses are in nats; --json has bits too")
        if labels is not None and (truth is not None or rows is not None):
            raise UsageError("--labels does not support --truth or --rows yet; score one label at a time with --label")
        columns_of = sliced(by)
        with reading.input_errors():
            given = RowArguments(probs, logits, logprobs, weight, cluster, columns_of.by, id)
            named = columns(label or labels, given, na or (), by_shape=labels is None)
            files = FileOptions(format, delimiter, decimal, encoding, tuple(na or ()), sheet)
        options = state_options(classes, ignore, normalize=normalize, zero=zero, ci=ci, worst=worst)
        options |= {"costs": costs_of(cost), "bins": columns_of.bins}
        with (
            memory.limited(memory.bytes_of(max_memory), *file),
            reading.opened_with_truth(file, files, truth, named) as (tables, asked),
        ):
            if rows is not None:
                check_ending(rows, "--rows")
            for written in (html, rows):
                if written is not None:
                    actions.check_writable(written, *tables.inputs)
            if labels is not None:
                several = score_labels(tables, labels, named, options)
                found, said = several.micro, several.to_json() if json else repr(several)
            else:
                found = actions.score_tables(tables, asked, options, rows)
                said = (actions.as_json if json else actions.as_text)(found, in_bits=bits)
            if html is not None:
                actions.write_report(found, html, tables.name)
            put(said)
        actions.hold(found, max_loss, min_skill, in_bits=bits)
