"""A process of a stage: `python -m benchmarks.gpu.prove.child STAGE …`, started by the conductor.

It imports everything, then waits for a line that says how many seconds it has, so that the next stage is ready when
this one ends; until then it does not touch the GPU. Records go to its standard output, a line of JSON each; what
libraries print goes to standard error.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from benchmarks.common.records import Record
from benchmarks.gpu.contenders import reason
from benchmarks.gpu.device import Gpu, Host
from benchmarks.gpu.prove import lab, stages
from benchmarks.gpu.prove.compiled import Compiled


def main() -> None:
    """Run the share of a stage that the command line names."""
    options = _parser().parse_args()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    _ = os.dup2(2, 1)

    def emit(record: Record) -> None:
        print(json.dumps({"stage": options.stage, **record}, ensure_ascii=False), file=out, flush=True)

    try:
        work = prepare(options.stage, small=options.dry)
        seconds = sys.stdin.readline()
        if seconds:  # else there is no conductor any more
            work(float(seconds), options.share, options.shares, options.commit, emit)
    except Exception as error:
        emit({"case": "all", "status": "failed", "reason": reason(error)})
        raise
    finally:
        gc.unfreeze()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    _ = parser.add_argument("stage", choices=[stage.name for stage in stages.STAGES])
    _ = parser.add_argument("--share", type=int, default=0)
    _ = parser.add_argument("--shares", type=int, default=1)
    _ = parser.add_argument("--commit")
    _ = parser.add_argument("--dry", action="store_true")
    return parser


def prepare(stage: str, *, small: bool) -> Callable[..., None]:
    """Import what a stage needs, and return a function that runs it on the GPU, or on the host if cases are small."""
    if small:
        from benchmarks.gpu.prove.rehearsal import on_the_host

        on_the_host()
    module: Any = import_module(f"benchmarks.gpu.prove.{stage}")
    gc.freeze()  # what was imported stays, and need not be looked through before each measurement

    def work(seconds: float, share: int, shares: int, commit: str | None, emit: Callable[[Record], None]) -> None:
        deadline, compiled = time.monotonic() + seconds, Compiled()
        here = lab.Lab(Host() if small else Gpu(), small, deadline, share, shares, commit)
        items: Iterable[lab.Item] = module.items(here)
        lab.run(items, here, emit)
        for record in compiled.records():
            emit({"status": "ok", **record})

    return work


if __name__ == "__main__":
    main()
