"""`python -m benchmarks` measures and records; `python -m benchmarks report FILE ...` prints what was recorded."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from benchmarks import pages, report

ROUNDS = {"default": 11, "quick": 3}
SUITES = ("logits", "linear", "scaling")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    options = _parser().parse_args(arguments)
    if options.command == "report":
        files = options.files or sorted(pages.RESULTS.glob("*.jsonl"))
        if not files:
            sys.exit("benchmarks/results is empty; `python -m benchmarks` fills it")
        print(report.tables(report.read(files)))
        return
    # Before torch starts its threads: one that spins after its work takes a core from the contender that comes next.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    print(report.tables(_run(options)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("run", "report"), default="run")
    parser.add_argument("files", nargs="*", type=Path, help="JSON lines to report (all of benchmarks/results)")
    suite = "losses of logits, losses of a linear layer, sweeps of its sizes, or (by default) one after the other"
    parser.add_argument("--suite", choices=(*SUITES, "all"), default="all", help=suite)
    parser.add_argument("--rounds", type=int, help="measured rounds (11; 3 with --quick)")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="only cases with this in their name")
    where = "where to write (a file of benchmarks/results for each suite; nowhere with --quick or --only)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=where)
    parser.add_argument("--quick", action="store_true", help="some of the cases, without torch.compile, in minutes")
    return parser


def _run(options: argparse.Namespace) -> list[report.Record]:
    from benchmarks import errors, machine, memory, run, suites

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

    records: list[report.Record] = []
    written: dict[Path, list[report.Record]] = {}
    with progress(len(cases)) as say:
        for case in cases:
            say(case.name)
            found = run.measure(case, rounds, warmup=1 if options.quick else 2, compiled=compiled)
            if case.repeat == 1 and without is None:
                found.append(run.measure_memory(case, ["crossent", *found[-1]["speedup_over"]]))
            found.append(errors.measure(case, found[0]["missing"]))
            found = [{**record, "run": about} for record in found]
            records += found
            path = options.out or (None if options.quick or options.only else pages.path_of(about, case.suite))
            if path is not None:
                written.setdefault(path, []).extend(found)
                write(path, written[path])
    for path in written:
        print(f"written to {path.name}", file=sys.stderr)
    return records


def write(path: Path, records: list[report.Record]) -> None:
    """Write records as JSON lines; a file that was there already stays whole until the new one is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text("".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records), encoding="utf-8")
    part.replace(path)


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """Give a function that tells on standard error which case begins: with a bar on a terminal where rich is there."""
    if find_spec("rich") is None or not sys.stderr.isatty():
        yield lambda text: print(text, file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task, begun = bar.add_task("", total=total), 0

        def say(text: str) -> None:
            nonlocal begun
            begun += 1
            bar.update(task, completed=begun, description=text)

        yield say


if __name__ == "__main__":
    main()
