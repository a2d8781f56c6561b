"""The elementary functions of every instruction set against long doubles and mpmath, in units in the last place.

The bounds are those that the head of cpp/math.h states.
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from crossent import _core

SIZE = 60_000
BOUND = {"exp": 1.25, "log1p": 2.0, "tanh": 3.5, "tanh_slope": 6.0, "log": 2.0, "log1m": 2.0}
GAPS = {"first": 4.0, "second": 8.0, "mixed_first": 24.0, "mixed_second": 8.0}
Wide = np.longdouble


def samples(name, dtype):
    """Arguments all over the domain, in value and in exponent, with its edges."""
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    low = -88.0 if dtype == np.float32 else -709.0
    if name == "exp":
        x = np.concatenate([low * rng.random(SIZE), -np.exp(rng.uniform(np.log(info.tiny), 0, SIZE)), [0.0, low, -0.0]])
        edge = np.arange(1, 130) * -np.log(2) / 2  # where the power of two changes
        x = np.concatenate([x, edge, np.nextafter(edge, 0), np.nextafter(edge, -1e3)])
        return np.maximum(x.astype(dtype), dtype(low))
    if name in {"log1p", "log1m"}:
        small = np.exp(rng.uniform(np.log(info.tiny), 0, SIZE))
        x = np.concatenate([rng.random(SIZE), small, 1 - small, [0.0, 0.5, 1.0, info.tiny, info.smallest_subnormal]])
        x = np.concatenate([x, np.nextafter(dtype([0.5, 0.5, 1.0]), dtype([0, 1, 0]))])
        return x.astype(dtype).clip(0, 1)
    if name in {"tanh", "tanh_slope"}:
        size = np.exp(rng.uniform(np.log(1e-8), np.log(40 if dtype == np.float32 else 350), SIZE))
        sides = np.concatenate([size, -size, rng.normal(0, 2, SIZE)])
        return np.concatenate([sides, [0.0, -0.0, 1.0, -1.0]]).astype(dtype)
    exponents = rng.uniform(np.log2(float(info.smallest_subnormal)), info.maxexp - 0.01, SIZE)
    near = 1 + rng.normal(size=SIZE) * np.exp2(rng.uniform(-info.nmant, -2, SIZE))
    denormal = rng.integers(1, 2**info.nmant, SIZE // 4).astype(np.uint64)
    bits = denormal.astype(np.uint32 if dtype == np.float32 else np.uint64).view(dtype)
    edges = dtype([info.smallest_subnormal, info.tiny, np.nextafter(info.tiny, dtype(0)), 0.5, 1, 2, info.max])
    return np.concatenate([np.exp2(exponents).astype(dtype), near.astype(dtype), bits, edges])


def truth(name, x):
    x = x.astype(Wide)
    with np.errstate(divide="ignore", under="ignore", over="ignore"):
        if name == "tanh_slope":
            u = np.exp(-2 * np.abs(x))
            return 4 * u / (1 + u) ** 2
        if name == "log1m":
            return np.log1p(-x)
        return {"exp": np.exp, "log1p": np.log1p, "tanh": np.tanh, "log": np.log}[name](x)


def errors(name, x):
    """Distance from the truth in units in its last place; where the truth is denormal, in smallest normal numbers."""
    out = np.full_like(x, np.nan)
    _core.math(name, x, out)
    want, tiny = truth(name, x), np.finfo(x.dtype).tiny
    size = np.abs(want).astype(x.dtype)
    last = np.where((size < tiny) & (name != "log1p") & (name != "log1m"), tiny, np.spacing(np.maximum(size, tiny)))
    with np.errstate(invalid="ignore"):
        off = np.where(out.astype(Wide) == want, 0, np.abs(out.astype(Wide) - want) / last.astype(Wide))
    return off.astype(np.float64)


needs_wide = pytest.mark.skipif(np.finfo(Wide).nmant < 60, reason="long double is no wider than double here")


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=needs_wide)])
@pytest.mark.parametrize("name", BOUND)
def test_error_in_units_in_the_last_place(name, dtype, isa, record_property):
    x = samples(name, dtype)
    off = errors(name, x)
    worst = int(off.argmax())
    record_property("ulp", float(off[worst]))  # xdist passes plain numbers only
    assert off[worst] <= BOUND[name], f"{name}({x[worst]!r}) is off by {off[worst]:.3f} ulp"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_few_values_to_fifty_digits(dtype, isa):
    # the same as above without long doubles, which some platforms do not have
    functions = {
        "exp": (mpmath.exp, [-0.3, -1.0, -20.5, -80.25]),
        "log1p": (mpmath.log1p, [1e-30, 1e-3, 0.3, 1.0]),
        "tanh": (mpmath.tanh, [1e-6, 0.3, -1.5, 8.0]),
        "tanh_slope": (lambda x: mpmath.sech(x) ** 2, [0.0, 0.3, -1.5, 20.0]),
        "log": (mpmath.log, [1e-30, 0.7, 1.25, 1e30]),
        "log1m": (lambda x: mpmath.log1p(-x), [1e-30, 0.3, 0.75, 1 - 2.0**-20]),
    }
    for name, (function, values) in functions.items():
        x = np.array(values, dtype)
        out = np.full_like(x, np.nan)
        _core.math(name, x, out)
        with mpmath.workdps(50):
            for at, got in zip(x, out, strict=True):
                want = function(mpmath.mpf(float(at)))
                assert abs(float(got) - want) <= BOUND[name] * float(np.spacing(abs(got)))


def excesses(name, d):
    """What a class adds to a divergence whose two probabilities are 1 and e^d, or to that from their mean."""
    d = mpmath.mpf(float(d))
    second = mpmath.exp(d)
    other = {"first": second, "second": mpmath.mpf(1)}.get(name, (1 + second) / 2)
    own = mpmath.mpf(1) if name in {"first", "mixed_first"} else second
    return own * mpmath.log(own / other) - own + other


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", GAPS)
def test_excesses_are_exact_to_a_few_units_in_the_last_place(name, dtype, isa, record_property):
    rng = np.random.default_rng(0)
    least, most = (1e-7, 85.0) if dtype == np.float32 else (1e-15, 700.0)
    sizes = np.concatenate([np.exp(rng.uniform(np.log(least), np.log(most), 700)), rng.uniform(0, 3, 700)])
    edges = [1.0, np.nextafter(dtype(1), dtype(0)), np.log(2) / 2, least, most]
    d = -np.concatenate([sizes, edges]).astype(dtype)
    out = np.full_like(d, np.nan)
    _core.math(name, d, out)
    with mpmath.workdps(60):
        want = [excesses(name, x) for x in d]
        off = [abs(float(x) - y) / mpmath.mpf(float(np.spacing(dtype(y)))) for x, y in zip(out, want, strict=True)]
    worst = int(np.argmax(off))
    record_property("ulp", float(off[worst]))
    assert off[worst] <= GAPS[name], f"{name}({d[worst]!r}) is off by {float(off[worst]):.3f} ulp"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_excesses_of_what_is_equal_or_infinitely_far(dtype, isa):
    half = float(np.log(2))
    for name, far in {"first": np.inf, "second": 1.0, "mixed_first": half - 0.5, "mixed_second": 0.5}.items():
        out = np.full(2, np.nan, dtype)
        _core.math(name, np.array([0.0, -np.inf], dtype), out)
        assert out[0] == 0
        assert out[1] == pytest.approx(far, rel=1e-6 if dtype == np.float32 else 1e-15), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_edges_of_the_domains(dtype, isa):
    def value(name, *x):
        out = np.full(len(x), 7, dtype)
        _core.math(name, np.array(x, dtype), out)
        return out.tolist()

    assert value("exp", 0.0, -0.0) == [1.0, 1.0]
    assert value("log1p", 0.0) == [0.0]
    assert value("log", 1.0, 0.0, np.inf) == [0.0, -np.inf, np.inf]
    assert value("log1m", 0.0, 1.0) == [0.0, -np.inf]
    assert value("tanh", 0.0, 1e4, -1e4, np.inf, -np.inf) == [0.0, 1.0, -1.0, 1.0, -1.0]
    assert value("tanh_slope", 0.0) == [1.0]
    assert max(value("tanh_slope", 1e4, -1e4, np.inf, -np.inf)) < 1e-37
    for name in BOUND:
        assert np.isnan(value(name, np.nan)).all(), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_order_is_kept(dtype, isa):
    # never more probability for a lower logit: exp does not decrease by more than its own error
    x = np.sort(samples("exp", dtype))
    out = np.full_like(x, np.nan)
    _core.math("exp", x, out)
    assert (np.diff(out) >= -2 * np.spacing(out[1:])).all()
    assert (out <= 1).all()
    assert (out[x < -1] < 1).all()
