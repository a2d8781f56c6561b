"""The command `crossent score`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from crossent.scoring.cli.options import (
    CHECKS,
    BitsOption,
    ByOption,
    ClassesOption,
    ClusterOption,
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
    LevelOption,
    LogitsOption,
    LogprobsOption,
    MemoryOption,
    NaOption,
    NormalizeOption,
    ProbsOption,
    Require,
    SheetOption,
    WeightOption,
    WorstOption,
    ZeroOption,
    put,
    state_options,
)


def add(app: Any, require: Require) -> None:
    """Add the command to a typer application; `require` raises for missing packages."""

    @app.command()
    def score(  # pyright: ignore[reportUnusedFunction]
        file: FilesArgument,
        label: LabelOption = None,
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
        format: FormatOption = None,
        delimiter: DelimiterOption = None,
        decimal: DecimalOption = None,
        encoding: EncodingOption = None,
        sheet: SheetOption = None,
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
        """Score predictions in files: their cross-entropy, with an interval, calibration and the costliest rows."""
        require("score", "pyarrow", "scipy", extra="score")
        from crossent.scoring.cli import actions, memory, reading
        from crossent.scoring.input.arguments import RowArguments
        from crossent.scoring.input.columns import columns
        from crossent.scoring.input.reader import FileOptions

        actions.check_thresholds(max_loss=max_loss, min_skill=min_skill)
        if html is not None:
            require("--html", "matplotlib", extra="score")
        with reading.input_errors():
            rows = RowArguments(probs, logits, logprobs, weight, cluster, by or None, id)
            named = columns(label, rows, na or (), by_shape=True)
            files = FileOptions(format, delimiter, decimal, encoding, tuple(na or ()), sheet)
        options = state_options(classes, ignore, normalize=normalize, zero=zero, ci=ci, worst=worst)
        with memory.limited(memory.bytes_of(max_memory), *file), reading.opened(file, files) as tables:
            if html is not None:
                actions.check_writable(html, *tables.inputs)
            found = actions.score_tables(tables, named, options)
            if html is not None:
                actions.write_report(found, html, tables.name)
            put((actions.as_json if json else actions.as_text)(found, in_bits=bits))
        actions.hold(found, max_loss, min_skill, in_bits=bits)
