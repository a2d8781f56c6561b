"""What a score costs: `python -m benchmarks.score` measures rows a second and memory, records and prints.

Contenders take turns in random order in one process; the floor is one read of the probabilities, `P.sum()`. Peaks of
memory are those of a process of its own. A Parquet file is scored beside merely reading it, each in a process of its
own.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import memory, pages, report, score_report
from benchmarks.score_cases import CASES, FILES, Case, FileCase

Record = dict[str, Any]
ROUNDS = {"default": 7, "quick": 3}
RIVAL_ROUNDS = 3
"""Rounds of scikit-learn, which takes some hundred times as long."""
LONG, VERY_LONG = 2.0, 20.0
"""Seconds beyond which a contender runs in the first rounds only, as many as scikit-learn, or in one."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    options = _parser().parse_args(arguments)
    if options.extra is not None:
        print(json.dumps(_extra(CASES[options.extra])))
        return
    if options.report:
        print(score_report.tables(report.read(options.report)))
        return
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # a thread that spins takes a core from the contender that comes next
    print(score_report.tables(_run(options)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.score", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small cases, in seconds")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="only cases with this in their name")
    parser.add_argument("--rounds", type=int, help="measured rounds (7; 3 with --quick)")
    where = "where to write (a file of benchmarks/results; nowhere with --quick or --only)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=where)
    parser.add_argument("--report", type=Path, nargs="+", metavar="FILE", help="print what such files hold, no more")
    parser.add_argument("--extra", type=int, help=argparse.SUPPRESS)  # the process that measures memory
    return parser


def _run(options: argparse.Namespace) -> list[Record]:
    from importlib import metadata

    from benchmarks import machine
    from benchmarks.__main__ import progress, write

    everything: list[Case | FileCase] = [*CASES, *FILES]
    chosen = [case for case in everything if case.quick or not options.quick]
    chosen = [case for case in chosen if options.only in case.name and (options.quick or not _small_file(case))]
    if not chosen:
        sys.exit(f"no case has {options.only!r} in its name; there are {', '.join(case.name for case in everything)}")
    about, records = machine.describe(), list[Record]()
    about["versions"] |= {name: metadata.version(name) for name in ("scikit-learn", "pyarrow")}
    rounds = options.rounds or ROUNDS["quick" if options.quick else "default"]
    path = options.out or (None if options.quick or options.only else pages.path_of(about, "score"))
    if (without := memory.why_not()) is not None:
        print(f"no peak memory: {without}", file=sys.stderr)
    with progress(len(chosen)) as say:
        for case in chosen:
            say(case.name)
            found = measure_file(case, rounds) if isinstance(case, FileCase) else measure(case, rounds)
            if without is None and isinstance(case, Case):
                found["extra_bytes"] = _in_a_child(
                    "score", "--extra", str(CASES.index(case)), environment=memory.ALLOCATOR
                )
            records.append({"suite": "score", "case": case.name, **found, "run": about})
            if path is not None:
                write(path, records)
    if path is not None:
        print(f"written to {path.name}", file=sys.stderr)
    return records


def _small_file(case: Case | FileCase) -> bool:
    return isinstance(case, FileCase) and case.quick


# In memory, and in parts


def measure(case: Case, rounds: int) -> Record:
    """Return times of contenders in random order, round after round, and the medians of their ratios."""
    contenders = calls(case)
    first, limits = _check(case, contenders), dict[str, int]()
    for name, seconds in first.items():
        most = 1 if seconds > VERY_LONG else RIVAL_ROUNDS if name == "scikit-learn" or seconds > LONG else rounds
        limits[name] = min(rounds, most)
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    order, shuffle = list(contenders), random.Random(0).shuffle
    _ = gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            shuffle(order)
            for name in order:
                if turn < limits[name]:
                    samples[name].append(_timed(contenders[name])[0])
    finally:
        gc.enable()
    return {
        "kind": "arrays", "rows": case.rows, "classes": case.classes, "bytes": case.nbytes, "streamed": case.streamed,
        "rounds": {name: len(times) for name, times in samples.items()},
        "median_seconds": {name: rounded(statistics.median(times)) for name, times in samples.items()},
        "times_crossent": {name: _ratio(times, samples["crossent"]) for name, times in samples.items()},
        "seconds": {name: [rounded(x) for x in times] for name, times in samples.items()},
    }  # fmt: skip


def calls(case: Case) -> dict[str, Callable[[], float]]:
    """Return what is called: each gives the loss, but for the floor."""
    from sklearn.metrics import log_loss

    import crossent

    if case.streamed:
        parts = case.parts()

        def streamed() -> float:
            state = crossent.ScoreState()
            for y, p in case.stream(parts):
                state.update(y, probs=p)
            return state.finalize().loss

        return {"crossent": streamed, "read": lambda: sum(float(p.sum()) for _, p in case.stream(parts))}
    y, p = case.make()
    labels = list(range(case.classes))
    found: dict[str, Callable[[], float]] = {
        "crossent": lambda: crossent.ScoreState().update(y, probs=p).finalize().loss,
        "crossent.score": lambda: crossent.score(y, probs=p).loss,
        "read": lambda: float(p.sum()),
    }
    if case.rival:
        found["scikit-learn"] = lambda: float(log_loss(y, p, labels=labels))
    return found


def _check(case: Case, contenders: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Call everything once; return the seconds, or raise if losses differ."""
    first = {name: _timed(call) for name, call in contenders.items()}
    losses = {name: loss for name, (_, loss) in first.items() if name != "read"}
    # scikit-learn divides float32 rows by their float32 sums, and takes float32 logarithms
    if any(abs(loss - losses["crossent"]) > 1e-5 * losses["crossent"] for loss in losses.values()):
        raise RuntimeError(f"the losses of {case.name} differ: {losses}")
    return {name: seconds for name, (seconds, _) in first.items()}


def _timed(call: Callable[[], float]) -> tuple[float, float]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def _ratio(over: list[float], under: list[float]) -> float:
    """Return the median of quotients over the rounds that have both."""
    return rounded(statistics.median(a / b for a, b in zip(over, under, strict=False)))


def rounded(value: float) -> float:
    """Return a number with the five digits that a record gives it."""
    return float(f"{value:.5g}")


# Memory


def _extra(case: Case) -> dict[str, int]:
    """Return by how many bytes contenders raise the peak of this process, after a small call that imports all."""
    for call in calls(Case(1000, case.classes, rival=case.rival)).values():
        _ = call()
    contenders = calls(case)
    found = {name: memory.peak(contenders[name]) for name in contenders if name not in {"read", "scikit-learn"}}
    if "scikit-learn" in contenders:
        found["scikit-learn"] = memory.peak(contenders["scikit-learn"])
    return found


def _in_a_child(module: str, *arguments: str, environment: dict[str, str] | None = None) -> Any:
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    environment = {**os.environ, **(environment or {})}
    done = subprocess.run(command, cwd=pages.ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# Files


def measure_file(case: FileCase, rounds: int) -> Record:
    """Return the times and peaks of processes that read a file and that score it."""
    turns = min(rounds, 2 * RIVAL_ROUNDS - 1)
    found: dict[str, list[Record]] = {"read": [], "score": []}
    with tempfile.TemporaryDirectory(prefix="crossent-") as folder:
        path = Path(folder) / "predictions.parquet"
        case.write(path)
        size, order = path.stat().st_size, list(found)
        for turn in range(turns + 1):
            random.Random(turn).shuffle(order)
            for name in order:
                begin = time.perf_counter()
                one = _in_a_child("score_file", name, str(path))
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
        "speed_of_reading": _ratio(times["read"], times["score"]),
        "peak_bytes": {name: max((one["peak_bytes"] or 0) for one in all_) or None for name, all_ in found.items()},
        "seconds": times, "process_seconds": processes,
    }  # fmt: skip


if __name__ == "__main__":
    main()
