"""Prints the records of JSON lines as tables, one line for each case, one table for each suite of each run."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.common import processors
from benchmarks.common.records import Record, by_case
from benchmarks.distillation import report as distillation_report
from benchmarks.linear import report as linear_report
from benchmarks.logits import everyday_report, growth_report
from benchmarks.logits import report as logits_report
from benchmarks.rows import report as rows_report

LAYOUTS: dict[str, Any] = {
    "logits": logits_report,
    "everyday": everyday_report,
    "growth": growth_report,
    "divergence": logits_report,
    "linear": linear_report,
    "scaling": linear_report,
    "rows": rows_report,
    "distillation": distillation_report,
}
"""Modules that know the columns of a suite: each has grids, notes and a LEGEND."""


def tables(records: list[Record]) -> str:
    """Return the tables of all runs among the records, in their order, each suite with its legend."""
    parts: list[str] = []
    for suite, layout in LAYOUTS.items():
        runs: dict[str, list[Record]] = {}
        for record in records:
            if record["suite"] == suite:
                runs.setdefault(json.dumps(record["run"], sort_keys=True), []).append(record)
        if runs:
            parts += [*(table(run, layout) for run in runs.values()), layout.LEGEND]
    return "\n\n".join(parts)


def table(records: list[Record], layout: Any) -> str:
    """Return the table of one run."""
    cases = by_case(records)
    notes = [note for measures in cases.values() for note in (*layout.notes(measures), *_notes(measures))]
    return "\n".join([_title(records[0]), "", *layout.grids(cases), *(["", *notes] if notes else [])])


def _title(record: Record) -> str:
    run = record["run"]
    machine, versions = run["machine"], run["versions"]
    rounds = f"{record['rounds']} rounds, " if "rounds" in record else ""
    software = ", ".join(f"{name} {versions[name]}" for name in ("crossent", "torch", "numpy", "python"))
    return (
        f"{processors.class_of(machine)}: {machine['cpu']}, {machine['cores']} cores, {machine['platform']}\n"
        f"{software}, commit {run['commit']}, {rounds}{run['date']}"
    )


def _notes(measures: dict[str, Record]) -> list[str]:
    any_ = next(iter(measures.values()))
    name, notes = any_["case"], list[str]()
    if any_["threads"] != any_["run"]["machine"]["threads"] and any_.get("clock") != "cpu":
        notes.append(f"{name}: threads in use {any_['threads']}")
    notes += [f"{name}: rounds of {rival}: {rounds}" for rival, rounds in any_.get("rounds_of", {}).items()]
    return notes + [f"{name}: {rival} did not run ({reason})" for rival, reason in any_.get("missing", {}).items()]
