"""The commands that score: their options, which typer turns into a command line."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="csv or jsonl (.gz and the like too), parquet, arrow, npz or npy.")
]
Label = Annotated[str, typer.Option(help="Column of the true class.")]
Probs = Annotated[
    str | None,
    typer.Option(help="Columns of probabilities, such as 'p_*'; one column: of the positive class, or of lists."),
]
Logits = Annotated[str | None, typer.Option(help="Columns of logits, instead.")]
Logprobs = Annotated[str | None, typer.Option(help="Columns of log-probabilities, instead.")]
Classes = Annotated[
    str | None,
    typer.Option(help="The classes of the columns, with commas; by default the columns' names, or 0, 1, …"),
]
Weight = Annotated[str | None, typer.Option(help="Column of weights.")]
Cluster = Annotated[str | None, typer.Option(help="Column of what rows of one cluster share (document, patient).")]
Ignore = Annotated[
    list[str] | None, typer.Option(help="A label whose rows are left out, nan for missing ones; may be repeated.")
]
Normalize = Annotated[bool, typer.Option("--normalize", help="Divide probabilities by their sum.")]
Zero = Annotated[str, typer.Option(help="The smallest probability to charge, or inf to charge none.")]
Level = Annotated[float, typer.Option("--ci", help="Level of confidence of the intervals.")]
Worst = Annotated[int, typer.Option(min=0, help="How many rows to name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Require = Callable[..., None]


def add(app: Any, require: Require) -> None:
    """Add the commands to a typer application; `require` says which packages are missing."""

    @app.command()
    def score(  # pyright: ignore[reportUnusedFunction]
        file: File,
        label: Label,
        probs: Probs = None,
        logits: Logits = None,
        logprobs: Logprobs = None,
        classes: Classes = None,
        weight: Weight = None,
        cluster: Cluster = None,
        by: Annotated[list[str] | None, typer.Option(help="Column to slice by; may be repeated.")] = None,
        id: Annotated[str | None, typer.Option(help="Column of names of the rows.")] = None,
        ignore: Ignore = None,
        normalize: Normalize = False,
        zero: Zero = "inf",
        ci: Level = 0.95,
        worst: Worst = 10,
        bits: Annotated[bool, typer.Option("--bits", help="Losses, and --max-loss, in bits instead of nats.")] = False,
        json: Json = False,
        html: Annotated[Path | None, typer.Option(metavar="PATH", help="Write a report with pictures.")] = None,
        max_loss: Annotated[float | None, typer.Option(help="Exit with 1 if the loss is above this.")] = None,
        min_skill: Annotated[float | None, typer.Option(help="Exit with 1 if the skill is below this.")] = None,
    ) -> None:
        """Say what predictions in a file cost, with an interval."""
        require("score", "pyarrow", "scipy", extra="score")
        from crossent.scoring.cli import actions as command

        command.check_thresholds(max_loss=max_loss, min_skill=min_skill)
        if html is not None:
            require("--html", "matplotlib", extra="score")
            command.check_writable(html)
        columns = {"label": label, "probs": probs, "logits": logits, "logprobs": logprobs, "weight": weight}
        options = _options(classes, ignore, normalize, zero, ci, worst)
        found = command.score_file(file, {**columns, "cluster": cluster, "by": by, "id": id}, options)
        if html is not None:
            command.write_report(found, html, file)
        _print(found.to_json() if json else command.as_text(found, in_bits=bits))
        command.hold(found, max_loss, min_skill, in_bits=bits)

    @app.command()
    def compare(  # pyright: ignore[reportUnusedFunction]
        new: Annotated[
            Path, typer.Argument(metavar="NEW", help="Predictions: csv, parquet, arrow, jsonl, npz or npy.")
        ],
        old: Annotated[Path, typer.Argument(metavar="OLD", help="What they are compared with, of the same rows.")],
        label: Label,
        probs: Probs = None,
        logits: Logits = None,
        logprobs: Logprobs = None,
        on: Annotated[str | None, typer.Option(help="Column that pairs the rows; by default their order does.")] = None,
        classes: Classes = None,
        weight: Weight = None,
        cluster: Cluster = None,
        ignore: Ignore = None,
        normalize: Normalize = False,
        zero: Zero = "inf",
        ci: Level = 0.95,
        worst: Worst = 10,
        json: Json = False,
        max_regression: Annotated[
            float | None, typer.Option(help="Exit with 1 if NEW costs more than OLD by more than this many nats.")
        ] = None,
    ) -> None:
        """Say how much more the predictions in NEW cost than those in OLD, row by row."""
        require("compare", "pyarrow", "scipy", extra="score")
        from crossent.scoring.cli import actions as command

        command.check_thresholds(max_regression=max_regression)
        columns = {"label": label, "probs": probs, "logits": logits, "logprobs": logprobs, "weight": weight}
        options = _options(classes, ignore, normalize, zero, ci, worst)
        found = command.compare_files(new, old, {**columns, "cluster": cluster, "id": on}, options)
        _print(found.to_json() if json else repr(found))
        if max_regression is not None and not found.difference <= max_regression:
            raise command.MissedError(
                f"NEW costs {found.difference:.6g} nats more than OLD, above --max-regression {max_regression:g}"
            )

    @app.command()
    def lm(  # pyright: ignore[reportUnusedFunction]
        file: Annotated[
            Path, typer.Argument(metavar="FILE", help="Log-probabilities of tokens, one JSON object a line.")
        ],
        format: Annotated[
            Literal["auto", "chat", "completions", "vllm", "lm-eval", "plain"],
            typer.Option(help="What wrote the file."),
        ] = "auto",
        ci: Level = 0.95,
        worst: Worst = 10,
        json: Json = False,
        max_loss: Annotated[float | None, typer.Option(help="Exit with 1 if the loss per token is above this.")] = None,
    ) -> None:
        """Say what the log-probabilities that a language model logged cost: per token, and per byte of text."""
        require("lm", "scipy", extra="score")
        from crossent.scoring.cli import actions as command
        from crossent.scoring import lm as logs

        command.check_thresholds(max_loss=max_loss)
        with command.refusing(file):
            found = logs.score_tokens(logs.read(file, format=format), ci=ci, worst=worst)
        _print(found.to_json() if json else repr(found))
        loss = found.bounds[0] if math.isnan(found.loss) else found.loss
        if max_loss is not None and not loss <= max_loss:
            least = "at least " if math.isnan(found.loss) else ""
            raise command.MissedError(f"the loss per token, {least}{loss:.6g} nats, is above --max-loss {max_loss:g}")


def _options(
    classes: str | None, ignore: list[str] | None, normalize: bool, zero: str, ci: float, worst: int
) -> dict[str, Any]:
    try:
        smallest = "inf" if zero == "inf" else float(zero)
    except ValueError as error:
        raise typer.BadParameter(f"--zero must be a probability or inf, got {zero!r}") from error
    named = None if classes is None else [name.strip() for name in classes.split(",")]
    return {
        "classes": named,
        "ignore": [_label(label) for label in ignore or []] or None,
        "normalize": normalize,
        "zero": smallest,
        "ci": ci,
        "worst": worst,
    }


def _label(text: str) -> Any:
    """Return a label to ignore; "nan" and nothing at all are missing labels."""
    return math.nan if text.strip().lower() in {"", "nan"} else text


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
