"""Where results go, where they are found again, and how a table is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.common import processors
from benchmarks.common.records import Record, read

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"

Lines = dict[str, list[list[str]]]
"""The lines of a table for each case, one cell a column."""

COMMANDS = {
    "logits": "python -m benchmarks --suite logits",
    "everyday": "python -m benchmarks --suite everyday",
    "growth": "python -m benchmarks --suite growth",
    "divergence": "python -m benchmarks --suite divergence",
    "linear": "python -m benchmarks --suite linear",
    "scaling": "python -m benchmarks --suite scaling",
    "rows": "python -m benchmarks --suite rows",
    "distillation": "python -m benchmarks --suite distillation",
    "grpo": "python -m benchmarks.grpo",
    "score": "python -m benchmarks.score",
    "coverage": "python -m benchmarks.coverage",
    "gpu": "make bench-gpu",
    "prove": "make prove-gpu",
}
"""What writes the results of each suite."""


class LostSourceError(LookupError):
    """A table or picture of a page is made of results that are not there."""


def path_of(about: dict[str, Any], suite: str) -> Path:
    """Return where the results of a suite go: a file for each day, class of processors and version of torch."""
    machine = about["machine"]
    system = machine["platform"].partition("-")[0].lower()
    kind = processors.slug(class_of(about))
    return RESULTS / f"{about['date'][:10]}-{system}-{kind}-{machine['cores']}-cores-{suite}.jsonl"


def class_of(run: Mapping[str, Any]) -> str:
    """Return the class of a run: of its processor, with torch's version where it is not that of constraints.txt.

    >>> machine = {"cpu": "AMD EPYC 7B13", "vendor": "AMD", "widest": "avx2", "isa": "avx2", "amx": False}
    >>> class_of({"machine": machine, "versions": {"torch": "2.15.0+cu130"}})
    'AMD, AVX2, torch 2.15'

    Results of another torch stand beside those of the usual one, and never take their place.
    """
    processor = processors.class_of(run["machine"])
    version = _minor(run.get("versions", {}).get("torch") or usual_torch())
    return processor if version == _minor(usual_torch()) else f"{processor}, torch {version}"


def processor_of(name: str) -> str:
    """Return the class of processors of a class of runs.

    >>> processor_of("AMD, AVX2, torch 2.15"), processor_of("AMD, AVX2")
    ('AMD, AVX2', 'AMD, AVX2')
    """
    return name.partition(", torch ")[0]


@cache
def usual_torch() -> str:
    """Return the version of torch that constraints.txt names."""
    [version] = re.findall(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    return version


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def begun(about: dict[str, Any], suite: str) -> Path | None:
    """Return the results of a suite of the same commit, machine and versions, or None if there are none.

    A commit that sources differ from may be any state of them: nothing goes on with its results.
    """
    for path in sorted(RESULTS.glob(f"*-{suite}.jsonl"), reverse=True):
        run = read([path])[0]["run"]
        same = all(run["machine"][key] == about["machine"][key] for key in ("cpu", "cores", "isa"))
        same &= run["commit"] == about["commit"] and about["versions"].items() <= run["versions"].items()
        if same and re.fullmatch("[0-9a-f]+", str(about["commit"])):
            return path
    return None


def superseded() -> list[Path]:
    """Return the results that no page shows: those of their suite and class of runs have newer ones."""
    newest: dict[tuple[str, str], Path] = {}
    older: list[Path] = []
    for path in sorted(RESULTS.glob("*.jsonl")):
        suite = path.stem.rpartition("-")[2]
        of = suite, class_of(read([path])[0]["run"])
        older += [newest[of]] if of in newest else []
        newest[of] = path
    return sorted(older)


def exists(suite: str) -> bool:
    """Whether there are results of a suite."""
    return any(RESULTS.glob(f"*-{suite}.jsonl"))


def latest(suite: str) -> Path:
    """Return the newest results of a suite, whatever they ran on."""
    return _files(suite)[-1]


def records(suite: str) -> list[Record]:
    """Return the newest results of a suite, whatever they ran on."""
    return read([latest(suite)])


def by_processor(suite: str) -> dict[str, list[Record]]:
    """Return the newest results of a suite for each class of runs (`class_of`) that has some, in alphabetical order."""
    found: dict[str, list[Record]] = {}
    for path in _files(suite):
        records = read([path])
        found[class_of(records[0]["run"])] = records
    return dict(sorted(found.items()))


def _files(suite: str) -> list[Path]:
    """Return all results of a suite, the newest last, or raise if there are none."""
    found = sorted(RESULTS.glob(f"*-{suite}.jsonl"))
    if not found:
        raise LostSourceError(
            f"has lost its source: benchmarks/results has no *-{suite}.jsonl; `{COMMANDS[suite]}` writes one"
        )
    return found


def markdown(heads: list[str], lines: list[list[str]], words: int = 1) -> str:
    """Return a table in Markdown; the first columns, `words` of them, are not numbers."""
    rule = "---|" * words + "---:|" * (len(heads) - words)
    return "\n".join([f"| {' | '.join(heads)} |", f"|{rule}", *(f"| {' | '.join(line)} |" for line in lines)])
