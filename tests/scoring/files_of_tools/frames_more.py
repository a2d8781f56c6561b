"""Files of polars, DuckDB, Hugging Face datasets, Dask, Delta Lake and pyarrow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.scoring.files_of_tools.frames_pandas import NAMES, NAMES_OF_TRUE, PLAIN, frame
from tests.scoring.files_of_tools.problem import (
    ANIMALS,
    ROWS,
    TEST_3,
    WORDS,
    Case,
    forest,
    of_records,
    of_rows,
    of_text,
    text_rows,
    tool,
)


def _polars() -> Any:
    import polars

    return polars.DataFrame(frame().to_dict("list"))


@tool("polars")
def polars_csv(at: Path) -> Case:
    _polars().write_csv(at / "polars.csv", quote_style="non_numeric")
    return Case("polars.csv", PLAIN, of_text((at / "polars.csv").read_text(), "y", NAMES, ANIMALS))


@tool("polars")
def polars_parquet(at: Path) -> Case:
    import polars

    made = _polars().with_columns(polars.col("y").cast(polars.Enum(ANIMALS)))
    made.write_parquet(at / "polars_enum.parquet")
    return Case("polars_enum.parquet", PLAIN, of_rows(TEST_3, forest()))


@tool("polars")
def polars_array(at: Path) -> Case:
    """A column of arrays of three numbers."""
    import polars

    p = forest().astype(np.float32)
    array = polars.Series("probs", p, dtype=polars.Array(polars.Float32, 3))
    polars.DataFrame({"y": TEST_3, "probs": array}).write_parquet(at / "polars_array.parquet")
    return Case("polars_array.parquet", ("--label", "y", "--probs", "probs"), of_rows(TEST_3, p))


@tool("polars")
def polars_struct(at: Path) -> Case:
    """A struct, each field a class."""
    import polars

    made = _polars().select("y", polars.struct(**{a: polars.col(f"p_{a}") for a in ANIMALS}).alias("probs"))
    made.write_ipc(at / "polars_struct.arrow")
    return Case("polars_struct.arrow", ("--label", "y", "--probs", "probs"), of_rows(TEST_3, forest()))


@tool("polars")
def polars_ndjson(at: Path) -> Case:
    import polars

    made = _polars().select("y", polars.struct(**{a: polars.col(f"p_{a}") for a in ANIMALS}).alias("probs"))
    made.write_ndjson(at / "polars.ndjson")
    rows = [json.loads(line) for line in (at / "polars.ndjson").read_text().splitlines()]
    options = ("--label", "y", "--probs", "probs")
    return Case("polars.ndjson", options, of_records(WORDS, [row["probs"] for row in rows]))


@tool("polars")
def polars_json(at: Path) -> Case:
    _polars().write_json(at / "polars.json")
    return Case("polars.json", PLAIN, of_records(NAMES_OF_TRUE, json.loads((at / "polars.json").read_text())))


@tool("polars")
def polars_stream(at: Path) -> Case:
    _polars().write_ipc_stream(at / "polars.arrows")
    return Case("polars.arrows", PLAIN, of_rows(TEST_3, forest()))


@tool("polars")
def polars_avro(at: Path) -> Case:
    _polars().write_avro(at / "polars.avro")
    return Case("polars.avro", PLAIN, refused="parquet")


def _duckdb(sql: str) -> None:
    import duckdb

    with duckdb.connect() as connection:
        connection.register("preds", frame())
        connection.execute("SET threads TO 1")
        connection.execute(sql)


@tool("duckdb")
def duckdb_parquet(at: Path) -> Case:
    _duckdb(f"COPY preds TO '{at}/duckdb.parquet' (FORMAT parquet, COMPRESSION zstd)")
    return Case("duckdb.parquet", PLAIN, of_rows(TEST_3, forest()))


@tool("duckdb")
def duckdb_hive(at: Path) -> Case:
    """A folder with a folder for each fold; labels are in the files."""
    shutil.rmtree(at / "duckdb_hive", ignore_errors=True)
    _duckdb(
        f"COPY (SELECT *, row_number() OVER () % 3 AS fold FROM preds) TO '{at}/duckdb_hive' "
        "(FORMAT parquet, PARTITION_BY (fold))"
    )
    return Case("duckdb_hive", (*PLAIN, "--by", "fold"), of_rows(TEST_3, forest()))


@tool("duckdb")
def duckdb_hive_label(at: Path) -> Case:
    """The label is in the name of the folder alone."""
    shutil.rmtree(at / "duckdb_hive_label", ignore_errors=True)
    _duckdb(f"COPY preds TO '{at}/duckdb_hive_label' (FORMAT csv, PARTITION_BY (y))")
    loss = of_text(frame().to_csv(index=False), "y", NAMES, ANIMALS)
    return Case("duckdb_hive_label", PLAIN, loss)


@tool("duckdb")
def duckdb_csv(at: Path) -> Case:
    _duckdb(f"COPY preds TO '{at}/duckdb.csv' (HEADER, DELIMITER '|')")
    loss = of_text((at / "duckdb.csv").read_text(), "y", NAMES, ANIMALS, delimiter="|")
    return Case("duckdb.csv", (*PLAIN, "--delimiter", "|"), loss)


@tool("duckdb")
def duckdb_json(at: Path) -> Case:
    _duckdb(f"COPY preds TO '{at}/duckdb.json' (FORMAT json, ARRAY true)")
    return Case("duckdb.json", PLAIN, of_records(NAMES_OF_TRUE, json.loads((at / "duckdb.json").read_text())))


@tool("duckdb")
def duckdb_lines_called_json(at: Path) -> Case:
    """DuckDB's default: one object a line in a file that ends in .json."""
    _duckdb(f"COPY preds TO '{at}/duckdb_lines.json' (FORMAT json)")
    rows = [json.loads(line) for line in (at / "duckdb_lines.json").read_text().splitlines()]
    return Case("duckdb_lines.json", PLAIN, of_records(NAMES_OF_TRUE, rows))


@tool("duckdb")
def duckdb_map(at: Path) -> Case:
    _duckdb(
        "COPY (SELECT id, y, MAP {'cat': p_cat, 'dog': p_dog, 'owl': p_owl} AS probs FROM preds) "
        f"TO '{at}/duckdb_map.parquet' (FORMAT parquet)"
    )
    return Case("duckdb_map.parquet", ("--label", "y", "--probs", "probs"), of_rows(TEST_3, forest()))


def _dataset(probs: Any) -> Any:
    import datasets

    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=ANIMALS),
            "probs": datasets.Sequence(datasets.Value("float32"), length=3),
        }
    )
    rows = {"text": [f"text {k}" for k in range(ROWS)], "label": TEST_3.tolist(), "probs": probs.tolist()}
    return datasets.Dataset.from_dict(rows, features=features)


@tool("datasets")
def datasets_parquet(at: Path) -> Case:
    """Labels are numbers; their names are in the metadata of the schema."""
    p = forest().astype(np.float32)
    _dataset(p).to_parquet(at / "datasets.parquet")
    return Case("datasets.parquet", ("--label", "label", "--probs", "probs"), of_rows(TEST_3, p))


@tool("datasets")
def datasets_arrow(at: Path) -> Case:
    """The file of a dataset that was saved to disk."""
    p = forest().astype(np.float32)
    _dataset(p).save_to_disk(at / "datasets_saved")
    (name,) = (path.name for path in (at / "datasets_saved").glob("*.arrow"))
    return Case(f"datasets_saved/{name}", ("--label", "label", "--probs", "probs"), of_rows(TEST_3, p))


@tool("datasets")
def datasets_jsonl(at: Path) -> Case:
    _dataset(forest()).to_json(at / "datasets.jsonl")
    rows = [json.loads(line) for line in (at / "datasets.jsonl").read_text().splitlines()]
    options = ("--label", "label", "--probs", "probs")
    return Case("datasets.jsonl", options, of_rows(TEST_3, [row["probs"] for row in rows]))


@tool("datasets")
def datasets_csv(at: Path) -> Case:
    """Lists are printed into cells."""
    _dataset(forest()).to_csv(at / "datasets.csv")
    cells = [row["probs"] for row in text_rows((at / "datasets.csv").read_text())]
    options = ("--label", "label", "--probs", "probs")
    return Case(
        "datasets.csv", options, of_rows(TEST_3, [cell.strip("[]").replace(",", " ").split() for cell in cells])
    )


@tool("dask")
def dask_parquet(at: Path) -> Case:
    """Three parts in a folder."""
    folder = at / "dask_parquet"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        import dask.dataframe
    except ImportError:  # its form: part.0.parquet, part.1.parquet, …
        folder.mkdir()
        for k in range(3):
            frame()[8 * k : 8 * k + 8].to_parquet(folder / f"part.{k}.parquet")
    else:
        dask.dataframe.from_pandas(frame(), npartitions=3).to_parquet(folder, compute_kwargs={"scheduler": "sync"})
    return Case("dask_parquet", (*PLAIN, "--id", "id"), of_rows(TEST_3, forest()))


@tool("dask")
def dask_csv(at: Path) -> Case:
    """`to_csv("preds-*.csv")` writes preds-0.csv, preds-1.csv, …: one pattern names them."""
    folder = at / "dask_csv"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for k in range(3):
        frame()[8 * k : 8 * k + 8].to_csv(folder / f"preds-{k}.csv", index=False)
    return Case("dask_csv/preds-*.csv", PLAIN, of_text(frame().to_csv(index=False), "y", NAMES, ANIMALS))


@tool("pyarrow")
def pyarrow_large(at: Path) -> Case:
    """Large strings, float16 probabilities as fixed lists, several row groups."""
    p = forest().astype(np.float16)
    probs = pa.FixedSizeListArray.from_arrays(pa.array(p.ravel()), 3)
    table = pa.table({"y": pa.array(WORDS, pa.large_string()), "probs": probs})
    pq.write_table(table, at / "pyarrow_half.parquet", row_group_size=7)
    options = ("--label", "y", "--probs", "probs", "--classes", "cat,dog,owl", "--normalize")
    q = p.astype(float)
    return Case("pyarrow_half.parquet", options, of_rows(TEST_3, q / q.sum(axis=1, keepdims=True)))


@tool("delta lake")
def delta_overwritten(at: Path) -> Case:
    """A Delta table keeps files of older versions; only its log knows which rows count."""
    folder = at / "delta_table"
    shutil.rmtree(folder, ignore_errors=True)
    import deltalake

    worse = frame()
    worse[NAMES] = worse[NAMES].to_numpy()[:, [1, 2, 0]]
    deltalake.write_deltalake(str(folder), worse)
    deltalake.write_deltalake(str(folder), frame(), mode="overwrite")
    return Case("delta_table", PLAIN, refused="Delta")
