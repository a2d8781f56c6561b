"""Columns of pyarrow in the forms that a score takes: codes of labels, names of rows, and numbers (N, V)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np

from crossent.errors import InputError, one_line, quoted, shown
from crossent.scoring.input.arrow_values import decoded, is_list, lengths, plain_values, whole
from crossent.scoring.input.columns import Columns
from crossent.scoring.input.labels import Coded


class Matrix(NamedTuple):
    """Numbers (N, V), or (N,) for a single column, and the names of the columns, None if they have none."""

    values: Any
    names: list[str] | None


def arguments(batch: Any, columns: Columns, first: int = 0) -> dict[str, Any]:
    """Return a record batch as keyword arguments of `ScoreState.update`, y among them; rows count from `first`.

    Raises
    ------
    InputError
        If a column holds what its role cannot use, with the column.
    """
    texts = frozenset(columns.no_value)

    def column(name: str | None, argument: str, read: Callable[..., Any] = coded) -> Any:
        found = None if name is None else read(batch.column(name), f"column {quoted(name)}", argument)
        return _without(found, texts) if texts and found is not None else found

    with _damage_said():
        predictions = numbers([batch.column(name) for name in columns.values], list(columns.values), first)
        return {
            "y": column(columns.label, "y"),
            columns.kind: Matrix(predictions, list(columns.values) if len(columns.values) > 1 else None),
            "weight": None if columns.weight is None else _weight(batch.column(columns.weight), columns.weight, first),
            "cluster": column(columns.cluster, "cluster"),
            "by": {name: column(name, "by") for name in columns.by or ()} or None,
            "id": column(columns.id, "id", names_of_rows),
        }


def _weight(column: Any, name: str, first: int) -> Any:
    """Return a column of weights, (N,) or (N, 1)."""
    found = numbers([column], [name], first)
    if found.ndim == 2 and found.shape[1] != 1:
        raise InputError(
            f"column {quoted(name)} holds lists of {found.shape[1]} numbers, and must hold one weight per row",
            argument="weight",
        )
    return found


def _without(found: Any, texts: frozenset[str]) -> Any:
    """Return codes, integers or ids with None in place of what is written like one of the texts."""

    def is_none(value: Any) -> bool:
        whole_number = isinstance(value, float) and value.is_integer()
        written = str(value).lower() if isinstance(value, bool) else str(int(value)) if whole_number else str(value)
        return written in texts or str(value) in texts

    if isinstance(found, Coded):
        return Coded(found.codes, [None if is_none(value) else value for value in found.values])
    none = np.fromiter(map(is_none, found.tolist()), bool, len(found))
    if not none.any():
        return found
    left = found.astype(object)
    left[none] = None
    return left


@contextmanager
def _damage_said() -> Generator[None, None, None]:
    """Turn errors of pyarrow, whose columns may be damaged, into an `InputError`."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, IndexError, UnicodeDecodeError) as error:
        raise InputError(f"its columns cannot be read: {one_line(' '.join(str(error).split()))[:300]}") from error


def coded(array: Any, called: str, argument: str) -> Any:
    """Return a column as codes; integers without gaps as they are.

    Parameters
    ----------
    array
        A column of pyarrow of any type, (N,); lists of one value each are that value.
    called, argument
        What the column is called in errors, and the argument that it is for.

    Raises
    ------
    InputError
        If a row holds several values.
    """
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(array.type) and not is_list(array.type.value_type):
        codes, values = array.indices, plain_values(decoded(array.dictionary), called, argument)
    else:
        array = _single(decoded(array), called, argument)
        if types.is_integer(array.type) and not array.null_count:
            return array.to_numpy()
        try:
            encoded = array.dictionary_encode()
        except pa.ArrowNotImplementedError:
            found: dict[Any, int] = {}
            places = [found.setdefault(value, len(found)) for value in plain_values(array, called, argument)]
            return Coded(np.array(places, np.int64), list(found))
        codes, values = encoded.indices, plain_values(encoded.dictionary, called, argument)
    codes = codes.cast(pa.int64())
    if codes.null_count:
        codes, values = codes.fill_null(len(values)), [*values, None]
    return Coded(codes.to_numpy(zero_copy_only=False), values)


def names_of_rows(array: Any, called: str, argument: str) -> Any:
    """Return a column of ids, (N,), as plain values: integers as they are, anything else as objects."""
    from pyarrow import types

    if types.is_string(array.type) or types.is_large_string(array.type):
        with suppress(UnicodeDecodeError):
            return array.to_numpy(zero_copy_only=False)  # four times as fast as by way of codes
    found = coded(array, called, argument)
    if not isinstance(found, Coded):
        return found
    return np.fromiter(found.values, object, len(found.values))[found.codes] if len(found) else np.empty(0, object)


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
    vectors = [_vector(column, name) for column, name in zip(columns, names, strict=True)]
    if len(vectors) == 1:
        return vectors[0]
    table = np.empty((len(vectors), len(columns[0])), np.result_type(*{vector.dtype for vector in vectors}))
    for row, vector in zip(table, vectors, strict=True):
        row[:] = vector
    return table.T


def from_arrow(values: Any, name: str) -> Any:
    """Return predictions in a table, a batch or a column of pyarrow as numbers (N, V), or (N,) for one column."""
    columns = list(values.columns) if hasattr(values, "schema") else [values]
    return numbers([whole(column) for column in columns], column_names(values) or [name])


def column_names(values: Any) -> list[str] | None:
    """Return the names of the columns of a table or a batch of pyarrow, None for a single column."""
    return list(values.schema.names) if hasattr(values, "schema") else None


def _single(array: Any, called: str, argument: str) -> Any:
    """Return a column of lists of one value each as a column of these values, and another column as it is."""
    import pyarrow as pa

    if not is_list(array.type):
        return array
    count = lengths(array)
    if not (count <= 1).all() or (count == 0).any():
        raise InputError(f"{called} holds {shown(array.type)}{_advice(array.type, count, argument)}", argument=argument)
    places = np.cumsum(count == 1) - 1
    return decoded(array.flatten()).take(pa.array(places, mask=count < 0))


def _advice(kind: Any, count: Any, argument: str) -> str:
    """Return what is wrong with lists, of these lengths, in place of single values, and what to do about it."""
    from pyarrow import types

    inner = kind.value_type
    numeric = types.is_floating(inner) or types.is_integer(inner) or types.is_boolean(inner)
    if argument != "y" or not numeric or count[0] < 2 or (count != count[0]).any():
        return ", and must hold one value per row"
    return (
        ": a label must be one class per row; of one-hot rows store the place of the 1, as numpy.argmax(rows, 1) does, "
        "and for soft labels use crossent.cross_entropy"
    )


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
    return _vector(decoded(lists.flatten()), name).reshape(len(lists), width)


def _vector(array: Any, name: str) -> Any:
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
