"""Values of JSON as columns, beside Python's own reading of the same text."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from crossent.scoring.input.json_cells import Cell, CellError, Twice, column, finite, with_repeats


def cells(*values):
    return [Cell(value, number) for number, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "text", "kind"),
    [
        ([1, 0.5, None, True], False, pa.float64()),
        ([[1, 0.5], None], False, pa.list_(pa.float64())),
        (["a", None], True, pa.string()),
        ([1, 2], True, pa.int64()),
        ([{"a": 1}, {"b": 0.5}, None], False, pa.struct([("a", pa.int64()), ("b", pa.float64())])),
        ([[{"label": "a", "score": 1}]], False, None),
        ([["a", "b"]], True, pa.list_(pa.string())),
    ],
)
def test_columns_hold_the_values(values, text, kind):
    found = column(cells(*values), text=text)
    assert kind is None or found.type == kind
    if kind is None or not pa.types.is_struct(kind):
        assert found.to_pylist() == values


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([1, "a"], '"a", which is not a number'),
        ([[1], 2], "2, where lines before it have lists"),
        ([{"a": 1}, 2], "values of different kinds"),
        ([{"a": 1}, {"a": "x"}], "values of different kinds"),
    ],
)
def test_values_of_other_kinds_are_refused(values, says):
    with pytest.raises(CellError) as raised:
        column(cells(*values), text=False)
    assert says in str(raised.value)


def test_names_that_occur_twice_are_remembered():
    found = json.loads('{"a": {"b": 1, "b": 2}, "c": [{"d": 1, "d": 2}]}', object_pairs_hook=with_repeats)
    assert isinstance(found["a"], Twice)
    assert found["a"].names == {"b"}
    for value in (found["a"], found["c"]):
        with pytest.raises(CellError, match="occurs twice"):
            column(cells(value), text=False)


def test_numbers_must_be_finite():
    assert finite("1e308") == 1e308
    with pytest.raises(ValueError, match="more than a float holds"):
        finite("1e309")
