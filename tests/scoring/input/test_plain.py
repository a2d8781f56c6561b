"""Single values of any library become plain ones, equal where they mean the same."""

from __future__ import annotations

import uuid
from datetime import date, datetime, time, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch

from crossent.scoring.input.plain import is_plain, missing, plain

ID = uuid.UUID("12345678-9abc-4def-8123-456789abcdef")


@pytest.mark.parametrize(
    "value",
    [None, float("nan"), np.nan, np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), np.timedelta64("NaT"),
     Decimal("NaN"), Decimal("sNaN"), np.ma.masked],
    ids=repr,
)  # fmt: skip
def test_missing(value):
    assert missing(value)
    assert plain(value) is None


@pytest.mark.parametrize("value", ["", "nan", "NA", 0, False, 0.0, (), "None"], ids=repr)
def test_not_missing(value):
    assert not missing(value)
    assert plain(value) is value


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (np.int16(3), 3), (np.uint64(2**64 - 1), 2**64 - 1), (np.bool_(True), True), (np.str_("a"), "a"),
        (np.float32(0.1), 0.1), (np.float16(0.1), 0.1), (np.float64(0.1), 0.1), (np.longdouble(0.5), 0.5),
        (torch.tensor(3), 3), (Decimal("3.00"), 3), (Decimal("1E+2"), 100), (Decimal("0.10"), 0.1),
        (Decimal("0.1234567890123456789"), "0.1234567890123456789"), (Decimal("Infinity"), float("inf")),
        (Decimal(2**70), 2**70), (b"cat", "cat"), (bytearray(b"cat"), "cat"), (np.bytes_(b"cat"), "cat"),
        ("ü".encode(), "ü"), (b"\xff\x00", "0xff00"), (ID, str(ID)), (ID.bytes, str(ID)),
        (b"sixteen letters!", "sixteen letters!"), (date(2026, 1, 2), date(2026, 1, 2)),
        (pd.Timestamp("2026-01-02 03:04"), datetime(2026, 1, 2, 3, 4)),
        (pd.Timestamp("2026-01-02 03:04:05.000000007"), "2026-01-02 03:04:05.000000007"),
        (pd.Timedelta("1h"), timedelta(hours=1)), (pd.Timedelta(7, "ns"), "7 nanoseconds"), (time(1, 2), time(1, 2)),
        (np.datetime64("2026-01-02"), date(2026, 1, 2)), (np.datetime64("2026"), date(2026, 1, 1)),
        (np.datetime64("2026-01-02T03:04", "ns"), datetime(2026, 1, 2, 3, 4)),
        (np.datetime64(1, "ns"), "1970-01-01 00:00:00.000000001"),
        (np.datetime64("12026-01-02T00:00"), "12026-01-02 00:00"), (np.timedelta64(1, "D"), timedelta(days=1)),
        (np.timedelta64(2**62, "s"), f"{2**62} seconds"),
    ],
    ids=str,
)  # fmt: skip
def test_values(value, wanted):
    found = plain(value)
    assert found == wanted
    assert type(found) is type(wanted)


def test_one_value_or_several():
    assert all(map(is_plain, (None, 1, "a", (1, 2), pd.Period("2026-01", "M"))))
    assert not any(map(is_plain, ([1], {"a": 1}, np.ones(2), torch.ones(2))))
