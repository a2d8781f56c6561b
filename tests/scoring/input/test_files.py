"""Tables in files: every format gives the same rows, and a new format is one entry in the table of readers."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from crossent.errors import InputError
from crossent.scoring.input.files import READERS, open_table
from crossent.scoring.input.reader import FileError, Portion, Reader
from tests.scoring.written import LISTS, SCALARS, columns, lists, predictions, saved

Y, P = predictions(50)


def rows(table, names, texts=()):
    portions = list(table.batches(names, texts))
    assert all(portion.batch.schema.names == list(names) for portion in portions)
    done = [portion.done for portion in portions]
    assert done == sorted(done)
    return pa.concat_tables(pa.table(portion.batch) for portion in portions), done[-1]


@pytest.mark.parametrize("name", SCALARS)
def test_columns_of_numbers(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(SCALARS[name](columns(Y, P)))
    table = open_table(path)
    assert table.columns == ("y", "p_0", "p_1", "p_2")
    found, done = rows(table, ["p_2", "y"])
    np.testing.assert_allclose(found["p_2"].to_numpy(), P[:, 2], rtol=1e-15)
    assert [int(label) for label in found["y"].to_pylist()] == Y.tolist()
    assert 0.98 < done <= 1.0  # a stream ends with a mark that no batch belongs to


@pytest.mark.parametrize("name", LISTS)
def test_a_column_of_lists(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(LISTS[name](lists(Y, P)))
    found, _ = rows(open_table(path), ["p"])
    np.testing.assert_allclose(found["p"].to_pylist(), P, rtol=1e-15)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.arrow", "a.npz"])
def test_batches_are_of_bounded_size(name, tmp_path, monkeypatch):
    path = saved(tmp_path / name, columns(*predictions(3000)))
    monkeypatch.setattr("crossent.scoring.input.reader.BATCH_BYTES", 8 * 4 * 500)
    sizes = [len(portion.batch) for portion in open_table(path).batches(["y", "p_0", "p_1", "p_2"], [])]
    assert sum(sizes) == 3000
    if name not in {"a.csv", "a.jsonl"}:  # pyarrow cuts these by bytes
        assert max(sizes) <= 500
        assert len(sizes) >= 6


def test_a_format_is_one_entry(tmp_path, monkeypatch):
    """A reader of lines "label probability", as somebody would add one."""

    def batches(wanted):
        lines = [line.split() for line in wanted.path.read_text().splitlines()]
        every = pa.table({"y": [line[0] for line in lines], "p": [float(line[1]) for line in lines]})
        yield Portion(every.select(wanted.names).to_batches()[0], 1.0)

    reader = Reader("lines", lambda path: ["y", "p"], batches, first_bytes=(b"yes", b"no"))
    monkeypatch.setitem(READERS, ".lines", reader)
    path = tmp_path / "a.lines"
    path.write_text("yes 0.75\nno 0.5\n")
    found, _ = rows(open_table(path), ["p", "y"], ["y"])
    assert found.to_pydict() == {"p": [0.75, 0.5], "y": ["yes", "no"]}
    path.write_text("maybe 0.5\n")
    with pytest.raises(FileError, match="does not begin as a lines file does"):
        open_table(path)
    path.write_text("yes much\n")
    with pytest.raises(FileError, match=r"a\.lines: could not convert string to float: 'much'"):
        rows(open_table(path), ["p"])


def test_endings_chosen_by_case_and_compression(tmp_path):
    data = SCALARS["a.csv"](columns(Y, P))
    (tmp_path / "A.CSV").write_bytes(data)
    assert open_table(tmp_path / "A.CSV").reader is READERS[".csv"]
    with pytest.raises(FileError, match="known are .*" + ", ".join(map(re.escape, READERS))):
        open_table(saved(tmp_path / "a.csv", columns(Y, P)).rename(tmp_path / "a.table"))


def test_every_reader_says_how_its_files_begin_or_that_it_does_not_know():
    for ending, reader in READERS.items():
        assert ending.startswith(".")
        assert isinstance(reader, Reader)
    several = {id(r): r for r in READERS.values() if r is not READERS[".xlsx"]}  # a zip archive too, as npz is
    beginnings = [first for reader in several.values() for first in reader.first_bytes]
    assert len(beginnings) == len(set(beginnings))


def test_a_file_error_is_an_input_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        open_table(path)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.arrow", "a.jsonl"])
def test_a_column_named_twice_is_refused_where_it_is_read(name, tmp_path):
    made = pa.table([[1, 0], [0.5, 0.25], [1, 2], [3, 4]], names=["y", "p", "z", "z"])
    if name == "a.csv":
        pa.csv.write_csv(made, tmp_path / name)
    elif name == "a.parquet":
        pa.parquet.write_table(made, tmp_path / name)
    elif name == "a.arrow":
        with pa.ipc.new_file(tmp_path / name, made.schema) as writer:
            writer.write_table(made)
    else:
        (tmp_path / name).write_text('{"y": 1, "p": 0.5, "z": 1, "z": 3}\n{"y": 0, "p": 0.25, "z": 2, "z": 4}\n')
    table = open_table(tmp_path / name)
    (portion,) = table.batches(["p", "y"], [])
    assert portion.batch.to_pydict() == {"p": [0.5, 0.25], "y": [1, 0]}
    with pytest.raises(FileError, match=r"'z' occurs twice"):
        _ = list(table.batches(["p", "z"], []))
