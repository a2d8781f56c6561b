"""What is printed of losses of reinforcement learning: one grid of times and memory, and one of errors."""

from __future__ import annotations

from typing import Any

from benchmarks.common.grid import draw, size, timing
from benchmarks.common.records import Record

GROUPS = (
    ("", ("case", "N×D×V", "products")),
    ("forward", ("time", "×eager", "×trl", "/mean", "/product")),
    ("forward + backward", ("time", "×eager", "×trl", "/mean", "/products")),
    ("extra memory, MB", ("crossent", "eager", "trl")),
)
ERRORS = (("", ("case", "contender")), ("relative error", ("loss", "dX", "dW")))

LEGEND = """\
×: time of a rival over that of crossent, larger is better; eager is log_softmax, gather and the entropy of logits; trl
is TRL's ChunkedLogProbFunction. /: time of crossent over another, smaller is better: mean is crossent's own mean
cross-entropy of the same head, products are those that nobody can do without (two for a frozen head, else three).
Ratios are medians of ratios within a round. Errors are those beside float64."""


def grids(cases: dict[str, dict[str, Record]]) -> list[str]:
    """Return the lines of the grids."""
    lines = [line for measures in cases.values() for line in _errors(measures.get("error", {}))]
    return [
        *draw(GROUPS, [_cells(measures) for measures in cases.values()]),
        *(["", *draw(ERRORS, lines)] if lines else []),
    ]


def notes(measures: dict[str, Record]) -> list[str]:
    """Return nothing: the grids say everything."""
    return []


def _cells(measures: dict[str, Record]) -> list[str]:
    any_ = next(iter(measures.values()))
    forward, both, memory = (measures.get(name, {}) for name in ("forward", "both", "memory"))
    return [
        any_["case"],
        "×".join(map(str, any_["shape"])) + f" {any_['dtype']}",
        str(any_["products"]),
        *timing(forward, ("eager", "trl"), ("mean", "products")),
        *timing(both, ("eager", "trl"), ("mean", "products")),
        *(size(memory, name, 1e6) for name in ("crossent", "eager", "trl")),
    ]


def _errors(record: Record) -> list[list[str]]:
    errors: dict[str, Any] = record.get("errors", {})
    return [
        [record["case"], name, *(f"{error[of]:.1e}" if of in error else "" for of in ("loss", "dX", "dW"))]
        for name, error in errors.items()
    ]
