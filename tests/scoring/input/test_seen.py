"""What the first rows of a table show: numbers, probabilities, labels."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from crossent.scoring.input.classes import Classes
from crossent.scoring.input.seen import Seen, are_distributions, nested_paths


def seen(**columns):
    return Seen(pa.RecordBatch.from_pydict(columns))


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        (["0.5", "NA", "1e-3"], [0.5, math.nan, 1e-3]), ([1, None, 3], [1.0, math.nan, 3.0]), (["a", "1"], None),
        ([None, None], None), (["", None], None), ([True, False], None), ([[1.0], [2.0]], None),
    ],
)  # fmt: skip
def test_columns_of_numbers(values, numbers):
    found = seen(x=values).number("x")
    assert found is None if numbers is None else np.array_equal(found, numbers, equal_nan=True)


def test_probabilities_have_a_fraction():
    table = seen(p=[0.0, 0.5], q=[0.0, 1.0], r=[0.5, 1.5], s=["a", "b"])
    assert [table.are_probabilities(name) for name in "pqrs"] == [True, False, False, False]


def test_rows_that_add_up_to_1():
    assert are_distributions(np.array([[0.25, 0.75], [np.nan, 1.0]]))
    assert are_distributions(np.array([[0.333, 0.333, 0.333]]))
    assert not are_distributions(np.array([[0.25, 0.5]]))
    assert not are_distributions(np.array([[-0.25, 1.25]]))
    assert not are_distributions(np.empty((0, 2)))
    table = seen(a=["0.25", "0.5"], b=[0.75, 0.5], c=["x", "y"])
    assert table.sum_to_one(["a", "b"])
    assert not table.sum_to_one(["a"])
    assert not table.sum_to_one(["a", "c"])


def test_labels_that_are_classes():
    table = seen(y=["0", "1", "NA", None], z=["a", "b", "x", ""], n=[1.0, 0.0, None, 1.0], w=[[1], [2], [3], [4]])
    assert table.in_classes("y", Classes(range(2)))
    assert table.in_classes("n", Classes(range(2)))
    assert not table.in_classes("z", Classes(("a", "b")))
    assert table.in_classes("z", Classes(("a", "b", "x")))
    assert not table.in_classes("w", Classes(range(5)))
    assert not seen(y=[None, None]).in_classes("y", Classes(range(2)))


def test_fields_of_objects_are_columns():
    batch = pa.RecordBatch.from_pydict({"meta": [{"y": 1}], "text": ['{"z": {"k": 2}}'], "p": ["[not json"]})
    assert Seen(batch).names == ["meta", "meta.y", "text", "text.z", "text.z.k", "p"]
    assert nested_paths(batch) == ["meta.y", "text.z", "text.z.k"]


def test_all_numbers_of_a_row():
    table = seen(q=[[0.5, 0.5]], named=[{"a": 0.5, "b": 0.5}], one=[[1.0]], texts=["[0.5 0.5]"], x=[1.0])
    assert table.rows("q")[1] is None
    assert table.rows("named")[1].names == ("a", "b")
    assert table.rows("texts")[0].tolist() == [[0.5, 0.5]]
    assert table.rows("one") is None
    assert table.rows("x") is None
