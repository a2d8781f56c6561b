"""The command `crossent compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crossent.errors import MissedError, UsageError
from crossent.scoring.cli.options import (
    CHECKS,
    FILES,
    ClassesOption,
    ClusterOption,
    DecimalOption,
    DelimiterOption,
    DifferencesInBitsOption,
    DifferencesOption,
    EncodingOption,
    FormatOption,
    HtmlOption,
    IgnoreOption,
    JsonOption,
    LabelOption,
    LevelOption,
    MemoryOption,
    NaOption,
    NormalizeOption,
    Once,
    PairsOption,
    RegressionsOption,
    Require,
    SeveralLogitsOption,
    SeveralLogprobsOption,
    SeveralProbsOption,
    SheetOption,
    TruthOption,
    WeightOption,
    ZeroOption,
    amount,
    put,
    state_options,
)


def add(app: Any, require: Require) -> None:
    """Add the command to a typer application; `require` raises for missing packages."""

    @app.command(cls=Once)
    def compare(  # pyright: ignore[reportUnusedFunction]
        file: Annotated[
            list[str],
            typer.Argument(
                metavar="NEW OLD...",
                help="Predictions for the same rows: two files to compare, more to rank, or one file with several "
                "models, each with its own --probs. All formats of crossent score; with --lm, logs.",
            ),
        ],
        label: LabelOption = None,
        probs: SeveralProbsOption = None,
        logits: SeveralLogitsOption = None,
        logprobs: SeveralLogprobsOption = None,
        classes: ClassesOption = None,
        normalize: NormalizeOption = False,
        zero: ZeroOption = "inf",
        truth: TruthOption = None,
        weight: WeightOption = None,
        cluster: ClusterOption = None,
        by: DifferencesOption = None,
        id: PairsOption = None,
        ignore: IgnoreOption = None,
        na: NaOption = None,
        format: FormatOption = None,
        delimiter: DelimiterOption = None,
        decimal: DecimalOption = None,
        encoding: EncodingOption = None,
        sheet: SheetOption = None,
        lm: Annotated[
            bool,
            typer.Option(
                "--lm",
                help="Compare logs of two language models, per token and per byte, document by document.",
                rich_help_panel=FILES,
            ),
        ] = False,
        ci: LevelOption = 0.95,
        worst: RegressionsOption = 10,
        bits: DifferencesInBitsOption = False,
        json: JsonOption = False,
        html: HtmlOption = None,
        max_regression: Annotated[
            float | None,
            typer.Option(
                help="Exit with code 1 if the loss of NEW exceeds that of OLD by more than this, in nats (or --bits).",
                rich_help_panel=CHECKS,
            ),
        ] = None,
        max_memory: MemoryOption = None,
    ) -> None:
        """Compare models row by row: the difference in loss with an interval and a p-value, or a ranking."""
        require("compare", "pyarrow", "scipy", extra="score")
        from crossent.scoring.cli import actions, comparing, memory, reading
        from crossent.scoring.input.arguments import RowArguments
        from crossent.scoring.input.reader import FileOptions

        actions.check_thresholds(max_regression=max_regression)
        if html is not None:
            require("--html", "matplotlib", extra="score")
            actions.check_writable(html, *map(Path, file))
        unit = "bits" if bits else "nats"
        with memory.limited(memory.bytes_of(max_memory), *file):
            if lm:
                rows = (label, probs, logits, logprobs, classes, truth, weight, cluster, by, id, ignore, na)
                if any(rows) or normalize or zero != "inf" or html is not None:
                    raise UsageError(
                        "--lm compares logs and takes only --ci, --worst, --bits, --json, --max-regression and "
                        "--max-memory"
                    )
                found: Any = comparing.logs(file, ci=ci, worst=worst)
            else:
                with reading.input_errors():
                    many = comparing.kind_of(probs, logits, logprobs)
                    asked = RowArguments(weight=weight, cluster=cluster, by=by or None, id=id)
                    files = FileOptions(format, delimiter, decimal, encoding, tuple(na or ()), sheet)
                models = comparing.models(file, many)
                options = state_options(classes, ignore, normalize=normalize, zero=zero, ci=ci, worst=worst)
                found = comparing.compared(models, asked, label, truth, files, options)
            if html is not None:
                comparing.write_page(found, html, unit)
        put(comparing.said(found, unit, as_json=json))
        if max_regression is not None:
            over = comparing.regression(found, unit)
            if not over <= max_regression:
                raise MissedError(
                    f"the loss of NEW is {amount(over, unit)} above that of OLD, over --max-regression "
                    f"{max_regression:g}"
                )
