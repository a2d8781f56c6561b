"""The command `crossent compare`: find the models among files and columns, compare two, or rank more."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from crossent.errors import InputError, UsageError, one_line
from crossent.scoring.cli.reading import input_errors, opened_with_truth, state_from
from crossent.scoring.comparison import Comparison, between
from crossent.scoring.input.arguments import RowArguments
from crossent.scoring.input.columns import columns
from crossent.scoring.input.reader import FileOptions
from crossent.scoring.parts import Kind, Unit, bits
from crossent.scoring.ranking import ModelRanking, rank
from crossent.scoring.state import ScoreState


class Columns(NamedTuple):
    """Patterns of columns, one for each model, or one for all; none if the columns are recognised."""

    kind: Kind
    patterns: Sequence[str]


class Model(NamedTuple):
    """A model to compare: its name, its file, and its columns."""

    name: str
    file: str
    kind: Kind
    pattern: str | None


def kind_of(
    probs: Sequence[str] | None, logits: Sequence[str] | None, logprobs: Sequence[str] | None
) -> Columns | None:
    """Return the one kind of predictions that was passed, None for none.

    Raises
    ------
    InputError
        If several were passed.
    """
    passed: list[Columns] = []
    named: tuple[tuple[Kind, Sequence[str] | None], ...] = (
        ("probs", probs),
        ("logits", logits),
        ("logprobs", logprobs),
    )
    for kind, patterns in named:
        if patterns:
            passed.append(Columns(kind, patterns))
    if len(passed) > 1:
        raise InputError(f"pass one of --{' and --'.join(each.kind for each in passed)}", argument=passed[1].kind)
    return passed[0] if passed else None


def models(files: Sequence[str], many: Columns | None) -> list[Model]:
    """Return the models that files and columns name: a file each, or columns of one file each.

    Raises
    ------
    UsageError
        If that is fewer than two, or it is not clear which columns belong to which file.
    """
    kind, patterns = ("probs", ()) if many is None else many
    if len(files) == 1:
        if len(patterns) < 2:
            raise UsageError(
                "compare needs the predictions of two models: pass two files, or repeat --probs (--logits, --logprobs) "
                "for each model in this file"
            )
        names = _short(patterns)
        return [Model(name, files[0], kind, pattern) for name, pattern in zip(names, patterns, strict=True)]
    if len(patterns) not in {0, 1, len(files)}:
        raise UsageError(f"pass --{kind} once for all {len(files)} files, or once for each; got {len(patterns)}")
    own: Sequence[str | None] = (
        patterns if len(patterns) == len(files) else [patterns[0] if patterns else None] * len(files)
    )
    names = [file if files.count(file) == 1 else f"{file} ({k})" for k, file in enumerate(map(str, files), 1)]
    return [Model(name, str(file), kind, pattern) for name, file, pattern in zip(names, files, own, strict=True)]


def _short(patterns: Sequence[str]) -> list[str]:
    """Return patterns without the marks that all have, as names of models: a_* and b_* are a and b."""
    names = [pattern.rstrip("*").rstrip("_-. ") or pattern for pattern in patterns]
    return names if len(set(names)) == len(names) else list(patterns)


def compared(
    found: Sequence[Model],
    rows: RowArguments,
    label: str | None,
    truth: str | None,
    files: FileOptions,
    options: Mapping[str, Any],
) -> Comparison | ModelRanking:
    """Return the comparison of two models, or the ranking of more.

    Parameters
    ----------
    found
        The models.
    rows
        Columns of the rows beside their predictions.
    label, truth
        Column of true classes, and the file that has it if it is another one.
    files
        What the user says about the files.
    options
        Arguments of `ScoreState`.
    """
    states: dict[str, ScoreState] = {}
    for model in found:
        given: Any = {} if model.pattern is None else {model.kind: model.pattern}
        with input_errors():
            named = columns(label, replace(rows, **given), files.na, by_shape=True)
        with opened_with_truth([model.file], files, truth, named) as (tables, asked):
            states[model.name] = state_from(tables, asked, {**options, "rows": True})
    with input_errors():
        if len(states) > 2:
            return rank(states)
        (a, first), (b, second) = states.items()
        return between(first, second, names=(a, b))


def logs(files: Sequence[str], *, ci: float, worst: int) -> Any:
    """Return the comparison of two logs of a language model."""
    from crossent.scoring.lm import compare_logs

    if len(files) != 2:
        raise UsageError(f"--lm compares two logs, got {len(files)}")
    with input_errors():
        return compare_logs(*files, ci=ci, worst=worst)


def said(found: Any, unit: Unit, *, as_json: bool) -> str:
    """Return a result as text or JSON."""
    if as_json:
        return found.to_json(unit=unit)
    return found.to_text(unit=unit)


def write_page(found: Comparison | ModelRanking, path: Path, unit: Unit) -> None:
    """Write the page of a result."""
    try:
        _ = found.to_html(path, unit=unit)
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {error.strerror or error}") from error
    print(f"wrote {one_line(path)}", file=sys.stderr)


def regression(found: Any, unit: Unit) -> float:
    """Return by how much the first model costs more than the second: a row, or what a log is compared by."""
    from crossent.scoring.lm import LanguageModelComparison

    if isinstance(found, ModelRanking):
        raise UsageError("--max-regression is for two models, NEW and OLD")
    each: Any = found.main if isinstance(found, LanguageModelComparison) else found
    difference = math.nan if each is None else each.difference
    return bits(difference) if unit == "bits" else difference
