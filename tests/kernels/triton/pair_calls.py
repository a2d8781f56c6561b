"""Calls of the pair kernels on tensors, and on rows surrounded by what must not be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from crossent.kernels.backend import PairCotangents, Teacher
from crossent.spec import Scores, Target
from crossent.stats import FIELDS, PAIR_SUMS
from tests.data import Case
from tests.kernels.triton.calls import NAN, ODD, PLAIN, backend, draw
from tests.oracle_pair import PairCase, no_target

EVERY = PairCotangents(loss=0.5, lse=-1.0, entropy=0.25, kl=1.0, reverse_kl=-0.5, js=2.0)
BETA = 0.3


def drawn_pair(
    kind: str, dtypes: tuple[str, str], rows: int, V: int, *, beta: float | None = BETA, **options: Any
) -> PairCase:
    """A student's rows and a teacher's near them, in layouts amid NaN, and random cotangents of everything."""
    layout, its = options.pop("layout", ODD), options.pop("teacher_scores", Scores(0.8))
    student = draw(kind, dtypes[0], rows, V, layout, weight=np.linspace(0.5, 2, V), **options)
    teacher = draw("topk", dtypes[1], rows, V, layout)
    teacher = Case("teacher", dtypes[1], teacher.logits, no_target(rows), its, (None, None, None), layout)
    rng = np.random.default_rng(V)
    given = [rng.normal(size=rows).astype(np.float32) for _ in range(3)]
    return PairCase(student, teacher, beta, (given[0], given[1], None if beta is None else given[2]))


def statistics(z: Any, t: Any, scores: Scores = PLAIN, target: Target | None = None) -> tuple[Any, Teacher]:
    """The record of a student's rows, and the teacher."""
    rows = z.numel() // z.shape[1] if z.shape[1] else z.shape[0]
    record, its = (torch.full((len(FIELDS), rows), NAN, dtype=torch.float64) for _ in range(2))
    nothing = Target(torch.zeros((rows, 0), dtype=torch.int64), torch.zeros((rows, 0)))
    backend.row_stats(z, target or nothing, scores, record)
    backend.row_stats(t, nothing, scores, its)
    return record, Teacher(t, scores, its)


def sums_of(z: Any, t: Any, scores: Scores = PLAIN, beta: float | None = BETA) -> Any:
    """The sums (4, N) of a pair; NaN where none was written."""
    record, teacher = statistics(z, t, scores)
    sums = torch.full((PAIR_SUMS, record.shape[1]), NAN, dtype=torch.float64)
    backend.pair_stats(z, scores, record, teacher, beta, sums)
    return sums


def gradient_of(z: Any, t: Any, target: Target, given: PairCotangents = EVERY, *, into: Any = None) -> Any:
    """The gradient for one number of each cotangent, all rows alike; it may take the place of either's logits."""
    record, teacher = statistics(z, t, PLAIN, target)
    sums = torch.full((PAIR_SUMS, record.shape[1]), NAN, dtype=torch.float64)
    backend.pair_stats(z, PLAIN, record, teacher, BETA, sums)
    grad = torch.full_like(z, NAN) if into is None else into
    each = (None if g is None else torch.full((record.shape[1],), g) for g in given)
    backend.pair_grad(z, target, PLAIN, record, teacher, BETA, sums, PairCotangents(*each), grad)
    return grad
