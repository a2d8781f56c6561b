"""Files elsewhere: fsspec's file system in memory is the elsewhere of these tests."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import fsspec
import numpy as np
import pytest

from crossent.scoring.input.reader import FileError
from crossent.scoring.input.several import open_tables
from tests.scoring import written
from tests.scoring.written import columns, predictions

Y, P = predictions(60)


@pytest.fixture
def system() -> Any:
    found = fsspec.filesystem("memory")
    yield found
    found.store.clear()
    found.pseudo_dirs[:] = [""]


def put(system: Any, name: str, rows: slice, ending: str = "csv") -> None:
    with system.open(name, "wb") as file:
        _ = file.write(getattr(written, ending)(columns(Y[rows], P[rows])))


def column(names: Any) -> Any:
    with open_tables(names) as tables:
        portions = list(tables.batches(["p_1"], []))
    return np.concatenate([portion.batch.column(0).to_numpy() for portion in portions])


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl", "npz"])
@pytest.mark.parametrize("way", ["file", "folder", "pattern"])
def test_files_in_memory(way: str, ending: str, system: Any) -> None:
    if way == "file":
        put(system, f"/x/a.{ending}", slice(None), ending)
    else:
        put(system, f"/x/b.{ending}", slice(30, None), ending)
        put(system, f"/x/a.{ending}", slice(30), ending)
        put(system, "/x/_SUCCESS", slice(30))
    name = {"file": f"memory://x/a.{ending}", "folder": "memory://x", "pattern": f"memory://x/*.{ending}"}[way]
    np.testing.assert_allclose(column(name), P[:, 1], rtol=1e-15)


def test_errors_name_the_url(system: Any) -> None:
    with system.open("/x/a.csv", "wb") as file:
        _ = file.write(b"y,p_1\n1,high\n")
    with pytest.raises(FileError, match=r"memory://x?/?x?/a\.csv: In column 'p_1'.*'high'") as caught:
        _ = column("memory://x/a.csv")
    assert "crossent-" not in str(caught.value)
    with pytest.raises(FileError, match=r"cannot read memory://x/none\.csv: no such file"):
        _ = column("memory://x/none.csv")
    with pytest.raises(FileError, match=r"memory://x/\*\.jsonl: no file matches"):
        _ = column("memory://x/*.jsonl")
    with pytest.raises(FileError, match=r"nowhere://x/a\.csv: Protocol not known"):
        _ = column("nowhere://x/a.csv")


def test_without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, before = {"fsspec", "s3fs"}, builtins.__import__

    def imported(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] in hidden:
            raise ImportError(name)
        return before(name, *rest)

    monkeypatch.setattr(builtins, "__import__", imported)
    monkeypatch.delitem(sys.modules, "s3fs", raising=False)
    with pytest.raises(FileError, match=r"s3://b/a\.csv is read by fsspec, .*: pip install fsspec s3fs"):
        _ = column("s3://b/a.csv")
    hidden.discard("fsspec")
    with pytest.raises(FileError, match=r"s3://b/a\.csv needs a package .*: pip install fsspec s3fs"):
        _ = column("s3://b/a.csv")


def test_an_error_of_the_network_is_one_line(system: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("the bucket\nis closed")

    put(system, "/x/a.csv", slice(None))
    monkeypatch.setattr(type(system), "isdir", fails)
    with pytest.raises(FileError, match=r"cannot read memory://x/a\.csv: the bucket is closed"):
        _ = column("memory://x/a.csv")
