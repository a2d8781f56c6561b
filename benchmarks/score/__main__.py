"""What a score costs: `python -m benchmarks.score` measures rows a second and memory, records and prints.

Contenders take turns in random order in one process; the floor is one read of the probabilities, `P.sum()`. Peaks of
memory are those of a process of its own. A Parquet file is scored beside merely reading it, each in a process of its
own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import memory, pages
from benchmarks.common.progress import progress
from benchmarks.common.records import Record, read, write
from benchmarks.score import arrays, files, report
from benchmarks.score.cases import CASES, FILES, ArrayCase, FileCase
from benchmarks.score.child import run_module

ROUNDS = {"default": 7, "quick": 3}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    options = _parser().parse_args(arguments)
    if options.extra is not None:
        print(json.dumps(arrays.extra(CASES[options.extra])))
        return
    if options.report:
        print(report.tables(read(options.report)))
        return
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # a thread that spins takes a core from the contender that comes next
    print(report.tables(_run(options)))


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

    from benchmarks.common import machine

    everything: list[ArrayCase | FileCase] = [*CASES, *FILES]
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
            found = files.measure(case, rounds) if isinstance(case, FileCase) else arrays.measure(case, rounds)
            if without is None and isinstance(case, ArrayCase):
                place = str(CASES.index(case))
                found["extra_bytes"] = run_module("score", "--extra", place, environment=memory.ALLOCATOR)
            records.append({"suite": "score", "case": case.name, **found, "run": about})
            if path is not None:
                write(path, records)
    if path is not None:
        print(f"written to {path.name}", file=sys.stderr)
    return records


def _small_file(case: ArrayCase | FileCase) -> bool:
    return isinstance(case, FileCase) and case.quick


if __name__ == "__main__":
    main()
