"""Outputs of models without names of columns, read as NumPy and Python read them."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from crossent.scoring.input import output_files
from crossent.scoring.input.files import open_table
from crossent.scoring.input.reader import FileError

P = np.random.default_rng(0).dirichlet(np.ones(3), 200)


def read(path):
    table = open_table(path)
    assert table.columns == ("predictions",)
    return [row for portion in table.batches(["predictions"], []) for row in portion.batch.column(0).to_pylist()]


@pytest.mark.parametrize("block", [50, 1 << 20])
@pytest.mark.parametrize("delimiter", [" ", ",", "\t", ", "])
def test_a_number_a_class(delimiter, block, tmp_path, monkeypatch):
    monkeypatch.setattr(output_files, "_BLOCK", block)
    np.savetxt(tmp_path / "a.txt", P, fmt="%.17g", delimiter=delimiter)
    assert read(tmp_path / "a.txt") == P.tolist()
    (tmp_path / "a.out.gz").write_bytes(gzip.compress((tmp_path / "a.txt").read_bytes()))
    assert read(tmp_path / "a.out.gz") == P.tolist()


def test_one_number_a_row(tmp_path):
    np.savetxt(tmp_path / "a.out", P[:, 1], fmt="%.17g")
    assert read(tmp_path / "a.out") == P[:, 1].tolist()


def test_labels_of_fasttext(tmp_path):
    rows = [sorted(zip("abc", row, strict=True), key=lambda pair: -pair[1]) for row in P.tolist()]
    (tmp_path / "a.txt").write_text("".join(" ".join(f"__label__{k} {p!r}" for k, p in row) + "\n" for row in rows))
    assert read(tmp_path / "a.txt") == rows


def test_lists_of_json(tmp_path):
    (tmp_path / "a.out").write_text("\n".join(map(json.dumps, P.tolist())))
    assert read(tmp_path / "a.out") == P.tolist()


def test_json_lines(tmp_path):
    (tmp_path / "a.out").write_text('{"y": 1, "p": 0.5}\n{"y": 0, "p": 0.25}\n')
    table = open_table(tmp_path / "a.out")
    assert table.columns == ("y", "p")
    assert [portion.batch.to_pydict() for portion in table.batches(["y", "p"], ["y"])] == [
        {"y": [1, 0], "p": [0.5, 0.25]}
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("y,p\n1,0.5\n", "holds neither numbers nor labels of fastText"),
        ("0.5 0.5\n0.5\n", "line 2: '0.5' does not hold 2 numbers"),
        ("0.5\nx\n", "line 2: 'x' does not hold 1 numbers"),
        ("__label__a 0.5 __label__b 0.5\n__label__a\n", "line 2"),
        ("__label__a 0.5\nb 0.5\n", "line 2"),
        ("[0.5, 0.5]\n[0.5\n", "not a JSON list"),
        ("0.5\n\xff\n", "not text in UTF-8"),
        ("\n\n", "is empty"),
    ],
)
def test_other_lines_are_refused(text, says, tmp_path):
    (tmp_path / "a.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(FileError) as raised:
        read(tmp_path / "a.txt")
    assert says in str(raised.value)
