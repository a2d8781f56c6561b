"""Rows as callers pass them become a `Batch`: checked, coded, and in one form for all libraries."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crossent.errors import Argument, InputError, Message, quoted
from crossent.scoring.input.arguments import RowArguments, ScoreOptions
from crossent.scoring.input.arrow_numbers import Matrix
from crossent.scoring.input.classes import Classes, matched, of_columns
from crossent.scoring.input.labels import Coded, listing
from crossent.scoring.input.matching import IGNORED, classes_of
from crossent.scoring.input.predictions import matrix
from crossent.scoring.input.series import as_ids, as_numbers, code
from crossent.scoring.input.shapes import matched_by_name
from crossent.scoring.input.soft_labels import why_not_labels
from crossent.scoring.input.tensors import from_tensor, is_tensor
from crossent.scoring.parts import Kind

LEAST_WEIGHT = 1e-70


@dataclass(frozen=True, slots=True)
class Layout:
    """Facts that all rows of a state share: kind and columns of their predictions, classes, and which columns exist."""

    kind: Kind
    classes: tuple[Hashable, ...]
    binary: bool
    clustered: bool
    by: tuple[str, ...]
    named: bool

    def require_same(self, later: Layout) -> None:
        """Raise `InputError` with the first fact in which later rows differ."""
        for fact, earlier, found in (
            ("classes", self.classes, later.classes),
            ("predictions", self.kind, later.kind),
            ("columns of predictions", "one" if self.binary else "many", "one" if later.binary else "many"),
            ("clusters", self.clustered, later.clustered),
            ("by", list(self.by), list(later.by)),
            ("ids", self.named, later.named),
        ):
            if earlier != found:
                raise InputError(
                    f"these rows do not match earlier ones: {fact} were {quoted(earlier)} and are {quoted(found)}"
                )


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """N rows that can be scored.

    `values` are the predictions, (N, V), or (N,) of the second of two classes. `label` is the number of each row's
    class, (N,), or `IGNORED`. `weight`, `cluster` and `id` are (N,), or None where there are none.
    """

    kind: Kind
    values: Any
    label: Any
    classes: tuple[Hashable, ...]
    weight: Any | None
    cluster: Coded | None
    by: Mapping[str, Coded]
    id: Any | None

    def __len__(self) -> int:
        return len(self.label)

    @property
    def binary(self) -> bool:
        """Whether there is one number per row."""
        return len(self.values.shape) == 1

    def in_order_of(self, classes: tuple[Hashable, ...]) -> Batch:
        """Return the rows with their columns in the order of these classes; rows of other classes stay."""
        places = None if self.binary or classes == self.classes else matched(classes, self.classes)
        if places is None:
            return self
        number = np.empty(len(places) + 1, np.int64)
        number[places], number[IGNORED] = np.arange(len(places)), IGNORED
        return replace(self, values=self.values[:, places], label=number[self.label], classes=classes)

    @property
    def layout(self) -> Layout:
        """Facts that rows of other batches must share with these to be scored together."""
        named = self.id is not None
        return Layout(self.kind, self.classes, self.binary, self.cluster is not None, tuple(self.by), named)


def batch(y: Any, given: RowArguments, options: ScoreOptions) -> Batch:
    """Return the rows that a caller passes, y among them, as a batch.

    Raises
    ------
    InputError, InputTypeError
        If something is missing, has another length or shape, is not a number, or is not a class.
    """
    kind, values = given.predictions
    shape = _shape(y)
    found = matrix(values, kind, shape)
    if found.classes is not None and options.classes is not None:
        found = matched_by_name(found, Classes(options.classes, options.class_keys), kind)
    if len(shape) > 1 and shape[1:] != (1,):
        raise InputError(why_not_labels(y, found, kind), argument="y")
    classes = _classes(options, found)
    labels = code(y, "y")
    _require_rows(len(labels), found.values, kind)
    result = Batch(
        kind=kind,
        values=found.values,
        label=classes_of(labels, classes, options.ignore),
        classes=tuple(classes.names),
        weight=None if given.weight is None else _weights(given.weight),
        cluster=None if given.cluster is None else code(given.cluster, "cluster"),
        by=_slices(given.by),
        id=None if given.id is None else as_ids(given.id),
    )
    for argument in ("weight", "cluster", "id"):
        _require_rows(len(result), getattr(result, argument), argument)
    for name, coded in result.by.items():
        _require_rows(len(result), coded, "by", name)
    return result


def _require_rows(rows: int, part: Any | None, argument: str, name: str | None = None) -> None:
    """Raise unless a column, if there is one, has as many rows as y."""
    if part is not None and len(part) != rows:
        raise InputError(
            f"y has {rows} rows and {name or argument} has {len(part)}; they must be the same rows", argument=argument
        )


def _shape(y: Any) -> tuple[int, ...]:
    """Return the shape of y, () if NumPy cannot tell."""
    if is_tensor(y):
        y = from_tensor(y, "y", "y")
    if hasattr(y, "shape"):
        return tuple(y.shape)
    try:
        return np.shape(y) if isinstance(y, list | tuple) else (len(y),)
    except (ValueError, TypeError):
        return ()


def _classes(options: ScoreOptions, found: Matrix) -> Classes:
    """Return the classes of the columns: the chosen ones, those of named columns, or the range from 0 to V − 1."""
    columns = 2 if found.values.ndim == 1 else found.values.shape[1]
    if options.classes is not None:
        if len(options.classes) != columns:
            raise InputError(
                f"classes names {len(options.classes)} classes {listing(options.classes)}, the predictions have "
                f"{columns}",
                argument="classes",
            )
        return Classes(options.classes, options.class_keys)
    if found.classes is not None:
        return found.classes
    named = found.names is not None and len(found.names) == columns
    return of_columns(found.names) if found.names is not None and named else Classes(range(columns))


def _slices(by: Any) -> dict[str, Coded]:
    """Return the columns of `by`, by name."""
    if by is None:
        return {}
    if isinstance(by, Mapping):
        return {str(name): code(values, "by", of=name) for name, values in by.items()}
    if hasattr(by, "columns") or hasattr(by, "column_names"):
        import narwhals as nw

        table = nw.from_native(by, eager_only=True)
        return {str(name): code(table[name], "by", of=name) for name in table.columns}
    if isinstance(by, list | tuple) and by and all(np.ndim(part) == 1 for part in by):
        raise InputError(
            Message("by is a list of columns; name them: ", Argument("by"), "{'name': column, …}"), argument="by"
        )
    return {str(getattr(by, "name", None) or "by"): code(by, "by")}


def _weights(weight: Any) -> Any:
    """Return weights as float64, (N,): finite, not negative, and with room for their fourth powers."""
    vector = as_numbers(weight, "weight").astype(np.float64)
    wrong = ~(np.isfinite(vector) & (vector >= 0))
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"weight {vector[row]} (row {row}, {int(wrong.sum())} in total) is not a finite number ≥ 0; "
            "a row of weight 0 is left out",
            argument="weight",
        )
    positive = vector[vector > 0]
    if len(positive) and (positive.min() < LEAST_WEIGHT or positive.max() > 1.0 / LEAST_WEIGHT):
        raise InputError(
            f"weights from {positive.min():.3g} to {positive.max():.3g} are too extreme: their powers overflow or "
            "vanish; divide all of them by a typical one (their scale changes nothing)",
            argument="weight",
        )
    return vector
