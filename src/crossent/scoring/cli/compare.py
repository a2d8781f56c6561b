"""The command `crossent compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crossent.errors import MissedError
from crossent.scoring.cli.options import (
    CHECKS,
    ClassesOption,
    ClusterOption,
    IgnoreOption,
    JsonOption,
    LabelOption,
    LevelOption,
    LogitsOption,
    LogprobsOption,
    MemoryOption,
    NaOption,
    NormalizeOption,
    PairsOption,
    ProbsOption,
    Require,
    WeightOption,
    WorstOption,
    ZeroOption,
    put,
    state_options,
)


def add(app: Any, require: Require) -> None:
    """Add the command to a typer application; `require` raises for missing packages."""

    @app.command()
    def compare(  # pyright: ignore[reportUnusedFunction]
        new: Annotated[
            Path, typer.Argument(metavar="NEW", help="Predictions: csv, parquet, arrow, jsonl, npz or npy.")
        ],
        old: Annotated[Path, typer.Argument(metavar="OLD", help="Predictions of the same rows to compare with.")],
        label: LabelOption = None,
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
        from crossent.scoring.cli import actions, memory, reading
        from crossent.scoring.input.arguments import RowArguments
        from crossent.scoring.input.columns import columns

        actions.check_thresholds(max_regression=max_regression)
        with reading.input_errors():
            named = columns(
                label, RowArguments(probs, logits, logprobs, weight, cluster, None, id), na or (), by_shape=True
            )
        options = state_options(classes, ignore, normalize=normalize, zero=zero, ci=ci, worst=worst)
        with memory.limited(memory.bytes_of(max_memory), new, old):
            found = actions.compare_files(new, old, named, options)
        put(found.to_json() if json else repr(found))
        if max_regression is not None and not found.difference <= max_regression:
            raise MissedError(
                f"NEW costs {found.difference:.6g} nats more than OLD, above --max-regression {max_regression:g}"
            )
