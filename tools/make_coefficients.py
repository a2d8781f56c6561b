"""Print the polynomial coefficients of cpp/math.h with the error each polynomial adds, in units of the last place.

Each is the interpolant at Chebyshev nodes of the relative error's natural weight, computed in 60 digits by mpmath:

* expm1(r) / r on |r| ≤ log(2) / 2, for e^d = 2^n e^r;
* log1p(r) / r on √½ − 1 ≤ r ≤ √2 − 1, for the logarithm that divides nothing;
* (atanh(√w) / √w − 1) / w on 0 ≤ w ≤ 1/9, for log1p(u) = 2 atanh(u / (2 + u)) with 0 ≤ u ≤ 1;
* (log1p(r) − r) / r² on the same r, for what a mixture of two probabilities lacks, where nothing is divided;
* the same on √½ − 1 ≤ r ≤ 0, for the mixtures of GPUs (kernels/triton/gap.py), which no exponent is taken from;
* (e^y − 1 − y) / y² on −1 ≤ y ≤ 0, for the divergence of a probability from one that is e^y times as large;
* (tanh(√w) / √w − 1) / w on 0 ≤ w ≤ 0.09, for tanh near 0 on GPUs (kernels/triton/scores.py).
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp

mp.mp.dps = 60


def interpolate(f: Callable[[mp.mpf], mp.mpf], low: mp.mpf, high: mp.mpf, degree: int) -> list[mp.mpf]:
    centre, half = (low + high) / 2, (high - low) / 2
    nodes = [centre + half * mp.cos(mp.pi * (2 * k + 1) / (2 * degree + 2)) for k in range(degree + 1)]
    vandermonde = mp.matrix([[x**j for j in range(degree + 1)] for x in nodes])
    return list(mp.lu_solve(vandermonde, mp.matrix([f(x) for x in nodes])))


def report(name: str, f: Callable[[mp.mpf], mp.mpf], low: mp.mpf, high: mp.mpf, degree: int, bits: int) -> None:
    coefficients = interpolate(f, low, high, degree)
    grid = [low + (high - low) * k / 2000 for k in range(2001)]
    worst = max(abs(mp.polyval(coefficients[::-1], x) / f(x) - 1) for x in grid if f(x))
    print(f"{name}: degree {degree}, relative error {mp.nstr(worst, 3)} = {mp.nstr(worst * 2**bits, 3)} ulp")
    print("  ", ", ".join(mp.nstr(c, 10 if bits < 30 else 20) for c in coefficients))


def exp_ratio(r: mp.mpf) -> mp.mpf:
    return mp.expm1(r) / r if r else mp.mpf(1)


def log1p_ratio(r: mp.mpf) -> mp.mpf:
    return mp.log1p(r) / r if r else mp.mpf(1)


def atanh_ratio(w: mp.mpf) -> mp.mpf:
    root = mp.sqrt(w)
    return (mp.atanh(root) / root - 1) / w if w else mp.mpf(1) / 3


def tanh_ratio(w: mp.mpf) -> mp.mpf:
    root = mp.sqrt(w)
    return (mp.tanh(root) / root - 1) / w if w else -mp.mpf(1) / 3


def log1p_tail(r: mp.mpf) -> mp.mpf:
    return (mp.log1p(r) - r) / r**2 if abs(r) > 1e-25 else -mp.mpf(1) / 2


def excess(y: mp.mpf) -> mp.mpf:
    return mp.fsum(y**k / mp.factorial(k + 2) for k in range(45))


if __name__ == "__main__":
    half = mp.log(2) / 2
    for degree, bits in ((5, 24), (11, 53)):
        report("expm1(r)/r", exp_ratio, -half, half, degree, bits)
    report("log1p(r)/r", log1p_ratio, mp.sqrt(0.5) - 1, mp.sqrt(2) - 1, 9, 24)
    report("(log1p(r)-r)/r²", log1p_tail, mp.sqrt(0.5) - 1, mp.sqrt(2) - 1, 8, 24)
    for degree, bits in ((6, 24), (14, 53)):
        report("(log1p(r)-r)/r², r ≤ 0", log1p_tail, mp.sqrt(0.5) - 1, mp.mpf(0), degree, bits)
    for degree, bits in ((5, 24), (11, 53)):
        report("(exp(y)-1-y)/y²", excess, mp.mpf(-1), mp.mpf(0), degree, bits)
    for degree, bits in ((4, 24), (11, 53)):
        report("(atanh(√w)/√w-1)/w", atanh_ratio, mp.mpf(0), mp.mpf(1) / 9, degree, bits)
    report("(tanh(√w)/√w-1)/w", tanh_ratio, mp.mpf(0), mp.mpf("0.09"), 2, 24)
