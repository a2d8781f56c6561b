"""Predictions in columns of any shape: structs, maps, lists of records and vectors of Spark, besides plain numbers.

In most of these shapes a row itself names the class of each number:

    struct                 {"cat": 0.9, "dog": 0.1}                          a field is a class
    map                    the same, with other keys in each row
    records                [{"label": "dog", "score": 0.1}, …]               in any order, as pipelines of Hugging Face
    parallel lists         {"classes": ["cat", "dog"], "scores": [0.9, 0.1]} as predictions of Vertex AI
    vector                 {"type": 1, "values": [0.9, 0.1]}                 of Spark, dense or sparse; without names

A class that a row does not name has probability 0 if the others add up to 1. Else the row is incomplete, and refused.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from crossent.errors import Argument, InputError, Message, quoted
from crossent.scoring.input.arrow_numbers import Matrix, numbers, vector
from crossent.scoring.input.arrow_values import decoded, holds_numbers, is_list, lengths, plain_values
from crossent.scoring.input.classes import Classes, in_order, numbers_of, of_columns
from crossent.scoring.input.labels import listing
from crossent.scoring.input.nested import is_struct, opened

Shape = Literal["struct", "map", "records", "parallel", "vector"]
KEYS = ("label", "class", "class_name", "className", "displayName", "name", "key", "category", "id")
"""Fields of a record that may name its class, the likeliest first."""
NUMBERS = ("score", "prob", "proba", "probability", "confidence", "value", "logprob", "logit")
"""Fields of a record that may hold its number, the likeliest first."""
_KEY_LISTS = ("classes", "labels", "class_names", "classNames", "displayNames", "names", "categories", "ids")
_NUMBER_LISTS = ("scores", "probs", "probas", "probabilities", "confidences", "values", "logprobs", "logits")
_VECTOR = {"type", "size", "indices", "values"}
_MOST = 1 << 28  # numbers of one batch
_CLOSE = 1e-6  # how far the sum of a row may be from 1 if classes without a number are to have probability 0


class _Rows(NamedTuple):
    """Numbers (N, K), which of them are there, None for all, and the keys that name their columns."""

    values: Any
    present: Any | None
    keys: list[Hashable]


def shape_of(kind: Any) -> Shape | None:
    """Return the shape that a decoded type has; None for numbers, lists of numbers, and other types."""
    return None if holds_numbers(kind) else _nested_shape(kind)


def _nested_shape(kind: Any) -> Shape | None:
    from pyarrow import types

    if types.is_map(kind):
        return "map" if _is_number(kind.item_type) else None
    if is_list(kind):
        return "records" if is_struct(kind.value_type) and _pair(kind.value_type, KEYS, NUMBERS) else None
    if not is_struct(kind) or not kind.num_fields:
        return None
    fields = {kind.field(k).name: kind.field(k).type for k in range(kind.num_fields)}
    if "values" in fields and len(fields) > 1 and fields.keys() <= _VECTOR and is_list(fields["values"]):
        return "vector"
    if all(_is_number(each) for each in fields.values()):
        return "struct"
    return "parallel" if _pair(kind, _KEY_LISTS, _NUMBER_LISTS) else None


def predictions(
    columns: Sequence[Any], names: Sequence[str], kind: str = "probs", first: int = 0, keys: Sequence[Any] = ()
) -> Matrix:
    """Return columns of predictions as numbers, and the classes if the rows name them.

    Parameters
    ----------
    columns, names
        Columns of pyarrow, and their names for errors.
    kind
        "probs", "logits" or "logprobs".
    first
        Number of the first row.
    keys
        All keys of the rows, in the order of the columns of the result; () for those that occur.

    Raises
    ------
    InputError
        If a column holds something else, or rows lack numbers.
    """
    if len(columns) != 1:
        wrong = next((name for each, name in zip(columns, names, strict=True) if shape_of(decoded(each).type)), None)
        if wrong is not None:
            raise InputError(f"column {quoted(wrong)} holds all classes of a row; name it alone", argument=kind)
        return Matrix(numbers(columns, names, first), list(names))
    name, column = names[0], columns[0]
    array = column if getattr(column.type, "shape", None) is not None else opened(column, name, first)
    shape = shape_of(array.type)
    if shape is None:
        _refuse_others(array.type, name, kind)
        return Matrix(numbers([array], [name], first), None)
    _require_all(array, name, first)
    if shape == "vector":
        return Matrix(_vectors(array, name, first), None)
    rows = _rows(array, shape, name, first)
    rows = _ordered(rows, list(keys) or (rows.keys if shape == "struct" else sorted(rows.keys, key=in_order)))
    if len(rows.keys) < 2 and len(array):
        raise InputError(
            f"column {quoted(name)} has one class in each row, {listing(rows.keys)}; write the numbers of all classes",
            argument=kind,
        )
    values = _complete(rows, kind, f"column {quoted(name)}", first)
    return Matrix(values, list(map(str, rows.keys)), classes_of_keys(rows.keys, fields=shape == "struct"))


def classes_of_keys(keys: Sequence[Any], *, fields: bool = False) -> Classes:
    """Return the classes that keys name; LABEL_0, LABEL_1, … and names of fields lose their common part."""
    texts = [key for key in keys if isinstance(key, str)]
    counted = all(text.startswith("LABEL_") and text[6:].isdigit() for text in texts)
    if len(texts) == len(keys) > 1 and (fields or counted):
        return of_columns(texts)
    return Classes(tuple(keys), (), tuple(map(str, keys)))


def keys_of(column: Any, name: str) -> list[Hashable]:
    """Return the keys of all rows of a column, each once, as they come; [] if its rows name no classes."""
    array = opened(column, name)
    shape = shape_of(array.type)
    if shape is None or shape == "vector":
        return []
    _require_all(array, name, 0)
    return _keys(array, shape, name)


def matched_by_name(found: Matrix, classes: Classes, kind: str) -> Matrix:
    """Return numbers that name their classes in the order of these classes.

    Classes without a number have probability 0 if the others add up to 1.

    Raises
    ------
    InputError
        If a name is none of the classes.
    """
    mine = found.classes
    if mine is None:
        return found
    known = numbers_of(classes)
    places: list[int] = []
    for k, key in enumerate(mine.names):
        forms = [key, *(mine.others[k] if mine.others else ()), *([mine.columns[k]] if mine.columns else ())]
        fitting = next((place for form in reversed(forms) if len(place := known.find(form)) == 1), ())
        if not fitting and str(key).isdigit() and int(str(key)) < len(classes) and len(mine) == len(classes):
            fitting = (int(str(key)),)
        if not fitting:
            raise InputError(
                Message(
                    f"the rows name the class {quoted(key)}, which is not one of {listing(classes.names)}; leave ",
                    *(Argument("classes"), f" out, or pass the names in the rows, {listing(mine.names)}"),
                ),
                argument="classes",
            )
        places.append(fitting[0])
    if len(set(places)) < len(places):
        raise InputError(
            f"two of the classes {listing(mine.names)} in the rows match the same class of {listing(classes.names)}",
            argument="classes",
        )
    values = np.zeros((len(found.values), len(classes)), found.values.dtype)
    values[:, places] = found.values
    present = None
    if len(places) < len(classes):
        present = np.zeros(values.shape, bool)
        present[:, places] = True
    ordered = _complete(_Rows(values, present, list(classes.names)), kind, kind, 0)
    return Matrix(ordered, list(map(str, classes.names)), classes)


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    return types.is_floating(kind) or types.is_integer(kind) or types.is_decimal(kind) or types.is_null(kind)


def _pair(kind: Any, keys: Sequence[str], numbers: Sequence[str]) -> tuple[int, int] | None:
    """Return which fields of a struct hold the class and the number; None if no names of fields say so."""
    names = [kind.field(k).name for k in range(kind.num_fields)]
    key = next((name for name in keys if name in names), None)
    number = next((name for name in numbers if name in names), None)
    if key is None or number is None:
        return None
    held = kind.field(names.index(number)).type
    inner = held.value_type if is_list(held) else held
    return (names.index(key), names.index(number)) if _is_number(inner) else None


def _refuse_others(kind: Any, name: str, argument: str) -> None:
    """Raise `InputError` for structs other than a number for each class, with the field to name."""
    struct = kind.value_type if is_list(kind) and is_struct(kind.value_type) else kind
    if not is_struct(struct):
        return
    fields = [struct.field(k).name for k in range(struct.num_fields)]
    if struct is kind and _pair(kind, KEYS, NUMBERS):
        raise InputError(
            f"column {quoted(name)} holds one class and its number, the most probable one; write the numbers of all "
            "classes (of pipelines of Hugging Face: top_k=None)",
            argument=argument,
        )
    example = "" if struct is not kind or not fields else f", such as {name}.{fields[0]}"
    raise InputError(
        f"column {quoted(name)} holds {'lists of ' if struct is not kind else ''}objects with the fields "
        f"{listing(fields)}, and not a number for each class; name one of them{example}",
        argument=argument,
    )


def _require_all(array: Any, name: str, first: int) -> None:
    if array.null_count:
        row = first + int((~array.is_valid().to_numpy(zero_copy_only=False)).argmax())
        raise InputError(f"column {quoted(name)} has no predictions in row {row}")


def _rows(array: Any, shape: Shape, name: str, first: int) -> _Rows:
    if shape == "struct":
        return _of_struct(array, name)
    entries = _entries(array, shape, name, first)
    codes, keys = _coded(entries.keys, name)
    rows, count = len(array), len(keys)
    if rows * count > _MOST:
        raise InputError(f"column {quoted(name)} has {count:,} classes, too many for {rows:,} rows at a time")
    flat = entries.row * count + codes
    present, values = np.zeros(rows * count, bool), np.zeros(rows * count, entries.values.dtype)
    present[flat], values[flat] = True, entries.values
    if int(present.sum()) < len(flat):
        _, places = np.unique(flat, return_index=True)
        twice = np.setdiff1d(np.arange(len(flat)), places)[0]
        raise InputError(
            f"column {quoted(name)} names the class {quoted(keys[codes[twice]])} twice in row "
            f"{first + int(entries.row[twice])}"
        )
    present = present.reshape(rows, count)
    return _Rows(values.reshape(rows, count), None if present.all() else present, keys)


def _of_struct(array: Any, name: str) -> _Rows:
    fields = [decoded(field) for field in array.flatten()]
    keys: list[Hashable] = [array.type.field(k).name for k in range(array.type.num_fields)]
    if len(set(keys)) < len(keys):
        raise InputError(f"column {quoted(name)} has two fields of one name, {listing(keys)}")
    values = numbers(fields, [f"{name}.{key}" for key in keys]).reshape(len(array), len(keys))
    if not any(field.null_count for field in fields):
        return _Rows(values, None, keys)
    present = np.stack([field.is_valid().to_numpy(zero_copy_only=False) for field in fields], axis=1)
    return _Rows(values, present, keys)


class _Entries(NamedTuple):
    """Numbers beside the row and the key of each; keys are a decoded column of pyarrow."""

    row: Any
    keys: Any
    values: Any


def _entries(array: Any, shape: Shape, name: str, first: int) -> _Entries:
    """Return the numbers of maps, records or parallel lists, each with its row and its key."""
    if shape == "map":
        offsets = array.offsets.to_numpy()
        begin, count = int(offsets[0]), np.diff(offsets)
        inside = int(offsets[-1]) - begin
        keys, held = decoded(array.keys.slice(begin, inside)), decoded(array.items.slice(begin, inside))
    elif shape == "records":
        count, records = lengths(array), array.flatten()
        key, number = _pair(records.type, KEYS, NUMBERS) or (0, 1)
        fields = records.flatten()
        keys, held = decoded(fields[key]), decoded(fields[number])
    else:
        key, number = _pair(array.type, _KEY_LISTS, _NUMBER_LISTS) or (0, 1)
        lists = [decoded(field) for field in array.flatten()]
        count, other = lengths(lists[key]), lengths(lists[number])
        if (count != other).any() or (count < 0).any():
            k = int(((count != other) | (count < 0)).argmax())
            raise InputError(f"column {quoted(name)} has {count[k]} classes and {other[k]} numbers in row {first + k}")
        keys, held = decoded(lists[key].flatten()), decoded(lists[number].flatten())
    row = np.repeat(np.arange(len(array)), count)
    if keys.null_count or held.null_count:
        wrong = ~(keys.is_valid().to_numpy(zero_copy_only=False) & held.is_valid().to_numpy(zero_copy_only=False))
        raise InputError(
            f"column {quoted(name)} has a class without a name, or without a number, in row "
            f"{first + int(row[wrong.argmax()])}"
        )
    return _Entries(row, keys, vector(held, name))


def _keys(array: Any, shape: Shape, name: str) -> list[Hashable]:
    if shape == "struct":
        fields = array.flatten()
        return [array.type.field(k).name for k, field in enumerate(fields) if field.null_count < len(field)]
    return _coded(_entries(array, shape, name, 0).keys, name)[1]


def _coded(keys: Any, name: str) -> tuple[Any, list[Hashable]]:
    """Return keys as codes, with their plain values."""
    encoded = keys.dictionary_encode()
    values = plain_values(decoded(encoded.dictionary), f"column {quoted(name)}", None)
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), values


def _ordered(rows: _Rows, wanted: list[Any]) -> _Rows:
    """Return rows whose columns are these keys."""
    if wanted == rows.keys:
        return rows
    place = {key: k for k, key in enumerate(wanted)}
    unknown = next((key for key in rows.keys if key not in place), None)
    if unknown is not None:
        raise InputError(f"the rows name the class {quoted(unknown)}, which is not one of {listing(wanted)}")
    into = [place[key] for key in rows.keys]
    values = np.zeros((len(rows.values), len(wanted)), rows.values.dtype)
    present = np.zeros(values.shape, bool)
    values[:, into] = rows.values
    present[:, into] = True if rows.present is None else rows.present
    return _Rows(values, None if present.all() else present, wanted)


def _complete(rows: _Rows, kind: str, called: str, first: int) -> Any:
    """Return the numbers of rows with probability 0 for the classes that a row does not name.

    Raises
    ------
    InputError
        If the others do not add up to 1, or are not probabilities.
    """
    if rows.present is None:
        return rows.values
    values = np.where(rows.present, rows.values, 0.0)
    lacking = ~rows.present.all(axis=1)
    sums = values.sum(axis=1, dtype=np.float64)
    if kind == "probs":
        lacking &= ~(np.abs(sums - 1.0) <= max(_CLOSE, 8 * np.finfo(values.dtype).eps * len(rows.keys) ** 0.5))
    if lacking.any():
        row = int(lacking.argmax())
        missing = rows.keys[int((~rows.present[row]).argmax())]
        why = f"and the others add up to {sums[row]:.6g}" if kind == "probs" else f"and {kind} have no default"
        raise InputError(
            f"{called} does not name the class {quoted(missing)} in row {first + row} ({int(lacking.sum())} in total), "
            f"{why}; write the numbers of all classes (of pipelines of Hugging Face: top_k=None)",
            argument=kind,
        )
    return values


def _vectors(array: Any, name: str, first: int) -> Any:
    """Return vectors of Spark, sparse or dense, as numbers (N, V)."""
    names = [array.type.field(k).name for k in range(array.type.num_fields)]
    fields = dict(zip(names, (decoded(field) for field in array.flatten()), strict=True))
    held = fields["values"]
    count = lengths(held)
    if "indices" not in fields or not is_list(fields["indices"].type) or not len(array):
        return numbers([held], [name], first)
    inner = lengths(fields["indices"])
    sparse = inner >= 0
    if "type" in fields:
        sparse = fields["type"].to_numpy(zero_copy_only=False) == 0
    size = count.copy()
    if sparse.any():
        if "size" not in fields:
            raise InputError(f"column {quoted(name)} holds sparse vectors without a size")
        size = np.where(sparse, fields["size"].fill_null(-1).to_numpy(zero_copy_only=False), count)
    width = int(size[0])
    wrong = (size != width) | (count < 0) | (sparse & (inner != count))
    if wrong.any() or width < 1:
        row = int(wrong.argmax())
        raise InputError(
            f"column {quoted(name)} holds a vector of {int(size[row])} numbers in row {first + row}, and of {width} at "
            "first"
        )
    if len(array) * width > _MOST:
        raise InputError(f"column {quoted(name)} holds vectors of {width:,} numbers, too long for {len(array):,} rows")
    row = np.repeat(np.arange(len(array)), count)
    place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    if sparse.any():
        place[np.repeat(sparse, count)] = (
            fields["indices"].filter(_mask(sparse)).flatten().to_numpy(zero_copy_only=False)
        )
    flat = row * width + place
    if len(place) and (place.min() < 0 or place.max() >= width or len(np.unique(flat)) < len(flat)):
        raise InputError(f"column {quoted(name)} holds sparse vectors whose indices are wrong")
    values = vector(decoded(held.flatten()), name)
    table = np.zeros((len(array), width), values.dtype)
    table[row, place] = values
    return table


def _mask(values: Any) -> Any:
    import pyarrow as pa

    return pa.array(values)
