"""Single values of any library as plain Python values, so that equal values compare equal across libraries.

A plain value is None (missing), a bool, an int, a float, a text, a date or time of Python, or any other hashable object
unchanged. Numbers of NumPy and decimals become numbers, UUIDs and bytes become text, and moments that Python's dates
cannot hold, beyond the year 9999 or finer than a microsecond, become text in ISO 8601.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Hashable
from datetime import MAXYEAR, MINYEAR, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np

from crossent.scoring.input.tensors import is_tensor

ALREADY_PLAIN = frozenset({type(None), str, int, bool, date, time})
"""Types of values that are plain as they are."""
_MISSING = frozenset({"NAType", "NaTType", "MaskedConstant"})


def missing(value: Any) -> bool:
    """Return whether a value is None, NaN, NaT, `pandas.NA` or NumPy's `masked`.

    Examples
    --------
    >>> missing(None), missing(float("nan")), missing("nan")
    (True, True, False)
    """
    if value is None or type(value).__name__ in _MISSING:
        return True
    if isinstance(value, Decimal):
        return value.is_nan()
    return isinstance(value, float | complex | np.generic) and bool(value != value)  # noqa: PLR0124  NaN


def plain(value: Any) -> Any:
    """Return a value as a plain one; values of unknown types stay.

    Examples
    --------
    >>> import numpy as np
    >>> plain(np.float32(0.1)), plain(Decimal("3.00")), plain(b"cat"), plain(np.datetime64("2026-01-02T03:04"))
    (0.1, 3, 'cat', datetime.datetime(2026, 1, 2, 3, 4))
    """
    if type(value) in ALREADY_PLAIN:
        return value
    if missing(value):
        return None
    for kinds, convert in _CONVERSIONS:
        if isinstance(value, kinds):
            return convert(value)
    return value.item() if is_tensor(value) and value.shape == () else value


def is_plain(value: Any) -> bool:
    """Return whether a plain value is a single value: lists, dictionaries and arrays are not."""
    return isinstance(value, Hashable) and not is_tensor(value)


def _of_numpy(value: Any) -> Any:
    if isinstance(value, np.bytes_):
        return _of_bytes(value)
    if isinstance(value, np.datetime64 | np.timedelta64):
        return _of_moment(value)
    if isinstance(value, np.floating):
        return float(value) if value.itemsize == 8 else float(str(value))  # 0.1, not 0.10000000149011612
    return value.item()


def _of_moment(value: Any) -> Any:
    """Return a datetime64 or timedelta64 as Python's own, or as text."""
    found = value.item()
    if not isinstance(found, int):
        return found
    if np.datetime_data(value.dtype)[0] in ("ns", "ps", "fs", "as"):
        coarse = value.astype(f"{value.dtype.kind}8[us]")
        if coarse == value and not isinstance(coarse.item(), int):
            return coarse.item()
    return str(value).replace("T", " ")


def _of_decimal(value: Decimal) -> Any:
    """Return a decimal as a whole number, as a float that is written like it, or as its digits."""
    if not value.is_finite():
        return float(value)
    if value == value.to_integral_value() and value.adjusted() < 400:
        return int(value)
    found = float(value)
    return found if Decimal(repr(found)) == value else str(value)


def _of_bytes(given: Any) -> str:
    """Return bytes as the text that they are, or as a UUID if there are 16, or in hexadecimal digits."""
    value = bytes(given)
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\0"
    if all(character.isprintable() or character.isspace() for character in text):
        return text
    return str(uuid.UUID(bytes=value)) if len(value) == 16 else f"0x{value.hex()}"


def _of_datetime(value: Any) -> Any:
    """Return a Timestamp of pandas as a datetime, or as text if it is finer."""
    if not hasattr(value, "to_pydatetime"):
        return value
    if value.nanosecond == 0 and MINYEAR <= value.year <= MAXYEAR:
        return value.to_pydatetime()
    return f"{_of_moment(value.to_datetime64())}" + ("" if value.tzinfo is None else "+00:00")


def _of_timedelta(value: Any) -> Any:
    """Return a Timedelta of pandas as a timedelta, or as text if it is finer."""
    return _of_numpy(value.to_timedelta64()) if hasattr(value, "to_timedelta64") else value


_CONVERSIONS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (np.generic, _of_numpy),
    (Decimal, _of_decimal),
    ((bytes, bytearray, memoryview), _of_bytes),
    (uuid.UUID, str),
    (datetime, _of_datetime),
    (timedelta, _of_timedelta),
)
