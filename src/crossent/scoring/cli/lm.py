"""The command `crossent lm`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from crossent.errors import MissedError, UsageError
from crossent.scoring.cli.options import (
    CHECKS,
    RESULT,
    HtmlOption,
    JsonOption,
    LevelOption,
    MemoryOption,
    Once,
    Require,
    amount,
    put,
)

MODEL = "With --model"
FORMATS = "auto, chat, completions, responses, vllm, sglang, tgi, llama.cpp, gemini, ollama, inspect, lm-eval or plain"


def add(app: Any, require: Require) -> None:
    """Add the command to a typer application; `require` raises for missing packages."""

    @app.command(cls=Once)
    def lm(  # pyright: ignore[reportUnusedFunction]
        files: Annotated[
            list[Path],
            typer.Argument(
                metavar="FILE...",
                help="Logs of log-probabilities, one JSON object per line, compressed or not; - is standard input. "
                "With "
                "--model, texts: one document per file, or per line of a .jsonl file.",
            ),
        ],
        format: Annotated[
            Literal[
                "auto",
                "chat",
                "completions",
                "responses",
                "vllm",
                "sglang",
                "tgi",
                "llama.cpp",
                "gemini",
                "ollama",
                "inspect",
                "lm-eval",
                "plain",
            ],
            typer.Option(metavar="NAME", help=f"Format of the logs: {FORMATS}."),
        ] = "auto",
        by: Annotated[
            list[str] | None,
            typer.Option(
                metavar="KEY",
                help="Key to slice the records by, such as meta.lang or task: each of its values gets a score. May be "
                "repeated. Several logs are sliced by task.",
            ),
        ] = None,
        model: Annotated[
            Path | None,
            typer.Option(
                metavar="PATH",
                help="Score texts by this causal language model: a folder that save_pretrained wrote, or a .gguf file.",
                rich_help_panel=MODEL,
            ),
        ] = None,
        window: Annotated[
            int | None,
            typer.Option(
                metavar="N",
                help="Tokens per window. Default: 1024, or the number of positions of the model if that is less.",
                rich_help_panel=MODEL,
            ),
        ] = None,
        stride: Annotated[
            int | None,
            typer.Option(
                metavar="N",
                help="Tokens scored per window after the first. Default: half of the window.",
                rich_help_panel=MODEL,
            ),
        ] = None,
        batch: Annotated[
            int | None,
            typer.Option(metavar="N", help="Windows per model call. Default: 1.", rich_help_panel=MODEL),
        ] = None,
        dtype: Annotated[
            Literal["auto", "float32", "bfloat16", "float16", "float64"] | None,
            typer.Option(
                metavar="NAME",
                help="Dtype of the model; auto takes the dtype of its file. Default: float32.",
                rich_help_panel=MODEL,
            ),
        ] = None,
        device: Annotated[
            str | None,
            typer.Option(
                metavar="NAME", help="Device of the model, such as cuda. Default: cpu.", rich_help_panel=MODEL
            ),
        ] = None,
        text_key: Annotated[
            str | None,
            typer.Option(
                metavar="KEY",
                help="Key of the text in each line of a .jsonl file, such as content.body. Default: text.",
                rich_help_panel=MODEL,
            ),
        ] = None,
        ci: LevelOption = 0.95,
        worst: Annotated[
            int,
            typer.Option(
                min=0, help="Number of tokens and documents with the largest loss to list.", rich_help_panel=RESULT
            ),
        ] = 10,
        bits: Annotated[
            bool,
            typer.Option(
                "--bits", help="Print losses and read --max-loss in bits instead of nats.", rich_help_panel=RESULT
            ),
        ] = False,
        json: JsonOption = False,
        html: HtmlOption = None,
        max_loss: Annotated[
            float | None,
            typer.Option(help="Exit with code 1 if the loss per token is above this.", rich_help_panel=CHECKS),
        ] = None,
        max_memory: MemoryOption = None,
    ) -> None:
        """Score logged log-probabilities of a language model, or texts with a model: loss per token, bits per byte."""
        require("lm", "scipy", extra="score")
        from crossent.scoring.cli import actions, lm_actions, memory, reading

        actions.check_thresholds(max_loss=max_loss)
        if html is not None:
            require("--html", "matplotlib", extra="score")
            actions.check_writable(html, *files)
        shared: dict[str, Any] = {"by": by or [], "ci": ci, "worst": worst}
        own = {"--window": window, "--stride": stride, "--batch": batch, "--dtype": dtype, "--device": device}
        where = files[0] if len(files) == 1 else None
        if model is None:
            _need_model({**own, "--text-key": text_key})
            with memory.limited(memory.bytes_of(max_memory), *files), reading.input_errors(where):
                found = lm_actions.score_logs(files, format=format, **shared)
        else:
            if format != "auto":
                raise UsageError("--format is for logs; leave it out with --model, which scores texts")
            require("--model", "torch", "transformers", extra="torch")
            limit = memory.limited(memory.bytes_of(max_memory), *files) if max_memory else nullcontext()
            with limit, reading.input_errors():
                found = lm_actions.score_texts(
                    model, files, key=text_key, **shared,
                    load={"dtype": dtype or "float32", "device": device or "cpu"},
                    windows={"window": window, "stride": stride, "batch": batch or 1},
                )  # fmt: skip
        if html is not None:
            lm_actions.write_report(found, html, files, model)
        put(found.to_json(unit="bits" if bits else "nats") if json else found.to_text(unit="bits" if bits else "nats"))
        _hold(found, max_loss, in_bits=bits)


def _need_model(options: Mapping[str, Any]) -> None:
    """Raise `UsageError` if an option of --model was passed without it."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{given[0]} needs --model, the folder or .gguf file of the model that scores the texts")


def _hold(found: Any, max_loss: float | None, *, in_bits: bool) -> None:
    """Raise `MissedError` unless the loss per token is small enough."""
    nats = found.bounds[0] if math.isnan(found.loss) else found.loss
    loss, unit = (nats / math.log(2), "bits") if in_bits else (nats, "nats")
    if max_loss is not None and not loss <= max_loss:
        least = "at least " if math.isnan(found.loss) else ""
        raise MissedError(f"the loss per token, {least}{amount(loss, unit)}, is above --max-loss {max_loss:g}")
