"""Shows a proof: tables in Markdown for the pages and the terminal. What was not measured says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.common import pages
from benchmarks.common.grid import at, duration, number, words
from benchmarks.common.records import Record
from benchmarks.gpu.prove import beside_model

NOT_MEASURED = "not measured"
Cells = list[str]


def text(records: list[Record]) -> str:
    """Return all tables, one below the other."""
    parts = [f"{title}\n\n{make(records)}" for title, make in TABLES.items()]
    return "\n\n".join([*parts, _summary(records)])


def wrong(records: list[Record]) -> list[Record]:
    """Return the records of whatever failed or was not reached."""
    return [record for record in records if record["status"] not in ("ok", "missing")]


def _summary(records: list[Record]) -> str:
    bad = wrong(records)
    lines = [f"{r['stage']}: {r['case']}: {r['status']} ({r.get('reason', 'no reason')})" for r in bad]
    return "\n".join([*lines, f"{len(records) - len(bad)} of {len(records)} records are good"])


def checks(records: list[Record]) -> str:
    """Return what was checked, and the largest error as a share of the one that is allowed."""
    heads = ["check", "results", "largest error / allowed", "of", "verdict"]
    found = _by_case(
        record for record in records if record["stage"] in ("machine", "correct") and "kernel" not in record
    )
    found.pop("stage", None)
    lines = [[case, *_checked(found.pop(case, []))] for case in items_of("correct")]
    lines = [[case, *_checked(of)] for case, of in found.items() if case != "all"] + lines
    return pages.markdown(heads, lines)


def _checked(of: list[Record]) -> Cells:
    from benchmarks.gpu.prove.lab import together  # which needs torch

    if not of:
        return [NOT_MEASURED] * 4
    shares = together(record.get("shares", {}) for record in of)
    most = max(shares, key=lambda name: shares[name]) if shares else None
    bad = [record for record in of if record["status"] != "ok"]
    verdict = "; ".join(dict.fromkeys(record.get("reason", record["status"]) for record in bad)) or "right"
    share = "–" if most is None else f"{shares[most]:.2g}"
    return [str(len(of)), share, most or "–", verdict.replace("|", "/")]


def ceilings(records: list[Record]) -> str:
    """Return the rates of the three products of each head, by how they are written, and that of a copy."""
    heads = ["products, TFLOP/s", "written in half precision", "in float32", "added to float32"]
    found = {(r["case"], r["product"]): r for r in records if r["stage"] == "ceilings" and "product" in r}
    lines = [
        [f"{case}, {product}", *_rates(found.get((case, product)))]
        for case in items_of("ceilings")[1:]
        for product in ("logits", "dX", "dW")
    ]
    copy = [r["bytes_per_second"] / 1e12 for r in records if r["stage"] == "ceilings" and "bytes_per_second" in r]
    lines.append(["a copy, TB/s", number(copy[0]) if copy else NOT_MEASURED, "", ""])
    return pages.markdown(heads, lines)


def _rates(record: Record | None) -> Cells:
    if record is None:
        return [NOT_MEASURED] * 3
    return [number(at(record, "tflops", way)) for way in ("narrow", "wide", "added")]


def logits(records: list[Record]) -> str:
    """Return the times of losses of logits, as a share of a copy's bandwidth, and beside eager."""
    heads = ["logits", "forward", "backward", "both", "forward, of a copy's bandwidth", "backward", "both"]
    heads += ["both, × eager", "to queue"]
    from benchmarks.gpu.cases import head  # which needs torch
    from benchmarks.gpu.prove.logits import cases

    found = _contenders(records, "logits")
    lines: list[Cells] = []
    for case in cases():
        of = found.get(case.name, {})
        ours = of.get("crossent")
        lines.append([words(head(case)), *([NOT_MEASURED] * 8 if ours is None else _times(ours, of.get("eager", {})))])
    return pages.markdown(heads, lines)


def _times(ours: Record, eager: Record) -> Cells:
    measures = ("forward", "backward", "both")
    shares = [at(ours, "share_of_copy", measure) for measure in measures]
    return [
        *(duration(at(ours, "median_seconds", measure)) for measure in measures),
        *("–" if share is None else f"{100 * share:.0f} %" for share in shares),
        number(at(eager, "over_crossent", "both")),
        duration(at(ours, "host_seconds", "both")),
    ]


def heads(records: list[Record]) -> str:
    """Return the times of heads with each chunk and plan, their phases and their peaks of memory."""
    names = ["head, N × D × V", "chunk", "one sweep from", "plan", "both", "/ three products", "× eager"]
    names += [*(f"{phase}, ms" for phase in PHASES), "extra MB"]
    from benchmarks.gpu.cases import head  # which needs torch
    from benchmarks.gpu.prove.ceilings import whole_heads

    lines: list[Cells] = []
    for case in whole_heads():
        own = [r for r in records if r["stage"] == "heads" and r["case"] == case.name and r["status"] == "ok"]
        ours = [r for r in own if r.get("contender") == "crossent"]
        eager = next((r for r in own if r.get("contender") == "eager"), {})
        label = words(head(case))
        lines += [[label, *_head(r, eager)] for r in ours] or [[label, *[NOT_MEASURED] * (len(names) - 1)]]
    return pages.markdown(names, lines)


PHASES = ("logits", "rows", "dX", "dW", "rest")


def _head(ours: Record, eager: Record) -> Cells:
    chunk, mine, theirs = ours["chunk_bytes"], *(at(r, "median_seconds", "both") for r in (ours, eager))
    phases = [at(ours, "phases", phase) for phase in PHASES]
    extra = ours.get("extra_bytes")
    return [
        "default" if chunk is None else f"{chunk / 2**20:g} MiB",
        "as it comes" if ours["rows"] is None else f"{ours['rows']} rows",
        ours["plan"],
        duration(mine),
        number(ours.get("over_floor")),
        number(theirs / mine if mine and theirs else None),
        *("–" if seconds is None else number(1e3 * seconds) for seconds in phases),
        "–" if extra is None else number(extra / 1e6),
    ]


def kernels(records: list[Record]) -> str:
    """Return what the compiler made of the kernels that were launched."""
    names = ["kernel", "variants", "registers", "spilled", "shared, bytes", "warps", "resident warps"]
    found: dict[tuple[Any, ...], int] = {}
    for record in records:
        if "kernel" in record:
            k = record["kernel"]
            key = (k["name"], k["registers"], k["spilled"], k["shared"], k["warps"], k["resident_warps"])
            found[key] = max(found.get(key, 0), record["variants"])
    lines = [[str(key[0]), str(count), *map(str, key[1:])] for key, count in sorted(found.items())]
    return pages.markdown(names, lines or [[NOT_MEASURED] * len(names)])


def hot(records: list[Record]) -> str:
    """Return the launches that take longest, and the hardware's counters."""
    names = ["launched", "logits", "launches a call", "time a call", "counters"]
    lines = [
        [
            f"`{r['launched'][:60]}`",
            " × ".join(map(str, r.get("shape", ["–"]))),
            number(r.get("launches_a_call")),
            duration(r.get("seconds_a_call")),
            ", ".join(f"{name} {value:g}" for name, value in r.get("counters", {}).items()) or "–",
        ]
        for r in records
        if r["stage"] == "hot" and "launched" in r
    ]
    return pages.markdown(names, lines or [[NOT_MEASURED] * len(names)])


TABLES: dict[str, Callable[[list[Record]], str]] = {
    "Checks": checks,
    "Ceilings": ceilings,
    "Losses of logits": logits,
    "Losses of linear layers": heads,
    "Kernels": kernels,
    "Longest launches": hot,
    "Beside the model": beside_model.table,
}


def _by_case(records: Iterable[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record["case"], []).append(record)
    return found


def _contenders(records: list[Record], stage: str) -> dict[str, dict[str, Record]]:
    found: dict[str, dict[str, Record]] = {}
    for r in records:
        if r["stage"] == stage and r["status"] == "ok" and "contender" in r:
            found.setdefault(r["case"], {})[r["contender"]] = r
    return found


def items_of(stage: str) -> list[str]:
    """Return the names of the items of a stage, which are known without running it."""
    from benchmarks.gpu.prove import lab  # which needs torch

    module: Any = __import__(f"benchmarks.gpu.prove.{stage}", fromlist=["items"])
    return [item.case for item in module.items(lab.Lab(None, False, 0.0))]  # pyright: ignore[reportArgumentType]
