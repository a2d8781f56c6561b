"""Predictions as files in every format that `crossent score` reads, and runs of the command on them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import math
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

from crossent import cli

COMMAND = "from crossent.cli import main; main()"


@dataclass(frozen=True)
class Ran:
    """What one run of the command line left."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out, parse_constant=lambda word: (_ for _ in ()).throw(ValueError(word)))


def run(capsys: Any, *arguments: object) -> Ran:
    """Run the command line in this process."""
    code = cli.run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return Ran(code, out, err)


def fresh(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a Python of its own, where a warning is an error."""
    command = [sys.executable, "-W", "error", "-c", COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)


def predictions(n: int = 300, c: int = 3, *, seed: int = 0) -> tuple[Any, Any]:
    """Labels (N,) drawn from distributions (N, C), so that every class is there."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(c), n)
    y = (rng.random((n, 1)) > p.cumsum(axis=1)).sum(axis=1)
    return np.minimum(y, c - 1), p


def columns(y: Any, p: Any, names: Any = None, stem: str = "p_") -> dict[str, Any]:
    """One column per class, and one of labels."""
    names = range(p.shape[1]) if names is None else names
    return {"y": y, **{f"{stem}{name}": p[:, k] for k, name in enumerate(names)}}


def lists(y: Any, p: Any) -> dict[str, Any]:
    """One column of lists."""
    return {"y": y, "p": list(p.tolist())}


def _text(made: dict[str, Any], separator: str) -> bytes:
    rows = zip(*(np.asarray(column).tolist() for column in made.values()), strict=True)
    lines = [separator.join(made), *(separator.join(map(_cell, row)) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


def _cell(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def csv(made: dict[str, Any]) -> bytes:
    return _text(made, ",")


def tsv(made: dict[str, Any]) -> bytes:
    return _text(made, "\t")


def csv_gz(made: dict[str, Any]) -> bytes:
    return gzip.compress(csv(made), 1)


def csv_bz2(made: dict[str, Any]) -> bytes:
    return bz2.compress(csv(made))


def jsonl(made: dict[str, Any]) -> bytes:
    cells = [column if isinstance(column, list) else np.asarray(column).tolist() for column in made.values()]
    rows = zip(*cells, strict=True)
    return "".join(json.dumps(dict(zip(made, row, strict=True))) + "\n" for row in rows).encode()


def jsonl_gz(made: dict[str, Any]) -> bytes:
    return gzip.compress(jsonl(made), 1)


def parquet(made: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(made), sink, row_group_size=97)
    return sink.getvalue()


def arrow(made: dict[str, Any]) -> bytes:
    sink, table = io.BytesIO(), pa.table(made)
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=97)
    return sink.getvalue()


def arrow_stream(made: dict[str, Any]) -> bytes:
    sink, table = io.BytesIO(), pa.table(made)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=97)
    return sink.getvalue()


def feather(made: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    pyarrow.feather.write_feather(pa.table(made), sink, compression="lz4", chunksize=97)
    return sink.getvalue()


def npz(made: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(column) for name, column in made.items()}
    np.savez(sink, **arrays)
    return sink.getvalue()


def npz_compressed(made: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(column) for name, column in made.items()}
    np.savez_compressed(sink, **arrays)
    return sink.getvalue()


def xlsx(made: dict[str, Any]) -> bytes:
    sink, book = io.BytesIO(), openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("predictions")
    sheet.append(list(made))
    for row in zip(*(np.asarray(column).tolist() for column in made.values()), strict=True):
        sheet.append(row)
    book.save(sink)
    return sink.getvalue()


def csv_xz(made: dict[str, Any]) -> bytes:
    return lzma.compress(csv(made))


def zipped(made: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("part-0.csv", csv(made))
    return sink.getvalue()


#: by the end of the file's name: what takes a column per class, and what takes a column of lists
SCALARS = {
    "a.csv": csv,
    "a.tsv": tsv,
    "a.csv.gz": csv_gz,
    "a.csv.bz2": csv_bz2,
    "a.jsonl": jsonl,
    "a.ndjson": jsonl,
    "a.jsonl.gz": jsonl_gz,
    "a.parquet": parquet,
    "a.pq": parquet,
    "a.arrow": arrow,
    "a.ipc": arrow,
    "stream.arrow": arrow_stream,
    "a.feather": feather,
    "a.npz": npz,
    "compressed.npz": npz_compressed,
    "a.xlsx": xlsx,
}
LISTS = {name: write for name, write in SCALARS.items() if not {".csv", ".tsv", ".xlsx"} & {*Path(name).suffixes}}
PACKED = {"packed.csv.xz": csv_xz, "packed.zip": zipped}
"""What is unpacked before it is read."""


def saved(path: Path, made: dict[str, Any]) -> Path:
    """Write the columns in the format that the path's name says."""
    write = {**SCALARS, **PACKED}.get(path.name) or next(
        make for end, make in SCALARS.items() if path.name.endswith(end[1:])
    )
    _ = path.write_bytes(write(made))
    return path


def same(found: Any, wanted: Any, where: str = "") -> None:
    """Assert that JSON is what `to_dict` says, numbers to 1e-13 of themselves."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict), where
        assert [str(key) for key in wanted] == list(found), where
        for key, value in wanted.items():
            same(found[str(key)], value, f"{where}.{key}")
    elif isinstance(wanted, (list, tuple)):
        assert isinstance(found, list), where
        assert len(found) == len(wanted), where
        for k, value in enumerate(wanted):
            same(found[k], value, f"{where}[{k}]")
    elif isinstance(wanted, float) and not math.isfinite(wanted):
        assert found == (None if math.isnan(wanted) else str(wanted)), where
    elif isinstance(wanted, (float, np.floating)):
        # 1e-13 is the bound promised for any chunking; a difference of two losses has it of their size, about 1
        assert abs(found - wanted) <= 1e-13 * max(abs(wanted), 1.0), f"{where}: {found!r} is not {wanted!r}"
    else:
        assert found == wanted, where


NO_PROC = not Path("/proc/self/status").exists()
"""Whether `peak_memory` has nothing to read: it is Linux that says."""


def peak_memory() -> int:
    """Return the most memory in MB that this process has held; what it was forked from does not count, as in rusage."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) >> 10
