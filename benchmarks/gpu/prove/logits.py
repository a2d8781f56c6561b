"""The stage of logits: forward and backward beside a copy and beside eager, for long rows and for few classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial

from benchmarks.common.records import Record
from benchmarks.gpu.cases import CASES, HeadCase
from benchmarks.gpu.prove.lab import Item, Lab, beside
from benchmarks.gpu.trial import WARMUP, measure
from benchmarks.logits.cases import LogitsCase

ROUNDS = 15
SHOWN = ("crossent", "eager", "copy")
OF_SUITE = ("llama3", "gpt2", "cityscapes", "decode")

FEW = (
    LogitsCase("images", "images of 21 classes in axis 1", (16, 21, 512, 512), "bfloat16"),
    LogitsCase("digits", "four million rows of 10 classes", (2**22, 10)),
    LogitsCase("cifar100", "half a million rows of 100 classes", (2**19, 100), "bfloat16"),
)


def cases() -> list[LogitsCase]:
    """Return the cases of the stage: those that stand in every table first."""
    of_suite = {case.name: case for case in CASES if not isinstance(case, HeadCase)}
    return [*(of_suite[name] for name in OF_SUITE), *FEW]


def small(case: LogitsCase) -> LogitsCase:
    """Return the case with a few rows in place of its many."""
    rows, classes, *places = case.shape
    return dataclasses.replace(case, shape=(min(rows, 3), min(classes, 12), *(min(n, 4) for n in places)))


def items(lab: Lab) -> Iterator[Item]:
    """Yield the parts of the stage."""
    for case in cases():
        yield Item(case.name, partial(times, lab, case))


def times(lab: Lab, case: LogitsCase) -> Iterator[Record]:
    """Yield the times and peaks of crossent, eager and a copy."""
    rounds, warmup = lab.pick(ROUNDS, 1), lab.pick(WARMUP, 0)
    for record in measure(small(case) if lab.small else case, lab.device, rounds, compiled=False, warmup=warmup):
        if record["contender"] in SHOWN:
            yield beside(record)
