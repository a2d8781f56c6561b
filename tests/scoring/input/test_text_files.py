"""Text files: separators, compression, kinds of columns and lines that are not what they should be."""

from __future__ import annotations

import bz2
import csv
import gzip
import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from crossent.errors import InputError
from crossent.scoring.input import files, text_files
from crossent.scoring.input.files import open_table
from crossent.scoring.input.reader import FileError, FileOptions


def read(path, names, texts=()):
    found = [portion.batch.to_pydict() for portion in open_table(path).batches(names, texts)]
    return {name: [value for batch in found for value in batch[name]] for name in names}


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.csv", bytes), ("a.csv.gz", gzip.compress), ("a.csv.bz2", bz2.compress)],
    ids=["plain", "gz", "bz2"],
)
def test_csv(name, pack, tmp_path):
    (tmp_path / name).write_bytes(pack(b"y,p,note\n1,0.25,x\n2,,y\n"))
    assert open_table(tmp_path / name).columns == ("y", "p", "note")
    assert read(tmp_path / name, ["p", "y"], ["y"]) == {"p": [0.25, None], "y": ["1", "2"]}


NONE = ["NA", "null", "nan", "None", "", "N/A", "<NA>"]


def test_texts_of_no_value_are_texts_in_columns_of_texts_and_none_among_numbers(tmp_path):
    lines = "".join(f"{text},{text}\n" for text in NONE)
    (tmp_path / "a.csv").write_text(f"y,p\n{lines}x,0.5\n")
    assert read(tmp_path / "a.csv", ["y", "p"], ["y"]) == {"y": [*NONE, "x"], "p": [None] * len(NONE) + [0.5]}


def test_tsv_of_a_spreadsheet(tmp_path):
    (tmp_path / "a.tsv").write_bytes("\ufeffy\tp\r\nja\t0.5\r\n".encode())
    assert read(tmp_path / "a.tsv", ["y", "p"], ["y"]) == {"y": ["ja"], "p": [0.5]}


def test_jsonl_columns_have_the_types_of_the_first_line(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"y": 1, "w": 2, "p": [0.5, 0.5], "more": {}}\n{"y": 0, "p": [1, 0], "w": null}\n'
    )
    found = read(tmp_path / "a.jsonl", ["y", "w", "p"], ["y"])
    assert found == {"y": [1, 0], "w": [2.0, None], "p": [[0.5, 0.5], [1.0, 0.0]]}
    assert [type(label) for label in found["y"]] == [int, int]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.csv", b"y;p\n1;2\n", "its columns are separated by ';', not by ','"),
        ("a.csv", b"y,p\n1,high\n", "column 'p'"),
        ("a.csv", b"y,\xff\n", "not text in UTF-8"),
        ("a.csv", b"y,p\x00\n", "its first line holds"),
        ("a.csv", b"\n\n", "holds blank lines only"),
        ("a.jsonl", b"[1]\n", "line 1: not an object with a value for each column, but list"),
        ("a.jsonl", b"{'y': 1}\n", "line 1: not JSON"),
    ],
)
def test_what_is_no_table(name, data, words, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FileError, match=words):
        read(tmp_path / name, ["p"])


def test_another_delimiter_is_one_entry(tmp_path, monkeypatch):
    monkeypatch.setitem(files.READERS, ".psv", text_files.delimited("psv", "|"))
    (tmp_path / "a.psv").write_text("y|p\nyes|0.5\nno, never|0.25\n")
    assert read(tmp_path / "a.psv", ["y", "p"], ["y"]) == {"y": ["yes", "no, never"], "p": [0.5, 0.25]}


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_quoted_newlines_and_doubled_quotes_anywhere(pack, tmp_path):
    """5 MB: the reader takes 4 MiB at a time, and a value may begin in one part and end in the next."""
    texts = [f'row {k}: "{"x" * (k % 211)}",\r\nnext\n{"y" * (k % 17)}"' for k in range(40_000)]
    sink = io.StringIO(newline="")
    rows = csv.writer(sink)
    rows.writerow(["y", "p", 'a "note",\nin two lines'])
    rows.writerows([k % 3, 0.5, text] for k, text in enumerate(texts))
    path = tmp_path / ("a.csv" if pack is bytes else "a.csv.gz")
    path.write_bytes(pack(sink.getvalue().encode()))
    assert len(sink.getvalue()) > 5_000_000
    name = open_table(path).columns[2]
    assert name == 'a "note",\nin two lines'
    assert read(path, ["y", name], ["y", name]) == {"y": [str(k % 3) for k in range(40_000)], name: texts}


def test_a_quotation_mark_that_nothing_closes(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'y,p\n1,"' + b"0,1\n" * (3 << 20))
    with pytest.raises(FileError, match=r"a row is longer than 4 MiB; is there a quotation mark that nothing closes\?"):
        read(tmp_path / "a.csv", ["p"])
    (tmp_path / "a.csv").write_bytes(b'"y,p\n' + b"0,1\n" * (3 << 20))
    with pytest.raises(FileError, match=r"a\.csv: field larger than field limit"):
        read(tmp_path / "a.csv", ["p"])


def read_as(path, names, texts=(), **made):
    found = [portion.batch.to_pydict() for portion in open_table(path, FileOptions(**made)).batches(names, texts)]
    return {name: [value for batch in found for value in batch[name]] for name in names}


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-8", "latin-1", "mac-roman"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
@pytest.mark.parametrize(("delimiter", "decimal"), [(";", ","), ("tab", "."), ("|", ","), (",", "."), ("space", ".")])
def test_options_beside_pandas(delimiter, decimal, pack, encoding, tmp_path):
    frame = pd.DataFrame({"größe": ["été", "Ä", "x y"], "p": [0.5, 1e-3, np.nan], "q": [1.0, 0.25, 0.125]})
    mark = {"tab": "\t", "space": " "}.get(delimiter, delimiter)
    path = tmp_path / ("a.csv" if pack is bytes else "a.csv.gz")
    path.write_bytes(pack(frame.to_csv(index=False, sep=mark, decimal=decimal, na_rep="?").encode(encoding)))
    found = read_as(
        path, ["größe", "p", "q"], ["größe"], delimiter=delimiter, decimal=decimal, encoding=encoding, na=("?",)
    )
    wanted = pd.read_csv(path, sep=mark, decimal=decimal, encoding=encoding, na_values=["?"])
    assert found["größe"] == wanted["größe"].tolist() == frame["größe"].tolist()
    assert found["q"] == wanted["q"].tolist()
    assert found["p"] == [0.5, 1e-3, None]
    assert wanted["p"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("data", "made", "words"),
    [
        (b"y;p\n1;0,5\n", {}, r"its columns are separated by ';', not by ','; pass delimiter=';'"),
        (b"y\tp\n1\t0,5\n", {}, r"its columns are separated by '\\t', not by ','; pass delimiter='tab'"),
        (b"y,p\n1,0.5\n", {"delimiter": ";"}, r"its columns are separated by ',', not by ';'; pass delimiter=','"),
        (b"y;p\n1;0,5\n", {"delimiter": ";"}, r"'p'.*'0,5'; pass decimal=','"),
        ("y,p,ä\n1,0.5,b\n".encode("cp1252"), {}, r"not text in UTF-8 \(byte 0xe4 in line 1\).*pass encoding='cp1252'"),
        ("y,p\nä,0.5\n".encode("cp1252"), {}, r"not text in UTF-8 .*pass encoding='cp1252'"),
        ("y,p\nä,0.5\n".encode("utf-16"), {}, r"is a UTF-16 file by its first bytes.*pass encoding='utf-16'"),
        ("y,p\nä,0.5\n".encode("utf-32"), {}, r"is a UTF-32 file by its first bytes.*pass encoding='utf-32'"),
        ("y,p\nä,0.5\n".encode(), {"encoding": "ascii"}, r"is not text in ascii"),
        (b"y,p\n\xe4,0.5\n" * 9, {"encoding": "utf-16"}, r"not text in utf-16|holds|no column|not text"),
    ],
)
def test_what_to_pass(data, made, words, tmp_path):
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(FileError, match=words):
        read_as(tmp_path / "a.csv", ["y", "p"], ["y"], **made)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"delimiter": ";;"}, "delimiter must be one character such as ';' or tab, got ';;'"),
        ({"delimiter": '"'}, "delimiter must be one character"),
        ({"delimiter": "\n"}, "delimiter must be one character"),
        ({"delimiter": "§"}, "delimiter must be one character"),
        ({"delimiter": ""}, "delimiter must be one character"),
        ({"delimiter": 5}, "delimiter must be one character, got 5"),
        ({"decimal": "x"}, "decimal must be a mark such as ',', got 'x'"),
        ({"decimal": "-"}, "decimal must be a mark"),
        ({"delimiter": ",", "decimal": ","}, "delimiter and decimal are both ','"),
        ({"encoding": "klingon"}, "encoding must be the name of one, such as cp1252 or utf-16, got 'klingon'"),
        ({"encoding": "rot13"}, "encoding must be the name of one"),
        ({"encoding": "zip"}, "encoding must be the name of one"),
    ],
)
def test_options_that_cannot_be_used(made, words):
    with pytest.raises(InputError, match=words):
        FileOptions(**made)


@pytest.mark.parametrize("made", [{"delimiter": ";"}, {"decimal": ","}, {"encoding": "cp1252"}, {"sheet": "x"}])
def test_options_of_other_formats(made, tmp_path):
    pa.parquet.write_table(pa.table({"y": [1]}), tmp_path / "a.parquet")
    (name,) = made
    with pytest.raises(FileError, match=rf"a parquet file has no {name}; leave out {name}="):
        open_table(tmp_path / "a.parquet", FileOptions(**made))


WEKA = """inst#,actual,predicted,error,distribution,,
1,1:cat,3:owl,+,0.25,0.25,*0.5
2,2:dog,2:dog,,0,*1,0
3,3:owl,1:cat,+,*0.5,0.25,0.25
"""


def test_the_distribution_of_weka_has_columns_without_stars(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(WEKA)
    columns = [f"distribution {k}" for k in (1, 2, 3)]
    assert open_table(path).columns == ("inst#", "actual", "predicted", "error", *columns)
    found = read(path, ["actual", *columns], ["actual"])
    assert found == dict(zip(["actual", *columns], [
        ["1:cat", "2:dog", "3:owl"], [0.25, 0.0, 0.5], [0.25, 1.0, 0.25], [0.5, 0.0, 0.25],
    ], strict=True))  # fmt: skip
    assert read(path, columns[2:], columns)["distribution 3"] == ["0.5", "0", "0.25"]


def test_other_columns_of_weka_stay_behind_the_distribution(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(WEKA.replace(",,\n", ",,,id\n").replace("0.5\n", "0.5,7\n").replace("0\n", "0,8\n"))
    assert open_table(path).columns[-2:] == ("distribution 3", "id")
