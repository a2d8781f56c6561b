"""Columns of pyarrow as arguments: codes of labels with their missing values, and numbers of columns and of lists."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from crossent.errors import InputError
from crossent.scoring.input.arrow import arguments, coded, numbers
from crossent.scoring.input.columns import Columns


def decoded(column):
    found = coded(column, "column 'y'", "y")
    return [found.values[k] for k in found.codes]


@pytest.mark.parametrize(
    "values", [["b", "a", None, "b"], [1.5, None, 1.5], [True, False, None], ["a"], [3, None, 4]], ids=str
)
def test_codes_stand_for_the_values(values):
    assert decoded(pa.array(values)) == values
    assert decoded(pa.array(values).dictionary_encode()) == values


def test_nan_is_a_missing_label():
    assert decoded(pa.array([0.5, float("nan")], from_pandas=False)) == [0.5, None]


def test_integers_stay_as_they_are():
    found = coded(pa.array([3, 1, 2], pa.uint8()), "column 'y'", "y")
    assert isinstance(found, np.ndarray)
    assert found.tolist() == [3, 1, 2]


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.int16(), pa.decimal128(21, 2)], ids=str)
def test_columns_are_numbers_by_row(kind):
    found = numbers([pa.array([1, 2, 3], pa.int64()).cast(kind), pa.array([4, None, 6], pa.int64()).cast(kind)], "ab")
    np.testing.assert_array_equal(found, [[1, 4], [2, np.nan], [3, 6]])


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1.0, 2.0], [3.0, 4.0]]),
        pa.array([[1.0, 2.0], [3.0, 4.0]], pa.large_list(pa.float64())),
        pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float64(), 2)),
        pa.array([[9.0, 9.0], [1.0, 2.0], [3.0, 4.0]]).slice(1),
    ],
    ids=["list", "large list", "fixed list", "slice"],
)
def test_lists_are_numbers_by_row(column):
    np.testing.assert_array_equal(numbers([column], ["p"]), [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([[1.0], None]), "column 'p' has no list in row 6"),
        (pa.array([[1.0, 2.0], [3.0]]), "differ in length: 2 numbers at first, 1 in row 6"),
        (pa.array(["a", "b"]), "column 'p' holds string, not numbers"),
        (pa.array([["a"], ["b"]]), "column 'p' holds string, not numbers"),
    ],
)
def test_what_is_no_number(column, words):
    with pytest.raises(InputError, match=words):
        numbers([column], ["p"], first=5)


def test_a_batch_is_the_arguments_of_update():
    batch = pa.record_batch({"y": ["b", "a"], "p_a": [0.25, 0.5], "p_b": [0.75, 0.5], "w": [1, 2], "n": ["r1", "r2"]})
    found = arguments(batch, Columns("y", "probs", ["p_a", "p_b"], weight="w", by=["n"], id="n"))
    assert [found["y"].values[k] for k in found["y"].codes] == ["b", "a"]
    np.testing.assert_array_equal(found["probs"].values, [[0.25, 0.75], [0.5, 0.5]])
    assert found["probs"].names == ["p_a", "p_b"]
    assert found["weight"].tolist() == [1, 2]
    assert found["cluster"] is None
    assert list(found["by"]) == ["n"]
    assert found["id"].tolist() == ["r1", "r2"]
