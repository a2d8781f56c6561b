"""Files of Arrow's family: batches cut by the width of their rows, and offsets that point nowhere."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from crossent.scoring.input.files import open_table
from crossent.scoring.input.reader import FileError
from tests.laws.mutated import mutated, originals
from tests.scoring import written

P = np.random.default_rng(0).dirichlet(np.ones(8), 300)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "stream.arrow", "a.feather"])
def test_rows_of_lists_are_cut_by_their_width(name, tmp_path, monkeypatch):
    monkeypatch.setattr("crossent.scoring.input.reader.BATCH_BYTES", 8 * 50 * 9 + 4 * 50)  # with lists' offsets
    path = tmp_path / name
    path.write_bytes(written.SCALARS[name](written.lists(np.arange(300), P)))
    portions = list(open_table(path).batches(["y", "p"], ["y"]))
    assert 30 <= max(len(portion.batch) for portion in portions) <= 50
    assert [label for portion in portions for label in portion.batch["y"].to_pylist()] == list(range(300))
    np.testing.assert_array_equal([row for portion in portions for row in portion.batch["p"].to_pylist()], P)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "stream.arrow"])
def test_a_table_without_rows_has_no_batches_or_empty_ones(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(written.SCALARS[name]({"y": pa.array([], pa.int64()), "p": pa.array([], pa.float64())}))
    assert open_table(path).columns == ("y", "p")
    assert sum(len(portion.batch) for portion in open_table(path).batches(["p"], [])) == 0


def test_offsets_of_a_damaged_file_are_checked(tmp_path):
    wild = pa.ListArray.from_buffers(
        pa.list_(pa.float64()),
        2,
        [None, pa.py_buffer(np.array([0, 2**30, 4], np.int32))],
        children=[pa.array([0.5] * 4)],
    )
    path = tmp_path / "a.arrow"
    path.write_bytes(written.arrow({"y": [0, 1], "p": wild}))
    with pytest.raises(FileError, match=r"a\.arrow: "):
        list(open_table(path).batches(["p"], []))


def test_damaged_metadata_of_a_later_group_are_an_error_and_no_end_of_the_process(tmp_path):
    """Pyarrow's access to the metadata ends the process where a histogram of levels has too few entries."""
    path = tmp_path / "a.parquet"
    path.write_bytes(mutated(originals()["score a.parquet"].data, random.Random("7 3804")))
    with pytest.raises(FileError, match="histogram size mismatch"):
        list(open_table(path).batches(open_table(path).columns, []))
