"""Statistics of lanes: sums without one column at the peak, whichever column that is and whatever comes after it."""

# No `from __future__ import annotations`: Triton reads the annotations of kernels.

import mpmath
import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from crossent.kernels.triton.lanes import across, fold, joined, no_columns

each = pytest.mark.parametrize
M = 4


@triton.jit
def folded(data, out, steps, R: tl.constexpr, M: tl.constexpr, U: tl.constexpr, PAIRED: tl.constexpr):
    """Fold tiles [1, M, U] one after the other, or two at once, and write peak, rest and tilt of all."""
    lanes, rate = no_columns(R, M, tl.float64), tl.full([R], 1.0, tl.float64)
    place = (tl.arange(0, M) * U)[None, :, None] + tl.arange(0, U)[None, None, :]
    if PAIRED:
        for step in range(0, steps, 2):
            x = tl.load(data + step * M * U + place)
            y = tl.load(data + (step + 1) * M * U + place)
            both = joined(x, y, R, M, 2 * U)
            lanes = fold(lanes, both, both, rate, R, M, 2 * U, False, True)
    else:
        for step in range(steps):
            x = tl.load(data + step * M * U + place)
            lanes = fold(lanes, x, x, rate, R, M, U, False, True)
    r = across(lanes, rate, False, True)
    tl.store(out + tl.arange(0, 1), r.peak)
    tl.store(out + 1 + tl.arange(0, 1), r.rest)
    tl.store(out + 2 + tl.arange(0, 1), r.tilt)


def sums(x, U, paired):
    out = torch.full((3,), torch.nan, dtype=torch.float64)
    folded[(1,)](x, out, len(x) // (M * U), R=1, M=M, U=U, PAIRED=paired)
    return out.numpy()


@each(("U", "paired"), [(1, False), (2, False), (4, True), (8, False), (8, True)])
@each("kind", ["normal", "rising", "falling", "ties", "confident", "sparse"])
def test_the_rest_is_the_sum_without_one_column_at_the_peak(U, paired, kind, rng):
    n = 4 * M * U
    x = np.sort(rng.normal(0, 3, n)) if kind in {"rising", "falling"} else rng.normal(0, 3, n)
    if kind == "falling":
        x = x[::-1].copy()
    elif kind == "ties":
        x = np.round(x)
    elif kind == "confident":
        x[rng.integers(n)] = 60.0
    elif kind == "sparse":
        x[rng.random(n) < 0.8] = -np.inf
    peak, rest, tilt = sums(torch.from_numpy(x), U, paired)
    top = int(np.argmax(x))
    with mpmath.workdps(40):
        others = [mpmath.mpf(v) - mpmath.mpf(x[top]) for k, v in enumerate(x) if k != top and v > -np.inf]
        want = float(mpmath.fsum(mpmath.exp(d) for d in others))
        want_tilt = float(mpmath.fsum(mpmath.exp(d) * d for d in others))
    assert peak == x[top]
    np.testing.assert_allclose([rest, tilt], [want, want_tilt], rtol=1e-13)


@each("kind", ["nothing", "one", "nan", "nans", "infinity"])
def test_what_is_not_finite(kind):
    x = torch.full((2 * M * 8,), -torch.inf, dtype=torch.float64)
    if kind == "one":
        x[37] = 3.0
    elif kind == "nan":
        x[5], x[6] = 1.0, torch.nan
    elif kind == "nans":
        x[:] = torch.nan
    elif kind == "infinity":
        x[5], x[6] = 1.0, torch.inf
    peak, rest, tilt = sums(x, 8, paired=False)
    if kind == "nothing":
        assert peak == -np.inf
    elif kind == "one":
        assert (peak, rest, tilt) == (3.0, 0.0, 0.0)
    elif kind == "infinity":
        assert peak == np.inf  # of which the record makes NaN
    else:
        assert np.isnan(rest)
