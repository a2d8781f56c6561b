"""Sixty files of predictions as thirty tools write them, and the loss of each.

The files are in `files/`, the table is `expected.json`; both are made here and kept in git, and test_files_of_tools.py
reads them through the command. The tools that install write their own files; those that do not are written in the form
that their documentation gives (described.py). To make all again, in an environment of its own:

    python -m venv tools && tools/bin/pip install -r tests/scoring/files_of_tools/tools.txt
    WEKA_HOME=folder-of-weka.jar tools/bin/python -m tests.scoring.files_of_tools.make

H2O, Weka and Spark need a Java. A name or several after `make` make these files alone.
Losses are computed by mpmath from the numbers as written, and never by crossent.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib import import_module

from tests.scoring.files_of_tools.problem import FILES, HERE, MAKERS

MODULES = ("boosters", "frames_pandas", "frames_more", "learners", "texts", "described")
TABLE = HERE / "expected.json"


def main(names: list[str]) -> None:
    for module in MODULES:
        _ = import_module(f"tests.scoring.files_of_tools.{module}")
    FILES.mkdir(exist_ok=True)
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    for name in names or list(MAKERS):
        tool, maker = MAKERS[name]
        case = maker(FILES)
        table[name] = {"tool": tool, **{key: value for key, value in asdict(case).items() if value not in ("", None)}}
        print(f"{name:32} {case.file}")
    ordered = {name: table[name] for name in MAKERS if name in table}
    _ = TABLE.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
