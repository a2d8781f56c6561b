"""Columns of pyarrow in the forms that a score takes: codes of labels, names of rows, and numbers (N, V)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from crossent.errors import InputError, one_line, quoted, shown
from crossent.scoring.input.arrow_numbers import Matrix, column_names, numbers
from crossent.scoring.input.arrow_values import decoded, is_list, lengths, plain_values, whole
from crossent.scoring.input.columns import Columns
from crossent.scoring.input.labels import Coded
from crossent.scoring.input.nested import column_of
from crossent.scoring.input.shapes import predictions


def arguments(batch: Any, columns: Columns, first: int = 0) -> dict[str, Any]:
    """Return a record batch as keyword arguments of `ScoreState.update`, y among them; rows count from `first`.

    Raises
    ------
    InputError
        If a column holds what its role cannot use, with the column.
    """
    texts = frozenset(columns.no_value)

    def column(name: str | None, argument: str, read: Callable[..., Any] = coded) -> Any:
        found = None if name is None else read(column_of(batch, name), f"column {quoted(name)}", argument)
        return _without(found, texts) if texts and found is not None else found

    with _damage_said():
        values = list(columns.values or ())
        predicted = predictions(
            [column_of(batch, name) for name in values], values, columns.kind, first, columns.keys or ()
        )
        weight = columns.weight
        return {
            "y": column(columns.label, "y"),
            columns.kind: predicted,
            "weight": None if weight is None else _weight(column_of(batch, weight), weight, first),
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
    """Return codes, integers or ids, with None for values written like one of the texts."""

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
    except MemoryError:  # an error of pyarrow's too, and no fault of the columns
        raise
    except (pa.ArrowException, IndexError, UnicodeDecodeError) as error:
        raise InputError(f"its columns cannot be read: {one_line(' '.join(str(error).split()))[:300]}") from error


def coded(array: Any, called: str, argument: str) -> Any:
    """Return a column as codes; integers without gaps stay.

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
    """Return a column of ids, (N,), as plain values: integers stay, other values become objects."""
    from pyarrow import types

    if types.is_string(array.type) or types.is_large_string(array.type):
        with suppress(UnicodeDecodeError):
            return array.to_numpy(zero_copy_only=False)  # four times as fast as by way of codes
    found = coded(array, called, argument)
    if not isinstance(found, Coded):
        return found
    return np.fromiter(found.values, object, len(found.values))[found.codes] if len(found) else np.empty(0, object)


def from_arrow(values: Any, name: str) -> Matrix:
    """Return predictions in a table, a batch or a column of pyarrow as numbers (N, V), or (N,) for one column."""
    columns = list(values.columns) if hasattr(values, "schema") else [values]
    names = column_names(values)
    found = predictions([whole(column) for column in columns], names or [name], name)
    return found if found.classes is not None or names is None else found._replace(names=names)


def _single(array: Any, called: str, argument: str) -> Any:
    """Return a column of lists of one value each as a column of values; other columns stay."""
    import pyarrow as pa

    if not is_list(array.type):
        return array
    count = lengths(array)
    if not (count <= 1).all() or (count == 0).any():
        raise InputError(f"{called} holds {shown(array.type)}{_advice(array.type, count, argument)}", argument=argument)
    places = np.cumsum(count == 1) - 1
    return decoded(array.flatten()).take(pa.array(places, mask=count < 0))


def _advice(kind: Any, count: Any, argument: str) -> str:
    """Return the error and the fix for lists of these lengths in place of single values."""
    from pyarrow import types

    inner = kind.value_type
    numeric = types.is_floating(inner) or types.is_integer(inner) or types.is_boolean(inner)
    if argument != "y" or not numeric or count[0] < 2 or (count != count[0]).any():
        return ", and must hold one value per row"
    return (
        ": a label must be one class per row; for one-hot rows, store the index of the 1, numpy.argmax(rows, 1); for "
        "soft labels, use crossent.cross_entropy"
    )
