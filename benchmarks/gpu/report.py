"""What is printed of a GPU: a grid of the losses of logits, one of those of a linear layer, and one of errors."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.common.grid import Groups, at, draw, duration, number
from benchmarks.common.records import Record

TIMES = ("times", ("forward", "both", "to queue"))
REST = (("× crossent", ("forward", "both")), ("memory, MB", ("peak", "extra")), ("", ("differs", "rounds")))
GROUPS: dict[str, Groups] = {
    "gpu-logits": (("", ("case", "contender")), TIMES, ("% of copy", ("forward", "both")), *REST),
    "gpu-linear": (("", ("case", "contender")), TIMES, ("products", ("both/gemms", "TFLOP/s")), *REST),
    "gpu-errors": (("", ("case", "contender")), ("relative error", ("loss", "dX", "dW"))),
}

LEGEND = """\
Times are medians, on the device while the host is ahead of it; forward: where no gradient is wanted; both: loss and
gradients in fresh memory; to queue: what the host takes for both, its waits for the device, if it waits, included.
% of copy: the bytes that a forward (one read) or both (two reads, one write) cannot avoid, over the time, as a share of
the bandwidth of a copy of the logits (one read, one write) in the same rounds. both/gemms: over the time of the three
products alone; TFLOP/s of the 6 N D V that a step needs, whatever a contender multiplies. × crossent: the time over
crossent's, larger is slower. All ratios are medians of ratios within a round. Peak is memory beyond what was there
before the call, extra is beyond the gradients too: below zero for who writes the gradient over the logits. Differs: the
largest relative difference in norm of loss and gradients from eager's. Errors are those beside float64: of the loss,
and in the Euclidean norm of the gradients of input (dX) and weight (dW)."""


def tables(records: list[Record]) -> str:
    """Return the tables of all runs among the records, in their order, and what they mean."""
    runs: dict[str, list[Record]] = {}
    for record in records:
        runs.setdefault(json.dumps(record["run"], sort_keys=True), []).append(record)
    return "\n\n".join([*map(_table, runs.values()), LEGEND])


def _table(records: list[Record]) -> str:
    parts = [_title(records[0]["run"])]
    for suite, groups in GROUPS.items():
        ran = [record for record in records if record["suite"] == suite and record["status"] == "ok"]
        if ran:
            seen = [before["case"] for before in [{"case": None}, *ran]]
            lines = [_line(record, new=record["case"] != last) for record, last in zip(ran, seen, strict=False)]
            parts.append("\n".join(draw(groups, lines)))
    absent: dict[tuple[str, ...], list[str]] = {}
    for r in records:
        if r["status"] != "ok":
            absent.setdefault((r["contender"], r["status"], r["reason"]), []).append(r["case"])
    notes = [f"{name} {status} ({why}): {', '.join(cases)}" for (name, status, why), cases in absent.items()]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def _title(run: dict[str, Any]) -> str:
    machine, versions = run["machine"], run["versions"]
    software = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
    gpu = f"{machine['gpu']}, driver {machine['driver']}, {machine['cpu']}, {machine['platform']}"
    return f"{gpu}\n{software}, commit {run['commit']}, {run['date']}"


def _line(record: Record, *, new: bool) -> list[str]:
    words = [_case(record) if new else "", record["contender"]]
    if record["suite"] == "gpu-errors":
        return [*words, *(f"{record['errors'][name]:.1e}" for name in ("loss", "dX", "dW"))]
    alone = "floor" in record["median_seconds"]
    both = "floor" if alone else "both"
    if record["suite"] == "gpu-linear":
        beside = [number(record.get("over_floor")), number(at(record, "tflops", both))]
    else:
        beside = [_percent(at(record, "share_of_copy", measure)) for measure in ("forward", both)]
    difference = at(record, "difference", "largest")
    return [
        *words,
        duration(at(record, "median_seconds", "forward")),
        duration(at(record, "median_seconds", both)),
        duration(at(record, "host_seconds", both)),
        *beside,
        *(number(at(record, "over_crossent", measure)) for measure in ("forward", "both")),
        *(megabytes(record.get(field)) for field in ("peak_bytes", "extra_bytes")),
        "–" if not difference else f"{difference:.0e}",
        str(max(record["rounds"].values())),
    ]


def _case(record: Record) -> str:
    return f"{record['case']} {'×'.join(map(str, record['shape']))} {record['dtype']}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}"


def megabytes(size: int | None) -> str:
    """Return a size in MB; below zero for who writes over what was there before."""
    return "–" if size is None else f"{'-' if size < 0 else ''}{number(abs(size) / 1e6)}"
