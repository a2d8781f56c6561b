"""Columns of pyarrow of any type: encodings are removed, and values become plain ones.

Few of pyarrow's own functions take every type, and some raise for values that Python lacks, so each way here is one
that does.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Hashable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np

from crossent.errors import InputError, shown
from crossent.scoring.input.plain import is_plain, plain


def whole(column: Any) -> Any:
    """Return a chunked array of pyarrow as one array; other columns stay."""
    import pyarrow as pa

    if not hasattr(column, "combine_chunks"):
        return column
    try:
        return column.combine_chunks()
    except pa.ArrowException:  # dictionaries that hold nulls, for one
        return pa.concat_arrays([decoded(chunk) for chunk in column.chunks])


@cache
def _numbers() -> frozenset[int]:
    """Return the ids of the types of integers and of floats."""
    import pyarrow as pa

    whole = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
    return frozenset(kind.id for kind in (*whole, pa.float16(), pa.float32(), pa.float64()))


def holds_numbers(kind: Any) -> bool:
    """Return whether a type is one of integers or floats, as nearly all are: a look-up, where others are asked for."""
    return kind.id in _numbers()


def decoded(array: Any) -> Any:
    """Return a column without extension type, dictionary and runs, in a type that pyarrow's functions support."""
    return array if holds_numbers(array.type) else _decoded(array)


def _decoded(array: Any) -> Any:
    import pyarrow as pa
    from pyarrow import types

    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return decoded(_storage(array))
    if types.is_dictionary(kind):
        return decoded(array.dictionary).take(array.indices)
    if types.is_run_end_encoded(kind):
        ends = array.run_ends.to_numpy()
        places = np.searchsorted(ends, np.arange(array.offset, array.offset + len(array)), side="right")
        return decoded(array.values).take(pa.array(places))
    if kind in (pa.string_view(), pa.binary_view()):
        return array.cast(pa.large_string() if kind == pa.string_view() else pa.large_binary())
    if str(kind).startswith(("decimal32", "decimal64")):
        return array.cast(pa.decimal128(38, kind.scale))
    return array


def _storage(array: Any) -> Any:
    """Return the storage of an extension type; for booleans, UUIDs and JSON, their values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    name, storage = array.type.extension_name, array.storage
    if name == "arrow.bool8":
        return pc.not_equal(storage, 0)  # pyright: ignore[reportAttributeAccessIssue]  made at run time
    if name == "arrow.uuid":
        texts = [None if value is None else str(uuid.UUID(bytes=value)) for value in storage.to_pylist()]
        return pa.array(texts, pa.string())
    if name == "arrow.json":
        return pa.array([_of_json(document) for document in _texts(storage)], pa.string())
    return storage


def _of_json(document: Any) -> str | None:
    """Return the text of a JSON string; other documents stay."""
    if document is None or document.strip() == "null":
        return None
    try:
        found = json.loads(document) if document.lstrip().startswith('"') else document
    except ValueError:
        return document
    return str(found)


def is_list(kind: Any) -> bool:
    """Return whether a type is one of lists: long or short ones, of one length, or views."""
    if holds_numbers(kind):
        return False
    from pyarrow import types

    return any(
        check(kind)
        for check in (
            types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view,
        )
    )  # fmt: skip


def lengths(lists: Any) -> Any:
    """Return the length of each list in a column, (N,) int64, −1 where there is none."""
    import pyarrow.compute as pc

    counts = pc.list_value_length(lists)  # pyright: ignore[reportAttributeAccessIssue]  made at run time
    return counts.fill_null(-1).to_numpy().astype(np.int64)


def plain_values(array: Any, called: str, argument: str | None) -> list[Hashable]:
    """Return the values of a decoded column as plain ones, with None for missing values.

    Raises
    ------
    InputError
        If they are structs, lists or maps instead of single values; `called` is the column's name in the text.
    """
    from pyarrow import types

    kind = array.type
    if types.is_interval(kind):
        return [None if value is None else str(value) for value in array.to_pylist()]
    if types.is_temporal(kind):
        return _moments(array)
    if types.is_floating(kind):
        return [plain(value) for value in array.to_numpy(zero_copy_only=False)]
    if types.is_string(kind) or types.is_large_string(kind):
        return _texts(array)
    values = [plain(value) for value in array.to_pylist()]
    wrong = next((value for value in values if not is_plain(value)), None)
    if wrong is not None:
        raise InputError(f"{called} holds {shown(kind)}, and must hold one value per row", argument=argument)
    return values


def _texts(array: Any) -> list[Hashable]:
    import pyarrow as pa

    try:
        return array.to_pylist()
    except UnicodeDecodeError:  # bytes that a writer has marked as text
        return [plain(value) for value in array.cast(pa.large_binary()).to_pylist()]


def _moments(array: Any) -> list[Hashable]:
    """Return dates, times and durations; moments with a time zone are in UTC."""
    import pyarrow as pa
    from pyarrow import types

    kind = array.type
    unit = ("D" if types.is_date32(kind) else "ms") if types.is_date(kind) else kind.unit
    counts = array.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    numbers = counts.fill_null(0).to_numpy().astype(np.int64)
    numbers[~array.is_valid().to_numpy(zero_copy_only=False)] = np.iinfo(np.int64).min  # NaT
    since = types.is_date(kind) or types.is_timestamp(kind)
    moments = numbers.view(f"{'M' if since else 'm'}8[{unit}]")
    if types.is_time(kind):
        return [_time_of_day(value) for value in moments]
    values = [plain(value) for value in moments]
    if types.is_date64(kind):
        return [value.date() if isinstance(value, datetime) else value for value in values]
    if types.is_timestamp(kind) and kind.tz is not None:
        return [value if value is None else _in_utc(value) for value in values]
    return values


def _time_of_day(since_midnight: Any) -> Any:
    """Return a timedelta64 as a time of day; as text if it is finer than a microsecond, or beyond a day."""
    if np.isnat(since_midnight):
        return None
    nanoseconds = int(since_midnight.astype("m8[ns]").astype(np.int64))
    whole = timedelta(microseconds=nanoseconds // 1000)
    if since_midnight.astype("m8[D]") != np.timedelta64(0, "D") or nanoseconds < 0:
        return plain(since_midnight)
    time = (datetime.min + whole).time()
    return time if nanoseconds % 1000 == 0 else f"{time:%H:%M:%S}.{nanoseconds % 10**9:09}"


def _in_utc(moment: Any) -> Any:
    return moment.replace(tzinfo=UTC) if isinstance(moment, datetime) else f"{moment}+00:00"
