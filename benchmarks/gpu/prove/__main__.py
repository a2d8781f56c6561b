"""`python -m benchmarks.gpu.prove` proves and measures the GPU backend in six minutes, and writes JSON lines.

Stages run one after the other, each in processes of its own and with its own limit. Every record is in the file as
soon as it is measured, so that a run that is cut off has not been in vain. `make prove-gpu` builds the core first.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import pages
from benchmarks.common.records import Record, read, write
from benchmarks.gpu.device import Host, describe
from benchmarks.gpu.prove import tables
from benchmarks.gpu.prove.conductor import conduct
from benchmarks.gpu.prove.stages import STAGES, named


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for; the exit status is 1 if anything failed or was not reached."""
    options = _parser().parse_args(arguments)
    if options.report:
        records = read(options.report)
    elif not options.dry and not torch.cuda.is_available():
        sys.exit(f"benchmarks.gpu.prove: torch {torch.__version__} finds no GPU; look at `nvidia-smi`, or try --dry")
    else:
        records = _prove(options)
    print(tables.text(records))
    sys.exit(1 if tables.wrong(records) else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.prove", description=__doc__)
    _ = parser.add_argument("--stages", nargs="+", choices=[s.name for s in STAGES], help="these only, in their order")
    where = "where to write (a file of benchmarks/results named after the day and the GPU; nowhere with --dry)"
    _ = parser.add_argument("--out", type=Path, metavar="FILE", help=where)
    _ = parser.add_argument("--commit", metavar="NAME", help="what is proven, where there is no git to ask")
    dry = "a rehearsal: cases of a few numbers on the CPU, in Triton's interpreter; its times mean nothing"
    _ = parser.add_argument("--dry", action="store_true", help=dry)
    shown = "print the tables of such files, and measure nothing"
    _ = parser.add_argument("--report", type=Path, nargs="+", metavar="FILE", help=shown)
    return parser


def _prove(options: argparse.Namespace) -> list[Record]:
    about = describe(Host(), options.commit)
    if not options.dry:
        about["machine"]["gpu"] = "unknown GPU"  # until the first stage says which
    book = Book(options.out, about, keep=not options.dry or options.out is not None)
    if book.about["commit"] is None:
        print("no git here: the results will not say of which commit they are; use --commit", file=sys.stderr)
    passed_on = [f"--commit={options.commit}"] if options.commit else []
    environment = dict(os.environ)
    if options.dry:
        passed_on.append("--dry")
        environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    stages = [
        stage._replace(processes=min(stage.processes, 2)) if options.dry else stage for stage in named(options.stages)
    ]
    conduct(stages, passed_on, environment, book.add)
    return book.records


class Book:
    """The records of a run, written to their file whenever one is added."""

    def __init__(self, path: Path | None, about: dict[str, Any], *, keep: bool) -> None:
        self.records: list[Record] = []
        self.about = about
        self._path, self._keep = path, keep

    def add(self, record: Record) -> None:
        """Add a record; the one that describes the machine says where all of them go."""
        if "run" in record:
            self.about = record["run"]
            for earlier in self.records:
                earlier["run"] = self.about
        self.records.append({**record, "suite": "prove", "run": self.about})
        if record["status"] not in ("ok", "missing") or record["case"] == "stage":
            why = record.get("reason", f"{record.get('stage_seconds')} s")
            print(f"{record['stage']}: {record['case']}: {record['status']} ({why})", file=sys.stderr, flush=True)
        if self._keep:
            write(self._path or _default(self.about), self.records)


def _default(about: dict[str, Any]) -> Path:
    """Return where the results of a machine go."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{about['date'][:10]} {about['machine']['gpu']}".lower()).strip("-")
    return pages.RESULTS / f"{name}-prove.jsonl"


if __name__ == "__main__":
    main()
