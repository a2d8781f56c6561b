"""The contract of readers: batches of a bounded number of elements, whatever the width of rows."""

from __future__ import annotations

import pytest

from crossent.scoring.input.reader import ELEMENTS, rows_at_a_time


@pytest.mark.parametrize("width", [0, 1, 7, 1000, ELEMENTS, 10 * ELEMENTS])
def test_batches_are_of_bounded_size(width):
    rows = rows_at_a_time(width)
    assert 1 <= rows <= 1 << 16
    assert rows * width <= ELEMENTS or rows == 1
    assert (rows + 1) * width > ELEMENTS or rows == 1 << 16
