"""`python -m benchmarks.gpu` measures crossent and its rivals on a GPU, writes JSON lines, and prints tables.

One line for each contender of each case: times by CUDA events, contenders in random order round after round in one
process, caches flushed in between; peaks of memory; and errors beside float64. Whoever does not run is a line too.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import pages
from benchmarks.common.progress import progress
from benchmarks.common.records import Record, read, write
from benchmarks.gpu import report
from benchmarks.gpu.cases import CASES, AnyCase, ErrorCase, head, scaled
from benchmarks.gpu.contenders import reason
from benchmarks.gpu.device import Device, Gpu, Host, describe
from benchmarks.gpu.trial import errors, measure

ROUNDS = 25
LIMIT = 420.0
"""Seconds after which no case is started, unless the command line says otherwise."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    options = _parser().parse_args(arguments)
    if options.report:
        print(report.tables(read(options.report)))
        return
    if not options.dry and not torch.cuda.is_available():
        sys.exit(f"benchmarks.gpu: torch {torch.__version__} finds no GPU; look at `nvidia-smi`, or try --dry")
    print(report.tables(_run(options)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--only", default="", metavar="NAME", help="only cases with this in their name")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"measured rounds ({ROUNDS})")
    limit = f"start no case after so many seconds ({LIMIT:.0f})"
    parser.add_argument("--seconds", type=float, default=LIMIT, metavar="LIMIT", help=limit)
    where = "where to write (a file of benchmarks/results named after the day and the GPU; nowhere with --dry)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=where)
    parser.add_argument("--commit", metavar="NAME", help="what is measured, where there is no git to ask")
    dry = "cases of a few numbers on the CPU: what runs is the same, what is measured means nothing"
    parser.add_argument("--dry", action="store_true", help=dry)
    shown = "print the tables of such files, and measure nothing"
    parser.add_argument("--report", type=Path, nargs="+", metavar="FILE", help=shown)
    return parser


def _run(options: argparse.Namespace) -> list[Record]:
    begin = time.monotonic()
    cases = [case for case in CASES if options.only in case.name]
    if not cases:
        sys.exit(f"no case has {options.only!r} in its name; there are {', '.join(case.name for case in CASES)}")
    device = Host() if options.dry else Gpu()
    about = describe(device, options.commit)
    if about["commit"] is None:
        print("no git here: the results will not say of which commit they are; use --commit", file=sys.stderr)
    path = options.out or (None if options.dry else _default(about, options.only))

    records: list[Record] = []
    with progress(len(cases)) as say:
        for case in cases:
            say(case.name)
            if time.monotonic() - begin > options.seconds:
                why = f"{options.seconds:.0f} s had passed"
                found = [{**head(case), "contender": "all", "status": "not started", "reason": why}]
            else:
                found = _case(scaled(case) if options.dry else case, device, options)
            records += [{**record, "run": about} for record in found]
            if path is not None:
                write(path, records)
    if path is not None:
        print(f"{len(records)} lines written to {path.name}", file=sys.stderr)
    return records


def _case(case: AnyCase, device: Device, options: argparse.Namespace) -> list[Record]:
    """Return the records of a case, or one that says why there are none: other cases may be luckier."""
    begin = time.monotonic()
    try:
        if isinstance(case, ErrorCase):
            found = errors(case, device)
        else:
            found = measure(case, device, options.rounds, compiled=not options.dry)
    except Exception as error:
        found = [{**head(case), "contender": "all", "status": "failed", "reason": reason(error)}]
        error.__traceback__ = None  # it holds what the case had in memory
    device.clear()
    return [{**record, "case_seconds": round(time.monotonic() - begin, 1)} for record in found]


def _default(about: dict[str, Any], only: str) -> Path:
    """Return where the results go; those of some cases do not take the place of all."""
    name = f"{about['date'][:10]} {about['machine']['gpu']} gpu {only}"
    return pages.RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.jsonl"


if __name__ == "__main__":
    main()
