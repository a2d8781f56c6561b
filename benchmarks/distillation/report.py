"""What is printed of divergences between two heads, and the tables of the pages: times and memory, and errors."""

from __future__ import annotations

from typing import Any

from benchmarks.common import pages
from benchmarks.common.grid import at, draw, error, number, size, timing, words
from benchmarks.common.records import Record, by_case

GROUPS = (
    ("", ("case", "N×D×V")),
    ("forward + backward", ("time", "×eager", "×trl", "/products", "/fresh", "/float32")),
    ("extra memory, MB", ("crossent", "eager", "trl")),
)
ERRORS = (("", ("case", "contender")), ("relative error", ("loss", "dX", "dW")))
FLOORS = ("products", "products fresh", "products float32")

LEGEND = """\
×: time of a rival over that of crossent, larger is better; eager makes the logits of both heads, log_softmax and
kl_div; trl is TRL's ChunkedDivergenceFunction. /: time of crossent over that of four products alone (logits of student
and teacher, gradients of the student's input and weight), smaller is better: products are in the dtype of the case into
memory that exists and has been written before, fresh are the same into new memory, float32 the same as products in
float32. Ratios are medians of ratios within a round. Extra memory is the peak beyond operands and gradients. Errors are
those beside float64. The forward alone is not timed."""


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


TIMES = ["student's N × D × V", "× eager", "× TRL", "time / four products", "… fresh", "… float32"]
TIMES += ["extra MB", "eager's", "TRL's"]


def times(records: list[Record]) -> pages.Lines:
    """Return times beside eager, TRL and the four products, and peaks of memory."""
    return {
        name: [
            [
                words(case["both"]),
                *(number(at(case["both"], "speedup_over", rival)) for rival in ("eager", "trl")),
                *(number(at(case["both"], "times_limit", floor)) for floor in FLOORS),
                *(size(case.get("memory", {}), who, 1e6) for who in ("crossent", "eager", "trl")),
            ]
        ]
        for name, case in by_case(records).items()
    }


def errors(records: list[Record]) -> pages.Lines:
    """Return how far divergences and their gradients are from float64, of the cases whose errors were measured."""
    lines: pages.Lines = {}
    for name, case in by_case(records).items():
        for k, who in enumerate(case["error"]["errors"]):
            cells = [error(case["error"], who, of) for of in ("loss", "dX", "dW")]
            lines.setdefault(name, []).append(["" if k else words(case["both"]), who, *cells])
    return lines


def _cells(measures: dict[str, Record]) -> list[str]:
    any_ = next(iter(measures.values()))
    both, memory = (measures.get(name, {}) for name in ("both", "memory"))
    return [
        any_["case"],
        "×".join(map(str, any_["shape"])) + f" {any_['dtype']}",
        *timing(both, ("eager", "trl"), FLOORS),
        *(size(memory, name, 1e6) for name in ("crossent", "eager", "trl")),
    ]


def _errors(record: Record) -> list[list[str]]:
    found: dict[str, Any] = record.get("errors", {})
    return [
        [record["case"], name, *(f"{of_one[of]:.1e}" for of in ("loss", "dX", "dW"))] for name, of_one in found.items()
    ]
