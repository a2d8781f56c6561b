"""Where results go, and how tables made of them come into the pages of docs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def path_of(about: dict[str, Any], suite: str) -> Path:
    """Return where the results of a suite go: a file for each day and machine."""
    machine = about["machine"]
    system = machine["platform"].partition("-")[0].lower()
    return RESULTS / f"{about['date'][:10]}-{system}-{machine['isa']}-{machine['cores']}-cores-{suite}.jsonl"


def latest(suite: str) -> Path:
    """Return the newest results of a suite."""
    found = sorted(RESULTS.glob(f"*-{suite}.jsonl"))
    if not found:
        raise SystemExit(f"benchmarks/results has no results of {suite}; `python -m benchmarks.{suite}` writes them")
    return found[-1]


def fill(page: str, tables: Mapping[str, str]) -> str:
    """Put each table between its marks, <!-- name --> and <!-- end of name -->, in a page of docs, and say so."""
    path = ROOT / "docs" / page
    text = path.read_text(encoding="utf-8")
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"docs/{page} needs one {begin.strip()} and one {end}")
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}{table}\n{end}{rest.partition(end)[2]}"
    path.write_text(text, encoding="utf-8")
    return f"tables written to docs/{page}"


def markdown(heads: list[str], lines: list[list[str]], words: int = 1) -> str:
    """Return a table in Markdown; the first columns, `words` of them, are not numbers."""
    rule = "---|" * words + "---:|" * (len(heads) - words)
    return "\n".join([f"| {' | '.join(heads)} |", f"|{rule}", *(f"| {' | '.join(line)} |" for line in lines)])
