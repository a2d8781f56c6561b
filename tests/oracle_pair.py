"""Rows beside a teacher's: cases, their truth by the reference in float64, and how far rounding may lead from it.

The bounds are those of `tests.oracle`. A log-probability is off by u (1 + |d| + …), and so is the difference δ of two,
which terms p h(δ), h(x) = x + e^−x − 1, follow with their derivative |p − q|. In float32 a probability below e^−48 may
count as 0 (cpp/pair.h): a product with what is small would be denormal.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from crossent import reference
from crossent.kernels.backend import PairCotangents, Teacher
from crossent.spec import Scores, Target
from crossent.stats import FIELDS, PAIR_SUMS
from tests import data, oracle
from tests.data import Case, as_rows, decode
from tests.oracle import Guarded, Inputs, Truth

BETAS = (None, 0.5, 0.1, 0.999)
LOST = 2e-21


def no_target(rows: int) -> Target:
    """The target of a teacher's rows: none of K = 0 classes."""
    return Target(np.zeros((rows, 0), np.int64), np.zeros((rows, 0), np.float32))


@dataclasses.dataclass(frozen=True)
class PairCase:
    """A student's case, its teacher's, and what is asked of both; the teacher's has no target."""

    student: Case
    teacher: Case
    beta: float | None
    cotangents: tuple[Any, Any, Any]
    """Of kl, reverse_kl and js."""

    @property
    def name(self) -> str:
        return f"{self.student.name} beside {self.teacher.name} beta={self.beta}"

    @property
    def wide(self) -> bool:
        return self.student.wide and self.teacher.wide

    @property
    def unit(self) -> float:
        return 2.0**-53 if self.wide else 2.0**-24

    @property
    def all_cotangents(self) -> PairCotangents:
        return PairCotangents(*self.student.cotangents, *self.cotangents)


def beside(case: Case, *, backwards: bool = True) -> PairCase:
    """A teacher for a student's case: another dtype, layout, scores and temperature, near it or far from it."""
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    of = ["float32", "float64", "float16", *([] if backwards else ["bfloat16"])]
    dtype = case.dtype if rng.random() < 0.4 else of[rng.integers(len(of))]
    axes = case.logits.ndim
    near = float(rng.choice([1e-3, 0.3, 3.0, 30.0]))
    rows = as_rows(decode(case.logits))
    values = data.from_rows(rows + near * rng.normal(size=rows.shape), axes, case.logits.shape[-1])
    places = data.layouts(axes, backwards=backwards and dtype != "bfloat16")
    logits = places[rng.integers(len(places))].hold(data.encode(values, dtype))
    scores = data.PHIS[rng.integers(len(data.PHIS))] if rng.random() < 0.7 else case.scores
    if rng.random() < 0.3:
        scores = Scores(1.0, scores.softcap, data.reals(rng, dtype, rng.choice([0.25, 1.0, 3.0], case.rows)))
    teacher = Case(
        f"{dtype} ±{near} {scores}", dtype, logits, no_target(case.rows), scores, (None, None, None), case.grad_layout
    )
    beta = BETAS[rng.integers(len(BETAS))]
    g = [data.reals(rng, case.dtype, rng.normal(size=case.rows)) if rng.random() < 0.7 else None for _ in range(3)]
    for x in g:
        if x is not None:
            x[min(1, case.rows - 1)] = 0.0
    return PairCase(case, teacher, beta, (g[0], g[1], None if beta is None else g[2]))


def pair_cases(backend: Any, kind: str, V: int, dtype: str, **how: Any) -> Iterator[PairCase]:
    for case in backend.cases(kind, V, dtype, **how):
        backwards = backend.backwards and dtype != "bfloat16" and "backwards" not in case.name
        yield beside(case, backwards=backwards)


@dataclasses.dataclass
class Side:
    """Log-probabilities of one model, and how far off they may be, in units of u."""

    truth: Truth
    rows: Any
    logp: Any
    off: Any

    @classmethod
    def of(cls, case: Case) -> Side:
        truth = Truth.of(case)
        d, D, relative = truth.parts.d, truth.parts.D, truth.parts.relative
        log_total = np.log(truth.stats.total)[:, None]
        logp = d - log_total
        return cls(truth, truth.parts.z, logp, 1 + D + np.abs(log_total) + np.abs(logp) + relative[:, None])


@dataclasses.dataclass
class PairTruth:
    """Sums of a pair by the reference, and the bounds of their errors, in units of u."""

    case: PairCase
    student: Side
    teacher: Side
    sums: Any
    bound: Any

    @classmethod
    @np.errstate(over="ignore", invalid="ignore")  # the record of an ignored row is not of its logits
    def of(cls, case: PairCase) -> PairTruth:
        own, its = Side.of(case.student), Side.of(case.teacher)
        teacher = cls.teacher_of(case, its)
        sums = reference.pair_stats(own.rows, case.student.scores, own.truth.stats, teacher, case.beta)
        p, q, off = np.exp(its.logp), np.exp(own.logp), own.off + its.off
        more = case.unit * np.maximum(p, q) * off**2  # of second order, where the rows are equal
        lost = (p.shape[1] * LOST * 10 / case.unit) if not case.wide else 0.0

        def of(a: Any, b: Any, off_a: Any, off_x: Any, value: Any, x: Any) -> Any:
            """Bound of a sum of a h(x), whose derivative by x is a − b: a is off by off_a, and x by off_x and |x|."""
            return (np.abs(a - b) * (off_x + np.abs(x)) + more).sum(1) + value * (off_a.max(1) + 2) + lost

        delta = its.logp - own.logp
        bound = [
            of(p, q, its.off, off, sums[0], 0 * delta),
            of(q, p, own.off, off, sums[1], 0 * delta),
        ]
        if case.beta is not None:
            m = case.beta * p + (1 - case.beta) * q
            with np.errstate(divide="ignore", invalid="ignore"):
                x, y = (np.where(m > 0, np.log(a / m), 0.0) for a in (p, q))
                x, y = np.nan_to_num(x, neginf=-100.0), np.nan_to_num(y, neginf=-100.0)
            bound += [of(p, m, its.off, off, sums[2], x), of(q, m, own.off, off, sums[3], y)]
        return cls(case, own, its, sums, np.stack(bound))

    @staticmethod
    def teacher_of(case: PairCase, its: Side) -> Teacher:
        """The teacher as the reference takes it."""
        record = np.stack([getattr(its.truth.stats, field) for field in FIELDS])
        return Teacher(its.rows, case.teacher.scores, record)

    @np.errstate(over="ignore", invalid="ignore")
    def grad(self) -> tuple[Any, Any]:
        """The gradient (N, V) and its bound."""
        case, own, its = self.case, self.student, self.teacher
        student = case.student
        full = np.concatenate([self.sums, np.zeros((PAIR_SUMS - len(self.sums), student.rows))])
        g = PairCotangents(*(None if x is None else decode(x) for x in case.all_cotangents))
        target = own.truth.parts.target
        want = reference.pair_grad(
            own.rows, target, student.scores, own.truth.stats, self.teacher_of(case, its), case.beta, full, g
        )
        _, scale = own.truth.grad(student, student.cotangents)
        scale = scale * oracle.unit(student) / case.unit
        kl, reverse, js = (np.zeros((student.rows, 1)) if x is None else np.abs(x)[:, None] for x in g[3:])
        p, q, delta, off = np.exp(its.logp), np.exp(own.logp), np.abs(its.logp - own.logp), own.off + its.off
        more = kl * (p * its.off + q * own.off)
        more += reverse * q * ((delta + self.sums[1][:, None]) * own.off + off + self.bound[1][:, None])
        size = kl + reverse * (1 + delta + self.sums[1][:, None]) + js
        if case.beta is not None:
            m = case.beta * p + (1 - case.beta) * q
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.abs(np.nan_to_num(np.where(m > 0, np.log(q / m), 0.0), neginf=100.0))
            weight = js * (1 - case.beta) * q
            more += weight * ((share + self.sums[3][:, None]) * (own.off + 3) + off + self.bound[3][:, None])
        plain = sum(np.abs(x)[:, None] if x is not None else 0.0 for x in g[:3])
        mass = 1 + np.abs(own.truth.stats.mass)[:, None] + np.abs(own.truth.stats.entropy)[:, None]
        if not case.wide:
            more += LOST / case.unit * (size + plain * mass * (1 + np.abs(own.logp)))
        if student.scores.softcap is not None:
            more *= 1 + 2 * np.abs(own.rows / (oracle.temperature_of(student.scores) * student.scores.softcap))
        kept = own.truth.valid[:, None] & np.any([x[:, 0] != 0 for x in (kl, reverse, js)], axis=0)[:, None]
        # where there is nothing but the plain gradient, least probabilities are lost all the same
        lost = LOST / case.unit * plain * mass * (1 + np.abs(own.logp)) if not case.wide else 0.0
        slope = oracle.slope_of(own.rows, student.scores)
        return want, scale + slope * np.where(kept, more, lost * (scale > 0))


def limit(case: PairCase) -> float:
    return oracle.allowed(case.wide, case.student.logits.shape[1])


def records(backend: Any, case: PairCase) -> tuple[Any, Teacher]:
    """The student's record and the teacher, as the backend makes them."""
    own, its = (oracle.empty_record(case.student.rows) for _ in range(2))
    backend.row_stats(case.student.logits, case.student.target, case.student.scores, own)
    backend.row_stats(case.teacher.logits, case.teacher.target, case.teacher.scores, its)
    return own, Teacher(case.teacher.logits, case.teacher.scores, its)


def gradient_bound(case: PairCase, truth: PairTruth, dtype: str) -> tuple[Any, Any]:
    """The gradient (N, V), and the bound of its error where it is stored in a dtype."""
    want, scale = truth.grad()
    eps, least = data.spacing(dtype)
    bound = case.unit * scale + (np.abs(want) * eps + least) / limit(case) * (case.unit < eps / 2)
    return want, bound + (np.abs(want) * eps + least) * 0.1 * (dtype != case.student.dtype or not case.wide)


def check_pair(backend: Any, case: PairCase, truth: PairTruth) -> None:
    """Check the sums and the gradient of a case; whoever calls this has the truth of it, for several backends."""
    record, teacher = records(backend, case)
    student, rows = case.student, case.student.rows
    inputs = Inputs.of(student.logits, teacher.logits, record, teacher.record, *case.all_cotangents)
    sums = Guarded(None, (PAIR_SUMS, rows), np.float64)
    backend.pair_stats(student.logits, student.scores, record, teacher, case.beta, sums.view)
    got, valid, wanted = sums.values(), truth.student.truth.valid, len(truth.sums)
    assert np.isnan(got[wanted:]).all(), "sums that nobody asked for were written"
    for name, mine, want, bound in zip(("kl", "reverse", "p‖m", "q‖m"), got, truth.sums, truth.bound, strict=False):
        assert (mine[valid] >= 0).all(), f"{name} of {case.name} is negative"
        ratio = oracle.worst(mine[valid], want[valid], case.unit * bound[valid])
        assert ratio <= limit(case), f"{name} of {case.name}: {ratio:.3g} times its first-order error bound"

    narrow = student.dtype == "float32" and zlib.crc32(case.name.encode()) % 3 == 0 and "backwards" not in case.name
    dtype = "bfloat16" if narrow else student.dtype
    place = student.grad_layout if not (narrow and any(student.grad_layout.back)) else None
    out = Guarded(place, student.logits.shape, data.storage(dtype))
    backend.pair_grad(
        student.logits, student.target, student.scores, record, teacher, case.beta, sums.view, case.all_cotangents,
        out.view,
    )  # fmt: skip
    inputs.check()
    grad = as_rows(out.values())
    want, bound = gradient_bound(case, truth, dtype)
    ratio = oracle.worst(grad, want, bound)
    assert ratio <= limit(case), f"gradient of {case.name}: {ratio:.3g} times its first-order error bound"
    assert not grad[~valid].any()
