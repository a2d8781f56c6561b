"""Tables in one value of JSON, as pandas, polars and servers of models write them; each is what was written."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossent.scoring.input import json_tables
from crossent.scoring.input.files import open_table
from crossent.scoring.input.reader import FileError

RANDOM = np.random.default_rng(2)
N = 500
FRAME = pd.DataFrame(
    {
        "y": RANDOM.choice(["cat", "dog", "\u00e4\U0001f600"], N),
        "p": RANDOM.random(N),
        "n": RANDOM.integers(0, 9, N),
        "q": RANDOM.random((N, 2)).tolist(),
    }
)


def read(path, names, texts=("y",)):
    table = open_table(path)
    found = [portion.batch.to_pydict() for portion in table.batches(names, texts)]
    return table.columns, {name: [value for batch in found for value in batch[name]] for name in names}


def written(frame, form, path):
    if form in ("records", "split", "table", "index"):
        frame.to_json(path, orient=form, double_precision=15)
    elif form == "columns":
        frame.to_json(path, double_precision=15)
    elif form == "lines":
        frame.to_json(path, orient="records", lines=True, double_precision=15)
    elif form == "polars":
        pl.DataFrame(frame.to_dict("list")).write_json(path)
    elif form == "lists":
        path.write_text(json.dumps(frame.to_dict("list"), indent=1))
    elif form == "W&B":
        rows = [[y, p, n, q] for y, p, n, q in frame.itertuples(index=False)]
        path.write_text(json.dumps({"ncols": 4, "nrows": len(rows), "data": rows, "columns": list(frame.columns)}))
    else:
        path.write_text(json.dumps({"id": 3, "instances": frame.to_dict("records")}))


@pytest.mark.parametrize("block", [64, 1 << 20])
@pytest.mark.parametrize(
    "form", ["records", "split", "table", "columns", "index", "lines", "polars", "lists", "W&B", "one array"]
)
def test_a_table_is_what_was_written(form, block, tmp_path, monkeypatch):
    monkeypatch.setattr("crossent.scoring.input.json_scanner._BLOCK", block)
    monkeypatch.setattr(json_tables, "_ROWS", 200)
    written(FRAME, form, tmp_path / "a.json")
    columns, found = read(tmp_path / "a.json", ["q", "y", "p"])
    assert [name for name in columns if name != "index"] == list(FRAME.columns)
    assert found["y"] == FRAME["y"].tolist()
    np.testing.assert_allclose(found["p"], FRAME["p"], rtol=1e-15, atol=1e-15)
    np.testing.assert_allclose(found["q"], FRAME["q"].tolist(), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("form", ["records", "columns"])
def test_compressed_tables(form, tmp_path):
    written(FRAME, form, tmp_path / "a.json")
    (tmp_path / "b.json.gz").write_bytes(gzip.compress((tmp_path / "a.json").read_bytes()))
    assert read(tmp_path / "a.json", ["y"]) == read(tmp_path / "b.json.gz", ["y"])


@pytest.mark.parametrize("text", ["[[0.25, 0.75], [0.5, 0.5]]", '{"predictions": [[0.25, 0.75], [0.5, 0.5]]}'])
def test_predictions_alone(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    columns, found = read(tmp_path / "a.json", ["predictions"])
    assert columns == ("predictions",)
    assert found["predictions"] == [[0.25, 0.75], [0.5, 0.5]]


def test_frames_with_gaps_in_their_index(tmp_path):
    """The rows of a test set keep the numbers that they had."""
    part = FRAME[FRAME["n"] > 4]
    for form in ("columns", "index"):
        written(part, form, tmp_path / "a.json")
        assert read(tmp_path / "a.json", ["y"])[1]["y"] == part["y"].tolist()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("3", "neither an array nor an object"),
        ("[1, 2]", "an array of a number"),
        ("[]", "an array without rows"),
        ('{"a": 1, "b": "x"}', "not a known form of table"),
        ('{"a": {"0": 1}, "b": [1]}', "not a known form of table"),
        ('{"1": {"0": 1}, "2": {"0": 2}}', "an object of objects"),
        ('{"x": {"a": 1}, "y": {"a": 2}}', "an object of objects"),
        ('{"a": [1, 2], "b": [1]}', "not a known form of table"),
        ('{"columns": ["y", "p"], "data": [[1, 0.5], [1]]}', "row 1 of data does not have 2 values"),
        ('[{"y": 1, "p": 0.5}, 3]', "row 1 is a number"),
        ('[{"y": 1, "p": 0.5}, {"y": 1, "y": 2, "p": 1}]', "'y' occurs twice in row 1"),
        ('[{"y": 1, "p": 0.5}, {"y": 1, "p": "x"}]', "row 1: column 'p' holds"),
        ('[{"y": 1, "p": 0.5}, {"y": 1', "not JSON"),
        ('[{"y": 1, "p": 0.5} {"y": 1, "p": 0.5}]', "not JSON"),
        ('{"y": {"0": 1, "1": 2}, "p": {"0": 0.5, "2": 0.5}}', "different rows from row 1 on"),
        ('{"y": {"0": 1, "1": 2}, "p": {"0": 0.5}}', "different rows from row 1 on"),
        ('{"y": [1], "y": [2]}', "'y' occurs twice"),
        ('{"a": ' * 5000, "nested too deeply"),
    ],
)
def test_what_is_no_table_is_refused(text, says, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(FileError) as raised:
        read(tmp_path / "a.json", ["y", "p"])
    assert says in str(raised.value)
    assert "a.json" in str(raised.value)


def test_more_columns_than_streams_are_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({f"c{k}": [1] for k in range(1000)}))
    with pytest.raises(FileError, match="1000 columns, stored one after the other"):
        open_table(tmp_path / "a.json")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["records", "split", "columns", "index", "lists", "W&B"])
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damaged_tables_raise_one_error(form, tmp_path_factory, data):
    """Whatever bytes are changed, cut out or doubled: the rows come, or a `FileError` that names the file."""
    path = tmp_path_factory.mktemp("damaged") / "a.json"
    written(FRAME[:4], form, path)
    whole = path.read_bytes()
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(whole)))
        end = min(len(whole), begin + data.draw(st.integers(0, 9)))
        whole = (
            whole[:begin]
            + data.draw(st.sampled_from([b"", b'"', b"[", b"]", b"{", b"}", b",", b":", b"0", b"\xff"]))
            + whole[end:]
        )
    path.write_bytes(whole)
    said, rows = "a.json", 0
    try:
        table = open_table(path)
        names = [name for name in ("y", "p", "q") if table.columns.count(name) == 1]
        rows = sum(len(portion.batch) for portion in table.batches(names, ["y"])) if names else 0
    except FileError as error:
        said = str(error)
    assert "a.json" in said
    assert "\n" not in said
    assert rows <= 8


@pytest.mark.slow
@pytest.mark.parametrize("form", ["records", "columns", "W&B"])
def test_memory_does_not_grow_with_the_table(form, tmp_path, monkeypatch):
    monkeypatch.setattr("crossent.scoring.input.json_scanner._BLOCK", 1 << 16)
    peaks = []
    for repeats in (30, 120):
        written(pd.concat([FRAME[["y", "p", "n", "q"]]] * repeats, ignore_index=True), form, tmp_path / "a.json")
        tracemalloc.start()
        for portion in json_tables.JSON.batches(selection(tmp_path / "a.json")):
            assert len(portion.batch) <= json_tables._ROWS
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def selection(path):
    from crossent.scoring.input.reader import Selection

    return Selection(path, tuple(json_tables.JSON.columns(path)), ["y", "p"], frozenset({"y"}))
