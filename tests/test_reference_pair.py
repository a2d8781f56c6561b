"""The reference of a row and its teacher's, against the definitions at 60 digits and torch's divergences."""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest
from mpmath import mpf

from crossent import reference
from crossent.spec import Scores, Target
from crossent.stats import FIELDS, PairCotangents, RowStats, Teacher
from tests.oracle_pair import no_target

SCORES = [(Scores(), Scores()), (Scores(0.7), Scores(2.0, 9.0)), (Scores(1.3, 30.0), Scores(0.05))]
BETA = 0.3


def exact_softmax(row, scores):
    s = [mpf(float(x)) / mpf(scores.temperature) for x in row]
    if scores.softcap is not None:
        s = [scores.softcap * mpmath.tanh(x / mpf(scores.softcap)) for x in s]
    e = [mpmath.exp(x - max(s)) for x in s]
    return [x / mpmath.fsum(e) for x in e]


def exact_kl(a, b):
    return mpmath.fsum(x * mpmath.log(x / y) for x, y in zip(a, b, strict=True))


def exact_sums(row, teacher_row, scores, teacher_scores):
    q, p = exact_softmax(row, scores), exact_softmax(teacher_row, teacher_scores)
    m = [mpf(BETA) * x + (1 - mpf(BETA)) * y for x, y in zip(p, q, strict=True)]
    return [exact_kl(p, q), exact_kl(q, p), exact_kl(p, m), exact_kl(q, m)]


def pair(logits, teacher_logits, scores, teacher_scores, target=None):
    """The student's record and the teacher, by the reference."""
    its = reference.row_stats(teacher_logits, no_target(len(teacher_logits)), teacher_scores)
    own = reference.row_stats(logits, target or no_target(len(logits)), scores)
    return own, Teacher(teacher_logits, teacher_scores, np.stack([getattr(its, field) for field in FIELDS]))


@pytest.mark.parametrize("gap", [1e-9, 1e-4, 0.7, 1.0, 20.0])
def test_sums_are_those_of_the_definitions(gap):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 6))
    teacher_logits = logits + gap * rng.normal(size=logits.shape)
    for scores in SCORES:
        for both in (scores, (scores[0], scores[0])):
            own, teacher = pair(logits, teacher_logits, *both)
            got = reference.pair_stats(logits, both[0], own, teacher, BETA)
            np.testing.assert_array_equal(reference.pair_stats(logits, both[0], own, teacher), got[:2])
            for row in range(len(logits)):
                with mpmath.workdps(60):
                    want = [float(x) for x in exact_sums(logits[row], teacher_logits[row], *both)]
                # logarithms of a size of 12 are off by 2^-53 · 12 each, and the sum is their square
                np.testing.assert_allclose(got[:, row], want, rtol=1e-13 + 2e-14 / min(gap, 1))


def test_sums_agree_with_torch():
    torch = pytest.importorskip("torch", reason="what it is held against; the reference needs NumPy alone")
    rng = np.random.default_rng(1)
    logits, teacher_logits = rng.normal(0, 3, (2, 5, 40))
    own, teacher = pair(logits, teacher_logits, Scores(), Scores(2.0))
    kl, reverse = reference.pair_stats(logits, Scores(), own, teacher)
    logq = torch.log_softmax(torch.from_numpy(logits), 1)
    logp = torch.log_softmax(torch.from_numpy(teacher_logits) / 2.0, 1)
    each = [
        torch.nn.functional.kl_div(*x, reduction="none", log_target=True).sum(1) for x in ((logq, logp), (logp, logq))
    ]
    np.testing.assert_allclose([kl, reverse], [x.numpy() for x in each], rtol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [0, 1, 2, 3, 4, 5, None])
def test_gradients_are_the_derivatives_of_the_definitions(wanted):
    V, rng = 4, np.random.default_rng(2)
    for (scores, teacher_scores), gap in itertools.product(SCORES, (1e-3, 2.0)):
        logits = rng.normal(0, 2, (1, V))
        teacher_logits = logits + gap * rng.normal(size=logits.shape)
        target = Target(np.array([1]), smoothing=0.1)
        own, teacher = pair(logits, teacher_logits, scores, teacher_scores, target)
        g = PairCotangents(*(rng.normal(size=1) if wanted in {k, None} else None for k in range(6)))
        sums = reference.pair_stats(logits, scores, own, teacher, BETA)
        got = reference.pair_grad(logits, target, scores, own, teacher, BETA, sums, g)
        weights = [mpf(0) if x is None else mpf(float(x[0])) for x in g]
        for v in range(V):

            def along(x, v=v, z=logits[0], t=teacher_logits[0], w=weights, both=(scores, teacher_scores)):
                row = [mpf(float(y)) for y in z]
                row[v] = x
                s = [y / mpf(both[0].temperature) for y in row]
                if both[0].softcap is not None:
                    s = [both[0].softcap * mpmath.tanh(y / mpf(both[0].softcap)) for y in s]
                lse = mpmath.log(mpmath.fsum(map(mpmath.exp, s)))
                p = [mpf(0.1) / V + (mpf(1) - mpf(0.1)) * (k == 1) for k in range(V)]
                loss = mpmath.fsum(p) * lse - mpmath.fsum(a * b for a, b in zip(p, s, strict=True))
                entropy = -mpmath.fsum(mpmath.exp(y - lse) * (y - lse) for y in s)
                q, teacher_p = [mpmath.exp(y - lse) for y in s], exact_softmax(t, both[1])
                m = [mpf(BETA) * a + (1 - mpf(BETA)) * b for a, b in zip(teacher_p, q, strict=True)]
                js = mpf(BETA) * exact_kl(teacher_p, m) + (1 - mpf(BETA)) * exact_kl(q, m)
                outputs = [loss, lse, entropy, exact_kl(teacher_p, q), exact_kl(q, teacher_p), js]
                return mpmath.fsum(a * b for a, b in zip(w, outputs, strict=True))

            with mpmath.workdps(40):
                want = float(mpmath.diff(along, mpf(float(logits[0, v]))))
            assert abs(got[0, v] - want) <= 1e-12 * (1 + abs(want)), (scores, teacher_scores, gap, v)


def test_the_teachers_gradient_is_the_same_function_with_the_roles_swapped():
    torch = pytest.importorskip("torch", reason="what it is held against; the reference needs NumPy alone")
    rng = np.random.default_rng(3)
    logits, teacher_logits = rng.normal(0, 2, (2, 3, 7))
    own, teacher = pair(logits, teacher_logits, Scores(), Scores(2.0))
    sums = reference.pair_stats(logits, Scores(), own, teacher, BETA)
    g = rng.normal(size=(3, 3))
    student = Teacher(logits, Scores(), np.stack([getattr(own, field) for field in FIELDS]))
    got = reference.pair_grad(
        teacher_logits, no_target(3), Scores(2.0), RowStats(*teacher.record), student, 1 - BETA, sums[[1, 0, 3, 2]],
        PairCotangents(kl=g[1], reverse_kl=g[0], js=g[2]),
    )  # fmt: skip
    t = torch.from_numpy(teacher_logits).requires_grad_()
    logq, logp = torch.log_softmax(torch.from_numpy(logits), 1), torch.log_softmax(t / 2.0, 1)
    p, q = logp.exp(), logq.exp()
    logm = (BETA * p + (1 - BETA) * q).log()
    js = (BETA * p * (logp - logm) + (1 - BETA) * q * (logq - logm)).sum(1)
    total = (p * (logp - logq)).sum(1) @ torch.from_numpy(g[0]) + (q * (logq - logp)).sum(1) @ torch.from_numpy(g[1])
    (want,) = torch.autograd.grad(total + js @ torch.from_numpy(g[2]), t)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-12, atol=1e-14)


INF = np.inf


@pytest.mark.parametrize(
    ("student", "teacher", "want"),
    [
        ([0.0, -INF], [0.0, -INF], (0.0, 0.0)),
        ([0.0, -INF], [0.0, 0.0], (INF, np.log(2))),
        ([0.0, 0.0], [0.0, -INF], (np.log(2), INF)),
        ([0.0, -2000.0], [0.0, 0.0], (1000 - np.log(2), np.log(2))),
        ([0.0, -INF, 1.0], [0.0, 0.5, -INF], (INF, INF)),
    ],
)
def test_classes_that_cannot_be(student, teacher, want):
    logits, teacher_logits = np.array([student]), np.array([teacher])
    own, its = pair(logits, teacher_logits, Scores(), Scores())
    got = reference.pair_stats(logits, Scores(), own, its, BETA)
    np.testing.assert_allclose(got[:2, 0], want, rtol=1e-14)
    assert np.isfinite(got[2:]).all()


def test_what_is_no_number_is_none_in_its_row_alone():
    logits, teacher_logits = np.zeros((3, 2)), np.zeros((3, 2))
    logits[0, 1], teacher_logits[1, 0] = np.nan, INF
    own, its = pair(logits, teacher_logits, Scores(), Scores())
    got = reference.pair_stats(logits, Scores(), own, its, BETA)
    assert np.isnan(got[:, :2]).all()
    assert not got[:, 2].any()


def test_no_rows():
    z, target = np.zeros((0, 4)), Target(np.zeros(0, np.int64))
    stats = reference.row_stats(z, target)
    beside = Teacher(z, Scores(), np.zeros((5, 0)))
    sums = reference.pair_stats(z, Scores(), stats, beside, 0.5)
    assert sums.shape == (4, 0)
    ones = np.ones(0)
    assert reference.row_grad(z, target, Scores(), stats, PairCotangents(ones)[:3]).shape == (0, 4)
    given = PairCotangents(kl=ones, js=ones)
    assert reference.pair_grad(z, target, Scores(), stats, beside, 0.5, sums, given).shape == (0, 4)
