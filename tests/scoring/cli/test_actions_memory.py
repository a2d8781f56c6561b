"""The memory of `crossent score` does not grow with the file, in any layout of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

NO_PROC = not Path("/proc/self/status").exists()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(NO_PROC, reason="memory is read from Linux's /proc")]

CHILD = """
import sys
from crossent.cli import run
from tests.scoring.written import peak_memory

out, sys.stdout = sys.stdout, sys.stderr
print(run(sys.argv[1:]), peak_memory(), file=out)
"""
ROOT = Path(__file__).parents[3]


def peak(path: Path) -> int:
    """Peak memory in MB of a process that scores the file."""
    arguments = ["score", str(path), "--label", "y", "--probs", "p", "--json", "--worst", "0"]
    command = [sys.executable, "-c", CHILD, *arguments]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # pyarrow's own allocator reserves 32 MiB more, now and then
    }
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
    code, megabytes = map(int, done.stdout.split())
    assert code == 0, done.stderr
    assert json.loads(done.stderr)["n"] > 0
    return megabytes


def written(path: Path, rows: int, classes: int) -> Path:
    """Write rows that are alike, so that the file takes little time to make, but as much memory to read."""
    rng = np.random.default_rng(0)
    some = rng.dirichlet(np.ones(classes), 50).astype(np.float32)
    some /= some.sum(axis=1, keepdims=True, dtype=np.float64)
    y, p = np.arange(rows) % classes, np.resize(some, (rows, classes))
    if path.suffix == ".npz":
        np.savez(path, y=y, p=p)
        return path
    table = pa.table({"y": y, "p": pa.FixedSizeListArray.from_arrays(pa.array(p.ravel()), classes)})
    pyarrow.parquet.write_table(table, path, row_group_size=1000)
    return path


@pytest.mark.parametrize(
    ("end", "rows", "classes"), [("parquet", 30_000, 1000), ("parquet", 600, 50_000), ("npz", 30_000, 1000)]
)
def test_of_lists(end: str, rows: int, classes: int, tmp_path: Path) -> None:
    """120 MB of float32, against a file of a hundredth: no more than half of it may be held at a time."""
    grown = peak(written(tmp_path / f"large.{end}", rows, classes)) - peak(
        written(tmp_path / f"small.{end}", rows // 100, classes)
    )
    assert grown < 60, f"{grown} MB more"
