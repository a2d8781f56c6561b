"""One table in several files, beside the tables that pandas, polars, pyarrow and DuckDB read from the same files."""

from __future__ import annotations

import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest

from crossent.scoring.input import files
from crossent.scoring.input.reader import FileError, FileOptions
from crossent.scoring.input.several import kind_of, open_tables
from tests.scoring.written import columns, predictions, saved

Y, P = predictions(90)
FRAME = pd.DataFrame({**columns(Y, P), "lang": np.array(["de", "en", "fr"])[np.arange(90) % 3]})
NAMES = ["y", "p_0", "p_1", "p_2"]


def rows(names: Any, wanted: list[str], texts: Any = (), options: FileOptions | None = None) -> Any:
    """Return the rows of a table as pandas holds them, and check what each portion says about itself."""
    with open_tables(names, options) as tables:
        portions = list(tables.batches(wanted, texts))
        seen = 0
        for portion in portions:
            assert portion.batch.schema.names == wanted
            if len(portion.batch):
                assert tables.place(seen).file == portion.file
            seen += len(portion.batch)
        done = [portion.done for portion in portions]
        assert done == sorted(done)
        assert 0.98 < done[-1] <= 1.0
    return pa.concat_tables([pa.table(p.batch).cast(_plain(p.batch.schema)) for p in portions]).to_pandas()


def _plain(schema: Any) -> Any:
    return pa.schema([(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in schema])


def parts(folder: Path, ending: str, count: int = 3) -> list[Path]:
    """Write the rows into files, so many rows in each."""
    folder.mkdir(exist_ok=True)
    step = 90 // count
    found: list[Path] = []
    for k in range(count):
        made = {name: FRAME[name].to_numpy()[k * step : (k + 1) * step] for name in NAMES}
        found.append(saved(folder / f"part-{k}{ending}", made))
    return found


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".jsonl", ".parquet", ".arrow", ".npz"])
@pytest.mark.parametrize("way", ["files", "folder", "pattern", "zip"])
def test_parts_are_one_table(way: str, ending: str, tmp_path: Path) -> None:
    made = parts(tmp_path / "parts", ending)
    passed: Any = {"files": made, "folder": tmp_path / "parts", "pattern": str(tmp_path / "parts" / "*")}.get(way)
    if way == "zip":
        passed = tmp_path / "a.zip"
        with zipfile.ZipFile(passed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in made:
                archive.write(path, path.name)
            archive.writestr("__MACOSX/._part-0.csv", b"\0")
    found = rows(passed, ["p_2", "y"])
    np.testing.assert_allclose(found["p_2"], P[:, 2], rtol=1e-15)
    np.testing.assert_array_equal(found["y"], Y)


def test_a_folder_of_parquet_is_what_others_read(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "hive", partition_cols=["lang"])
    found = rows(tmp_path / "hive", [*NAMES, "lang"], ["lang"])
    others = {
        "pandas": pd.read_parquet(tmp_path / "hive"),
        "polars": pl.read_parquet(tmp_path / "hive", hive_partitioning=True).to_pandas(),
        "pyarrow": pa.dataset.dataset(tmp_path / "hive", partitioning="hive").to_table().to_pandas(),
    }
    query = f"select * from read_parquet('{tmp_path}/hive/**/*.parquet', hive_partitioning=true)"
    others["duckdb"] = duckdb.sql(query).df()
    for name, other in others.items():
        wanted = other.astype({"lang": str})[found.columns].sort_values(NAMES, ignore_index=True)
        mine = found.astype({"lang": str}).sort_values(NAMES, ignore_index=True)
        pd.testing.assert_frame_equal(mine, wanted, check_dtype=False, obj=name)


def test_a_partition_may_be_a_column_of_numbers_or_of_no_value(tmp_path: Path) -> None:
    for value in ("2", "0.5", "__HIVE_DEFAULT_PARTITION__"):
        folder = tmp_path / f"w={value}"
        folder.mkdir()
        _ = saved(folder / "a.csv", {"y": [1], "p": [0.5]})
    found = rows(tmp_path, ["w", "p"])
    np.testing.assert_array_equal(found["w"], [0.5, 2.0, np.nan])
    assert rows(tmp_path, ["w"], ["w"])["w"].isna().tolist() == [False, False, True]
    (tmp_path / "w=2").rename(tmp_path / "w=two")
    with pytest.raises(FileError, match=r"its folder 'w=two' is not a column of numbers"):
        _ = rows(tmp_path, ["w"])


def test_one_batch_is_of_one_file_and_rows_are_placed(tmp_path: Path) -> None:
    made = parts(tmp_path / "parts", ".csv")
    with open_tables(made) as tables:
        assert [len(portion.batch) for portion in tables.batches(["p_0"], [])] == [30, 30, 30]
        for row in (0, 29, 30, 89):
            place = tables.place(row)
            assert (place.file, place.row) == (str(made[row // 30]), row % 30)


def test_columns_may_stand_in_another_order(tmp_path: Path) -> None:
    first = saved(tmp_path / "a.csv", {"y": [1, 0], "p": [0.5, 0.25]})
    other = saved(tmp_path / "b.csv", {"p": [0.125], "y": [1]})
    assert rows([first, other], ["p", "y"])["p"].tolist() == [0.5, 0.25, 0.125]


@pytest.mark.parametrize(
    ("first", "other", "said"),
    [
        ({"y": [1], "p": [0.5]}, {"y": [1], "q": [0.5]}, r"b\.parquet has no column 'p', and .*a\.parquet has"),
        ({"y": [1], "p": [0.5]}, {"y": [1], "p": [0.5], "r": [1]}, r"a\.parquet has no column 'r', and .*b\.parquet"),
        (
            {"y": [1], "p": [0.5]},
            {"y": ["1"], "p": [0.5]},
            r"b\.parquet: column 'y' holds text, and in .*a\.parquet num",
        ),
        ({"y": [1], "p": [0.5]}, {"y": [1], "p": [[0.5]]}, r"column 'p' holds lists of numbers, and in .* numbers"),
        ({"y": [True], "p": [0.5]}, {"y": [1], "p": [0.5]}, r"column 'y' holds numbers, and in .* bool"),
    ],
)
def test_files_of_other_columns_or_types(first: Any, other: Any, said: str, tmp_path: Path) -> None:
    for name, made in (("a", first), ("b", other)):
        pa.parquet.write_table(pa.table(made), tmp_path / f"{name}.parquet")
    with pytest.raises(FileError, match=said):
        _ = rows(tmp_path, ["y", "p"])


def test_types_that_programs_mix_in_parts_of_one_table(tmp_path: Path) -> None:
    """pandas writes whole numbers with a missing one as floats, and a part without any value as nulls."""
    for k, y in enumerate(([1, 0], [1.0, None], [None, None])):
        pa.parquet.write_table(pa.table({"y": y, "p": [0.5, 0.5]}), tmp_path / f"{k}.parquet")
    with open_tables(tmp_path) as tables:
        assert sum(len(portion.batch) for portion in tables.batches(["y", "p"], [])) == 6


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        (pa.int8(), "numbers"), (pa.float16(), "numbers"), (pa.decimal128(5, 2), "numbers"), (pa.null(), None),
        (pa.string(), "text"), (pa.large_string(), "text"), (pa.string_view(), "text"), (pa.bool_(), "bool"),
        (pa.dictionary(pa.int8(), pa.string()), "text"), (pa.list_(pa.float32(), 3), "lists of numbers"),
        (pa.large_list(pa.float64()), "lists of numbers"), (pa.list_(pa.null()), None), (pa.date32(), "date32[day]"),
        (pa.map_(pa.string(), pa.float64()), "map<string, double>"),
    ],
)  # fmt: skip
def test_kinds(stored: Any, kind: str | None) -> None:
    assert kind_of(stored) == kind


def test_files_of_several_formats(tmp_path: Path) -> None:
    first, other = parts(tmp_path, ".csv", 1)[0], parts(tmp_path, ".parquet", 1)[0]
    with pytest.raises(
        FileError, match=rf"{first} is csv and {other} is parquet: files of several formats are not one"
    ):
        _ = rows(tmp_path, NAMES)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in (first, other):
            archive.write(path, path.name)
    with pytest.raises(FileError, match=r"a\.zip/part-0\.csv is csv and .*a\.zip/part-0\.parquet is parquet"):
        _ = rows(tmp_path / "a.zip", NAMES)
    _ = (tmp_path / "README.md").write_text("text")
    with pytest.raises(FileError, match=r"README\.md: the file name shows no known format"):
        _ = rows(tmp_path, NAMES)


def test_npy_files_are_columns_and_no_parts(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", Y)
    np.save(tmp_path / "p.npy", P)
    with pytest.raises(FileError, match="npy files are columns of one table"):
        _ = rows(tmp_path, ["y"])


def test_a_column_that_is_a_folder_and_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "y=1").mkdir()
    path = saved(tmp_path / "y=1" / "a.csv", {"y": [0], "p": [0.5]})
    with pytest.raises(FileError, match=r"column 'y' is in the file, and its folder is called 'y=1' too"):
        _ = rows(tmp_path, ["y", "p"])
    assert rows(tmp_path, ["p"])["p"].tolist() == [0.5]
    assert rows(path, ["y", "p"])["y"].tolist() == [0.0]


def test_classes_that_files_name(tmp_path: Path) -> None:
    """As Hugging Face's datasets name them in the metadata of a schema."""

    def write(name: str, *classes: str) -> None:
        features = {"y": {"names": classes, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        pa.parquet.write_table(pa.table({"y": [1], "p": [0.5]}).replace_schema_metadata(metadata), tmp_path / name)

    write("a.parquet", "cat", "dog")
    write("b.parquet", "cat", "dog")
    with open_tables(tmp_path) as tables:
        assert tables.class_names("y") == ["cat", "dog"]
        assert tables.class_names("p") is None
    write("b.parquet", "dog", "cat")
    with (
        open_tables(tmp_path) as tables,
        pytest.raises(FileError, match=r"b\.parquet and .*a\.parquet have other names"),
    ):
        _ = tables.class_names("y")


def test_folders_of_other_columns(tmp_path: Path) -> None:
    for name in ("a=1", "b=1"):
        (tmp_path / name).mkdir()
        _ = saved(tmp_path / name / "a.csv", {"y": [0], "p": [0.5]})
    with pytest.raises(FileError, match=r"b=1/a\.csv has no column 'a', and .*a=1/a\.csv has"):
        _ = rows(tmp_path, ["p"])


def test_copies_are_deleted_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = tmp_path / "tmp"
    copies.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(copies))
    path = tmp_path / "a.csv.xz"
    _ = path.write_bytes(lzma.compress(b"y,p\n1,0.5\n"))
    with open_tables(path) as tables:
        assert any(copies.iterdir())
        assert [portion.batch.to_pydict() for portion in tables.batches(["p"], [])] == [{"p": [0.5]}]
    assert not any(copies.iterdir())
    with pytest.raises(KeyError), open_tables(path):
        raise KeyError
    assert not any(copies.iterdir())


def test_one_format_for_all_files(tmp_path: Path) -> None:
    for k in range(2):
        _ = (tmp_path / f"out-{k}").write_text("y\tp\n1\t0.5\n")
    assert rows(tmp_path, ["p"], options=FileOptions(format="tsv"))["p"].tolist() == [0.5, 0.5]
    with pytest.raises(FileError, match=r"format must be one of csv, tsv, .*; got 'excel 97'"):
        _ = rows(tmp_path, ["p"], options=FileOptions(format="excel 97"))
    made = parts(tmp_path / "parts", ".parquet", 1)
    with pytest.raises(FileError, match=r"is a parquet file by its first bytes, not csv; leave out format='csv'"):
        _ = rows(made, ["p_0"], options=FileOptions(format="csv"))
    assert {reader.format for reader in files.READERS.values()} >= {"csv", "tsv", "parquet", "arrow", "xlsx"}
