"""Values of Arrow columns as plain ones, beyond what Python holds (test_arrow_types.py has every type)."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from crossent.errors import InputError
from crossent.scoring.input.arrow_values import decoded, is_list, lengths, plain_values, whole
from tests.scoring.arrow_types import EVERY, UUIDS

FIRST = datetime(1970, 1, 1, tzinfo=UTC)


def values(array):
    return plain_values(decoded(array), "column 'x'", "y")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("half float", [0.25, 0.75]),
        ("decimal32", [0.25, 0.75]),
        ("decimal of whole numbers", [0, 1]),
        ("decimal of negative scale", [0, 100]),
        ("far uint64", [2**63, 2**64 - 1]),
        ("bool8", [False, True]),
        ("json", ["0", "1"]),
        ("uuid", [str(each) for each in UUIDS]),
        ("bytes of uuid", [str(each) for each in UUIDS]),
        ("binary of no text", ["0xff00", "0xfe"]),
        ("date32", [date(1970, 1, 1), date(1970, 1, 2)]),
        ("date64", [date(1970, 1, 1), date(1970, 1, 2)]),
        ("time ms", [time(0), time(0, 0, 0, 1000)]),
        ("time ns", [time(0), "00:00:00.000000001"]),
        ("timestamp ns", [datetime(1970, 1, 1), "1970-01-01 00:00:00.000000001"]),
        ("timestamp s in UTC", [FIRST, FIRST + timedelta(seconds=1)]),
        (
            "timestamp in no known zone",
            [FIRST, FIRST + timedelta(microseconds=1)],
        ),
        ("duration ms", [timedelta(0), timedelta(milliseconds=1)]),
        ("dense union", [0, "1"]),
        ("null", [None, None]),
        ("runs of string", ["0", "1"]),
        ("dictionary of decimal64", [0.25, 0.75]),
    ],
)
def test_values(name, wanted):
    found = values(EVERY[name])
    assert found == wanted
    assert [type(value) for value in found] == [type(value) for value in wanted]


@pytest.mark.parametrize("name", [name for name in EVERY if name.startswith("far ")])
def test_moments_beyond_python_are_what_numpy_writes(name):
    array = EVERY[name]
    if array.type.id in (pa.date32().id, pa.timestamp("s").id):
        unit = "D" if array.type.id == pa.date32().id else array.type.unit
        integers = array.view(pa.int32() if unit == "D" else pa.int64()).to_pylist()
        for found, count in zip(values(array), integers, strict=True):
            assert str(found).removesuffix("+00:00") == str(np.datetime64(count, unit)).replace("T", " ")
    assert len(set(values(array))) == 2


def test_json_texts_are_texts():
    documents = pa.array(['"cat"', " null ", "1", '{"a": 1}', None, '"broken'])
    column = pa.ExtensionArray.from_storage(pa.json_(), documents)
    assert values(column) == ["cat", None, "1", '{"a": 1}', None, '"broken']


def test_bytes_that_are_marked_as_text():
    broken = pa.array([b"\xff", b"a"]).view(pa.string())
    assert values(broken) == ["0xff", "a"]
    assert values(pa.ExtensionArray.from_storage(pa.json_(), broken)) == ["0xff", "a"]


def test_chunks_whose_dictionaries_pyarrow_does_not_join():
    parts = [pa.array([text, None]).dictionary_encode("encode") for text in "ab"]
    assert values(whole(pa.chunked_array(parts))) == ["a", None, "b", None]


def test_decimals_that_floats_cannot_hold_keep_their_digits():
    digits = "1234567890123456789.123"
    assert values(pa.array([Decimal(digits)])) == [digits]


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, pa.list_view, pa.large_list_view])
def test_lengths_of_lists(kind):
    lists = pa.array([[1.0], [], None, [1.0, 2.0]], kind(pa.float64()))
    assert is_list(lists.type)
    assert lengths(lists).tolist() == [1, 0, -1, 2]


@pytest.mark.parametrize("name", ["struct", "map", "empty struct"])
def test_what_is_no_single_value(name):
    with pytest.raises(InputError, match=r"column 'x' holds .*must hold one value per row"):
        _ = values(EVERY[name])
