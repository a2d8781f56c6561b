"""Tables of what a score costs, on a terminal and for docs/score-at-scale.md."""

from __future__ import annotations

from benchmarks.common import pages
from benchmarks.common.grid import Groups, draw, duration, number
from benchmarks.common.records import Record

SPEED = ("million rows/s", "GB/s", "× read", "× scikit-learn", "in its rounds")
ARRAYS = (*SPEED, "MB", "MB, score", "MB, scikit-learn")
FILES = ("time", "of reading's speed", "process", "peak MB", "reading", "its peak MB")
LEGEND = """\
million rows/s, GB/s: what one pass of ScoreState takes, and the probabilities it reads. × read: its time beside that of
P.sum(). × scikit-learn: how many times faster it is than log_loss; in its rounds: log_loss's fastest and slowest over
our median. MB: memory at the peak beyond the input, of ScoreState; of crossent.score, which keeps every row's loss so
that scores can be compared; and of log_loss."""


def tables(records: list[Record]) -> str:
    """Return tables for a terminal."""
    in_arrays, in_files = ([record for record in records if record["kind"] == kind] for kind in ("arrays", "file"))
    parts: list[str] = []
    if in_arrays:
        groups: Groups = (("", ("rows × classes", "time")), ("speed", SPEED), ("extra memory", ARRAYS[len(SPEED) :]))
        parts.append("\n".join(draw(groups, [_array(record) for record in in_arrays])))
    if in_files:
        groups = (("", ("file", "GB")), ("scoring it", FILES[:4]), ("reading it", FILES[4:]))
        parts.append("\n".join(draw(groups, [_file(record) for record in in_files])))
    return "\n\n".join([*parts, LEGEND])


def arrays(records: list[Record]) -> str:
    """Return the table of arrays in Markdown."""
    lines = [_array(record) for record in records if record["kind"] == "arrays"]
    return pages.markdown(["rows × classes", "time", *ARRAYS], lines)


def files(records: list[Record]) -> str:
    """Return the table of files in Markdown."""
    lines = [_file(record) for record in records if record["kind"] == "file"]
    return pages.markdown(["file", "GB", *FILES], lines)


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
        _rounds(record),
        *(_megabytes(extra.get(name)) for name in ("crossent", "crossent.score", "scikit-learn")),
    ]


def _rounds(record: Record) -> str:
    """Return how many times faster it was than scikit-learn's fastest and slowest round."""
    theirs = record["seconds"].get("scikit-learn")
    if not theirs:
        return "–"
    ours = record["median_seconds"]["crossent"]
    return f"{number(min(theirs) / ours)} to {number(max(theirs) / ours)}"


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
