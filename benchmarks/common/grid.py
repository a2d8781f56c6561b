"""Draws a table of text: columns in groups, and numbers, durations and sizes in few digits."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.common.records import Record

Groups = tuple[tuple[str, tuple[str, ...]], ...]
"""Titles, each with the heads of its columns."""

SOFT = ("prob", "topk", "binary", "forward", "reverse", "js")
"""Targets that are no class indices; the last are kinds of divergence, whose target is a teacher."""


def draw(groups: Groups, lines: list[list[str]]) -> list[str]:
    """Return the lines of a grid: titles, heads and cells, of which the first two are words and the others numbers."""
    heads = [name for _, names in groups for name in names]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    return [_titles(groups, widths), *(_line(groups, cells, widths) for cells in (heads, *lines))]


def at(record: Record, field: str, name: str) -> Any:
    """Return what a record has under a field and a name, or None."""
    return record.get(field, {}).get(name)


def duration(seconds: float | None) -> str:
    """Return a time with three digits and a unit that suits it."""
    if seconds is None:
        return "–"
    unit, name = next(((u, n) for u, n in ((1.0, "s"), (1e-3, "ms")) if seconds >= u), (1e-6, "µs"))
    return f"{number(seconds / unit)} {name}"


def number(value: float | None) -> str:
    """Return a number with three digits or as many as it takes."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def error(record: Record, who: str, of: str) -> str:
    """Return someone's relative error."""
    value = record["errors"].get(who, {}).get(of)
    return "–" if value is None else power(value)


def power(value: float) -> str:
    """Return a small number with two digits and a power of ten.

    >>> power(2.93e-7), power(0.0), power(0.025)
    ('2.9·10⁻⁷', '0', '0.025')
    """
    if value == 0 or value >= 1e-3:
        return f"{value:.2g}"
    exponent = math.floor(math.log10(value) + 1e-12)
    digits = f"{value / 10.0**exponent:.1f}"
    if digits == "10.0":
        digits, exponent = "1.0", exponent + 1
    return f"{digits}·10{str(exponent).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def words(r: Record) -> str:
    """Return the shape of a case, what is special in it, and its name."""
    target, cap, wider = r.get("target"), r.get("softcap"), r.get("teacher_features")
    special = [
        target if target in SOFT else None,
        r.get("kind"),
        f"teacher of {wider} features" if wider and wider != r["shape"][1] else None,
        "labels" if r.get("labels") else None,
        f"gap {r['gap']:g}" if r.get("gap") else None,
        "weight" if r.get("weighted") else None,
        f"smoothing {r['smoothing']:g}" if r.get("smoothing") else None,
        f"softcap {cap:g}" if cap else None,
        "one thread" if r.get("threads") == 1 else None,
        None if r["dtype"] == "float32" else r["dtype"],
    ]
    return ", ".join([" × ".join(map(str, r["shape"])), *filter(None, special)]) + f" ({r['case']})"


def timing(record: Record, rivals: tuple[str, ...], limits: tuple[str, ...]) -> list[str]:
    """Return crossent's time, and it beside those of rivals and limits."""
    return [
        duration(at(record, "median_seconds", "crossent")),
        *(number(at(record, "speedup_over", name)) for name in rivals),
        *(number(at(record, "times_limit", name)) for name in limits),
    ]


def size(memory: Record, name: str, unit: float) -> str:
    """Return someone's extra memory, or below what it is where that is as much as can be measured."""
    extra = at(memory, "extra_bytes", name)
    if extra is None:
        return "–"
    least = memory["resolution_bytes"]
    return f"<{number(least / unit)}" if extra < least else number(extra / unit)


def _line(groups: Groups, cells: list[str], widths: list[int]) -> str:
    words = [f"{cell:<{w}}" if i < 2 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(cells, widths, strict=True))]
    ends = _ends(groups)
    return "".join(word + ("" if i in ends[-1:] else " │ " if i in ends else "  ") for i, word in enumerate(words))


def _titles(groups: Groups, widths: list[int]) -> str:
    parts: list[str] = []
    start = 0
    for title, names in groups:
        own = widths[start : start + len(names)]
        parts.append(f"{title:<{sum(own) + 2 * (len(own) - 1)}}")
        start += len(names)
    return " │ ".join(parts).rstrip()


def _ends(groups: Groups) -> list[int]:
    """Return the last column of each group."""
    counts = [len(names) for _, names in groups]
    return [sum(counts[: i + 1]) - 1 for i in range(len(counts))]
