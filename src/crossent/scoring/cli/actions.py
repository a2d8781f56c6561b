"""Actions of the commands `crossent score` and `crossent compare`: score files, hold thresholds, write results."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossent.errors import Argument, MissedError, UsageError, one_line, spelled
from crossent.outputs import why_not_writable
from crossent.scoring.cli.reading import Names, as_option, input_errors, opened, state_from
from crossent.scoring.cli.row_files import writing
from crossent.scoring.input.columns import Columns
from crossent.scoring.input.reader import FileOptions
from crossent.scoring.input.several import Tables
from crossent.scoring.input.truth import Joined
from crossent.scoring.parts import Row
from crossent.scoring.result import Score
from crossent.scoring.show import words
from crossent.scoring.show.text import text


def score_file(paths: Names, columns: Columns, options: Mapping[str, Any], files: FileOptions | None = None) -> Score:
    """Return the score of a table in one or several files."""
    with opened(paths, files) as tables:
        return score_tables(tables, columns, options)


def score_tables(
    tables: Tables | Joined, columns: Columns, options: Mapping[str, Any], rows: Path | None = None
) -> Score:
    """Return the score of a table; without ids, the worst rows of several files name their file.

    Every row is written to the file `rows`, if there is one.
    """
    if rows is None:
        state = state_from(tables, columns, options)
    else:
        try:
            with writing(rows) as write:
                state = state_from(tables, columns, options, write)
        except OSError as error:
            raise UsageError(f"cannot write to {rows}: {error.strerror or error}") from error
        print(f"wrote {one_line(rows)}", file=sys.stderr)
    with input_errors(tables.name):
        score = state.finalize()
    if columns.id is not None or len(tables.parts) == 1:
        return score
    return replace(score, worst=tuple(_in_file(row, tables) for row in score.worst))


def _in_file(row: Row, tables: Tables | Joined) -> Row:
    if not isinstance(row.id, int):
        return row
    place = tables.place(row.id)
    return replace(row, id=f"{place.file} row {place.row}")


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
    return text(_in_options(score), in_bits=in_bits)


def as_json(score: Score, *, in_bits: bool) -> str:
    """Return a score as JSON, whose warnings speak of options."""
    return _in_options(score).to_json(unit="bits" if in_bits else "nats")


def _in_options(score: Score) -> Score:
    return replace(score, warnings=tuple(spelled(warning, as_option) for warning in score.warnings))


def check_thresholds(**thresholds: float | None) -> None:
    """Raise `UsageError` if a threshold is not a number."""
    for name, value in thresholds.items():
        if value is not None and math.isnan(value):
            raise UsageError(f"{as_option(Argument(name))} must be a number, got nan")


def check_writable(path: Path, *inputs: Path) -> None:
    """Raise `UsageError` if a file cannot be written, or is one of the inputs, before much is read for it."""
    beside = (other for file in inputs if file.suffix.lower() == ".npy" for other in file.parent.glob("*.npy"))
    if reason := why_not_writable(path, [*inputs, *beside]):
        raise UsageError(f"cannot write to {path}: {reason}")


def write_report(score: Score, path: Path, name: str) -> None:
    """Write the report of the score of files, which `name` names."""
    try:
        _ = _in_options(score).to_html(path, title=f"Loss of the predictions in {Path(name).name}", source=name)
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {error.strerror or error}") from error
    print(f"wrote {one_line(path)}", file=sys.stderr)
