"""What the commands `crossent score`, `crossent compare` and `crossent lm` do."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossent.scoring.comparison import Comparison, between
from crossent.scoring.input.arrow import arguments
from crossent.scoring.input.columns import Columns
from crossent.scoring.input.files import open_table
from crossent.scoring.input.predictions import class_names
from crossent.scoring.parts import Kind
from crossent.scoring.result import Score
from crossent.scoring.show import text as _text
from crossent.scoring.show import words
from crossent.scoring.state import ScoreState

LONG = 1 << 25
"""Bytes of a file beyond which progress is shown."""


class RefusedError(Exception):
    """Usage or input that cannot be scored: a line to print, exit code 2."""


class MissedError(Exception):
    """A threshold that was missed: a line to print, exit code 1."""


@contextmanager
def refusing(path: Path | None = None) -> Generator[None, None, None]:
    """Turn errors about what a user gave into `RefusedError`."""
    try:
        yield
    except OSError as error:
        where = error.filename if error.filename is not None else path
        raise RefusedError(f"cannot read {where}: {error.strerror or error}") from error
    except (ValueError, TypeError) as error:
        text = as_options(str(error))
        raise RefusedError(text if path is None or str(path) in text else f"{path}: {text}") from error


def as_options(text: str) -> str:
    """Return a text that speaks of arguments of Python with options of the command."""
    text = text.replace("normalize=True", "--normalize").replace("ignore=float('nan')", "--ignore nan")
    text = re.sub(r"\bignore=\[(.*?)\]", lambda found: f"--ignore {found[1]}", text)
    text = re.sub(r"\b(probs|logits|logprobs|classes|ignore|zero|weight|cluster|by|ci)=(?=[^\s,;)]*)", r"--\1 ", text)
    text = re.sub(r"\bid= ", "--on ", text)
    return re.sub(r"(--\w+) (?=[,;.)]|$| )", r"\1", text)


def state_of(path: Path, columns: Mapping[str, Any], options: Mapping[str, Any]) -> ScoreState:
    """Return the state of all rows of a file.

    `columns` names the label, the predictions by their kind ("probs", "logits" or "logprobs"), and weight, cluster, by
    and id; `options` are those of `ScoreState`.
    """
    with refusing(path):
        table = open_table(path)
        there = _columns(columns).among(table.columns)
        named = options.get("classes")
        classes = class_names(there.values) if named is None and len(there.values) > 1 else named
        chosen: dict[str, Any] = {**options, "classes": classes}
        state = ScoreState(**chosen)
        texts = [there.label, there.cluster, *(there.by or ()), there.id]
        batches = table.batches(there.needed, [name for name in texts if name is not None])
        with shown(path, batches) as steps:
            for batch in steps:
                if len(batch):
                    state.update(**arguments(batch, there, state.sums.seen))
        return state


def _columns(named: Mapping[str, Any]) -> Columns:
    kinds: list[Kind] = ["probs", "logits", "logprobs"]
    given: list[Kind] = [kind for kind in kinds if named.get(kind) is not None]
    if len(given) != 1:
        got = " and ".join(f"--{kind}" for kind in given) or "none of them"
        raise ValueError(f"pass exactly one of --probs, --logits and --logprobs; got {got}")
    rest: dict[str, Any] = {role: named.get(role) or None for role in ("weight", "cluster", "by", "id")}
    return Columns(label=named["label"], kind=given[0], values=named[given[0]], **rest)


@contextmanager
def shown(path: Path, batches: Iterator[tuple[Any, float]]) -> Generator[Iterator[Any], None, None]:
    """Show how much of a long file has been read, on a terminal."""
    if not sys.stderr.isatty() or path.stat().st_size < LONG:
        yield (batch for batch, _ in batches)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True, refresh_per_second=30,
    )  # fmt: skip
    with bar as progress:
        task = progress.add_task(path.name, total=1.0)

        def stepped() -> Iterator[Any]:
            for batch, done in batches:
                yield batch
                progress.update(task, completed=done)

        yield stepped()


def score_file(path: Path, columns: Mapping[str, Any], options: Mapping[str, Any]) -> Score:
    """Return the score of a file."""
    state = state_of(path, columns, options)
    with refusing(path):
        return state.finalize()


def compare_files(new: Path, old: Path, columns: Mapping[str, Any], options: Mapping[str, Any]) -> Comparison:
    """Return how much dearer the predictions of one file are than those of another."""
    states = [state_of(path, columns, {**options, "rows": True}) for path in (new, old)]
    with refusing():
        return between(*states, names=(str(new), str(old)))


def hold(score: Score, max_loss: float | None, min_skill: float | None, *, in_bits: bool) -> None:
    """Raise `MissedError` unless the loss is small and the skill large enough."""
    loss, unit = (score.bits, "bits") if in_bits else (score.loss, "nats")
    missed: list[str] = []
    if max_loss is not None and not loss <= max_loss:
        missed.append(f"the loss, {words.number(loss, 6)} {unit}, is above --max-loss {max_loss:g}")
    if min_skill is not None and not score.skill >= min_skill:
        missed.append(f"the skill, {words.number(score.skill, 6)}, is below --min-skill {min_skill:g}")
    if missed:
        raise MissedError("; ".join(missed))


def as_text(score: Score, *, in_bits: bool) -> str:
    """Return a score as text, whose warnings speak of options."""
    warnings = tuple(as_options(warning) for warning in score.warnings)
    return _text.text(replace(score, warnings=warnings), in_bits=in_bits)


def check_thresholds(**thresholds: float | None) -> None:
    """Raise `RefusedError` if a threshold is no number."""
    for name, value in thresholds.items():
        if value is not None and math.isnan(value):
            raise RefusedError(f"--{name.replace('_', '-')} must be a number, got nan")


def check_writable(path: Path) -> None:
    """Raise `RefusedError` if a file cannot be written, before much is read for it."""
    if path.is_dir():
        raise RefusedError(f"cannot write to {path}: it is a directory")
    if not path.absolute().parent.is_dir():
        raise RefusedError(f"cannot write to {path}: there is no directory {path.absolute().parent}")


def write_report(score: Score, path: Path, file: Path) -> None:
    """Write the report of a file's score."""
    try:
        score.to_html(path, title=f"What the predictions of {file.name} cost", source=str(file))
    except OSError as error:
        raise RefusedError(f"cannot write to {path}: {error.strerror or error}") from error
    print(path, file=sys.stderr)
