"""The cases of the suites `everyday` and `growth`: few classes and small calls, and how time grows with the logits.

Tables and images of few classes, and calls of a few rows, are what most people compute a loss of. They run on one
thread, and what is recorded is CPU time: other processes of the machine change it least.
"""

from __future__ import annotations

import math
from dataclasses import replace

from benchmarks.logits.cases import LogitsCase

IGNORED = 0.9
"""The share of rows without a class in the cases that have some: padding, or images of which little is labelled."""


class EverydayCase(LogitsCase):
    """A loss of few classes or few rows."""

    __slots__ = ()
    suite = "everyday"
    clock = "cpu"
    backward_alone = False

    @property
    def rivals(self) -> tuple[str, ...]:
        """Who takes part beside crossent: a compiled loss where targets are soft, and for images."""
        compiled = self.repeat == 1 and not self.ignored and (self.target == "prob" or len(self.shape) > 2)
        return ("eager", "compile") if compiled else ("eager",)

    @property
    def weighed(self) -> bool:
        """Whether memory is measured; which rows are ignored does not change it."""
        return self.repeat == 1 and not self.ignored


class GrowthCase(LogitsCase):
    """A point of a sweep: as many logits for each number of classes, or ten classes for each number of logits."""

    __slots__ = ()
    suite = "growth"
    clock = "cpu"
    backward_alone = False
    rivals = ("eager",)
    weighed = False


TABLES = {
    "table-2": ((1_000_000, 2), "a table of a million rows, 2 classes"),
    "table-4": ((1_000_000, 4), "a table of a million rows, 4 classes"),
    "table-10": ((200_000, 10), "a table of 200 000 rows, 10 classes"),
    "table-20": ((100_000, 20), "a table of 100 000 rows, 20 classes"),
    "table-100": ((20_000, 100), "a table of 20 000 rows, 100 classes"),
    "images-2": ((8, 2, 256, 256), "segmentation, 8 images, 2 classes"),
    "images-3": ((8, 3, 256, 256), "segmentation, 8 images, 3 classes"),
    "images-8": ((4, 8, 256, 256), "segmentation, 4 images, 8 classes"),
    "images-19": ((4, 19, 256, 256), "segmentation, 4 images, 19 classes"),
    "volume-4": ((1, 4, 96, 96, 96), "segmentation of a volume, 4 classes"),
}
SMALL = {(1, 10): 1000, (64, 10): 1000, (32, 1000): 500, (256, 100): 500}
"""Shapes of small calls, and how many of them are timed in a row."""


def everyday() -> list[EverydayCase]:
    """Return the cases of few classes, with the same targets for each, and the small calls."""
    cases: list[EverydayCase] = []
    for name, (shape, model) in TABLES.items():
        plain = EverydayCase(name, model, shape, threads=1, quick=name in ("table-10", "images-3"))
        for case in (plain, replace(plain, name=f"{name}-bf16", dtype="bfloat16")):
            cases += [
                case,
                replace(case, name=f"{case.name}-ignored", ignored=IGNORED),
                replace(case, name=f"{case.name}-soft", target="prob"),
            ]
    for (N, V), repeat in SMALL.items():
        small = EverydayCase(f"small-{N}×{V}", "a small call", (N, V), repeat=repeat, threads=1, quick=N == 64)
        cases += [small, replace(small, name=f"{small.name}-bf16", dtype="bfloat16")]
    return cases


LOGITS = 4_000_000
CLASSES = (2, 4, 10, 20, 50, 100, 128, 160, 400, 1000, 4000, 16_000, 50_257, 128_256, 256_000)
FEW = 10
ROWS = (1, 10, 100, 1000, 3000, 6000, 7000, 10_000, 30_000, 100_000, 1_000_000)
ONE_CALL = 20_000
"""Logits of which one call is long enough to be timed alone; smaller calls are repeated."""


def growth() -> list[GrowthCase]:
    """Return the cases of both sweeps."""
    shapes = dict.fromkeys([(LOGITS // V, V) for V in CLASSES] + [(N, FEW) for N in ROWS])
    return [
        GrowthCase(f"{N}×{V}", "a sweep", (N, V), repeat=repeats(N * V), threads=1, quick=N == 1000) for N, V in shapes
    ]


def repeats(logits: int) -> int:
    """Return how many calls of so many logits are timed in a row."""
    return 1 if logits >= ONE_CALL else min(200, math.ceil(ONE_CALL / logits))
