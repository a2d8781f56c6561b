"""The suites: losses of logits that are there, losses of a linear layer's outputs, and sweeps of the latter's sizes.

Each has its cases and a module, which says who takes part in a case and against what: losses, calls, work, LIMITS and
FEWER.
"""

from __future__ import annotations

from typing import Any

from benchmarks import cases as logits_cases
from benchmarks import contenders, linear_cases, linear_contenders
from benchmarks.cases import Case
from benchmarks.linear_cases import LinearCase

AnyCase = Case | LinearCase

MODULES: dict[str, Any] = {"logits": contenders, "linear": linear_contenders, "scaling": linear_contenders}


def of(case: AnyCase) -> Any:
    """Return the module of a case's suite."""
    return MODULES[case.suite]


def cases() -> list[AnyCase]:
    """Return the cases of all suites, of which no two have the same name."""
    return [*logits_cases.CASES, *linear_cases.CASES, *linear_cases.scaling()]
