"""Cases of a few numbers, measured without a compiler."""

from __future__ import annotations

from typing import Any

from benchmarks import run
from benchmarks.common.records import Record
from benchmarks.linear.cases import LinearCase
from benchmarks.logits.cases import LogitsCase

LOGITS: dict[str, dict[str, Any]] = {
    "index": {"shape": (6, 11), "quick": True},
    "bf16": {"shape": (6, 11), "dtype": "bfloat16"},
    "options": {"shape": (6, 11), "smoothing": 0.1, "weighted": True},
    "prob": {"shape": (6, 11), "target": "prob"},
    "topk": {"shape": (6, 50), "target": "topk"},
    "image": {"shape": (2, 5, 3, 4)},
    "binary": {"shape": (7, 5), "target": "binary"},
    "small": {"shape": (6, 11), "repeat": 3, "threads": 1},
}
LINEAR: dict[str, dict[str, Any]] = {
    "float32": {"quick": True},
    "bf16": {"dtype": "bfloat16"},
    "sized": {"chunk_bytes": (256, 2**20)},
}
N, D, V = 40, 8, 70
ROUNDS, LINEAR_ROUNDS = 3, 6


def logits_case(name: str) -> LogitsCase:
    return LogitsCase(name, "none", **LOGITS[name])


def linear_case(name: str) -> LinearCase:
    return LinearCase(name, "none", N, D, V, **LINEAR[name])


def measured_logits(name: str) -> list[Record]:
    return run.measure(logits_case(name), ROUNDS, warmup=1, compiled=False)


def measured_linear(name: str) -> list[Record]:
    return run.measure(linear_case(name), LINEAR_ROUNDS, warmup=1, compiled=False)
