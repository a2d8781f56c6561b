"""Shows what the model of times predicts for the GPU that was measured, term by term, beside what was measured.

Without a measurement the prediction is that for `USUAL`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from benchmarks.common import pages
from benchmarks.common.grid import at, duration, words
from benchmarks.common.records import Record

if TYPE_CHECKING:
    from benchmarks.gpu.chips import Chip

USUAL = "H200"
NOT_MEASURED = "not measured"


class Term(NamedTuple):
    """A part of the time of a case, in seconds."""

    name: str
    predicted: float
    measured: float | None


def table(records: list[Record]) -> str:
    """Return the terms of each case, predicted and measured."""
    from benchmarks.gpu.cases import head  # which needs torch
    from benchmarks.gpu.prove.ceilings import whole_heads
    from benchmarks.gpu.prove.logits import cases

    chip = chip_of(records)
    if chip is None:
        return f"There is no model of {records[0]['run']['machine']['gpu']}."
    lines: list[list[str]] = []
    for case in (*cases(), *whole_heads()):
        for term in terms(case, chip, ours(records, case.name)):
            measured = NOT_MEASURED if term.measured is None else duration(term.measured)
            share = NOT_MEASURED if term.measured is None else f"{term.measured / term.predicted:.2f}"
            lines.append([words(head(case)), term.name, duration(term.predicted), measured, share])
    return pages.markdown(["case", "term", f"predicted for {chip.name}", "measured", "measured / predicted"], lines, 2)


def chip_of(records: list[Record]) -> Chip | None:
    """Return the chip that was measured, None if the model does not know it; the usual one if nothing was measured."""
    from benchmarks.gpu.chips import CHIPS  # which needs torch

    name = records[0]["run"]["machine"]["gpu"] if records else USUAL
    return next((chip for chip in CHIPS if chip.name in name), None)


def ours(records: list[Record], case: str) -> Record:
    """Return the record of crossent's default in a case; empty if it was not measured."""
    of_case = (r for r in records if r["case"] == case and r.get("contender") == "crossent" and r["status"] == "ok")
    return next((r for r in of_case if r.get("rows") is None and r.get("chunk_bytes") is None), {})


def terms(case: object, chip: Chip, measured: Record) -> list[Term]:
    """Return the terms of a case. What a product adds up in float32 is a part of the time of its product."""
    from benchmarks.gpu.cases import HeadCase
    from benchmarks.gpu.model import plan_of, predict_head, predict_logits
    from benchmarks.logits.cases import LogitsCase

    if isinstance(case, HeadCase):
        found = predict_head(plan_of(case), chip)
        t = found.terms
        phases = {name: at(measured, "phases", name) for name in ("logits", "rows", "dX", "dW", "rest")}
        products = None if phases["dX"] is None or phases["dW"] is None else phases["dX"] + phases["dW"]
        return [
            Term("logits", t["logits"], phases["logits"]),
            Term("rows", t["rows forward"] + t["rows backward"], phases["rows"]),
            Term("dX, dW and their sums", t["dX"] + t["dW"] + t["sums"], products),
            Term("casts, launches, the rest", t["casts"] + t["launches"], phases["rest"]),
            Term("both", found.total, at(measured, "median_seconds", "both")),
        ]
    if not isinstance(case, LogitsCase):
        raise TypeError(f"the model knows logits and heads, not {type(case).__name__}")
    found = predict_logits(case, chip)
    each = {name: at(measured, "median_seconds", name) for name in ("forward", "backward", "both")}
    return [
        Term("forward", found.terms["rows forward"], each["forward"]),
        Term("backward", found.terms["rows backward"], each["backward"]),
        Term("both, with launches", found.total, each["both"]),
    ]
