"""What was measured, for the pages of docs: tables of the newest results, and where they come from.

Pages name a table, which is made when they are built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks import slower
from benchmarks.common import pages
from benchmarks.common.grid import at, duration, error, number, size, words
from benchmarks.common.records import Record, by_case
from benchmarks.coverage import report as coverage_report
from benchmarks.distillation import report as distillation_report
from benchmarks.gpu import report as gpu_report
from benchmarks.gpu.prove import beside_model
from benchmarks.gpu.prove import tables as gpu_tables
from benchmarks.linear import labels, shards
from benchmarks.logits import everyday_report
from benchmarks.score import report as score_report

Cases = dict[str, dict[str, Record]]
"""The records of a suite by case and measure."""


NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Table:
    """A table with lines for each case and each class of processors.

    A class that lacks a case says so in one line, and one that lacks the suite in one line for all its cases.
    """

    suite: str
    heads: list[str]
    lines: Callable[[list[Record]], pages.Lines]
    words: int = 1

    def text(self) -> str:
        """Return the table in Markdown: the lines of a case stand together, class by class."""
        of_class = {name: self.lines(records) for name, records in pages.by_processor(self.suite).items()}
        together: list[list[str]] = []
        for case in dict.fromkeys(case for lines in of_class.values() for case in lines):
            label = next(lines[case][0][0] for lines in of_class.values() if case in lines)
            for k, (name, lines) in enumerate(of_class.items()):
                for j, (first, *cells) in enumerate(lines.get(case, [self._missing(label)])):
                    together.append([label if k == j == 0 else "" if first == label else first, name, *cells])
        for name in classes():
            if name not in of_class:
                first, *cells = self._missing("every case")
                together.append([first, name, *cells])
        return pages.markdown([self.heads[0], "processor", *self.heads[1:]], together, self.words + 1)

    def _missing(self, label: str) -> list[str]:
        """Return the line of what is not measured."""
        return [label, NOT_MEASURED, *[""] * (len(self.heads) - 2)]

    def unmeasured(self) -> str:
        """Return the table without lines but one, which says that nobody has measured."""
        return pages.markdown(self.heads, [[NOT_MEASURED] * len(self.heads)], self.words)


@dataclass(frozen=True, slots=True)
class Whole:
    """A table made of all records of a suite at once; with `timed` there is one for each class of processors."""

    suite: str
    make: Callable[[list[Record]], str]
    timed: bool = False

    def text(self) -> str:
        """Return the table in Markdown, or one below the other if there are several classes."""
        if not self.timed:
            return self.make(pages.records(self.suite))
        of_class = {name: self.make(records) for name, records in pages.by_processor(self.suite).items()}
        named = [f"**{name}**\n\n{text}" for name, text in of_class.items()]
        return "\n\n".join([*named, *(f"**{name}**: {NOT_MEASURED}" for name in classes() if name not in of_class)])


def table(name: str) -> str:
    """Return a table by its name, with a line on where it comes from; raise LostSourceError if that is gone."""
    if name in MODELS:
        return MODELS[name]()
    wanted = TABLES[name]
    if wanted.suite in SHOWN_BEFORE and not pages.exists(wanted.suite):
        return wanted.make([]) if isinstance(wanted, Whole) else wanted.unmeasured()
    return f"{wanted.text()}\n\n{origin(wanted.suite)}"


def classes() -> list[str]:
    """Return the classes of processors that have results of any suite that times something."""
    timed = {of.suite for of in TABLES.values() if isinstance(of, Table) or of.timed}
    of_runs = {name for suite in timed if pages.exists(suite) for name in pages.by_processor(suite)}
    return sorted(set(map(pages.processor_of, of_runs)))


def cases(suite: str) -> dict[str, Cases]:
    """Return the newest results of a suite for each class of processors, by case and measure."""
    return {name: by_case(records) for name, records in pages.by_processor(suite).items()}


def origin(suite: str) -> str:
    """Return for each class of processors which command measured, when and on what."""
    if suite in ON_ONE_MACHINE:
        return _origin(suite, pages.records(suite), None)
    return "\n\n".join(_origin(suite, records, name) for name, records in pages.by_processor(suite).items())


def _origin(suite: str, records: list[Record], processor: str | None) -> str:
    run = records[0]["run"]
    commits = ", ".join(dict.fromkeys(record["run"]["commit"] for record in records))
    machine, versions = run["machine"], run["versions"]
    on = [processor, machine.get("gpu"), f"{machine['cpu'].replace('(R)', '')} with {machine['cores']} cores"]
    software = [f"{name} {version}" for name, version in versions.items() if version is not None]
    turns = sorted({rounds for record in records if isinstance(rounds := record.get("rounds"), int) and timed(record)})
    rounds = f", {' to '.join(map(str, dict.fromkeys((turns[0], turns[-1]))))} rounds" if turns else ""
    about = f"`{pages.COMMANDS[suite]}`{rounds}, {run['date'][:10]}, commit {commits}"
    return f"*{about}; {'; '.join(filter(None, on))}; {', '.join(software)}.*"


def timed(record: Record) -> bool:
    """Whether a record has times of rounds; memory has rounds of its own."""
    return record.get("measure") != "memory"


LOGITS = ["logits", "× eager", "× compile", "forward / one read", "backward / one copy", "both / (read + clone)"]
LOGITS += ["extra MB", "eager's"]


def logits(records: list[Record]) -> pages.Lines:
    """Return times beside torch and beside what memory allows, and peaks of memory, of losses of logits."""
    return {
        name: [
            [
                _about(case),
                *(number(at(case["both"], "speedup_over", rival)) for rival in ("eager", "compile")),
                *(number(at(case.get(of, {}), "times_limit", "limit")) for of in ("forward", "backward", "both")),
                *(size(case.get("memory", {}), who, 1e6) for who in ("crossent", "eager")),
            ]
        ]
        for name, case in by_case(records).items()
    }


DIVERGENCE = [
    "logits",
    "× eager",
    "× compile",
    "forward, × compile",
    "both / (two reads + clone)",
    "extra MB",
    "eager's",
]


def divergence(records: list[Record]) -> pages.Lines:
    """Return times beside torch and beside what memory allows, and peaks of memory, of divergences of logits."""
    return {
        name: [
            [
                _about(case),
                *(number(at(case["both"], "speedup_over", rival)) for rival in ("eager", "compile")),
                number(at(case["forward"], "speedup_over", "compile")),
                number(at(case["both"], "times_limit", "limit")),
                *(size(case.get("memory", {}), who, 1e6) for who in ("crossent", "eager")),
            ]
        ]
        for name, case in by_case(records).items()
    }


LOGITS_TIMES = ["logits", "forward", "eager", "both", "eager", "compile", "read", "read + clone"]


def logits_times(records: list[Record]) -> pages.Lines:
    """Return the times themselves."""
    lines: pages.Lines = {}
    for name, case in by_case(records).items():
        forward, both = case["forward"], case["both"]
        floor = [at(both, "median_seconds", name) for name in ("read", "clone")]
        lines[name] = [
            [
                _about(case),
                *(duration(at(forward, "median_seconds", name)) for name in ("crossent", "eager")),
                *(duration(at(both, "median_seconds", name)) for name in ("crossent", "eager", "compile")),
                duration(floor[0]),
                duration(None if None in floor else sum(floor)),
            ]
        ]
    return lines


def logits_errors(records: list[Record]) -> pages.Lines:
    """Return how far losses of logits and their gradients are from float64."""
    return {
        name: [
            [
                _about(case),
                *(error(case["error"], who, of) for of in ("loss", "dlogits") for who in ("crossent", "eager")),
            ]
        ]
        for name, case in by_case(records).items()
    }


LINEAR = ["N × D × V", "× eager", "× compile", "× chunked", "time / three products", "extra MB", "eager's", "chunked's"]


def linear(records: list[Record]) -> pages.Lines:
    """Return times beside torch and beside the products, and peaks of memory, of losses of a linear layer."""
    lines: pages.Lines = {}
    for case in by_case(records).values():
        both, memory = case["both"], case.get("memory", {})
        for name in _ours(both):
            relative = at(both, "speedup_over", name) or 1.0
            faster = [at(both, "speedup_over", rival) for rival in ("eager", "compile", "torch chunked")]
            floor = at(both, "times_limit", "gemms") or at(both, "times_limit", "gemms warm")
            lines.setdefault(both["case"], []).append(
                [
                    _about(case) if name == "crossent" else f"… in chunks of {name.removeprefix('crossent ')}",
                    *(number(x and x / relative) for x in faster),
                    number(floor and floor * relative),
                    size(memory, name, 1e6),
                    *(size(memory, rival, 1e6) if name == "crossent" else "" for rival in ("eager", "torch chunked")),
                ]
            )
    return lines


def linear_errors(records: list[Record]) -> pages.Lines:
    """Return how far losses of a linear layer and their gradients are from float64."""
    lines: pages.Lines = {}
    for name, case in by_case(records).items():
        found = case["error"]
        for k, who in enumerate(found["errors"]):
            chunks = at(found, "chunks", who)
            cells = [error(found, who, of) for of in ("loss", "dX", "dW")]
            line = ["" if k else _about(case), who, "" if chunks is None else str(chunks), *cells]
            lines.setdefault(name, []).append(line)
    return lines


ROWS = ["N × D × V", "× eager", "× TRL", "time / mean loss", "time / products", "extra MB", "eager's", "TRL's"]


def rows(records: list[Record]) -> pages.Lines:
    """Return times beside eager, TRL and the floors, and peaks of memory, of losses of reinforcement learning."""
    return {
        name: [
            [
                _about(case),
                *(number(at(case["both"], "speedup_over", rival)) for rival in ("eager", "trl")),
                *(number(at(case["both"], "times_limit", floor)) for floor in ("mean", "products")),
                *(size(case.get("memory", {}), who, 1e6) for who in ("crossent", "eager", "trl")),
            ]
        ]
        for name, case in by_case(records).items()
    }


def rows_errors(records: list[Record]) -> pages.Lines:
    """Return how far losses of reinforcement learning and their gradients are from float64."""
    lines: pages.Lines = {}
    for name, case in by_case(records).items():
        for k, who in enumerate(case["error"]["errors"]):
            cells = [error(case["error"], who, of) for of in ("loss", "dX", "dW")]
            lines.setdefault(name, []).append(["" if k else _about(case), who, *cells])
    return lines


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
        [words(about), *(cells(of) if "crossent" in of else [NOT_MEASURED] * (len(heads) - 1))]
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
    return words(case["both"])


TABLES: dict[str, Table | Whole] = {
    "logits": Table("logits", LOGITS, logits),
    "logits-times": Table("logits", LOGITS_TIMES, logits_times),
    "logits-errors": Table("logits", ["logits", "loss", "eager's", "gradient", "eager's"], logits_errors),
    "everyday": Table("everyday", everyday_report.TIMES, everyday_report.times),
    "everyday-small": Table("everyday", everyday_report.SMALL, everyday_report.small),
    "everyday-kept": Table("everyday", everyday_report.KEPT, everyday_report.kept),
    "everyday-peaks": Table("everyday", everyday_report.PEAKS, everyday_report.peaks),
    "everyday-errors": Table("everyday", everyday_report.ERRORS, everyday_report.errors),
    "linear": Table("linear", LINEAR, linear),
    "linear-errors": Table("linear", ["N × D × V", "who", "chunks", "loss", "dX", "dW"], linear_errors, words=2),
    "rows": Table("rows", ROWS, rows),
    "rows-errors": Table("rows", ["N × D × V", "who", "loss", "dX", "dW"], rows_errors, words=2),
    "distillation": Table("distillation", distillation_report.TIMES, distillation_report.times),
    "distillation-errors": Table(
        "distillation", ["student's N × D × V", "who", "loss", "dX", "dW"], distillation_report.errors, words=2
    ),
    "divergence": Table("divergence", DIVERGENCE, divergence),
    "divergence-errors": Table("divergence", ["logits", "loss", "eager's", "gradient", "eager's"], logits_errors),
    "gpu-logits": Whole("gpu", gpu_logits),
    "gpu-linear": Whole("gpu", gpu_linear),
    "prove-checks": Whole("prove", gpu_tables.checks),
    "prove-ceilings": Whole("prove", gpu_tables.ceilings),
    "prove-logits": Whole("prove", gpu_tables.logits),
    "prove-heads": Whole("prove", gpu_tables.heads),
    "prove-kernels": Whole("prove", gpu_tables.kernels),
    "prove-longest": Whole("prove", gpu_tables.hot),
    "prove-model": Whole("prove", beside_model.table),
    "score-arrays": Whole("score", score_report.arrays, timed=True),
    "score-files": Whole("score", score_report.files, timed=True),
    "coverage": Whole("coverage", coverage_report.bar),
    "coverage-hard": Whole("coverage", coverage_report.hard),
}
SHOWN_BEFORE = ("gpu", "prove", "divergence")
"""Suites of which tables are shown before anybody has measured them: their cells say so."""
ON_ONE_MACHINE = {table.suite for table in TABLES.values() if isinstance(table, Whole) and not table.timed}
"""Suites of which the newest results are shown, whatever they ran on: coverage does not depend on it."""

MODELS: dict[str, Callable[[], str]] = {"shards": shards.table, "labels": labels.table, "slower": slower.table}
"""Tables that are computed and not measured."""
