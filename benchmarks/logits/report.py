"""What is printed of losses of logits."""

from __future__ import annotations

from benchmarks.common.grid import at, draw, number, size, timing
from benchmarks.common.records import Record

GROUPS = (
    ("", ("case", "logits")),
    ("forward", ("time", "×eager", "×compile", "/read")),
    ("backward, warm", ("time", "/copy")),
    ("forward + backward, fresh", ("time", "×eager", "×compile", "/limit")),
    ("extra memory, MB", ("crossent", "eager", "compile", "B/row")),
)

LEGEND = """\
×: time of torch over that of crossent, larger is better. /: time of crossent over the least that memory allows, smaller
is better: read is x.sum(), copy is into warm memory, limit is read + clone into fresh memory; each also reads a target
as large as the logits. Ratios are medians of ratios within a round. Extra memory is the peak beyond inputs and
gradient; B/row is crossent's for each row."""


def grids(cases: dict[str, dict[str, Record]]) -> list[str]:
    """Return the lines of the grid."""
    return draw(GROUPS, [_cells(measures) for measures in cases.values()])


def notes(measures: dict[str, Record]) -> list[str]:
    """Return what is to be said of one case below the grid."""
    forward = measures.get("forward", {})
    raw = at(forward, "times_limit", "raw")
    if raw is None:
        return []
    return [f"{forward['case']}: the forward takes {number(raw)}× the sum of the same bytes as float32, a faster read"]


def _cells(measures: dict[str, Record]) -> list[str]:
    any_ = next(iter(measures.values()))
    forward, backward, both, memory = (measures.get(name, {}) for name in ("forward", "backward", "both", "memory"))
    return [
        any_["case"],
        "×".join(map(str, any_["shape"])) + f" {any_['dtype']}",
        *timing(forward, ("eager", "compile"), ("limit",)),
        *timing(backward, (), ("limit",)),
        *timing(both, ("eager", "compile"), ("limit",)),
        *(size(memory, name, 1e6) for name in ("crossent", "eager", "compile")),
        size(memory, "crossent", any_["rows"]),
    ]
