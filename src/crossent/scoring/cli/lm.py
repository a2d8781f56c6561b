"""The command `crossent lm`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from crossent.errors import MissedError
from crossent.scoring.cli.options import (
    CHECKS,
    RESULT,
    JsonOption,
    LevelOption,
    MemoryOption,
    Require,
    put,
)


def add(app: Any, require: Require) -> None:
    """Add the command to a typer application; `require` raises for missing packages."""

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
        from crossent.scoring.cli import actions, memory, reading

        actions.check_thresholds(max_loss=max_loss)
        with memory.limited(memory.bytes_of(max_memory), file), reading.input_errors(file):
            found = logs.score_tokens(logs.read(file, format=format), ci=ci, worst=worst)
        put(found.to_json() if json else repr(found))
        loss = found.bounds[0] if math.isnan(found.loss) else found.loss
        if max_loss is not None and not loss <= max_loss:
            least = "at least " if math.isnan(found.loss) else ""
            raise MissedError(f"the loss per token, {least}{loss:.6g} nats, is above --max-loss {max_loss:g}")
