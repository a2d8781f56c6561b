"""Small files that unpack to gigabytes: refused in one line, or read, in little memory and little time."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet
import pytest

NO_PROC = not Path("/proc/self/status").exists()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(NO_PROC, reason="memory is read from Linux's /proc")]

ROOT = Path(__file__).parents[3]
CHILD = """
import sys
from crossent.cli import run
from tests.scoring.written import peak_memory
code = run(sys.argv[1:])
print(code, peak_memory(), file=sys.__stdout__)
"""
MEGABYTES = 450
"""That a run may take in all, its libraries among them."""


def ran(path: Path, *options: str) -> tuple[int, int, str]:
    """Exit code, peak memory in MB and standard error of a run of its own."""
    arguments = ["score", str(path), "--label", "y", "--probs", "p_0", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=True, timeout=60,
        env=environment,
    )  # fmt: skip
    code, megabytes = done.stdout.split()[-2:]
    return int(code), int(megabytes), done.stderr


def npz(path: Path, arrays: dict[str, tuple[str, Any, int]], method: int = zipfile.ZIP_DEFLATED) -> None:
    """Write an archive of arrays by dtype, shape and number of zero bytes."""
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        for name, (dtype, shape, size) in arrays.items():
            head = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode())
                for begin in range(0, size, 1 << 24):
                    file.write(bytes(min(1 << 24, size - begin)))


def negative_axis(path: Path) -> None:
    npz(path, {"y": ("<i8", "(40,)", 320), "p_0": ("<f8", "(40, -1)", 1 << 29)})


def unusual_method(path: Path) -> None:
    npz(path, {"y": ("<i8", "(40,)", 320), "p_0": ("<f8", "(40, 1677721)", 40 * 8 * 1677721)}, zipfile.ZIP_BZIP2)


def wide_rows(path: Path) -> None:
    npz(path, {"y": ("<i8", "(2,)", 16), "p_0": ("<f8", f"(2, {1 << 25})", 1 << 29)})


def long_texts(path: Path) -> None:
    npz(path, {"y": (f"<U{1 << 25}", "(4,)", 1 << 29), "p_0": ("<f8", "(4,)", 32)})


def more_than_it_holds(path: Path) -> None:
    npz(path, {"y": ("<i8", "(40,)", 320), "p_0": ("<f8", f"(40, {1 << 20})", 320)})


def dictionary_of_text(path: Path) -> None:
    """A text of 10 MB in every row, but the first, written once; other programs write no word of Arrow's schema."""
    words = pa.DictionaryArray.from_arrays(
        pa.array(np.minimum(np.arange(20_000), 1).astype(np.int32)), ["a", "b" * 10**7]
    )
    table = pa.table({"y": words, "p_0": np.full(20_000, 0.5)})
    pa.parquet.write_table(table, path, compression="zstd", store_schema=False)


def lists_after_a_short_one(path: Path) -> None:
    offsets = np.r_[0, 3, 3 + 50_000 * np.arange(1, 8000)].astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.zeros(offsets[-1])))
    pa.parquet.write_table(pa.table({"y": np.zeros(8000, np.int64), "p_0": lists}), path, compression="zstd")


def endless_line(path: Path) -> None:
    with gzip.open(path, "wb", 1) as file:
        file.write(b'{"y": 0, "p_0": 0.5}\n{"y": 0, "p_0":')
        for _ in range(32):
            file.write(b" " * (1 << 24))


def endless_value(path: Path) -> None:
    with gzip.open(path, "wb", 1) as file:
        file.write(b'y,p_0\n0,0.5\n"')
        for _ in range(32):
            file.write(b"1" * (1 << 24))


def archive(path: Path, name: str, *pieces: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as opened, opened.open(name, "w") as file:
        for piece in pieces:
            file.write(piece)


def zeros_in_an_archive(path: Path) -> None:
    archive(path, "a.csv", *[b"0" * (1 << 24)] * 32)


def zeros_in_xz(path: Path) -> None:
    with lzma.open(path, "wb", preset=0) as file:
        for _ in range(32):
            _ = file.write(b"0" * (1 << 24))


def workbook(path: Path, sheet: bytes, *more: bytes) -> None:
    """Write a workbook whose sheet has these rows."""
    book = openpyxl.Workbook()
    book.active.append(["y", "p_0"])
    book.save(path)
    with zipfile.ZipFile(path) as old:
        parts = {info.filename: old.read(info) for info in old.infolist()}
    head, end, rest = parts.pop("xl/worksheets/sheet1.xml").partition(b"</sheetData>")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for name, data in parts.items():
            new.writestr(name, data)
        with new.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as file:
            for piece in (head, sheet, *more, end + rest):
                file.write(piece)


def cells_without_end(path: Path) -> None:
    workbook(path, b"<row>", *[b"<c><v>1</v></c>" * (1 << 20)] * 32, b"</row>")


def text_without_end(path: Path) -> None:
    workbook(path, b'<row><c t="inlineStr"><is><t>', *[b"a" * (1 << 24)] * 32, b"</t></is></c></row>")


BOMBS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "negative axis": ("a.npz", negative_axis, r"'p_0' has shape (40, -1); the file is damaged"),
    "unusual method": ("a.npz", unusual_method, "compressed by zip's method 12"),
    "wide rows": ("a.npz", wide_rows, "a row takes 256 MiB, more than the 64"),
    "long texts": ("a.npz", long_texts, "a row takes 128 MiB, more than the 64"),
    "more than it holds": ("a.npz", more_than_it_holds, "takes 335,544,320 bytes and the archive holds 448"),
    "a dictionary of text": ("a.parquet", dictionary_of_text, "the labels in 'y' hold names such as 'a'"),
    "lists after a short one": (
        "a.parquet",
        lists_after_a_short_one,
        "differ in length: 3 numbers at first, and",
    ),
    "an endless line": ("a.jsonl.gz", endless_line, "a line is longer than 16 MiB"),
    "an archive of zeros": ("a.zip", zeros_in_an_archive, "longer than 16 MiB"),
    "xz of zeros": ("a.csv.xz", zeros_in_xz, "longer than 16 MiB"),
    "cells without end": ("a.xlsx", cells_without_end, "has a row of more than 16 MiB"),
    "text without end": ("a.xlsx", text_without_end, "has a row of more than 16 MiB"),
    "an endless value": ("a.csv.gz", endless_value, ""),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_is_refused(case: str, tmp_path: Path) -> None:
    name, make, said = BOMBS[case]
    make(tmp_path / name)
    assert (tmp_path / name).stat().st_size < 4 << 20
    code, megabytes, err = ran(tmp_path / name)
    assert code == 2, err
    assert err.count("\n") == 1
    assert str(tmp_path / name) in err
    assert said in err
    assert len(err) < 600
    assert megabytes < MEGABYTES


def test_many_rows_in_few_bytes_are_read_in_little_memory(tmp_path: Path) -> None:
    path, n = tmp_path / "a.parquet", 4 * 10**6
    pa.parquet.write_table(pa.table({"y": np.zeros(n, np.int64), "p_0": np.full(n, 0.5)}), path, compression="zstd")
    assert path.stat().st_size < 1 << 20
    code, megabytes, _ = ran(path, "--json")
    assert code == 0
    assert megabytes < MEGABYTES


@pytest.mark.parametrize("column", ["y", "g"])
def test_texts_that_are_repeated_are_read_in_little_memory(column: str, tmp_path: Path) -> None:
    """One of 1 MB in each of 3000 rows: 3 GB as they are read, and one of them as they are kept."""
    path, long = tmp_path / "a.parquet", "x" * (1 << 20)
    words = pa.DictionaryArray.from_arrays(pa.array(np.minimum(np.arange(3000), 1).astype(np.int32)), ["0", long])
    made = {"y": pa.array([0, 1] * 1500), "p_0": np.full(3000, 0.5), column: words}
    pa.parquet.write_table(pa.table(made), path, compression="zstd", store_schema=False)
    code, megabytes, err = ran(path, "--classes", f"0,{'1' if column == 'g' else 'x'}", "--by", column, "--json")
    assert (code, megabytes < MEGABYTES) == (0 if column == "g" else 2, True), (err[:300], megabytes)


def test_what_takes_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    """A record batch of 800 MB, compressed to some KB, which Arrow can only unpack as a whole."""
    path, n = tmp_path / "a.arrow", 50_000_000
    table = pa.table({"y": pa.array(np.zeros(n, np.int64)), "p_0": pa.array(np.full(n, 0.5))})
    with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table, max_chunksize=n)
    code, megabytes, err = ran(path, "--max-memory", "400M")
    said = "this takes more memory than --max-memory 400M allows; unless the file is damaged, pass more"
    assert (code, err) == (2, f"crossent: {path}: {said}\n")
    assert megabytes < 500


def test_clusters_without_end_meet_the_limit(tmp_path: Path) -> None:
    n = 4 * 10**6
    made = {"y": np.arange(n) % 2, "p_0": np.full(n, 0.5), "doc": pa.array(np.arange(n)).cast(pa.string())}
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.table(made), path)
    code, megabytes, err = ran(path, "--cluster", "doc", "--max-memory", "300M")
    assert code == 2
    assert "--max-memory 300M" in err
    assert err.count("\n") == 1
    assert megabytes < 400


def test_a_log_with_too_long_a_record_meets_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    _ = path.write_text(json.dumps({"logprobs": [-0.5] * 10}) + '\n{"logprobs": [' + "[]," * (70 << 20) + "[]]}\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-c", CHILD, "lm", str(path), "--max-memory", "1G"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
    assert done.stdout.split()[0] == "2"
    assert int(done.stdout.split()[1]) < 1300
    assert "--max-memory 1G" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_long_sheet_is_read_in_little_memory(tmp_path: Path) -> None:
    """Blank rows at the end, which Excel keeps where somebody has coloured them."""
    path, rows = tmp_path / "a.xlsx", b"<row><c><v>1</v></c><c><v>0.5</v></c></row>" * 40_000
    workbook(path, rows, *[b"<row><c/><c/></row>" * 100_000] * 2)
    code, megabytes, err = ran(path, "--json")
    assert (code, err) == (0, "")
    assert megabytes < MEGABYTES


def test_many_parts_are_read_in_the_memory_of_one(tmp_path: Path) -> None:
    folder, n = tmp_path / "parts", 1 << 19
    folder.mkdir()
    table = pa.table({"y": np.arange(n) % 2, "p_0": np.random.default_rng(0).random(n)})
    pa.parquet.write_table(table, folder / "0.parquet")
    one = ran(folder / "0.parquet", "--json")
    for k in range(1, 16):
        _ = (folder / f"{k}.parquet").write_bytes((folder / "0.parquet").read_bytes())
    several = ran(folder, "--json")
    assert (one[0], several[0]) == (0, 0)
    assert several[1] < one[1] + 60
