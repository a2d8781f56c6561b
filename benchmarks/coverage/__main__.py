"""How often an interval of 95 % covers the expected loss: `python -m benchmarks.coverage` draws, records and prints."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy

from benchmarks.common import pages
from benchmarks.common.progress import progress
from benchmarks.common.records import Record, read, write
from benchmarks.coverage import report
from benchmarks.coverage.cases import cases, hard
from benchmarks.coverage.measure import measure

DRAWS = 10_000
FEW, MORE = 1000, 4
"""Samples of so few rows are drawn this many times as often: they cost little, and are where intervals may fail."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    options = _parser().parse_args(arguments)
    if options.report:
        print(report.tables(read(options.report)))
        return
    _ = os.environ.setdefault("OMP_NUM_THREADS", "1")  # the work is NumPy's
    print(report.tables(_run(options)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    samples = f"samples of each case ({DRAWS}), and {MORE} times as many of those with few rows"
    parser.add_argument("--draws", type=int, default=DRAWS, help=samples)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="only cases with this in their name")
    where = "where to write (a file of benchmarks/results; nowhere with --only or fewer draws)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=where)
    parser.add_argument("--report", type=Path, nargs="+", metavar="FILE", help="print what such files hold, no more")
    return parser


def _run(options: argparse.Namespace) -> list[Record]:
    from benchmarks.common import machine

    chosen = [(case, kind) for kind, found in (("bar", cases()), ("hard", hard())) for case in found]
    chosen = [(case, kind) for case, kind in chosen if options.only in case.name]
    if not chosen:
        sys.exit(f"no case has {options.only!r} in its name")
    about, records = machine.describe(), list[Record]()
    about["versions"]["scipy"] = scipy.__version__
    path = options.out or (None if options.only or options.draws < DRAWS else pages.path_of(about, "coverage"))
    with progress(len(chosen)) as say:
        for number, (case, kind) in enumerate(chosen):
            say(f"{case.name}, {case.n} {case.rows}")
            draws = options.draws * (MORE if case.n * getattr(case, "size", 1) <= FEW else 1)
            found = measure(case, draws, np.random.default_rng([options.seed, number]))
            records += [{**record, "kind": kind, "seed": options.seed, "run": about} for record in found]
            if path is not None:
                write(path, records)
    if path is not None:
        print(f"written to {path.name}", file=sys.stderr)
    return records


if __name__ == "__main__":
    main()
