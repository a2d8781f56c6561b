"""The suites that `python -m benchmarks` measures.

Losses of logits, of few classes and few rows, sweeps of their sizes, divergences of logits; losses of a linear layer,
sweeps of its sizes, losses of reinforcement learning on one, and divergences between two.

A suite is a folder: its cases; its contenders (losses, calls, work, LIMITS and FEWER); its errors (measure); and its
report (grids, notes and a LEGEND).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.common.records import Record
from benchmarks.distillation import cases as distillation_cases
from benchmarks.distillation import contenders as distillation_contenders
from benchmarks.distillation import errors as distillation_errors
from benchmarks.distillation.cases import DistillationCase
from benchmarks.linear import cases as linear_cases
from benchmarks.linear import contenders as linear_contenders
from benchmarks.linear import errors as linear_errors
from benchmarks.linear.cases import LinearCase
from benchmarks.logits import cases as logits_cases
from benchmarks.logits import contenders as logits_contenders
from benchmarks.logits import errors as logits_errors
from benchmarks.logits import everyday as everyday_cases
from benchmarks.logits import pairs
from benchmarks.logits.cases import LogitsCase
from benchmarks.rows import cases as rows_cases
from benchmarks.rows import contenders as rows_contenders
from benchmarks.rows import errors as rows_errors
from benchmarks.rows.cases import RowsCase

AnyCase = LogitsCase | LinearCase | RowsCase | DistillationCase


@dataclass(frozen=True, slots=True)
class Suite:
    """The modules that know who takes part in a case, and how errors are measured."""

    contenders: Any
    errors: Any


_LINEAR = Suite(linear_contenders, linear_errors)
_LOGITS = Suite(logits_contenders, logits_errors)
SUITES = {
    "logits": _LOGITS,
    "everyday": _LOGITS,
    "growth": _LOGITS,
    "divergence": _LOGITS,
    "linear": _LINEAR,
    "scaling": _LINEAR,
    "rows": Suite(rows_contenders, rows_errors),
    "distillation": Suite(distillation_contenders, distillation_errors),
}


def of(case: AnyCase) -> Suite:
    """Return the suite of a case."""
    return SUITES[case.suite]


def cases() -> list[AnyCase]:
    """Return the cases of all suites; no two have the same name."""
    return [
        *logits_cases.CASES,
        *everyday_cases.everyday(),
        *everyday_cases.growth(),
        *pairs.CASES,
        *linear_cases.CASES,
        *linear_cases.scaling(),
        *rows_cases.CASES,
        *distillation_cases.CASES,
    ]


def describe(case: AnyCase) -> Record:
    """Return what a record says of its case."""
    return {
        "suite": case.suite,
        "case": case.name,
        "model": case.model,
        **case.describe(),
        "rows": case.rows,
        "threads": case.threads or torch.get_num_threads(),
        "clock": case.clock,
    }
