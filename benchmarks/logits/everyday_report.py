"""What is printed and shown of few classes and small calls: each line is a shape and a dtype, with all its targets."""

from __future__ import annotations

from benchmarks.common.grid import at, draw, duration, error, number, size, timing, words
from benchmarks.common.pages import Lines
from benchmarks.common.records import Record, by_case

GROUPS = (
    ("", ("case", "logits")),
    ("forward", ("time", "×eager", "/read")),
    ("forward + backward, fresh", ("time", "×eager", "×compile", "/limit")),
    ("kept, B/row", ("crossent", "eager")),
    ("with logits", ("crossent", "eager")),
    ("extra memory, MB", ("crossent", "eager")),
)

LEGEND = """\
CPU time on one thread. ×: time of torch over that of crossent, larger is better. /: time of crossent over that of
x.sum(), and of x.sum() and x.clone(), smaller is better. Kept are the bytes a row that the forward has made and left to
the backward; with logits: the same where the caller lets go of the logits. Extra memory is the peak of a step beyond
inputs and gradient."""

INDEX, IGNORED, SOFT = "index", "ignored", "soft"
Group = dict[str, dict[str, Record]]
"""The cases of one shape and dtype by their targets, each with its records by measure."""


def grids(cases: dict[str, dict[str, Record]]) -> list[str]:
    """Return the lines of the grid for a terminal."""
    return draw(GROUPS, [_cells(measures) for measures in cases.values()])


def notes(measures: dict[str, Record]) -> list[str]:
    """Return what is to be said of one case below the grid: nothing."""
    _ = measures
    return []


def _cells(measures: dict[str, Record]) -> list[str]:
    both, memory = measures["both"], measures.get("memory", {})
    return [
        both["case"],
        "×".join(map(str, both["shape"])) + f" {both['dtype']}",
        *timing(measures["forward"], ("eager",), ("limit",)),
        *timing(both, ("eager", "compile"), ("limit",)),
        *(
            number(at(memory, f"{kind}_bytes_per_row", who))
            for kind in ("kept", "held")
            for who in ("crossent", "eager")
        ),
        *(size(memory, who, 1e6) for who in ("crossent", "eager")),
    ]


TIMES = ["logits", "× eager", "× eager, 90 % ignored", "× eager, soft targets", "× compile", "× compile, soft targets"]
TIMES += ["both / (read + clone)"]


def times(records: list[Record]) -> Lines:
    """Return CPU times beside torch, and beside what memory allows, of forward and backward."""
    return {
        shape: [
            [
                shape,
                *(number(_both(group, target, "speedup_over", "eager")) for target in (INDEX, IGNORED, SOFT)),
                *(number(_both(group, target, "speedup_over", "compile")) for target in (INDEX, SOFT)),
                number(_both(group, INDEX, "times_limit", "limit")),
            ]
        ]
        for shape, group in _groups(records, small=False).items()
    }


SMALL = ["logits", "× eager", "crossent", "eager", "forward, × eager"]


def small(records: list[Record]) -> Lines:
    """Return CPU times of small calls."""
    lines: Lines = {}
    for shape, group in _groups(records, small=True).items():
        forward, both = (group[INDEX][measure] for measure in ("forward", "both"))
        lines[shape] = [
            [
                shape,
                number(at(both, "speedup_over", "eager")),
                *(duration(at(both, "median_seconds", who)) for who in ("crossent", "eager")),
                number(at(forward, "speedup_over", "eager")),
            ]
        ]
    return lines


KEPT = ["logits", "kept, bytes a row", "eager's", "soft targets", "eager's", "with the logits", "eager's"]


def kept(records: list[Record]) -> Lines:
    """Return the bytes that lie between forward and backward."""
    return {
        shape: [
            [
                shape,
                *_of_both(group, INDEX, "kept_bytes_per_row"),
                *_of_both(group, SOFT, "kept_bytes_per_row"),
                *_of_both(group, INDEX, "held_bytes_per_row"),
            ]
        ]
        for shape, group in _groups(records, small=False).items()
    }


def _of_both(group: Group, target: str, field: str) -> list[str]:
    memory = group.get(target, {}).get("memory", {})
    return [number(at(memory, field, who)) for who in ("crossent", "eager")]


PEAKS = ["logits", "extra MB", "eager's", "soft targets", "eager's", "MB of the logits"]


def peaks(records: list[Record]) -> Lines:
    """Return the peaks of memory of a step, beyond inputs and gradient."""
    lines: Lines = {}
    for shape, group in _groups(records, small=False).items():
        memories = [group.get(target, {}).get("memory", {}) for target in (INDEX, SOFT)]
        cells = [size(memory, who, 1e6) for memory in memories for who in ("crossent", "eager")]
        lines[shape] = [[shape, *cells, number(group[INDEX]["forward"]["bytes"] / 1e6)]]
    return lines


ERRORS = ["logits", "loss", "eager's", "gradient", "eager's", "gradient, soft targets", "eager's"]


def errors(records: list[Record]) -> Lines:
    """Return how far losses and gradients are from float64."""
    groups = _groups(records, small=False) | _groups(records, small=True)
    wanted = ((INDEX, "loss"), (INDEX, "dlogits"), (SOFT, "dlogits"))
    return {
        shape: [
            [
                shape,
                *(
                    error(group[target]["error"], who, of) if target in group else "–"
                    for target, of in wanted
                    for who in ("crossent", "eager")
                ),
            ]
        ]
        for shape, group in groups.items()
    }


def _both(group: Group, target: str, field: str, name: str) -> float | None:
    return at(group.get(target, {}).get("both", {}), field, name)


def _groups(records: list[Record], *, small: bool) -> dict[str, Group]:
    """Return the cases of each shape and dtype; small calls are those which were timed many in a row."""
    found: dict[str, Group] = {}
    for case in by_case(records).values():
        both = case["both"]
        if (both["repeat"] > 1) != small:
            continue
        target = SOFT if both["target"] == "prob" else IGNORED if both["ignored"] else INDEX
        plain = {"shape": both["shape"], "dtype": both["dtype"], "case": _base(both["case"])}
        found.setdefault(words(plain), {})[target] = case
    return {shape: group for shape, group in found.items() if INDEX in group}


def _base(case: str) -> str:
    """Return the name of a shape, which its cases begin with."""
    return case.removesuffix("-ignored").removesuffix("-soft").removesuffix("-bf16")
