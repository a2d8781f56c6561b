"""Columns of pyarrow that hold numbers, or lists of numbers of one length, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from crossent.errors import InputError, quoted, shown
from crossent.scoring.input.arrow_values import decoded, is_list, lengths
from crossent.scoring.input.classes import Classes


class Matrix(NamedTuple):
    """Numbers (N, V), or (N,) for a single column, and the names of the columns, None if they have none.

    `classes` are the classes named by the rows themselves, None if only the order of the columns identifies them.
    """

    values: Any
    names: list[str] | None
    classes: Classes | None = None


def numbers(columns: Sequence[Any], names: Sequence[str], first: int = 0) -> Any:
    """Return columns as numbers (N, V), or (N,) for one; missing ones are NaN. One column may hold lists.

    Rows are counted from `first` in errors.

    Raises
    ------
    InputError
        If a column holds something else, or lists of different lengths.
    """
    columns = [_without_axes(column, name) for column, name in zip(columns, names, strict=True)]
    if len(columns) == 1 and is_list(columns[0].type):
        return _lists(columns[0], names[0], first)
    vectors = [vector(column, name) for column, name in zip(columns, names, strict=True)]
    if len(vectors) == 1:
        return vectors[0]
    table = np.empty((len(vectors), len(columns[0])), np.result_type(*{each.dtype for each in vectors}))
    for row, each in zip(table, vectors, strict=True):
        row[:] = each
    return table.T


def column_names(values: Any) -> list[str] | None:
    """Return the names of the columns of a table or a batch of pyarrow, None for a single column."""
    return list(values.schema.names) if hasattr(values, "schema") else None


def _without_axes(array: Any, name: str) -> Any:
    """Return a column for numbers decoded; tensors of one axis are lists."""
    shape = getattr(array.type, "shape", None)
    if shape is not None and sum(size != 1 for size in shape) > 1:
        raise InputError(f"column {quoted(name)} holds tensors of shape {tuple(shape)}, and must hold vectors")
    return decoded(array)


def _lists(lists: Any, name: str, first: int) -> Any:
    """Return a column of lists of one length as numbers (N, V)."""
    count = lengths(lists)
    if (count < 0).any():
        raise InputError(f"column {quoted(name)} has no list in row {first + int(count.argmin())}")
    wrong = np.flatnonzero(count != count[:1])
    if len(wrong):
        k = int(wrong[0])
        raise InputError(
            f"the lists of column {quoted(name)} differ in length: {count[0]} numbers at first, {count[k]} in row "
            f"{first + k}"
        )
    width = int(count[0]) if len(count) else getattr(lists.type, "list_size", 1)
    return vector(decoded(lists.flatten()), name).reshape(len(lists), width)


def vector(array: Any, name: str) -> Any:
    """Return a decoded column of numbers as a vector of floats, NaN where there is none."""
    import pyarrow as pa
    from pyarrow import types

    kind = array.type
    if types.is_null(kind):
        return np.full(len(array), np.nan)
    if types.is_decimal(kind) or types.is_integer(kind) or types.is_boolean(kind):
        array = array.cast(pa.float64(), safe=False)  # integers beyond 2^53 are rounded, as everywhere
    if not types.is_floating(array.type):
        raise InputError(f"column {quoted(name)} holds {shown(kind)}, not numbers")
    return array.to_numpy(zero_copy_only=False)
