"""The shipped oracle against the definitions at 50 digits, and its gradients against numerical ones at 50 digits."""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest
from mpmath import mpf

from crossent import reference
from crossent.spec import Target
from tests import data, oracle


def exact_scores(row, scores):
    z = [mpf(float(x)) / mpf(scores.temperature) for x in row]
    return z if scores.softcap is None else [scores.softcap * mpmath.tanh(x / mpf(scores.softcap)) for x in z]


def exact_measure(target, row, V):
    """p_v = weight_v ((1 − ε) base_v + ε / V), written out; None for an ignored row."""
    base = [mpf(0)] * V
    if target.index is None:
        base = [mpf(float(x)) for x in target.prob[row]]
    elif target.prob is None:
        if target.index[row] == target.ignore_index:
            return None
        base[int(target.index[row])] = mpf(1)
    else:
        for k, prob in zip(target.index[row], target.prob[row], strict=True):
            base[int(k)] += mpf(float(prob))
    eps, weight = mpf(target.smoothing), [1.0] * V if target.weight is None else target.weight
    return [mpf(float(w)) * ((1 - eps) * b + eps / V) for w, b in zip(weight, base, strict=True)]


def exact_summary(s, p):
    """Loss, lse and entropy from q = e^s / Σ e^s, without a peak."""
    total = mpmath.fsum(map(mpmath.exp, s))
    logq = [x - mpmath.log(total) for x in s]
    loss = -mpmath.fsum(b * x for b, x in zip(p, logq, strict=True))
    return loss, mpmath.log(total), -mpmath.fsum(mpmath.exp(x) * x for x in logq)


def of_every_option(kind, V):
    for case in data.cases(kind, V, "float64"):
        if kind == "dense":
            target = Target(
                prob=data.as_rows(case.target.prob), weight=case.target.weight, smoothing=case.target.smoothing
            )
        else:
            target = case.target
        yield case, data.as_rows(case.logits), target


@pytest.mark.parametrize("V", [1, 2, 10])
@pytest.mark.parametrize("kind", data.KINDS)
def test_records_are_those_of_the_definitions(kind, V):
    for case, logits, target in of_every_option(kind, V):
        stats = reference.row_stats(logits, target, case.scores)
        bound = oracle.Truth.of(case).bound
        with mpmath.workdps(50):
            for row in range(len(logits)):
                p = exact_measure(target, row, V)
                if p is None:
                    assert [getattr(stats, field)[row] for field in oracle.FIELDS] == [
                        field == "total" for field in oracle.FIELDS
                    ]
                    continue
                s = exact_scores(logits[row], case.scores)
                peak = max(s)
                e = [mpmath.exp(x - peak) for x in s]
                want = {
                    "peak": peak,
                    "total": mpmath.fsum(e),
                    "target_score": mpmath.fsum(a * (x - peak) for a, x in zip(p, s, strict=True)),
                    "mass": mpmath.fsum(p),
                    "tilt": mpmath.fsum(a * (x - peak) for a, x in zip(e, s, strict=True)),
                }
                want |= dict(zip(("loss", "lse", "entropy"), exact_summary(s, p), strict=True))
                for name, value in want.items():
                    error = abs(mpf(float(getattr(stats, name)[row])) - value)
                    assert error <= 4 * 2.0**-53 * bound[name][row], f"{name} of {case.name}"


@pytest.mark.parametrize("kind", data.KINDS)
def test_gradients_are_the_derivatives_of_the_definitions(kind):
    V = 4
    rng = np.random.default_rng(0)
    for weighted, smoothing, scores in itertools.product((False, True), (0.0, 0.1), data.PHIS):
        logits = rng.normal(0, 5, (2, V))
        weight = rng.random(V) + 0.5 if weighted else None
        if kind == "index":
            target = Target(np.array([1, 3]), weight=weight, smoothing=smoothing)
        elif kind == "topk":
            target = Target(np.array([[0, 2], [1, 1]]), rng.random((2, 2)), weight, smoothing)
        else:
            target = Target(prob=rng.dirichlet(np.ones(V), 2), weight=weight, smoothing=smoothing)
        g = tuple(rng.normal(size=2) for _ in range(3))
        grad = reference.row_grad(logits, target, scores, reference.row_stats(logits, target, scores), g)
        for row, v in itertools.product(range(2), range(V)):
            with mpmath.workdps(50):
                p = exact_measure(target, row, V)

                def along(x, row=row, v=v, p=p, scores=scores, g=g, logits=logits):
                    z = [mpf(float(y)) for y in logits[row]]
                    z[v] = x
                    z = [y / mpf(scores.temperature) for y in z]
                    s = (
                        z
                        if scores.softcap is None
                        else [scores.softcap * mpmath.tanh(y / mpf(scores.softcap)) for y in z]
                    )
                    return sum(mpf(float(w[row])) * out for w, out in zip(g, exact_summary(s, p), strict=True))

                want = mpmath.diff(along, mpf(float(logits[row, v])))
            # a gradient is a difference of terms of the size of its cotangents
            size = sum(abs(x[row]) for x in g) * (1 + np.log(V)) / scores.temperature
            assert abs(grad[row, v] - float(want)) <= 64 * 2.0**-53 * size


@pytest.mark.parametrize("kind", data.KINDS)
def test_the_shipped_gradient_is_the_one_that_kernels_are_held_against(kind):
    # far from 0 as near it: the gradient depends on differences of scores alone
    for case in data.cases(kind, 17, "float32"):
        truth = oracle.Truth.of(case)
        z, target = truth.parts[:2]
        g = tuple(np.zeros(case.rows) if x is None else data.decode(x) for x in case.cotangents)
        want, bound = truth.grad(case, case.cotangents)
        got = reference.row_grad(z, target, case.scores, truth.stats, g)
        assert oracle.worst(got, want, oracle.unit(case) * bound) <= 1
        if case.scores.softcap is None:
            assert np.abs(got - want).max() <= 1e-14 * (1 + np.abs(want).max())


@pytest.mark.parametrize("x", [-1e4, -745.0, -40.0, -1e-3, 0.0, 1e-3, 40.0, 745.0, 1e4])
def test_binary_losses_are_those_of_the_definitions(x):
    with mpmath.workdps(60):
        for t, w, r in ((0.0, 1.0, 1.0), (1.0, 2.0, 3.0), (0.25, 0.5, 2.0)):
            sig = [1 / (1 + mpmath.exp(-mpf(x))), 1 / (1 + mpmath.exp(mpf(x)))]
            softplus = [mpmath.log1p(mpmath.exp(-mpf(x))), mpmath.log1p(mpmath.exp(mpf(x)))]
            loss = w * (r * t * softplus[0] + (1 - t) * softplus[1])
            grad = w * ((1 - t) * sig[0] - r * t * sig[1])
            assert float(reference.binary_loss(x, t, w, r)) == pytest.approx(float(loss), rel=1e-14, abs=1e-300)
            assert float(reference.binary_grad(x, t, w, r)) == pytest.approx(float(grad), rel=1e-14, abs=1e-300)


def test_a_confident_binary_answer_has_a_cost():
    assert float(reference.binary_loss(-40.0, 0.0)) == pytest.approx(4.248354255291589e-18, rel=1e-15, abs=0)
