"""The contract of readers: batches of a bounded number of bytes, whatever the width of rows."""

from __future__ import annotations

import pytest

from crossent.scoring.input.reader import BATCH_BYTES, ROW_BYTES, FileError, rows_at_a_time


@pytest.mark.parametrize("row_bytes", [0, 8, 60.5, 8000, BATCH_BYTES, ROW_BYTES])
def test_batches_are_of_bounded_size(row_bytes):
    rows = rows_at_a_time(row_bytes)
    assert 1 <= rows <= 1 << 16
    assert rows * row_bytes <= BATCH_BYTES or rows == 1
    assert (rows + 1) * row_bytes > BATCH_BYTES or rows == 1 << 16


def test_rows_are_of_bounded_size():
    with pytest.raises(FileError, match=r"a row takes 4,096 MiB, more than the 64 that"):
        _ = rows_at_a_time(1 << 32)
