"""What was measured, for the pages of docs and the README: tables of the newest results, and where they come from.

`python -m benchmarks.proof` puts the tables that the README names between their marks. The pages of docs have theirs
made when they are built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.common import pages
from benchmarks.common.grid import at, duration, number, size
from benchmarks.common.records import Record, by_case
from benchmarks.coverage import report as coverage_report
from benchmarks.gpu import report as gpu_report
from benchmarks.linear import shards
from benchmarks.score import report as score_report

Cases = dict[str, dict[str, Record]]
"""The records of a suite by case and measure."""

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a suite's results, in Markdown."""

    suite: str
    make: Callable[[list[Record]], str]


def table(name: str) -> str:
    """Return a table by its name, with a line on where it comes from; raise LostSourceError if that is gone."""
    if name in MODELS:
        return MODELS[name]()
    wanted = TABLES[name]
    if wanted.suite == "gpu" and not pages.exists("gpu"):
        return wanted.make([])
    records = pages.records(wanted.suite)
    return f"{wanted.make(records)}\n\n{origin(wanted.suite)}"


def cases(suite: str) -> Cases:
    """Return the newest results of a suite by case and measure."""
    return by_case(pages.records(suite))


def origin(suite: str) -> str:
    """Return which command measured, when and on what."""
    records = pages.records(suite)
    run = records[0]["run"]
    commits = ", ".join(dict.fromkeys(record["run"]["commit"] for record in records))
    machine, versions = run["machine"], run["versions"]
    on = [machine.get("gpu"), machine["cpu"].replace("(R)", ""), f"{machine['cores']} cores", machine.get("isa")]
    on.append("AMX" if machine.get("amx") else None)
    software = [f"{name} {version}" for name, version in versions.items() if version is not None]
    rounds = records[0].get("rounds")
    command = pages.COMMANDS[suite] + (f" --rounds {rounds}" if isinstance(rounds, int) else "")
    about = f"`{command}`, {run['date'][:10]}, commit {commits}"
    return f"*{about}; {', '.join(filter(None, on))}; {', '.join(software)}.*"


def readme() -> str:
    """Return the README with the tables that it should have."""
    return pages.fill(README.read_text(encoding="utf-8"), {name: table(name) for name in IN_README})


def logits(records: list[Record]) -> str:
    """Return times beside torch and beside what memory allows, and peaks of memory, of losses of logits."""
    heads = ["logits", "× eager", "× compile", "forward / one read", "backward / one copy", "both / (read + clone)"]
    heads += ["extra MB", "eager's"]
    lines = [
        [
            _about(case),
            *(number(at(case["both"], "speedup_over", rival)) for rival in ("eager", "compile")),
            *(number(at(case.get(measure, {}), "times_limit", "limit")) for measure in ("forward", "backward", "both")),
            *(size(case.get("memory", {}), name, 1e6) for name in ("crossent", "eager")),
        ]
        for case in by_case(records).values()
    ]
    return pages.markdown(heads, lines)


def logits_times(records: list[Record]) -> str:
    """Return the times themselves."""
    heads = ["logits", "forward", "eager", "both", "eager", "compile", "read", "read + clone"]
    lines: list[list[str]] = []
    for case in by_case(records).values():
        forward, both = case["forward"], case["both"]
        floor = [at(both, "median_seconds", name) for name in ("read", "clone")]
        lines.append(
            [
                _about(case),
                *(duration(at(forward, "median_seconds", name)) for name in ("crossent", "eager")),
                *(duration(at(both, "median_seconds", name)) for name in ("crossent", "eager", "compile")),
                duration(floor[0]),
                duration(None if None in floor else sum(floor)),
            ]
        )
    return pages.markdown(heads, lines)


def logits_errors(records: list[Record]) -> str:
    """Return how far losses of logits and their gradients are from float64."""
    heads = ["logits", "loss", "eager's", "gradient", "eager's"]
    lines = [
        [_about(case), *(_error(case["error"], who, of) for of in ("loss", "dlogits") for who in ("crossent", "eager"))]
        for case in by_case(records).values()
    ]
    return pages.markdown(heads, lines)


def linear(records: list[Record]) -> str:
    """Return times beside torch and beside the products, and peaks of memory, of losses of a linear layer."""
    heads = ["N × D × V", "× eager", "× compile", "× chunked", "time / three products"]
    heads += ["extra MB", "eager's", "chunked's"]
    lines: list[list[str]] = []
    for case in by_case(records).values():
        both, memory = case["both"], case.get("memory", {})
        for name in _ours(both):
            relative = at(both, "speedup_over", name) or 1.0
            faster = [at(both, "speedup_over", rival) for rival in ("eager", "compile", "torch chunked")]
            floor = at(both, "times_limit", "gemms") or at(both, "times_limit", "gemms warm")
            lines.append(
                [
                    _about(case) if name == "crossent" else f"… in chunks of {name.removeprefix('crossent ')}",
                    *(number(x and x / relative) for x in faster),
                    number(floor and floor * relative),
                    size(memory, name, 1e6),
                    *(size(memory, rival, 1e6) if name == "crossent" else "" for rival in ("eager", "torch chunked")),
                ]
            )
    return pages.markdown(heads, lines)


def linear_errors(records: list[Record]) -> str:
    """Return how far losses of a linear layer and their gradients are from float64."""
    heads = ["N × D × V", "who", "chunks", "loss", "dX", "dW"]
    lines: list[list[str]] = []
    for case in by_case(records).values():
        error = case["error"]
        for k, who in enumerate(error["errors"]):
            chunks = at(error, "chunks", who)
            cells = [_error(error, who, of) for of in ("loss", "dX", "dW")]
            lines.append(["" if k else _about(case), who, "" if chunks is None else str(chunks), *cells])
    return pages.markdown(heads, lines, words=2)


def gpu_logits(records: list[Record]) -> str:
    """Return the share of the bandwidth that losses of logits reach on a GPU, or that nobody has measured it."""
    heads = ["logits on an H100 or H200", "forward, of a copy's bandwidth", "both", "× compile", "extra MB"]
    return _gpu(records, "gpu-logits", heads, _gpu_logits)


def gpu_linear(records: list[Record]) -> str:
    """Return the times of heads on a GPU beside their products, or that nobody has measured them."""
    heads = ["head on an H100 or H200, N × D × V", "both", "time / three products", "TFLOP/s", "× compile", "peak MB"]
    return _gpu(records, "gpu-linear", heads, _gpu_linear)


def _gpu(records: list[Record], suite: str, heads: list[str], cells: Callable[[dict[str, Record]], list[str]]) -> str:
    from benchmarks.gpu.cases import CASES, head  # which need torch

    found: dict[str, dict[str, Record]] = {}
    for r in records:
        if r["suite"] == suite and r["status"] == "ok":
            found.setdefault(r["case"], {})[r["contender"]] = r
    wanted = [about for about in map(head, CASES) if about["suite"] == suite]
    lines = [
        [_words(about), *(cells(of) if "crossent" in of else [NOT_MEASURED] * (len(heads) - 1))]
        for about, of in ((about, found.get(about["case"], {})) for about in wanted)
    ]
    return pages.markdown(heads, lines)


def _gpu_logits(of: dict[str, Record]) -> list[str]:
    ours = of["crossent"]
    shares = [at(ours, "share_of_copy", measure) for measure in ("forward", "both")]
    return [
        *("–" if share is None else f"{100 * share:.0f} %" for share in shares),
        number(at(of.get("compile", {}), "over_crossent", "both")),
        gpu_report.megabytes(ours.get("extra_bytes")),
    ]


def _gpu_linear(of: dict[str, Record]) -> list[str]:
    ours = of["crossent"]
    return [
        duration(at(ours, "median_seconds", "both")),
        number(ours.get("over_floor")),
        number(at(ours, "tflops", "both")),
        number(at(of.get("compile", {}), "over_crossent", "both")),
        gpu_report.megabytes(ours.get("peak_bytes")),
    ]


def _ours(both: Record) -> list[str]:
    """Return crossent and crossent with chunks of other sizes."""
    return ["crossent", *(name for name in both["speedup_over"] if name.startswith("crossent "))]


def _about(case: Mapping[str, Record]) -> str:
    return _words(case["both"])


def _words(r: Record) -> str:
    """Return the shape of a case, what is special in it, and its name."""
    target, cap = r.get("target"), r.get("softcap")
    special = [
        target if target in ("prob", "topk", "binary") else None,
        "weight" if r.get("weighted") else None,
        f"smoothing {r['smoothing']:g}" if r.get("smoothing") else None,
        f"softcap {cap:g}" if cap else None,
        "one thread" if r.get("threads") == 1 else None,
        None if r["dtype"] == "float32" else r["dtype"],
    ]
    return ", ".join([" × ".join(map(str, r["shape"])), *filter(None, special)]) + f" ({r['case']})"


def _error(error: Record, who: str, of: str) -> str:
    value = error["errors"].get(who, {}).get(of)
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


TABLES: dict[str, Table] = {
    "logits": Table("logits", logits),
    "logits-times": Table("logits", logits_times),
    "logits-errors": Table("logits", logits_errors),
    "linear": Table("linear", linear),
    "linear-errors": Table("linear", linear_errors),
    "gpu-logits": Table("gpu", gpu_logits),
    "gpu-linear": Table("gpu", gpu_linear),
    "score-arrays": Table("score", score_report.arrays),
    "score-files": Table("score", score_report.files),
    "coverage": Table("coverage", coverage_report.bar),
    "coverage-hard": Table("coverage", coverage_report.hard),
}
MODELS: dict[str, Callable[[], str]] = {"shards": shards.table}
"""Tables that are computed and not measured."""

README = pages.ROOT / "README.md"
IN_README = ("logits", "linear", "gpu-logits", "gpu-linear")


if __name__ == "__main__":
    _ = README.write_text(readme(), encoding="utf-8")
    print("tables written to README.md")
