"""The readers on damaged and hostile files: an exit code and at most one line, in little time and little memory.

The files are read in a process of its own, which a crash or an endless loop of a reader ends, and not the tests.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gzip
import io
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.laws.mutated import mutated
from tests.scoring import written
from tests.scoring.written import LISTS, NO_PROC, PACKED, SCALARS, columns, lists, peak_memory, predictions

pytestmark = [pytest.mark.slow, pytest.mark.skipif(NO_PROC, reason="memory is read from Linux's /proc")]

ROOT = Path(__file__).parents[3]
CASES = 24
"""Damaged files of each format and layout."""
SECONDS = 10
"""For one file of a few KB, after which a reader counts as hanging."""
MEGABYTES = 400
"""That one file of a few KB may make the process grow by."""


def originals() -> dict[str, bytes]:
    """Return whole files by name: each format with a column for each class, and with lists where it has them."""
    y, p = predictions(40, 3, seed=2)
    more = {"w": np.ones(40), "g": np.array(["de", "en"] * 20)}
    scalars = {f"scalars/{name}": write({**columns(y, p), **more}) for name, write in {**SCALARS, **PACKED}.items()}
    return scalars | {f"lists/{name}": write({**lists(y, p), **more}) for name, write in LISTS.items()}


def attempt(path: Path, values: str, more: Sequence[str] = ("--weight", "w", "--by", "g")) -> str:
    """Score a file in this process; return what is wrong with how that went, if anything."""
    from crossent import cli

    out, err = io.StringIO(), io.StringIO()
    before = peak_memory()
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.run(["score", str(path), "--label", "y", "--probs", values, *more, "--json"])
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:160]} at {Path(frame.filename).name}:{frame.lineno}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    grown = peak_memory() - before
    if grown > MEGABYTES:
        return f"grew by {grown} MB"
    said = err.getvalue()
    if code == 0:
        _ = json.loads(out.getvalue())
        return "" if not said else f"exit code 0, but on standard error: {said[:200]!r}"
    if code != 2 or out.getvalue():
        return f"exit code {code}, {len(out.getvalue())} characters printed"
    return "" if said.count("\n") == 1 and str(path) in said else f"standard error: {said[:200]!r}"


def main() -> None:
    """Read from standard input what to attempt; answer each with a line."""
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        path, *rest = json.loads(line)
        print(json.dumps(attempt(Path(path), *rest)), flush=True)


def faults(files: list[Any]) -> list[str]:
    """Score all files in another process; return what went wrong."""
    found, rest = [], list(files)
    while rest:
        command = [sys.executable, "-c", "from tests.scoring.input.test_files_fuzz import main; main()"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
        asked = "".join(json.dumps([str(path), *how]) + "\n" for path, *how in rest)
        done = subprocess.run(
            command, input=asked, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT, env=environment
        )
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        found += [f"{path.name}: {said}" for (path, *_), said in zip(rest, answers, strict=False) if said]
        if len(answers) == len(rest):
            break
        last = done.stderr.strip().splitlines()[:12]
        found.append(f"{rest[len(answers)][0].name}: ended the process with {done.returncode}: {last}")
        rest = rest[len(answers) + 1 :]
    return found


def test_the_whole_files_are_read(tmp_path: Path) -> None:
    """Else what follows would only show that everything is refused."""
    for key, data in originals().items():
        layout, name = key.split("/")
        path = tmp_path / name
        _ = path.write_bytes(data)
        assert attempt(path, "p_*" if layout == "scalars" else "p") == ""


@pytest.mark.parametrize("layout", ["scalars", "lists"])
def test_damaged_files(layout: str, tmp_path: Path) -> None:
    files: list[Any] = []
    for key, data in originals().items():
        folder, name = key.split("/")
        if folder != layout:
            continue
        dice = random.Random(key)
        stem, _, end = name.partition(".")
        for k in range(CASES):
            path = tmp_path / f"{stem}{k}.{end}"
            _ = path.write_bytes(mutated(data, dice))
            files.append((path, "p_*" if layout == "scalars" else "p"))
    found = faults(files)
    assert not found, f"{len(found)} of {len(files)}:\n" + "\n".join(found)


def test_every_length_of_a_file(tmp_path: Path) -> None:
    """Whatever is cut off, in steps of a sixtieth."""
    files: list[Any] = []
    for name in ("a.parquet", "a.arrow", "stream.arrow", "a.npz", "a.csv.gz", "a.jsonl.gz"):
        data = originals()[f"scalars/{name}"]
        stem, _, end = name.partition(".")
        for k in range(1, 31):
            path = tmp_path / f"{stem}{k}.{end}"
            _ = path.write_bytes(data[: len(data) * k // 31])
            files.append((path, "p_*"))
    found = faults(files)
    assert not found, f"{len(found)} of {len(files)}:\n" + "\n".join(found)


def hostile() -> dict[str, bytes]:
    """Return small files that claim, or hold, very much."""
    y, p = predictions(40, 3, seed=2)
    parquet, arrow = written.parquet(columns(y, p)), written.arrow_stream(columns(y, p))
    made = {
        "footer.parquet": parquet[:-8] + struct.pack("<I", 0x7FFFFFFF) + b"PAR1",
        "negative.parquet": parquet[:-8] + struct.pack("<i", -1) + b"PAR1",
        "only a footer.parquet": b"PAR1" + struct.pack("<I", 0xFFFFFFF0) + b"PAR1",
        "metadata.arrow": arrow[:4] + struct.pack("<i", 0x7FFFFFF8) + arrow[8:],
        "negative.arrow": arrow[:4] + struct.pack("<i", -8) + arrow[8:],
        "gz.csv.gz": gzip.compress(b"y,p_0\n" + b"a" * (1 << 27), 1),
        "wide.csv.gz": gzip.compress(
            b",".join([b"y", *(b"p_%d" % k for k in range(20_000))]) + b"\n0" + b",0" * 20_000 + b"\n", 1
        ),
        "line.jsonl.gz": gzip.compress(b'{"y": 1, "p_0": "' + b"a" * (1 << 27), 1),
    }
    # the lengths of the buffers of a record batch, as numbers of 64 bits in its metadata
    for k, (of, claimed) in enumerate([(320, 2**62), (320, 2**31 - 1), (40, 2**40), (40, -1), (40, 2**31)]):
        made[f"buffers{k}.arrow"] = arrow.replace(struct.pack("<q", of), struct.pack("<q", claimed))
    for k, shape in enumerate(["(10**15, 3)", "(1000000000000000, 3)", "(3000000000, 3)", "(-40, 3)", "(40, 2**61)"]):
        text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + p.tobytes()
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w") as archive:
            archive.writestr("y.npy", _npy(y))
            archive.writestr("p_0.npy", array)
        made[f"shape{k}.npz"] = sink.getvalue()
    plain = written.npz({"y": y, "p_0": p[:, 0]})
    for name, value in {"method": (8, 99), "encrypted": (6, 1), "patched": (6, 0x20), "strong": (6, 0x40)}.items():
        for mark, further in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):  # local headers, and the directory
            plain_or_done = made.get(f"{name}.npz", plain)
            made[f"{name}.npz"] = _patched(plain_or_done, mark, value[0] + further, value[1])
    made["version.npz"] = _patched(plain, b"PK\x01\x02", 6, 255)
    indices = pa.array(np.full(40, 2**31 - 1, dtype=np.int32))
    words = pa.DictionaryArray.from_arrays(indices, pa.array(["0", "1"]), safe=False)
    offsets = pa.py_buffer(np.array([0, 2**30, *range(39)], dtype=np.int32))
    list_type = pa.list_(pa.float64())
    wild = pa.ListArray.from_buffers(list_type, 40, [None, offsets], children=[pa.array(p.ravel())])
    made["indices.arrow"] = written.arrow({"y": words, "p_0": p[:, 0]})
    made["offsets.arrow"] = written.arrow({"y": y, "p_0": wild})
    return made


def _patched(data: bytes, mark: bytes, at: int, value: int) -> bytes:
    """Set one byte, counted from each mark."""
    head, *parts = data.split(mark)
    at -= len(mark)
    return head + b"".join(mark + part[:at] + bytes([value]) + part[at + 1 :] for part in parts)


def _npy(array: Any) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


def test_files_that_claim_too_much(tmp_path: Path) -> None:
    files: list[Any] = []
    for name, data in hostile().items():
        path = tmp_path / name
        _ = path.write_bytes(data)
        files.append((path, "p_*", ()))
    found = faults(files)
    assert not found, "\n".join(found)


def test_the_watchdog_barks() -> None:
    """A process that ends is seen, and so is one that grows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        _ = path.write_text("y,p_0,w,g\n")
        attempt = f"t.SECONDS = 0.01; t.attempt(t.Path({str(path)!r}), 'p_*')"
        code = f"from tests.scoring.input import test_files_fuzz as t; {attempt}"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
        )
    assert done.returncode != 0
    assert "Timeout" in done.stderr
