"""Files of pandas: text in every separator, encoding and compression, JSON in every orient, Excel, Arrow."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.scoring.files_of_tools.problem import (
    ANIMALS,
    IDS,
    TEST_2,
    TEST_3,
    WORDS,
    YES,
    Case,
    forest,
    forest_of_two,
    of_positive,
    of_records,
    of_rows,
    of_text,
    text_rows,
    tool,
)

NAMES = [f"p_{name}" for name in ANIMALS]
PLAIN = ("--label", "y", "--probs", "p_*")


def frame() -> pd.DataFrame:
    p = forest()
    return pd.DataFrame({"id": IDS, "y": WORDS, **{name: p[:, k] for k, name in enumerate(NAMES)}})


def _text(at: Path, name: str, *, encoding: str = "utf-8", compression: Any = None, **options: Any) -> float:
    frame().to_csv(at / name, index=False, encoding=encoding, compression=compression, **options)
    return of_text(frame().to_csv(index=False), "y", NAMES, ANIMALS)


@tool("pandas")
def pandas_csv(at: Path) -> Case:
    return Case("pandas.csv", PLAIN, _text(at, "pandas.csv"))


@tool("pandas")
def pandas_quoted(at: Path) -> Case:
    return Case("pandas_quoted.csv", PLAIN, _text(at, "pandas_quoted.csv", quoting=1, lineterminator="\r\n"))


@tool("pandas")
def pandas_gz(at: Path) -> Case:
    return Case("pandas.csv.gz", PLAIN, _text(at, "pandas.csv.gz", compression="gzip"))


@tool("pandas")
def pandas_xz(at: Path) -> Case:
    return Case("pandas.csv.xz", PLAIN, _text(at, "pandas.csv.xz", compression="xz"))


@tool("pandas")
def pandas_bz2(at: Path) -> Case:
    return Case("pandas.csv.bz2", PLAIN, _text(at, "pandas.csv.bz2", compression="bz2"))


@tool("pandas")
def pandas_zst(at: Path) -> Case:
    return Case("pandas.csv.zst", PLAIN, _text(at, "pandas.csv.zst", compression="zstd"))


@tool("pandas")
def pandas_zip(at: Path) -> Case:
    return Case("pandas.zip", PLAIN, _text(at, "pandas.zip", compression={"method": "zip", "archive_name": "p.csv"}))


@tool("pandas")
def pandas_excel_text(at: Path) -> Case:
    """What Excel calls CSV UTF-8: a mark of byte order before the first name."""
    frame().drop(columns="id").to_csv(at / "pandas_bom.csv", index=False, encoding="utf-8-sig")
    return Case("pandas_bom.csv", PLAIN, of_text(frame().to_csv(index=False), "y", NAMES, ANIMALS))


@tool("pandas")
def pandas_german(at: Path) -> Case:
    loss = _text(at, "pandas_german.csv", sep=";", decimal=",")
    return Case("pandas_german.csv", (*PLAIN, "--delimiter", ";", "--decimal", ","), loss)


@tool("pandas")
def pandas_german_unasked(at: Path) -> Case:
    return Case("pandas_german.csv", PLAIN, refused="--delimiter")


@tool("pandas")
def pandas_german_without_decimal(at: Path) -> Case:
    return Case("pandas_german.csv", (*PLAIN, "--delimiter", ";"), refused="--decimal")


@tool("pandas")
def pandas_tabs(at: Path) -> Case:
    return Case("pandas_tabs.tsv", PLAIN, _text(at, "pandas_tabs.tsv", sep="\t"))


@tool("pandas")
def pandas_tabs_in_txt(at: Path) -> Case:
    loss = _text(at, "pandas_tabs.txt", sep="\t")
    return Case("pandas_tabs.txt", (*PLAIN, "--format", "tsv"), loss)


@tool("pandas")
def pandas_pipes(at: Path) -> Case:
    return Case("pandas_pipes.csv", (*PLAIN, "--delimiter", "|"), _text(at, "pandas_pipes.csv", sep="|"))


@tool("pandas")
def pandas_utf16(at: Path) -> Case:
    """Excel's "Unicode text": refused with its name, or a way to read it."""
    _text(at, "pandas_utf16.csv", encoding="utf-16")
    return Case("pandas_utf16.csv", PLAIN, refused="UTF-16")


@tool("pandas")
def pandas_cp1252(at: Path) -> Case:
    """A class with an umlaut in the code page of Windows."""
    text = frame().to_csv(index=False).replace("dog", "Löwe")
    (at / "pandas_cp1252.csv").write_bytes(text.encode("cp1252"))
    return Case("pandas_cp1252.csv", PLAIN, refused="UTF-8")


@tool("pandas")
def pandas_positive_column(at: Path) -> Case:
    """The column is named after the positive class."""
    pd.DataFrame({"churn": YES, "p_yes": forest_of_two()}).to_csv(at / "pandas_p_yes.csv")
    rows = text_rows((at / "pandas_p_yes.csv").read_text())
    loss = of_positive(TEST_2, [row["p_yes"] for row in rows])
    return Case("pandas_p_yes.csv", ("--label", "churn", "--probs", "p_yes", "--classes", "no,yes"), loss)


@tool("pandas")
def pandas_two_words(at: Path) -> Case:
    """Labels are words and nothing says which word the probability is of."""
    pd.DataFrame({"churn": YES, "proba": forest_of_two()}).to_csv(at / "pandas_two_words.csv", index=False)
    return Case("pandas_two_words.csv", ("--label", "churn", "--probs", "proba"), refused="--classes")


@tool("pandas")
def pandas_two_words_named(at: Path) -> Case:
    rows = text_rows((at / "pandas_two_words.csv").read_text())
    loss = of_positive(TEST_2, [row["proba"] for row in rows])
    return Case("pandas_two_words.csv", ("--label", "churn", "--probs", "proba", "--classes", "no,yes"), loss)


@tool("pandas")
def pandas_classes_as_columns(at: Path) -> Case:
    """`pd.DataFrame(p, columns=model.classes_)`: columns named as the classes are."""
    made = frame().rename(columns=dict(zip(NAMES, ANIMALS, strict=True)))
    made.to_csv(at / "pandas_classes.csv", index=False)
    loss = of_text((at / "pandas_classes.csv").read_text(), "y", ANIMALS, ANIMALS)
    return Case("pandas_classes.csv", ("--label", "y", "--probs", "cat,dog,owl"), loss)


@tool("pandas")
def pandas_percent(at: Path) -> Case:
    made = frame()
    made[NAMES] = (100 * made[NAMES]).round(1)
    made.to_csv(at / "pandas_percent.csv", index=False)
    return Case("pandas_percent.csv", PLAIN, refused="--normalize")


@tool("pandas")
def pandas_percent_normalised(at: Path) -> Case:
    rows = text_rows((at / "pandas_percent.csv").read_text())
    values = [[float(row[name]) for name in NAMES] for row in rows]
    loss = of_rows(TEST_3, np.array([np.array(v) for v in values]) / np.sum(values, axis=1, keepdims=True))
    return Case("pandas_percent.csv", (*PLAIN, "--normalize"), loss)


@tool("pandas")
def pandas_list_cells(at: Path) -> Case:
    """A column of lists, which csv holds as text."""
    pd.DataFrame({"y": TEST_3, "probs": forest().tolist()}).to_csv(at / "pandas_list_cells.csv", index=False)
    rows = text_rows((at / "pandas_list_cells.csv").read_text())
    loss = of_rows(TEST_3, [json.loads(row["probs"]) for row in rows])
    return Case("pandas_list_cells.csv", ("--label", "y", "--probs", "probs"), loss)


@tool("pandas")
def pandas_numpy_cells(at: Path) -> Case:
    """A column of arrays: numpy prints them cut to eight digits and without commas."""
    pd.DataFrame({"y": TEST_3, "probs": list(forest())}).to_csv(at / "pandas_numpy_cells.csv", index=False)
    return Case("pandas_numpy_cells.csv", ("--label", "y", "--probs", "probs"), _printed(at / "pandas_numpy_cells.csv"))


def _printed(path: Path) -> float:
    """Loss of arrays that numpy printed, over several lines where they are long."""
    with path.open(newline="") as file:
        rows = [(int(row["y"]), row["probs"].strip("[]").split()) for row in csv.DictReader(file)]
    return of_rows([y for y, _ in rows], [values for _, values in rows])


@tool("pandas")
def pandas_numpy_cells_of_lines(at: Path) -> Case:
    """Twelve classes: numpy breaks the line, and csv quotes it."""
    p = np.repeat(forest(), 4, axis=1) / 4
    path = at / "pandas_numpy_lines.csv"
    pd.DataFrame({"y": 4 * TEST_3, "probs": list(p)}).to_csv(path, index=False)
    assert len(path.read_text().splitlines()) > 2 * len(TEST_3)
    return Case(path.name, ("--label", "y", "--probs", "probs"), _printed(path))


@tool("pandas")
def pandas_numpy_cells_cut(at: Path) -> Case:
    """Beyond 1000 numbers numpy prints the first and the last three alone, and the rest is lost."""
    p = np.repeat(forest(), 400, axis=1) / 400
    pd.DataFrame({"y": 400 * TEST_3, "probs": list(p)}).to_csv(at / "pandas_numpy_cut.csv", index=False)
    return Case("pandas_numpy_cut.csv", ("--label", "y", "--probs", "probs"), refused="probs")


def _json(at: Path, name: str, orient: Any, **options: Any) -> float:
    frame().to_json(at / name, orient=orient, double_precision=15, **options)
    rows = json.loads(frame().to_json(orient="records", double_precision=15))
    return of_records(NAMES_OF_TRUE, rows)


NAMES_OF_TRUE = [f"p_{word}" for word in WORDS]


@tool("pandas")
def pandas_json_records(at: Path) -> Case:
    return Case("pandas_records.json", PLAIN, _json(at, "pandas_records.json", "records"))


@tool("pandas")
def pandas_json_split(at: Path) -> Case:
    return Case("pandas_split.json", PLAIN, _json(at, "pandas_split.json", "split"))


@tool("pandas")
def pandas_json_columns(at: Path) -> Case:
    return Case("pandas_columns.json", PLAIN, _json(at, "pandas_columns.json", "columns"))


@tool("pandas")
def pandas_json_index(at: Path) -> Case:
    return Case("pandas_index.json", PLAIN, _json(at, "pandas_index.json", "index"))


@tool("pandas")
def pandas_json_lines(at: Path) -> Case:
    return Case("pandas.jsonl.gz", PLAIN, _json(at, "pandas.jsonl.gz", "records", lines=True))


@tool("pandas")
def pandas_json_values(at: Path) -> Case:
    """Rows without names of columns."""
    _json(at, "pandas_values.json", "values")
    return Case("pandas_values.json", PLAIN, refused="name|column")


@tool("pandas")
def pandas_xlsx(at: Path) -> Case:
    frame().to_excel(at / "pandas.xlsx", index=False, engine="openpyxl")
    read = pd.read_excel(at / "pandas.xlsx").to_dict("records")
    return Case("pandas.xlsx", PLAIN, of_records(NAMES_OF_TRUE, read))


@tool("xlsxwriter")
def xlsxwriter_second_sheet(at: Path) -> Case:
    """Results on a sheet of their own, behind a page of notes."""
    with pd.ExcelWriter(at / "xlsxwriter_sheets.xlsx", engine="xlsxwriter") as book:
        pd.DataFrame({"note": ["made by a forest"]}).to_excel(book, sheet_name="notes", index=False)
        frame().to_excel(book, sheet_name="predictions", index=False)
    read = pd.read_excel(at / "xlsxwriter_sheets.xlsx", sheet_name="predictions").to_dict("records")
    options = (*PLAIN, "--sheet", "predictions")
    return Case("xlsxwriter_sheets.xlsx", options, of_records(NAMES_OF_TRUE, read))


@tool("pandas")
def pandas_parquet_index(at: Path) -> Case:
    """An index of names becomes a column of the file."""
    frame().set_index("id").to_parquet(at / "pandas_index.parquet")
    return Case("pandas_index.parquet", (*PLAIN, "--id", "id"), of_rows(TEST_3, forest()))


@tool("pandas")
def pandas_categories(at: Path) -> Case:
    """Labels as a categorical column: numbers with names of classes."""
    made = frame().assign(y=lambda f: f.y.astype("category"))
    made[NAMES] = made[NAMES].astype("float32")
    made.to_parquet(at / "pandas_categories.parquet", compression="zstd")
    return Case("pandas_categories.parquet", PLAIN, of_rows(TEST_3, made[NAMES].to_numpy()))


@tool("pandas")
def pandas_feather(at: Path) -> Case:
    frame().to_feather(at / "pandas.feather", compression="lz4")
    return Case("pandas.feather", PLAIN, of_rows(TEST_3, forest()))


@tool("pandas")
def pandas_pickle(at: Path) -> Case:
    frame().head(2).to_pickle(at / "pandas.pkl")
    return Case("pandas.pkl", PLAIN, refused="pickle")


@tool("pandas")
def pandas_stata(at: Path) -> Case:
    frame().head(2).to_stata(at / "pandas.dta", write_index=False)
    return Case("pandas.dta", PLAIN, refused=".dta")


@tool("pandas")
def pandas_orc(at: Path) -> Case:
    frame().to_orc(at / "pandas.orc", index=False)
    return Case("pandas.orc", PLAIN, refused="parquet")
