"""Columns of pyarrow in the forms that a score takes: codes of labels, and numbers (N, V)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from crossent.errors import InputError
from crossent.scoring.input.columns import Columns
from crossent.scoring.input.labels import Coded


class Matrix(NamedTuple):
    """Numbers (N, V), or (N,) for a single column, and the names of the columns, None if they have none."""

    values: Any
    names: list[str] | None


def arguments(batch: Any, columns: Columns, first: int = 0) -> dict[str, Any]:
    """Return a record batch as keyword arguments of `ScoreState.update`, y among them; rows count from `first`."""
    if columns.no_value:
        batch = _without(batch, columns)

    def column(name: str | None) -> Any:
        return None if name is None else coded(batch.column(name))

    predictions = numbers([batch.column(name) for name in columns.values], list(columns.values), first)
    weight = None if columns.weight is None else numbers([batch.column(columns.weight)], [columns.weight])
    return {
        "y": column(columns.label),
        columns.kind: Matrix(predictions, list(columns.values) if len(columns.values) > 1 else None),
        "weight": weight,
        "cluster": column(columns.cluster),
        "by": {name: column(name) for name in columns.by or ()} or None,
        "id": None if columns.id is None else batch.column(columns.id).to_numpy(zero_copy_only=False),
    }


def _without(batch: Any, columns: Columns) -> Any:
    """Return a record batch with null in place of the texts that stand for no value."""
    import pyarrow as pa
    from pyarrow import compute as functions
    from pyarrow import types

    compute: Any = functions  # they are made when the module is imported
    texts = {columns.label, columns.cluster, columns.id, *(columns.by or ())}
    arrays = list(batch.columns)
    for k, name in enumerate(batch.schema.names):
        if name not in texts:
            continue
        plain = arrays[k].dictionary_decode() if types.is_dictionary(arrays[k].type) else arrays[k]
        with suppress(pa.ArrowNotImplementedError):  # a type that is never written as text
            none = compute.is_in(plain.cast(pa.string()), value_set=pa.array(columns.no_value, pa.string()))
            arrays[k] = compute.if_else(none, pa.scalar(None, plain.type), plain)
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def coded(array: Any) -> Any:
    """Return a column as codes; integers without gaps as they are."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_integer(array.type) and not array.null_count:
        return array.to_numpy()
    encoded = array if types.is_dictionary(array.type) else array.dictionary_encode()
    values = [None if value != value else value for value in encoded.dictionary.to_pylist()]  # noqa: PLR0124  NaN
    codes = encoded.indices.cast(pa.int64())
    if codes.null_count:
        codes, values = codes.fill_null(len(values)), [*values, None]
    return Coded(codes.to_numpy(zero_copy_only=False), values)


def numbers(columns: Sequence[Any], names: Sequence[str], first: int = 0) -> Any:
    """Return columns as numbers (N, V), or (N,) for one; missing ones are NaN. One column may hold lists.

    Rows are counted from `first` in errors.

    Raises
    ------
    InputError
        If a column holds something else, or lists of different lengths.
    """
    from pyarrow import types

    one, name = columns[0], names[0]
    lists = types.is_list(one.type) or types.is_large_list(one.type) or types.is_fixed_size_list(one.type)
    if len(columns) == 1 and lists:
        if one.null_count:
            row = first + int(np.argmin(one.is_valid().to_numpy(zero_copy_only=False)))
            raise InputError(f"column {name!r} has no list in row {row}")
        if types.is_fixed_size_list(one.type):
            return _vector(one.flatten(), name).reshape(len(one), one.type.list_size)
        lengths = np.diff(one.offsets.to_numpy())
        wrong = np.flatnonzero(lengths != lengths[:1])
        if len(wrong):
            k = int(wrong[0])
            raise InputError(
                f"the lists of column {name!r} differ in length: {lengths[0]} numbers at first, {lengths[k]} in row "
                f"{first + k}"
            )
        return _vector(one.flatten(), name).reshape(len(one), -1)
    vectors = [_vector(column, name) for column, name in zip(columns, names, strict=True)]
    if len(vectors) == 1:
        return vectors[0]
    table = np.empty((len(vectors), len(one)), np.result_type(*{vector.dtype for vector in vectors}))
    for row, vector in zip(table, vectors, strict=True):
        row[:] = vector
    return table.T


def from_arrow(values: Any, name: str) -> Any:
    """Return predictions in a table, a batch or a column of pyarrow as numbers (N, V), or (N,) for one column."""
    columns = list(values.columns) if hasattr(values, "schema") else [values]
    whole = [column.combine_chunks() if hasattr(column, "combine_chunks") else column for column in columns]
    return numbers(whole, column_names(values) or [name])


def column_names(values: Any) -> list[str] | None:
    """Return the names of the columns of a table or a batch of pyarrow, None for a single column."""
    return list(values.schema.names) if hasattr(values, "schema") else None


def _vector(array: Any, name: str) -> Any:
    import pyarrow as pa
    from pyarrow import types

    if types.is_null(array.type):
        return np.full(len(array), np.nan)
    if types.is_decimal(array.type) or types.is_integer(array.type) or types.is_boolean(array.type):
        array = array.cast(pa.float64())
    if not types.is_floating(array.type):
        raise InputError(f"column {name!r} holds {array.type}, not numbers")
    return array.to_numpy(zero_copy_only=False)
