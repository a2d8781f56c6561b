"""Prints the records of JSON lines as a table, one line for each case, one table for each run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]

GROUPS = (
    ("", ("case", "logits")),
    ("forward", ("time", "×eager", "×compile", "/read")),
    ("backward, warm", ("time", "/copy")),
    ("forward + backward, fresh", ("time", "×eager", "×compile", "/limit")),
    ("extra memory, MB", ("crossent", "eager", "compile", "B/row")),
)

LEGEND = """\
×: time of torch over that of crossent, larger is better. /: time of crossent over the least that memory allows, smaller
is better: read is x.sum(), copy is into warm memory, limit is read + clone into fresh memory. Ratios are medians of
ratios within a round. Extra memory is the peak beyond inputs and gradient; B/row is crossent's for each row."""


def read(paths: Iterable[Path]) -> list[Record]:
    """Return the records of files of JSON lines."""
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line]


def tables(records: list[Record]) -> str:
    """Return the tables of all runs among the records, in their order."""
    runs: dict[str, list[Record]] = {}
    for record in records:
        runs.setdefault(json.dumps(record["run"], sort_keys=True), []).append(record)
    return "\n\n".join([*(table(run) for run in runs.values()), LEGEND])


def table(records: list[Record]) -> str:
    """Return the table of one run."""
    cases: dict[str, dict[str, Record]] = {}
    for record in records:
        cases.setdefault(record["case"], {})[record["measure"]] = record
    lines = [_cells(measures) for measures in cases.values()]
    heads = [name for _, names in GROUPS for name in names]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    grid = [_line(cells, widths) for cells in (heads, *lines)]
    return "\n".join([_title(records[0]), "", _groups(widths), *grid, *_notes(cases)])


def _title(record: Record) -> str:
    run = record["run"]
    machine, versions = run["machine"], run["versions"]
    rounds = f"{record['rounds']} rounds, " if "rounds" in record else ""
    software = ", ".join(f"{name} {versions[name]}" for name in ("crossent", "torch", "numpy", "python"))
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['isa']}, {machine['platform']}\n"
        f"{software}, commit {run['commit']}, {rounds}{run['date']}"
    )


def _cells(measures: dict[str, Record]) -> list[str]:
    any_ = next(iter(measures.values()))
    forward, backward, both, memory = (measures.get(name, {}) for name in ("forward", "backward", "both", "memory"))
    return [
        any_["case"],
        "×".join(map(str, any_["shape"])) + f" {any_['dtype']}",
        *_timing(forward, ("eager", "compile")),
        *_timing(backward, ()),
        *_timing(both, ("eager", "compile")),
        *(_size(memory, name, 1e6) for name in ("crossent", "eager", "compile")),
        _size(memory, "crossent", any_["rows"]),
    ]


def _timing(record: Record, rivals: tuple[str, ...]) -> list[str]:
    return [
        duration(_at(record, "median_seconds", "crossent")),
        *(_number(_at(record, "speedup_over", name)) for name in rivals),
        _number(_at(record, "times_limit", "limit")),
    ]


def _at(record: Record, field: str, name: str) -> float | None:
    return record.get(field, {}).get(name)


def duration(seconds: float | None) -> str:
    """Return a time with three digits and a unit that suits it."""
    if seconds is None:
        return "–"
    unit, name = next(((u, n) for u, n in ((1.0, "s"), (1e-3, "ms")) if seconds >= u), (1e-6, "µs"))
    return f"{_number(seconds / unit)} {name}"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _size(memory: Record, name: str, unit: float) -> str:
    size = _at(memory, "extra_bytes", name)
    if size is None:
        return "–"
    least = memory["resolution_bytes"]
    return f"<{_number(least / unit)}" if size < least else _number(size / unit)


def _line(cells: list[str], widths: list[int]) -> str:
    words = [f"{cell:<{w}}" if i < 2 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(cells, widths, strict=True))]
    ends = _ends()
    return "".join(word + ("" if i in ends[-1:] else " │ " if i in ends else "  ") for i, word in enumerate(words))


def _groups(widths: list[int]) -> str:
    parts: list[str] = []
    start = 0
    for title, names in GROUPS:
        own = widths[start : start + len(names)]
        parts.append(f"{title:<{sum(own) + 2 * (len(own) - 1)}}")
        start += len(names)
    return " │ ".join(parts).rstrip()


def _ends() -> list[int]:
    """Return the last column of each group."""
    counts = [len(names) for _, names in GROUPS]
    return [sum(counts[: i + 1]) - 1 for i in range(len(counts))]


def _notes(cases: dict[str, dict[str, Record]]) -> list[str]:
    notes: list[str] = []
    for name, measures in cases.items():
        raw = _at(measures.get("forward", {}), "times_limit", "raw")
        if raw is not None:
            notes.append(
                f"{name}: the forward takes {_number(raw)}× the sum of the same bytes as float32, a faster read"
            )
        any_ = next(iter(measures.values()))
        if any_["threads"] != any_["run"]["machine"]["threads"]:
            notes.append(f"{name}: threads in use {any_['threads']}")
        missing = any_.get("missing", {})
        notes += [f"{name}: {rival} did not run ({reason})" for rival, reason in missing.items()]
    return ["", *notes] if notes else []
