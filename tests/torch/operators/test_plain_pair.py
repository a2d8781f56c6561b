"""The slow twin of pairs against mpmath, where differences are small, and where probabilities vanish."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch

from crossent.torch.operators.plain_pair import pair_sums

BETA = 0.3


def exactly(logp: list[float], logq: list[float]) -> list[float]:
    """The four sums of log-probabilities that need not add up to 1, with 60 digits."""
    with mpmath.workdps(60):
        a, b = ([mpmath.mpf(x) for x in xs] for xs in (logp, logq))
        p, q = ([mpmath.exp(x) for x in xs] for xs in (a, b))
        beta = mpmath.mpf(BETA)
        m = [beta * x + (1 - beta) * y for x, y in zip(p, q, strict=True)]

        def total(x: list[mpmath.mpf], y: list[mpmath.mpf]) -> float:
            return float(sum(u * mpmath.log(u / v) + v - u for u, v in zip(x, y, strict=True)))

        return [total(p, q), total(q, p), total(p, m), total(q, m)]


@pytest.mark.parametrize("apart", [1e-12, 1e-8, 1e-3, 0.1, 0.49, 0.51, 1.0, 5.0, 40.0, 600.0])
def test_sums_keep_their_digits(apart):
    logq = torch.tensor([[-1.0, -2.0, -0.5, -30.0]], dtype=torch.float64)
    logp = logq + apart * torch.tensor([[1.0, -1.0, 0.5, -1.0]], dtype=torch.float64) * (logq > -25)
    logp = logp.clamp(max=0.0)
    want = exactly(logp[0].tolist(), logq[0].tolist())
    for got, w in zip(pair_sums(logp, logq, BETA), want, strict=True):
        assert got is not None
        assert got.item() == pytest.approx(w, rel=2e-14, abs=1e-300)
    single = pair_sums(logp.float(), logq.float(), BETA)
    rounded = exactly(logp.float()[0].tolist(), logq.float()[0].tolist())
    for got, w in zip(single, rounded, strict=True):
        assert got is not None
        assert got.item() == pytest.approx(w, rel=2e-5, abs=1e-40)


def test_probabilities_that_vanish_cost_what_their_logarithms_say():
    logp = torch.tensor([[0.0, -5000.0]])
    logq = torch.tensor([[-5000.0, 0.0]])
    kl, reverse, to_m, from_m = pair_sums(logp, logq, BETA)
    assert kl.item() == reverse.item() == 5000.0
    assert to_m is not None
    assert from_m is not None
    assert to_m.item() == pytest.approx(-math.log(BETA), rel=1e-6)
    assert from_m.item() == pytest.approx(-math.log1p(-BETA), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("apart", [0.0, 1e-9, 0.3, 0.7, 3.0])
def test_all_derivatives(apart):
    logq = torch.randn(3, 5, dtype=torch.float64).log_softmax(1)
    logp = (logq + apart * torch.randn(3, 5, dtype=torch.float64)).log_softmax(1)

    def sums(logp, logq):
        return tuple(pair_sums(logp, logq, BETA))

    inputs = logp.requires_grad_(), logq.requires_grad_()
    if apart:
        assert torch.autograd.gradcheck(sums, inputs)
    assert torch.autograd.gradgradcheck(sums, inputs)


def test_a_student_that_rules_out_a_class_is_still_pulled_to_it():
    """The value is +inf, and its derivative by the student q − p, as that of a cross-entropy."""
    z = torch.tensor([[0.0, -math.inf, 1.0]], dtype=torch.float64, requires_grad=True)
    p = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
    kl = pair_sums(p.log(), z.log_softmax(1), None).kl
    assert kl.item() == math.inf
    (g,) = torch.autograd.grad(kl.sum(), z)
    torch.testing.assert_close(g, z.detach().softmax(1) - p)
