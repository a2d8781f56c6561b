"""Columns of numbers, and of lists of them, as arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from crossent.errors import InputError
from crossent.scoring.input.arrow_numbers import Matrix, column_names, numbers, vector


def test_several_columns_are_a_matrix():
    found = numbers([pa.array([1, 2]), pa.array([0.5, None])], ["a", "b"])
    np.testing.assert_array_equal(found, [[1.0, 0.5], [2.0, np.nan]])


def test_types_are_kept_where_they_agree():
    assert numbers([pa.array([1.0], pa.float32()), pa.array([2.0], pa.float32())], "ab").dtype == np.float32
    assert vector(pa.nulls(2), "a").tolist() == pytest.approx([np.nan, np.nan], nan_ok=True)


def test_texts_are_no_numbers():
    with pytest.raises(InputError, match="column 'a' holds string, not numbers"):
        vector(pa.array(["x"]), "a")


def test_names_of_columns():
    assert column_names(pa.table({"a": [1], "b": [2]})) == ["a", "b"]
    assert column_names(pa.array([1])) is None
    assert Matrix(np.zeros(1), None).classes is None
