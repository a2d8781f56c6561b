"""Records of measurements, one a line of JSON, and the numbers that they hold."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Times = list[float]
"""Seconds of the rounds of one contender."""


def read(paths: Iterable[Path]) -> list[Record]:
    """Return the records of files of JSON lines."""
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line]


def write(path: Path, records: list[Record]) -> None:
    """Write records as JSON lines; a file that was there already stays whole until the new one is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    _ = part.write_text("".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records), encoding="utf-8")
    _ = part.replace(path)


def by_case(records: list[Record]) -> dict[str, dict[str, Record]]:
    """Return the records of a run by case and measure."""
    cases: dict[str, dict[str, Record]] = {}
    for record in records:
        cases.setdefault(record["case"], {})[record["measure"]] = record
    return cases


def rounded(value: float) -> float:
    """Return a number with the five digits that a record gives it."""
    return float(f"{value:.5g}")


def ratio(over: Times, under: Times) -> float:
    """Return the median of the quotients in the rounds, from the first, that both have."""
    return rounded(statistics.median(a / b for a, b in zip(over, under, strict=False)))
