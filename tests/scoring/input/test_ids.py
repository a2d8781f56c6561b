"""Spellings of one id in different files have a meaning in common, and different ids have none."""

from __future__ import annotations

import uuid
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crossent.scoring.input.ids import meaning

SAME = [
    [0, "0", "0.0", 0.0, "-0", " 0 ", "+0", "0e5", ".0"],
    [7, "7", "7.", "7.000", "+7", "70e-1", Decimal("7.0")],
    [0.1, "0.1", "0.10", ".1", "1e-1", "1E-01"],
    [2**64 + 1, str(2**64 + 1), f"{2**64 + 1}.0"],
    [True, "true", "True", "TRUE"],
    [datetime(2026, 1, 2), date(2026, 1, 2), "2026-01-02", "2026-01-02 00:00", "2026-01-02T00:00:00.000000Z",
     datetime(2026, 1, 2, 1, tzinfo=timezone(timedelta(hours=1))), "2026-01-01 22:30:00-01:30",
     "2026-01-02T00:00+0000"],
    [datetime(2026, 1, 2, 3, 4, 5, 600000), "2026-01-02 03:04:05.6", "2026-01-02T03:04:05.600000000"],
    ["2026-01-02 00:00:00.000000001", "2026-01-02T00:00:00.000000001Z"],
    [uuid.UUID(int=2**127 + 11), str(uuid.UUID(int=2**127 + 11)), uuid.UUID(int=2**127 + 11).hex,
     str(uuid.UUID(int=2**127 + 11)).upper(), f"{{{uuid.UUID(int=2**127 + 11)}}}", uuid.UUID(int=2**127 + 11).urn],
    ["row-1", " row-1", "b'row-1'"],
    [uuid.UUID(int=3), str(uuid.UUID(int=3).bytes)],
    [time(1, 2, 3), "01:02:03", "1:02:03", "01:02:03.000000000"],
    [time(1, 2, 3, 4500), "01:02:03.0045", "01:02:03.004500000"],
]  # fmt: skip


def test_spellings_of_one_id_mean_the_same_and_of_others_something_else():
    meanings = [{meaning(name) for name in names} for names in SAME]
    assert [len(each) for each in meanings] == [1] * len(SAME)
    assert len(set.union(*meanings)) == len(SAME)


@pytest.mark.parametrize(
    "name", ["2026-02-31", "2026-01-02 25:00", "nan", "inf", "1_000", "٣", "", "row-1e5", "0x10", "1e"]
)
def test_what_is_only_text(name):
    assert meaning(name) == name


@settings(deadline=None)
@given(st.decimals(-(10**30), 10**30), st.decimals(-(10**30), 10**30))
@example(Decimal(2**53), Decimal(2**53 + 1))
@example(Decimal("1e5"), Decimal(100000))
def test_numbers_mean_the_same_exactly_if_they_are_equal(a, b):
    assert (meaning(str(a)) == meaning(str(b))) == (Fraction(a) == Fraction(b))


def test_an_exponent_makes_no_long_number():
    assert meaning("1e999999999") == ("number", 0, "1", 999999999)
