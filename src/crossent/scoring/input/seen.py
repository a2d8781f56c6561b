"""The first rows of a table: which of its columns hold numbers, probabilities, labels, or all predictions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from crossent.errors import InputError
from crossent.scoring.input.arrow_numbers import numbers, vector
from crossent.scoring.input.arrow_values import decoded, is_list, plain_values
from crossent.scoring.input.classes import NO_VALUE, Classes, is_number, numbers_of
from crossent.scoring.input.nested import is_struct, opened, paths
from crossent.scoring.input.plain import missing
from crossent.scoring.input.shapes import predictions, shape_of

CLOSE = 1e-2
"""How far sums of probabilities may be off: as of rows that are scored with a warning."""


class Seen:
    """The columns of a table by its first rows, with the fields of columns of objects.

    Parameters
    ----------
    batch
        The first rows, a record batch.
    label
        The column of true labels, if the user has named it.
    """

    def __init__(self, batch: Any, label: str | None = None) -> None:
        self.label = label
        self.columns: dict[str, Any] = {}
        self._numbers: dict[str, Any] = {}
        for name in batch.schema.names:
            try:
                self._add(name, opened(batch.column(name), name))
            except InputError:  # texts that begin like a list, and are none
                self._add(name, decoded(batch.column(name)))

    def _add(self, name: str, array: Any) -> None:
        self.columns[name] = array
        if is_struct(array.type) and shape_of(array.type) != "vector":
            inner = [array.type.field(k).name for k in range(array.type.num_fields)]
            for field, column in zip(inner, array.flatten(), strict=True):
                self._add(f"{name}.{field}", decoded(column))

    @property
    def names(self) -> list[str]:
        """The names of the columns and the paths of their fields."""
        return list(self.columns)

    def types(self) -> Mapping[str, Any]:
        """Return the type of each column."""
        return {name: column.type for name, column in self.columns.items()}

    def number(self, name: str) -> Any | None:
        """Return a column of numbers, or of texts that are numbers, as a vector; None if it is none, or is empty."""
        if name not in self._numbers:
            self._numbers[name] = self._as_number(name)
        return self._numbers[name]

    def _as_number(self, name: str) -> Any | None:
        from pyarrow import types

        array = self.columns[name]
        kind = array.type
        if types.is_string(kind) or types.is_large_string(kind):
            texts = list(array.to_pylist())
            if not all(text is None or text.strip() in NO_VALUE or is_number(text) for text in texts):
                return None
            found = np.array([float(t) if t is not None and is_number(t) else math.nan for t in texts], np.float64)
        elif types.is_floating(kind) or types.is_integer(kind) or types.is_decimal(kind):
            found = vector(array, name).astype(np.float64)
        else:
            return None
        return found if len(found) and not np.isnan(found).all() else None

    def labels(self, name: str) -> list[Hashable] | None:
        """Return the different values of a column, without missing ones; None if it holds no single values."""
        array = self.columns[name]
        try:
            values = plain_values(array.unique(), name, None)
        except (InputError, NotImplementedError, TypeError, ValueError):
            return None
        kept = (value for value in values if not missing(value))
        return [value for value in kept if not (isinstance(value, str) and not value.strip())]

    def in_classes(self, name: str, classes: Classes) -> bool:
        """Return whether a column has labels and each is exactly one class."""
        labels = self.labels(name)
        known = numbers_of(classes)
        if known.numeric and labels is not None:
            labels = [label for label in labels if not (isinstance(label, str) and label.strip() in NO_VALUE)]
        return bool(labels) and all(len(known.find(label)) == 1 for label in labels)

    def rows(self, name: str) -> tuple[Any, Classes | None] | None:
        """Return the numbers (N, V) of a column that holds all classes of a row, and the classes that it names.

        None if it holds something else.
        """
        array = self.columns[name]
        if not (shape_of(array.type) or is_list(array.type)):
            return None
        try:
            found = predictions([array], [name])
            values = numbers([array], [name]) if found.values is None else found.values
        except InputError:
            return None
        return (values, found.classes) if values.ndim == 2 and values.shape[1] > 1 and len(values) else None

    def sum_to_one(self, names: Sequence[str]) -> bool:
        """Return whether several columns of numbers are probabilities with row sums of 1."""
        found = [number for name in names if (number := self.number(name)) is not None]
        return len(found) == len(names) > 1 and are_distributions(np.stack(found, axis=1))

    def are_probabilities(self, name: str) -> bool:
        """Return whether a column holds numbers from 0 to 1, one of them a fraction."""
        found = self.number(name)
        if found is None:
            return False
        kept = found[~np.isnan(found)]
        return bool(((kept >= 0) & (kept <= 1)).all() and (kept % 1 != 0).any())


def are_distributions(values: Any) -> bool:
    """Return whether each row of numbers (N, V), those without gaps, is a distribution of probabilities."""
    whole = values[~np.isnan(values).any(axis=1)]
    if not len(whole):
        return False
    return bool((whole >= 0).all() and (np.abs(whole.sum(axis=1, dtype=np.float64) - 1.0) <= CLOSE).all())


def nested_paths(batch: Any) -> list[str]:
    """Return the paths to all fields of the columns of objects, or of texts that hold objects, of a record batch."""
    found: list[str] = []
    for name in batch.schema.names:
        try:
            found += paths(name, opened(batch.column(name), name).type)
        except InputError:
            continue
    return found
