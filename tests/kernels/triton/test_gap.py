"""Terms of divergences by the gap of two logarithms: exact to some units in the last place, never negative."""

# No `from __future__ import annotations`: Triton reads the annotations of kernels.

import mpmath
import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from crossent.kernels.triton.gap import divergences, gap_of, mixed_divergences, steepness

each = pytest.mark.parametrize
B = 1024
NAMES = ("kl", "reverse_kl", "p beside m", "q beside m", "q", "q − p", "−q δ", "q log(q / m)")
UNITS = (8, 8, 24, 24, 4, 8, 8, 24)
"""How exact each is, in units of the last place: that of the core (cpp/math.h)."""


@triton.jit
def written(logp, logq, beta, rest, out, N: tl.constexpr, T: tl.constexpr):
    """Write the four terms of each class, and the parts of its gradient: by q alone, entropy, kl, reverse_kl and js."""
    at = tl.arange(0, N)
    p, q = tl.load(logp + at), tl.load(logq + at)
    beta, rest = beta.to(T), rest.to(T)
    gap, zero, one = gap_of(p, q), tl.zeros([N], T), tl.full([N], 1.0, T)
    plain, mixed = divergences(gap), mixed_divergences(gap, beta, rest)
    tl.store(out + at, plain.teacher)
    tl.store(out + N + at, plain.student)
    tl.store(out + 2 * N + at, mixed.teacher)
    tl.store(out + 3 * N + at, mixed.student)
    tl.store(out + 4 * N + at, steepness(gap, q, one, zero, zero, zero, zero, beta, rest, False))
    tl.store(out + 5 * N + at, steepness(gap, q, zero, zero, one, zero, zero, beta, rest, False))
    tl.store(out + 6 * N + at, steepness(gap, q, zero, zero, zero, one, zero, beta, rest, False))
    tl.store(out + 7 * N + at, steepness(gap, q, zero, zero, zero, zero, one, beta, rest, True))


def terms(logp, logq, beta):
    """The eight results for arrays of logarithms, (8, n)."""
    n, dtype = len(logp), torch.from_numpy(logp).dtype
    given = [torch.zeros(B, dtype=dtype) for _ in range(2)]
    for x, values in zip(given, (logp, logq), strict=True):
        x[:n] = torch.from_numpy(values)
    out = torch.full((8, B), torch.nan, dtype=dtype)
    kind = tl.float64 if dtype == torch.float64 else tl.float32
    written[(1,)](*given, beta, 1.0 - beta, out, N=B, T=kind)
    return out[:, :n].numpy()


def exactly(p, q, beta):
    """The same of two logarithms in mpmath."""
    beta = mpmath.mpf(beta)
    logp, logq = mpmath.mpf(float(p)), mpmath.mpf(float(q))
    p, q = mpmath.exp(logp), mpmath.exp(logq)
    m = beta * p + (1 - beta) * q

    def term(a, log_a, b):
        return a * (log_a - mpmath.log(b)) - a + b

    return [
        term(p, logp, q), term(q, logq, p), term(p, logp, m), term(q, logq, m),
        q, q - p, -q * (logp - logq), q * (logq - mpmath.log(m)),
    ]  # fmt: skip


def drawn(dtype):
    """Greater probability 1 and gaps of every size, either way round; an exponential of 0 is exact."""
    rng = np.random.default_rng(0)
    least, most = (1e-7, 80.0) if dtype == "float32" else (1e-15, 600.0)
    sizes = np.concatenate([np.exp(rng.uniform(np.log(least), np.log(most), 150)), rng.uniform(0, 3, 150)])
    sizes = np.concatenate([sizes, [1.0, np.nextafter(1, 0), np.log(2), least, most]])
    d = -sizes.astype(dtype)
    zero = np.zeros_like(d)
    return np.concatenate([d, zero]), np.concatenate([zero, d])


@each("beta", [0.5, 0.1, 0.9, 1e-8, 1 - 1e-8])
@each("dtype", ["float32", "float64"])
def test_terms_are_exact_to_some_units_in_the_last_place(dtype, beta):
    logp, logq = drawn(dtype)
    got = terms(logp, logq, beta)
    unit, size = np.finfo(dtype).eps, np.abs(logp - logq).astype(np.float64)
    with mpmath.workdps(60):
        want = np.array([[float(x) for x in exactly(p, q, beta)] for p, q in zip(logp, logq, strict=True)]).T
    # e^−x of a rounded x is off by x units; a term that forms it is the smaller one's, or the mixture's beside it
    off = np.abs(got - want) / (np.abs(want) * unit)
    tiny = np.abs(want) < 1e-36
    assert (got[:4] >= 0).all()
    if beta in {1e-8, 1 - 1e-8}:  # where next to nothing is left of one, a term is known to the share of the other
        tiny[2:4] |= (np.abs(got - want) <= 2 * unit * np.exp(np.maximum(logp, logq)) * np.minimum(size, 1) ** 2)[2:4]
    # log q − log m is the difference of two logarithms that are known to units of their own
    tiny[7] |= np.abs(got - want)[7] <= 4 * unit * (1 + size) * np.exp(logq.astype(np.float64))
    for name, x, most in zip(NAMES, np.where(tiny, 0.0, off - size), UNITS, strict=True):
        assert x.max() <= most, f"{name}: {x.max():.3g} units in the last place"


@each("dtype", ["float32", "float64"])
def test_equal_logarithms_have_no_divergence_whatever_they_are(dtype):
    logs = np.concatenate([-np.exp(np.linspace(-20, 5, 200)), [0.0, -np.inf, -1e4, -1e30]]).astype(dtype)
    for beta in (0.3, 1e-9, 1 - 1e-9):
        got = terms(logs, logs.copy(), beta)
        assert (got[:4] == 0).all()
        assert (got[5:7] == 0).all()
        np.testing.assert_array_less(np.abs(got[7]), 4 * np.finfo(dtype).eps)  # q log(q / m), of rounded shares


@each("dtype", ["float32", "float64"])
def test_a_class_that_one_rules_out_is_infinite_for_the_other(dtype):
    some, none = np.array([-0.5, -3.0, -90.0, -800.0], dtype), np.full(4, -np.inf, dtype)
    up, down = terms(some, none, 0.25), terms(none, some, 0.25)
    assert np.isinf(up[0]).all()
    assert np.isinf(down[1]).all()
    for got in (up[1:], down[[0, 2, 3]]):
        assert np.isfinite(got).all()
    own = np.exp(some.astype(np.float64))
    np.testing.assert_allclose(up[1], own, rtol=1e-6, atol=1e-38)  # q log(q / p) − q + p of q = 0
    np.testing.assert_allclose(up[2], own * (-np.log(0.25) - 0.75), rtol=1e-5, atol=1e-38)
    np.testing.assert_allclose(up[3], own * 0.25, rtol=1e-5, atol=1e-38)
    assert (up[4] == 0).all()
    assert (up[6:] == 0).all()
