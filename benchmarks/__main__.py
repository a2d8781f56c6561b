"""`python -m benchmarks` measures and records; `python -m benchmarks report FILE ...` prints what was recorded."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.common import pages
from benchmarks.common.progress import progress
from benchmarks.common.records import Record, read, write

ROUNDS = {"default": 11, "quick": 3}
SUITES = ("logits", "everyday", "growth", "divergence", "linear", "scaling", "rows", "distillation")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    options = _parser().parse_args(arguments)
    if options.command == "report":
        files = options.files or sorted(pages.RESULTS.glob("*.jsonl"))
        if not files:
            sys.exit("benchmarks/results is empty; `python -m benchmarks` fills it")
        print(report.tables(read(files)))
        return
    # Before torch starts its threads: one that spins after its work takes a core from the contender that comes next.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    print(report.tables(_run(options)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("run", "report"), default="run")
    parser.add_argument("files", nargs="*", type=Path, help="JSON lines to report (all of benchmarks/results)")
    suite = (
        "losses of logits, of few classes and few rows, sweeps of their sizes, divergences of logits, losses of a"
        " linear layer, sweeps of its sizes, losses of reinforcement learning, divergences between two linear layers,"
        " or (by default) one after the other"
    )
    parser.add_argument("--suite", choices=(*SUITES, "all"), default="all", help=suite)
    parser.add_argument("--rounds", type=int, help="measured rounds (11; 3 with --quick)")
    few = "seconds for the measured rounds of a case: fewer rounds where they do not fit, but three at least"
    parser.add_argument("--seconds", type=float, help=few)
    again = "go on with results of this commit and class of processors: cases that they have are not measured again"
    parser.add_argument("--resume", action="store_true", help=again)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="only cases with this in their name")
    where = "where to write (a file of benchmarks/results for each suite; nowhere with --quick or --only)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=where)
    parser.add_argument("--quick", action="store_true", help="some of the cases, without torch.compile, in minutes")
    return parser


def _run(options: argparse.Namespace) -> list[Record]:
    from benchmarks import peaks, run, suites
    from benchmarks.common import machine, memory
    from benchmarks.common.patience import TooSlowError

    chosen = [case for case in suites.cases() if options.suite in (case.suite, "all")]
    cases = [case for case in chosen if options.only in case.name and (case.quick or options.only or not options.quick)]
    if not cases:
        sys.exit(f"no case has {options.only!r} in its name; there are {', '.join(case.name for case in chosen)}")
    rounds = options.rounds or ROUNDS["quick" if options.quick else "default"]
    about, compiled = machine.describe(), not options.quick
    if about["commit"] is None:
        print("no git here: the results will not say of which commit they are", file=sys.stderr)
    without = memory.why_not()
    if without is not None:
        print(f"no peak memory: {without}", file=sys.stderr)

    records: list[Record] = []
    written: dict[Path, list[Record]] = {}
    paths = _paths(options, about, cases)
    if options.resume:
        # a file of the same day can be of another commit: that one begins anew
        begun = [path for suite in paths if (path := pages.begun(about, suite)) is not None]
        written = {path: read([path]) for path in begun}
        records += [record for found in written.values() for record in found]
        done = {record["case"] for record in records}
        cases = [case for case in cases if case.name not in done]
    warmup = 1 if options.quick else 2
    with progress(len(cases)) as say:
        for case in cases:
            say(case.name)
            try:
                found = run.measure(case, rounds, warmup=warmup, compiled=compiled, seconds=options.seconds)
            except TooSlowError as reason:
                print(f"{case.name} is left out on this processor: {reason}", file=sys.stderr)
                continue
            if case.weighed and without is None:
                rivals = [name for name in found[-1]["speedup_over"] if name != "compile" or case.weighs_compiled]
                found.append(peaks.record(case, ["crossent", *rivals]))
            errors = suites.of(case).errors.measure(case, found[0]["missing"])
            found.append({**suites.describe(case), **errors})
            found = [{**record, "run": about} for record in found]
            records += found
            path = paths[case.suite]
            if path is not None:
                written.setdefault(path, []).extend(found)
                write(path, written[path])
    for path in written:
        print(f"written to {path.name}", file=sys.stderr)
    return records


def _paths(options: argparse.Namespace, about: dict[str, Any], cases: list[Any]) -> dict[str, Path | None]:
    """Return where the results of each suite go: None is nowhere."""
    if options.resume and (options.quick or options.only or options.out):
        sys.exit("--resume goes on with a file of benchmarks/results; --quick, --only and --out write elsewhere")
    found: dict[str, Path | None] = {}
    for suite in dict.fromkeys(case.suite for case in cases):
        nowhere = options.quick or options.only
        found[suite] = options.out or (None if nowhere else pages.path_of(about, suite))
        if options.resume:
            found[suite] = pages.begun(about, suite) or found[suite]
    return found


if __name__ == "__main__":
    main()
