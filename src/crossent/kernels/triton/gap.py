"""Two probabilities of a class in Triton, by the gap of their logarithms: terms of divergences, as in cpp/pair.h.

Of each class the greater probability is formed, and the smaller one as a fraction of it, from the same difference of
two logarithms. No term is a difference of large numbers, none is negative, and equal logarithms make it exactly 0.
"""

# No `from __future__ import annotations`: Triton reads annotations.

from typing import Any, NamedTuple

import triton
import triton.language as tl

from crossent.kernels.triton.lanes import LOG2E

_LOWEST = tl.constexpr(-1e30)  # stands for a logarithm of 0 where it multiplies 0
_NEAR = tl.constexpr(-1.0)
_HALF_ROOT = tl.constexpr(0.70710678118654752440)
_LEAST_32, _LEAST_64 = tl.constexpr(1.2e-38), tl.constexpr(1e-300)  # a mixture that is no more than rounding

# Polynomials of tools/make_coefficients.py: (e^y − 1 − y) / y² for −1 ≤ y ≤ 0, in float32 and float64
_E0, _E1, _E2, _E3, _E4, _E5 = (
    tl.constexpr(x)
    for x in (0.4999999913, 0.1666660366, 0.04165925536, 0.008301170446, 0.001324817964, 0.0001374241909)
)
_D0, _D1, _D2, _D3, _D4, _D5, _D6, _D7, _D8, _D9, _D10, _D11 = (
    tl.constexpr(x)
    for x in (
        0.49999999999999999908, 0.16666666666666640147, 0.041666666666654010454, 0.0083333333330965574966,
        0.0013888888865978557497, 0.00019841268531480211807, 0.000024801539739718984905, 2.7556179049708927104e-6,
        2.7539002753717310919e-7, 2.4856214837612004287e-8, 1.9527153064314620693e-9, 1.0509453754979482636e-10,
    )
)  # fmt: skip
# and (log(1 + r) − r) / r² for √½ − 1 ≤ r ≤ 0
_L0, _L1, _L2, _L3, _L4, _L5, _L6 = (
    tl.constexpr(x)
    for x in (
        -0.5000000071, 0.333330971, -0.2501272513, 0.19746493, -0.1902200037, 0.03477760061, -0.3483680133,
    )
)  # fmt: skip
_T0, _T1, _T2, _T3, _T4, _T5, _T6, _T7, _T8, _T9, _T10, _T11, _T12, _T13, _T14 = (
    tl.constexpr(x)
    for x in (
        -0.50000000000000001141, 0.33333333333331581976, -0.2500000000044508045, 0.19999999955478230146,
        -0.16666668991866983432, 0.14285641412354490952, -0.12501484360992426578, 0.11090488519962529607,
        -0.10201061410187413876, 0.076964682409621099926, -0.15213423988762424835, -0.16087754968037277812,
        -0.62554432384417960042, -0.73442376842695163596, -0.64453358208269274613,
    )
)  # fmt: skip


class Gap(NamedTuple):
    """Two probabilities of each class: the greater one is `large`, the smaller one large · value.

    `up` is true where the greater one is the teacher's. value = e^log and less = e^log − 1 for log ≤ 0, both with
    relative accuracy; `series` is less − log where log > −1. `never` is true where only the smaller one is 0 by a
    logarithm of −∞.
    """

    up: Any
    large: Any
    log: Any
    value: Any
    less: Any
    series: Any
    never: Any


class Mixture(NamedTuple):
    """The mixture beside the greater probability: its share m, m − 1, log m, log m − (m − 1).

    `of_greater` is how much of it is the greater one's.
    """

    share: Any
    less: Any
    log: Any
    excess: Any
    of_greater: Any


class Terms(NamedTuple):
    """Terms of a class in a sum of the teacher and in a sum of the student."""

    teacher: Any
    student: Any


@triton.jit
def _excess(y):
    """Return e^y − 1 − y for −1 ≤ y ≤ 0, with relative accuracy; any number elsewhere."""
    if y.dtype == tl.float64:
        high = _D6 + y * (_D7 + y * (_D8 + y * (_D9 + y * (_D10 + y * _D11))))
        return (y * y) * (_D0 + y * (_D1 + y * (_D2 + y * (_D3 + y * (_D4 + y * (_D5 + y * high))))))
    else:
        return (y * y) * (_E0 + y * (_E1 + y * (_E2 + y * (_E3 + y * (_E4 + y * _E5)))))


@triton.jit
def _log1p_excess(r):
    """Return log(1 + r) − r for √½ − 1 ≤ r ≤ 0, with relative accuracy; any number elsewhere."""
    if r.dtype == tl.float64:
        high = _T8 + r * (_T9 + r * (_T10 + r * (_T11 + r * (_T12 + r * (_T13 + r * _T14)))))
        low = _T4 + r * (_T5 + r * (_T6 + r * (_T7 + r * high)))
        return (r * r) * (_T0 + r * (_T1 + r * (_T2 + r * (_T3 + r * low))))
    else:
        return (r * r) * (_L0 + r * (_L1 + r * (_L2 + r * (_L3 + r * (_L4 + r * (_L5 + r * _L6))))))


@triton.jit
def gap_of(logp, logq):
    """Return the gap of the teacher's probabilities and the student's from their logarithms."""
    high = tl.maximum(logp, logq)
    apart = tl.minimum(logp, logq) - high  # no number where both are −∞, but then they are 0
    log = tl.maximum(apart, _LOWEST)
    value, series = tl.exp2(log * LOG2E), _excess(log)
    less = tl.where(log > _NEAR, log + series, value - 1.0)
    return Gap(logp > logq, tl.exp2(high * LOG2E), log, value, less, series, apart == float("-inf"))


@triton.jit
def divergences(gap):
    """Return the terms of KL(teacher‖student) and of KL(student‖teacher).

    With probabilities 1 and e^y of the two, y ≤ 0, they are h(−y) and e^y h(y), h(x) = x + e^−x − 1.
    """
    near = gap.log > _NEAR
    first = tl.where(near, gap.series, gap.less - gap.log)
    second = tl.where(near, gap.log * gap.less - gap.series, gap.log * gap.value - gap.less)
    first = tl.where(gap.never, float("inf"), gap.large * first)
    second = gap.large * second
    return Terms(tl.where(gap.up, first, second), tl.where(gap.up, second, first))


@triton.jit
def log_mixture(gap, beta, rest):
    """Return the mixture of teacher (β) and student (1 − β), relative to the greater probability.

    These are its share m, m − 1, log m and log m − (m − 1), the last three with relative accuracy, and the share of the
    greater one.
    """
    of_smaller, of_greater = tl.where(gap.up, rest, beta), tl.where(gap.up, beta, rest)
    less, share = of_smaller * gap.less, of_greater + of_smaller * gap.value
    near = _log1p_excess(less)
    least = _LEAST_64 if share.dtype == tl.float64 else _LEAST_32
    far = tl.log(tl.maximum(share, least))
    close = share > _HALF_ROOT
    return Mixture(share, less, tl.where(close, less + near, far), tl.where(close, near, far - less), of_greater)


@triton.jit
def mixed_divergences(gap, beta, rest):
    """Return the terms of KL(teacher‖mixture) and of KL(student‖mixture)."""
    m = log_mixture(gap, beta, rest)
    log, missing = gap.log - m.log, m.of_greater * gap.less  # of the smaller one, beside the mixture
    near, far = log * missing - m.share * _excess(log), gap.value * log - missing
    second = tl.maximum(tl.where(log > _NEAR, near, far), 0.0)  # a share of 1e-8 may round to less
    first, second = gap.large * -m.excess, gap.large * second
    return Terms(tl.where(gap.up, first, second), tl.where(gap.up, second, first))


@triton.jit
def steepness(gap, logq, a, b, kl, reverse, js, beta, rest, MIXED: tl.constexpr):
    """Return the gradient by the student's scores: q (a + b log q − reverse δ + js (log q − log m)) + kl (q − p).

    δ = log p − log q; the factor of a probability of 0 does not matter.
    """
    q = tl.where(gap.up, gap.large * gap.value, gap.large)
    factor = a + b * tl.maximum(logq, -1e4) + reverse * tl.where(gap.up, gap.log, -gap.log)
    if MIXED:
        m = log_mixture(gap, beta, rest)
        factor += js * (tl.where(gap.up, gap.log, 0.0) - m.log)
    missing = gap.large * gap.less
    return tl.where(q == 0, 0.0, q * factor) + kl * tl.where(gap.up, missing, -missing)
