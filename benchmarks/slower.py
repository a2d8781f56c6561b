"""Where crossent takes longer than a rival, read from the newest results of every suite: no case is left out."""

from __future__ import annotations

from benchmarks.common import pages
from benchmarks.common.grid import duration, number, words
from benchmarks.common.records import Record

SUITES = {
    "logits": "logits",
    "everyday": "few classes, small calls",
    "growth": "sizes of logits",
    "divergence": "two rows of logits",
    "linear": "a head",
    "scaling": "sizes of a head",
    "rows": "reinforcement learning",
    "distillation": "two heads",
}
"""Suites with contenders, and what a loss of theirs is of."""

HEADS = ["a loss of", "case", "processor", "faster", "its time over crossent's", "crossent"]


def table() -> str:
    """Return each case, rival and class of processors where the rival's forward and backward take less time."""
    lines = [
        [what, words(record), name, rival, number(ratio), duration(record["median_seconds"]["crossent"])]
        for suite, what in SUITES.items()
        if pages.exists(suite)
        for name, records in pages.by_processor(suite).items()
        for record in records
        for rival, ratio in rivals(record).items()
        if ratio < 1
    ]
    return pages.markdown(HEADS, lines or [["none", *[""] * (len(HEADS) - 1)]], words=4)


def rivals(record: Record) -> dict[str, float]:
    """Return how many times as long each rival takes; crossent in chunks of other sizes is none."""
    if record["measure"] != "both":
        return {}
    return {name: ratio for name, ratio in record["speedup_over"].items() if not name.startswith("crossent")}
