"""Reads a Parquet file, or scores it as the command does, in a process that has imported nothing else.

`python -m benchmarks.score.file read|score PATH` prints the seconds and the peak of memory as JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

BATCH = 1 << 16
"""Rows of a batch where a file is merely read."""


def read(path: str) -> int:
    """Read a file batch by batch, and return how many rows it has."""
    from pyarrow import dataset

    return sum(batch.num_rows for batch in dataset.dataset(path).to_batches(batch_size=BATCH))


def score(path: str) -> float:
    """Run `crossent score` on a file, and return the loss."""
    from crossent.cli import run

    with contextlib.redirect_stdout(io.StringIO()) as text:
        code = run(["score", path, "--label", "label", "--probs", "p_*", "--json"])
    if code != 0:
        raise SystemExit(code)
    return json.loads(text.getvalue())["loss"]


def measured(what: str, path: str) -> dict[str, Any]:
    """Return the seconds, the result, and the largest resident size of this process."""
    start = time.perf_counter()
    result = {"read": read, "score": score}[what](path)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status")
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE) if status.exists() else None
    return {"seconds": seconds, "result": result, "peak_bytes": 1024 * int(peak[1]) if peak else None}


if __name__ == "__main__":
    print(json.dumps(measured(*sys.argv[1:])))
