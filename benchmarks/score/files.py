"""Measures what scoring a Parquet file takes beside merely reading it, each in a process of its own."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.common.records import Record, ratio, rounded
from benchmarks.score.cases import FileCase
from benchmarks.score.child import run_module

ROUNDS = 5
"""Measured rounds at most: each starts two processes."""


def measure(case: FileCase, rounds: int) -> Record:
    """Return the times and peaks of processes that read a file and that score it."""
    turns = min(rounds, ROUNDS)
    found: dict[str, list[Record]] = {"read": [], "score": []}
    with tempfile.TemporaryDirectory(prefix="crossent-") as folder:
        path = Path(folder) / "predictions.parquet"
        case.write(path)
        size, order = path.stat().st_size, list(found)
        for turn in range(turns + 1):
            random.Random(turn).shuffle(order)
            for name in order:
                begin = time.perf_counter()
                one = run_module("score.file", name, str(path))
                one["process_seconds"] = rounded(time.perf_counter() - begin)
                if turn > 0:  # the first round brings the file into the cache
                    found[name].append(one)
    times = {name: [rounded(one["seconds"]) for one in all_] for name, all_ in found.items()}
    processes = {name: [one["process_seconds"] for one in all_] for name, all_ in found.items()}
    return {
        "kind": "file", "rows": case.rows, "classes": case.classes, "group": case.group, "bytes": size,
        "rounds": turns, "loss": found["score"][0]["result"],
        "median_seconds": {name: rounded(statistics.median(x)) for name, x in times.items()},
        "median_process_seconds": {name: rounded(statistics.median(x)) for name, x in processes.items()},
        "speed_of_reading": ratio(times["read"], times["score"]),
        "peak_bytes": {name: max((one["peak_bytes"] or 0) for one in all_) or None for name, all_ in found.items()},
        "seconds": times, "process_seconds": processes,
    }  # fmt: skip
