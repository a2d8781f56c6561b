"""Files of NumPy: archives read row by row, columns beside each other, and arrays that are no columns of one table."""

from __future__ import annotations

import io

import numpy as np
import pytest

from crossent.scoring.input.files import open_table
from crossent.scoring.input.reader import FileError

Y, P = np.arange(40) % 3, np.random.default_rng(0).dirichlet(np.ones(3), 40)


def archive(path, **arrays):
    np.savez(path, **arrays)
    return path


def read(path, names):
    batches = [portion.batch for portion in open_table(path).batches(names, [])]
    return {name: [value for batch in batches for value in batch[name].to_pylist()] for name in names}


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", "<f2", ">i4"])
def test_an_archive_in_parts(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr("crossent.scoring.input.reader.BATCH_BYTES", 7 * (8 + 3 * np.dtype(dtype).itemsize))
    p = (100 * P).astype(dtype)
    path = archive(tmp_path / "a.npz", y=Y, p=p, unread=np.array([{}], object))
    assert open_table(path).columns == ("y", "p", "unread")
    assert [len(portion.batch) for portion in open_table(path).batches(["y", "p"], [])] == [7] * 5 + [5]
    assert read(path, ["p", "y"]) == {"p": p.tolist(), "y": Y.tolist()}


def test_columns_lie_beside_an_array(tmp_path):
    np.save(tmp_path / "p.npy", P)
    np.save(tmp_path / "y.npy", Y)
    assert open_table(tmp_path / "p.npy").columns == ("p", "y")
    assert read(tmp_path / "p.npy", ["y", "p"]) == {"y": Y.tolist(), "p": P.tolist()}


def test_named_fields_are_columns(tmp_path):
    np.save(tmp_path / "a.npy", np.rec.fromarrays([Y, P[:, 0]], names="y,p"))
    assert open_table(tmp_path / "a.npy").columns == ("y", "p")
    assert read(tmp_path / "a.npy", ["p"]) == {"p": P[:, 0].tolist()}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"p": np.array([{}], object)}, "array 'p' holds Python objects, which are never read"),
        ({"p": P.astype(complex)}, "array 'p' holds complex128, not numbers or text"),
        ({"p": P[None]}, r"array 'p' has shape \(1, 40, 3\)"),
        ({"p": P, "y": Y[:7]}, r"the arrays differ in length: \[\('p', 40\), \('y', 7\)\]"),
        ({"p": np.asfortranarray(P)}, "save it with order C"),
    ],
)
def test_what_is_no_column(arrays, words, tmp_path):
    with pytest.raises(FileError, match=words):
        read(archive(tmp_path / "a.npz", **arrays), list(arrays))


def test_pickles_are_never_read(tmp_path):
    sink = io.BytesIO()
    np.save(sink, np.array([print], object), allow_pickle=True)
    (tmp_path / "a.npy").write_bytes(sink.getvalue())
    with pytest.raises(FileError, match="pickle"):
        open_table(tmp_path / "a.npy")
