"""What is printed of losses of a linear layer: one grid of times and memory, and one of errors."""

from __future__ import annotations

from typing import Any

from benchmarks.common.grid import at, draw, duration, number, size, timing
from benchmarks.common.records import Record

GROUPS = (
    ("", ("case", "N×D×V")),
    ("forward", ("time", "×eager", "/gemm")),
    ("forward + backward, fresh", ("time", "×eager", "×compile", "×chunked", "/gemms", "/warm")),
    ("extra memory, MB", ("crossent", "eager", "compile", "chunked")),
)

ERRORS = (
    ("", ("case", "contender")),
    ("relative error", ("loss", "dX", "dW")),
    ("", ("chunks",)),
)

LEGEND = """\
×: time of torch over that of crossent, larger is better; chunked is torch's F.linear_cross_entropy with default
options. /: time of crossent over that of matrix products alone in the dtype of the case, smaller is better: gemm makes
the logits in warm memory; gemms are three products, of the logits and of two gradients, into fresh memory, and warm is
the same into warm memory. Ratios are medians of ratios within a round. Extra memory is the peak beyond inputs and
gradients. Errors are those beside float64: of the loss, and in the Euclidean norm of the gradients of input (dX) and
weight (dW); chunks are how many crossent makes the logits in."""


def grids(cases: dict[str, dict[str, Record]]) -> list[str]:
    """Return the lines of the grids."""
    lines = [line for measures in cases.values() for line in _errors(measures.get("error", {}))]
    return [
        *draw(GROUPS, [_cells(measures) for measures in cases.values()]),
        *(["", *draw(ERRORS, lines)] if lines else []),
    ]


def notes(measures: dict[str, Record]) -> list[str]:
    """Return what is to be said of one case below the grids: of other chunks, and of floors in another dtype."""
    forward, both, memory = (measures.get(name, {}) for name in ("forward", "both", "memory"))
    case = next(iter(measures.values()))["case"]
    found: list[str] = []
    for name in both.get("speedup_over", {}):
        if name.startswith("crossent"):
            times = [duration(at(record, "median_seconds", name)) for record in (forward, both)]
            extra = f", {size(memory, name, 1e6)} MB of extra memory" if memory else ""
            found.append(f"{case}: {name} takes {times[0]} forward, {times[1]} forward + backward{extra}")
    beside = [("forward", forward, "gemm"), ("forward + backward", both, "gemms")]
    ratios = [(title, at(record, "times_limit", f"{floor} float32")) for title, record, floor in beside]
    if all(ratio is not None for _, ratio in ratios):
        words = ", ".join(f"{number(ratio)}× {title}" for title, ratio in ratios)
        found.append(f"{case}: beside products in float32 {words}")
    return found


def _cells(measures: dict[str, Record]) -> list[str]:
    any_ = next(iter(measures.values()))
    forward, both, memory = (measures.get(name, {}) for name in ("forward", "both", "memory"))
    return [
        any_["case"],
        "×".join(map(str, any_["shape"])) + f" {any_['dtype']}",
        *timing(forward, ("eager",), ("gemm",)),
        *timing(both, ("eager", "compile", "torch chunked"), ("gemms", "gemms warm")),
        *(size(memory, name, 1e6) for name in ("crossent", "eager", "compile", "torch chunked")),
    ]


def _errors(record: Record) -> list[list[str]]:
    errors: dict[str, Any] = record.get("errors", {})
    return [
        [record["case"], name, *(f"{error[of]:.1e}" for of in ("loss", "dX", "dW")), _chunks(record, name)]
        for name, error in errors.items()
    ]


def _chunks(record: Record, name: str) -> str:
    chunks = at(record, "chunks", name)
    return "" if chunks is None else str(chunks)
