"""Hints about files of folders, archives, URLs and other formats, and about the options that say how to read them."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from tests.scoring.hints.of_files import CALL, PLAIN, file, pasted, says, scores
from tests.scoring.hints.table import LOSS, Bench, Hinted, P, Y
from tests.scoring.written import csv, parquet

FRAME = pd.DataFrame(PLAIN)
LISTS = ("--label", "y", "--probs", "p")


def put(name: str, data: bytes) -> Callable[[Bench], Path]:
    """Return what makes a file of these bytes."""

    def made(bench: Bench) -> Path:
        path = bench.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _ = path.write_bytes(data)
        return path

    return made


def sheet(bench: Bench, cells: pd.DataFrame = FRAME) -> Path:
    cells.to_excel(bench.path / "a.xlsx", index=False)
    return bench.path / "a.xlsx"


def european(bench: Bench) -> Path:
    return sheet(bench, FRAME.map(lambda value: str(value).replace(".", ",")))


def large_part(bench: Bench) -> Path:
    """Write a workbook with a part of 256 MiB."""
    path = sheet(bench)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/large.xml", bytes((256 << 20) + 1))
    return path


def without_truth(bench: Bench, truth: pd.DataFrame) -> tuple[object, ...]:
    """Make a file of predictions and one of labels, which both have the rows' keys, and return the arguments."""
    truth[["y"]].assign(key=truth.index).to_csv(bench.path / "truth.csv", index=False)
    FRAME.drop(columns="y").assign(key=FRAME.index).to_csv(bench.path / "a.csv", index=False)
    return bench.path / "a.csv", "--truth", bench.path / "truth.csv"


def zipped(name: str, *members: str) -> Callable[[Bench], Path]:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for member in members:
            archive.writestr(member, csv(PLAIN))
    return put(name, sink.getvalue())


def full_disk(bench: Bench) -> str:
    with pytest.MonkeyPatch.context() as patch:
        usage = type("Usage", (), {"free": 10})
        patch.setattr("crossent.scoring.input.spool.shutil.disk_usage", lambda _: usage)
        return bench.said("score", zipped("a.zip", "a.csv")(bench), *CALL)


def tensors(bench: Bench, dtype: Any = torch.float8_e4m3fn) -> Path:
    save_file({"y": torch.tensor(Y), "p": torch.tensor(P).to(dtype)}, bench.path / "a.safetensors")
    return bench.path / "a.safetensors"


def arrays(bench: Bench) -> Path:
    for name, array in {"y": Y, "p": P}.items():
        np.save(bench.path / f"{name}.npy", array)
    return bench.path


def delta(bench: Bench) -> Path:
    _ = put("table/_delta_log/0.json", b"{}")(bench)
    return put("table/a.parquet", parquet(PLAIN))(bench).parent


def mixed(bench: Bench) -> Path:
    _ = put("parts/a.csv", csv(PLAIN))(bench)
    return put("parts/b.parquet", parquet(PLAIN))(bench).parent


def piped(data: bytes, *call: object, terminal: bool = False) -> Callable[[Bench], Any]:
    """Return what runs the command on standard input: a message, or a loss."""

    def ran(bench: Bench) -> Any:
        stream = io.BytesIO(data)
        stream.isatty = lambda: terminal  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", type("Piped", (), {"buffer": stream}))
            done = bench.run("score", "-", *CALL, *call, "--json")
        return done.json()["loss"] if done.code == 0 else done.err

    return ran


def refused(name: str, words: str, data: bytes = b"\x80data", good: str = "a.csv") -> Hinted:
    return Hinted(says(put(name, data)), words, scores(file(good)), LOSS)


CSV = csv(PLAIN)
SEMICOLONS = FRAME.to_csv(sep=";", index=False).encode()
EUROPEAN = FRAME.to_csv(sep=";", decimal=",", index=False).encode()
WINDOWS = FRAME.assign(who="é").to_csv(index=False).encode("cp1252")
WIDE = CSV.decode().encode("utf-16")

INPUTS = {
    "semicolons": Hinted(
        says(put("a.csv", SEMICOLONS)),
        "; pass --delimiter ';'",
        pasted(put("a.csv", SEMICOLONS), "; pass ", "\n"),
        LOSS,
    ),
    "decimal commas": Hinted(
        says(put("a.csv", EUROPEAN), *CALL, "--delimiter", ";"),
        "; pass --decimal ,",
        pasted(put("a.csv", EUROPEAN), "; pass ", "\n", *CALL, "--delimiter", ";"),
        LOSS,
    ),
    "decimal commas in a sheet": Hinted(
        says(european), "; pass --decimal ,", pasted(european, "; pass ", "\n"), LOSS
    ),
    "an encoding of Windows": Hinted(
        says(put("a.csv", WINDOWS), *CALL, "--by", "who"),
        "); if it was saved on Windows pass --encoding cp1252, else save it as UTF-8",
        pasted(put("a.csv", WINDOWS), "Windows pass ", ", else", *CALL, "--by", "who"),
        LOSS,
    ),
    "UTF-16": Hinted(
        says(put("a.csv", WIDE)),
        "file by its first bytes, not UTF-8; pass --encoding utf-16, or save it as UTF-8",
        pasted(put("a.csv", WIDE), "; pass ", ", or save"),
        LOSS,
    ),
    "labels elsewhere of other rows": Hinted(
        lambda bench: bench.said("score", *without_truth(bench, FRAME[:-1]), *CALL),
        "; only the same rows in the same order can be paired: pass --on with a column of ids that both have",
        lambda bench: bench.loss(*without_truth(bench, FRAME[::-1]), "--on", "key", *CALL),
        LOSS,
    ),
    "names with a space": Hinted(
        says(put("a.csv", CSV.replace(b"p_", b" p_")), *CALL),
        "names begin with a space: pass '*p_*'",
        scores(put("a.csv", CSV.replace(b"p_", b" p_")), "--label", "y", "--probs", "*p_*"),
        LOSS,
    ),
    "no header": Hinted(
        says(put("a.csv", CSV.partition(b"\n")[2]), *CALL),
        "these are numbers: has the file no header? Write the names of the columns above its first row",
        scores(put("a.csv", CSV), *CALL),
        LOSS,
    ),
    "a formula without its value": Hinted(
        says(lambda bench: sheet(bench, FRAME.assign(p_1=[f"={x!r}" for x in FRAME["p_1"]])), *CALL),
        "of the sheet; open the workbook in Excel or LibreOffice, and save it",
        scores(sheet, *CALL),
        LOSS,
    ),
    "an unknown ending": Hinted(
        says(put("a.values", CSV)), "; or pass --format csv", pasted(put("a.values", CSV), "; or pass ", "\n"), LOSS
    ),
    "another option than the format's": Hinted(
        says(file("a.parquet"), *CALL, "--delimiter", ";"), "leave out --delimiter ';'", scores(file("a.parquet")), LOSS
    ),
    "another format than the named": Hinted(
        says(file("a.parquet"), *CALL, "--format", "csv"), "leave out --format csv", scores(file("a.parquet")), LOSS
    ),
    "a workbook of Excel 97": refused("a.xls", "workbooks of Excel 97 are not read; save it as .xlsx, or as csv"),
    "a workbook of Excel 97 by its bytes": Hinted(
        says(put("a.csv", b"\xd0\xcf\x11\xe0data")), "save it as .xlsx, or as csv", scores(sheet), LOSS
    ),
    "a workbook of OpenDocument": refused("a.ods", "of OpenDocument are not read; save it as .xlsx, or as csv"),
    "a large part of a workbook": Hinted(
        says(large_part), "that may be held; save the sheet as csv", scores(file("a.csv")), LOSS
    ),
    "a pickle": refused("a.pkl", "pickles are never read, because they may run any code; write parquet or csv"),
    "a pickle of torch": Hinted(
        says(put("a.pt", b"data")),
        "pickles of torch are never read, because they may run any code; save it as safetensors",
        scores(lambda bench: tensors(bench, torch.float64), *LISTS),
        LOSS,
    ),
    "a tar archive": Hinted(
        says(put("a.tar", b"data")),
        "tar archives are not read; unpack it first, and pass the folder",
        scores(lambda bench: put("a/a.csv", CSV)(bench).parent),
        LOSS,
    ),
    "ORC": refused("a.orc", "ORC files are not read; write parquet", good="a.parquet"),
    "Avro": refused("a.avro", "Avro files are not read; write parquet", good="a.parquet"),
    "HDF5": refused("a.h5", "HDF5 files are not read; write parquet", good="a.parquet"),
    "a type of tensors": Hinted(
        says(tensors, *LISTS),
        "which is not read; save it as F32",
        lambda bench: round(bench.loss(tensors(bench, torch.float32), *LISTS), 6),
        round(LOSS, 6),
    ),
    "a folder of npy": Hinted(
        says(arrays, *LISTS),
        "npy files are columns of one table, not parts of it; pass one of them, or write npz",
        scores(lambda bench: arrays(bench) / "p.npy", *LISTS),
        LOSS,
    ),
    "a folder of several formats": Hinted(
        says(mixed),
        "files of several formats are not one table; pass a pattern such as '*.parquet'",
        scores(lambda bench: mixed(bench) / "*.parquet"),
        LOSS,
    ),
    "a table with a log": Hinted(
        says(delta), ", whose log says which files count; write it to parquet first", scores(file("b.parquet")), LOSS
    ),
    "an archive with many files": Hinted(
        says(zipped("a.zip", *(f"{k}.csv" for k in range(10_001)))),
        "more than 10,000; unpack it first",
        scores(file("a.csv")),
        LOSS,
    ),
    "an archive in an archive": Hinted(
        says(zipped("a.zip", "b.zip")), "is packed twice; unpack ", scores(zipped("b.zip", "a.csv")), LOSS
    ),
    "a full disk": Hinted(
        full_disk,
        "has free when it is copied or unpacked there; is it damaged? Else unpack it first",
        scores(file("a.csv")),
        LOSS,
    ),
    "nothing piped": Hinted(
        piped(b"", terminal=True),
        "- is standard input, and nothing is piped to it; pass a file",
        piped(parquet(PLAIN)),
        LOSS,
    ),
    "standard input": Hinted(
        piped(CSV),
        "the format of standard input, -, is unknown; pass --format csv",
        piped(CSV, "--format", "csv"),
        LOSS,
    ),
}  # fmt: skip
"""Hints about files, by a name."""
