"""Files of different formats and writers with the same ids: the same rows, whatever type the ids have in each."""

from __future__ import annotations

import uuid
from datetime import date, datetime, time, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from tests.scoring.cli.runs import compared_files

N = 12
RNG = np.random.default_rng(0)
P, Y, ORDER = RNG.random(N), RNG.integers(0, 2, N), RNG.permutation(N)
START = datetime(2026, 1, 2, 3, 4, 5)
HOURS = [START + timedelta(hours=k) for k in range(N)]
UUIDS = [uuid.UUID(int=RNG.integers(2**62).item() << 64 | 0x8 << 60 | k) for k in range(N)]
IDS = {
    "whole numbers": pa.array(range(N)),
    "far numbers": pa.array([2**63 + k for k in range(N)], pa.uint64()),
    "floats": pa.array([k / 7 for k in range(N)]),
    "whole floats": pa.array([float(k) for k in range(N)]),
    "floats of 32 bits": pa.array([k / 7 for k in range(N)], pa.float32()),
    "decimals": pa.array([Decimal(k) / 100 for k in range(N)], pa.decimal128(9, 2)),
    "days": pa.array([date(2026, 1, 1 + k) for k in range(N)]),
    "midnights": pa.array([datetime(2026, 1, 1 + k) for k in range(N)], pa.timestamp("us")),
    "seconds": pa.array(HOURS, pa.timestamp("s")),
    "microseconds": pa.array([START + timedelta(microseconds=k) for k in range(N)], pa.timestamp("us")),
    "nanoseconds": pa.array(np.arange(N).astype("M8[ns]")),
    "moments in UTC": pa.array(HOURS, pa.timestamp("us", "UTC")),
    "moments in a zone": pa.array(HOURS, pa.timestamp("us", "Europe/Berlin")),
    "times": pa.array([time(1, 2, 3, 1000 * k) for k in range(N)]),
    "names": pa.array([f"row-{k}" for k in range(N)]),
    "names of a dictionary": pa.array([f"row-{k}" for k in range(N)]).dictionary_encode(),
    "bytes of names": pa.array([f"row-{k}".encode() for k in range(N)]),
}


def written_by_pandas(table, path):
    table.to_pandas().to_csv(path, index=False)


def written_by_polars(table, path):
    pl.from_arrow(table).write_csv(path)


def written_by_pyarrow(table, path):
    pa.csv.write_csv(table, path)


def json_of_pandas(table, path):
    table.to_pandas().to_json(
        path, orient="records", lines=True, date_format="iso", date_unit="ns", double_precision=15
    )


def json_of_polars(table, path):
    pl.from_arrow(table).write_ndjson(path)


WRITERS = {
    "pandas.csv": written_by_pandas, "polars.csv": written_by_polars, "pyarrow.csv": written_by_pyarrow,
    "pandas.jsonl": json_of_pandas, "polars.jsonl": json_of_polars,
}  # fmt: skip
UNWRITABLE = {("polars.csv", "bytes of names"), ("polars.jsonl", "bytes of names")}
SHORTENED = {("pandas.jsonl", "floats"), ("pandas.jsonl", "floats of 32 bits")}
"""Floats to 15 digits are not the same ids."""


def same(tmp_path, name):
    compared = compared_files(tmp_path / name, tmp_path / "other.parquet", "p", "id")
    assert compared.n == N
    # pandas writes JSON to 15 digits, and differences of losses follow
    assert abs(compared.difference) < (1e-12 if name == "pandas.jsonl" else 1e-15)


@pytest.mark.parametrize(
    ("writer", "ids"),
    [(w, i) for w in WRITERS for i in IDS if (w, i) not in UNWRITABLE | SHORTENED],
)
def test_ids_of_text_against_parquet(writer, ids, tmp_path):
    table = pa.table({"id": IDS[ids], "y": Y, "p": P})
    pa.parquet.write_table(table.take(pa.array(ORDER)), tmp_path / "other.parquet")
    WRITERS[writer](table, str(tmp_path / writer))
    same(tmp_path, writer)


@pytest.mark.parametrize(
    "texts",
    [list(map(str, UUIDS)), [u.hex for u in UUIDS], [str(u).upper() for u in UUIDS], [str(u.bytes) for u in UUIDS]],
    ids=["hyphens", "digits", "upper case", "bytes that pandas writes"],
)
def test_uuids_of_text_against_bytes(texts, tmp_path):
    frame = pd.DataFrame({"id": texts, "y": Y, "p": P})
    frame.to_csv(tmp_path / "a.csv", index=False)
    for column in (
        pa.array([u.bytes for u in UUIDS], pa.binary(16)),
        pa.array([u.bytes for u in UUIDS]),
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([u.bytes for u in UUIDS], pa.binary(16))),
    ):
        table = pa.table({"id": column, "y": Y, "p": P})
        pa.parquet.write_table(table.take(pa.array(ORDER)), tmp_path / "other.parquet")
        same(tmp_path, "a.csv")


def test_ids_of_arrays_against_parquet(tmp_path):
    """Numbers with a gap elsewhere are floats in pandas, and texts in an npz file."""
    table = pa.table({"id": pa.array(range(N)), "y": Y, "p": P})
    pa.parquet.write_table(table.take(pa.array(ORDER)), tmp_path / "other.parquet")
    for ids in (np.arange(N, dtype=float), np.arange(N).astype("U9"), np.arange(N).astype("S9"), np.arange(N)[:, None]):
        np.savez(tmp_path / "a.npz", id=ids, y=Y, p=P)
        same(tmp_path, "a.npz")
