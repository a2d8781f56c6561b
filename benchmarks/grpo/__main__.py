"""The training of examples/grpo.py, both ways: `python -m benchmarks.grpo` runs and records it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import pages
from benchmarks.common.records import Record, write

EXAMPLE = pages.ROOT / "examples" / "grpo.py"


def run(arguments: Sequence[str]) -> list[Record]:
    """Run the example with the current environment's threads, and return a record of each way."""
    from benchmarks.common import machine

    about = machine.describe()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(EXAMPLE), *arguments, "--output", folder]
        _ = subprocess.run(command, check=True)
        found = json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))
    way = {False: "logits", True: "crossent"}
    of_all = {"suite": "grpo", "case": "counting", "options": found["options"], "comparison": found["comparison"]}
    return [{**of_all, "measure": way[record.pop("crossent")], **record, "run": about} for record in found["runs"]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grpo", description=__doc__)
    _ = parser.add_argument("--tiny", action="store_true", help="the small model of the example, recorded nowhere")
    _ = parser.add_argument("--out", type=Path, metavar="FILE", help="where to write (a file of benchmarks/results)")
    options = parser.parse_args(arguments)
    records = run(["--tiny"] if options.tiny else [])
    path = options.out or (None if options.tiny else pages.path_of(records[0]["run"], "grpo"))
    if path is not None:
        write(path, records)
        print(f"written to {path.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
