"""Tables of how often intervals covered, on a terminal and for docs/intervals.md."""

from __future__ import annotations

from benchmarks.common import pages
from benchmarks.common.grid import Groups, draw
from benchmarks.common.records import Record

NAMES = {
    "bar": "Within two points of 95 %",
    "hard": "Beyond what is promised",
}
LEGEND = """\
covered: per cent of the intervals that contain the expected loss, with the standard error of that share. above, below:
per cent that lie wholly above or below it (2.5 each would be even). normal: mean ± 1.96 se, with se of clusters where
there are some. BCa: the bias-corrected and accelerated bootstrap, tried on 1,000 samples. skill: covered by
its interval. skewness: the mean of that of samples. A star marks more than two points off 95 %."""
HEADS = ("model", "skewness", "covered", "above", "below", "normal", "BCa", "skill")


def tables(records: list[Record]) -> str:
    """Return tables for a terminal, one for each kind of case."""
    groups: Groups = (
        ("", ("case", *HEADS[:2])),
        ("crossent", HEADS[2:5]),
        ("others", HEADS[5:7]),
        ("ratio", HEADS[7:]),
    )
    parts: list[str] = []
    for kind, name in NAMES.items():
        found = [record for record in records if record["kind"] == kind]
        if found:
            lines = [[_title(record), *_cells(record)] for record in found]
            parts += [f"{name}: {within(found)}", "\n".join(draw(groups, lines))]
    return "\n\n".join([*parts, LEGEND])


def bar(records: list[Record]) -> str:
    """Return the table of what is promised in Markdown."""
    return _markdown([record for record in records if record["kind"] == "bar"])


def hard(records: list[Record]) -> str:
    """Return the table of what is beyond it in Markdown."""
    return _markdown([record for record in records if record["kind"] == "hard"])


def within(records: list[Record]) -> str:
    """Return how many intervals of losses are within two points of what they promise."""
    good = sum(not _off(record["coverage"]["crossent"], record["level"]) for record in records)
    return f"{good} of {len(records)}"


def _markdown(records: list[Record]) -> str:
    counts = sorted({record["coverage"]["crossent"]["n"] for record in records})
    samples = " or ".join(f"{n:,}" for n in counts)
    table = pages.markdown(["case", *HEADS], [[_title(record), *_cells(record)] for record in records], words=2)
    return f"{table}\n\n{within(records)} within two points; {samples} samples each."


def _title(record: Record) -> str:
    return f"{record['n']:,} {record['of']}, {record['case']}" if record["of"] == "clusters" else (
        f"{record['case']}, {record['n']:,} rows"
    )  # fmt: skip


def _cells(record: Record) -> list[str]:
    ours, level = record["coverage"]["crossent"], record["level"]
    error = 100.0 * (ours["covered"] * (1.0 - ours["covered"]) / ours["n"]) ** 0.5
    return [
        record["model"],
        f"{record['skewness']:.1f}",
        f"{_covered(ours, level)} ± {error:.1f}",
        f"{100.0 * ours['above']:.1f}",
        f"{100.0 * ours['below']:.1f}",
        *(_covered(record["coverage"].get(name), level) for name in ("normal", "bca", "skill")),
    ]


def _covered(share: Record | None, level: float) -> str:
    if share is None:
        return "–"
    return f"{100.0 * share['covered']:.1f}{'*' if _off(share, level) else ''}"


def _off(share: Record, level: float) -> bool:
    """Return whether a share is more than two points off."""
    return abs(share["covered"] - level) > 0.02
