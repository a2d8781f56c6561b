"""Tables of what a score costs, on a terminal and in docs/score-at-scale.md."""

from __future__ import annotations

from typing import Any

from benchmarks import pages
from benchmarks.grid import Groups, draw, duration, number

Record = dict[str, Any]
ARRAYS = ("million rows/s", "GB/s", "× read", "× scikit-learn", "MB", "MB, score", "MB, scikit-learn")
FILES = ("time", "of reading's speed", "process", "peak MB", "reading", "its peak MB")
LEGEND = """\
million rows/s, GB/s: what one pass of ScoreState takes, and the probabilities it reads. × read: its time beside that of
P.sum(). × scikit-learn: how many times faster it is than log_loss. MB: memory at the peak beyond the input, of
ScoreState; of crossent.score, which keeps every row's loss so that scores can be compared; and of log_loss."""


def tables(records: list[Record]) -> str:
    """Return tables for a terminal."""
    arrays, files = ([record for record in records if record["kind"] == kind] for kind in ("arrays", "file"))
    parts: list[str] = []
    if arrays:
        groups: Groups = (("", ("rows × classes", "time")), ("speed", ARRAYS[:4]), ("extra memory", ARRAYS[4:]))
        parts.append("\n".join(draw(groups, [_array(record) for record in arrays])))
    if files:
        groups = (("", ("file", "GB")), ("scoring it", FILES[:4]), ("reading it", FILES[4:]))
        parts.append("\n".join(draw(groups, [_file(record) for record in files])))
    return "\n\n".join([*parts, LEGEND])


def write_page(records: list[Record]) -> str:
    """Put the tables between their marks in docs/score-at-scale.md, and say so."""
    run = records[0]["run"]
    machine, versions = run["machine"], run["versions"]
    software = ", ".join(f"{name} {versions[name]}" for name in ("numpy", "scikit-learn", "pyarrow", "python"))
    about = f"{machine['cpu']}, {machine['cores']} cores, {machine['isa']}; {software}; commit {run['commit']}."
    arrays = [_array(record) for record in records if record["kind"] == "arrays"]
    files = [_file(record) for record in records if record["kind"] == "file"]
    return pages.fill(
        "score-at-scale.md",
        {
            "arrays": f"{pages.markdown(['rows × classes', 'time', *ARRAYS], arrays)}\n\n{about}",
            "files": pages.markdown(["file", "GB", *FILES], files),
        },
    )


def _array(record: Record) -> list[str]:
    seconds, extra = record["median_seconds"]["crossent"], record.get("extra_bytes", {})
    read, rival = (record["times_crossent"].get(name) for name in ("read", "scikit-learn"))
    return [
        record["case"],
        duration(seconds),
        number(record["rows"] / seconds / 1e6),
        number(record["bytes"] / seconds / 1e9),
        number(1.0 / read),
        number(rival),
        *(_megabytes(extra.get(name)) for name in ("crossent", "crossent.score", "scikit-learn")),
    ]


def _file(record: Record) -> list[str]:
    seconds, process, peak = (record[name] for name in ("median_seconds", "median_process_seconds", "peak_bytes"))
    return [
        record["case"],
        number(record["bytes"] / 1e9),
        duration(seconds["score"]),
        f"{100.0 * record['speed_of_reading']:.0f} %",
        duration(process["score"]),
        _megabytes(peak["score"]),
        duration(seconds["read"]),
        _megabytes(peak["read"]),
    ]


def _megabytes(size: int | None) -> str:
    return "–" if size is None else number(max(size, 0) / 1e6)
