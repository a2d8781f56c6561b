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
    CostOption,
    FileArgument,
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
        cost: CostOption = None,
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
        from crossent.scoring.cli import actions, memory, reading
        from crossent.scoring.input.arguments import RowArguments
        from crossent.scoring.input.columns import columns

        actions.check_thresholds(max_loss=max_loss, min_skill=min_skill)
        if html is not None:
            require("--html", "matplotlib", extra="score")
            actions.check_writable(html, file)
        columns_of = sliced(by)
        with reading.input_errors():
            named = columns(label, RowArguments(probs, logits, logprobs, weight, cluster, columns_of.by, id), na or ())
        options = state_options(classes, ignore, normalize=normalize, zero=zero, ci=ci, worst=worst)
        options |= {"costs": costs_of(cost), "bins": columns_of.bins}
        with memory.limited(memory.bytes_of(max_memory), file):
            found = actions.score_file(file, named, options)
            if html is not None:
                actions.write_report(found, html, file)
            put((actions.as_json if json else actions.as_text)(found, in_bits=bits))
        actions.hold(found, max_loss, min_skill, in_bits=bits)
