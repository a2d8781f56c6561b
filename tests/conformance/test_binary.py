"""Binary cross-entropy of every backend: logits and probabilities, any layout, weights and extremes."""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest

from crossent.kernels import cpu
from tests import data, oracle

SIZES = (1, 2, 15, 16, 17, 511, 512, 513, 4095, 4096, 4097, 12_345)


def operands(rng, kind, dtype, n, spread=1.0):
    x = rng.normal(0, spread, n) if kind == "logits" else rng.random(n)
    t = np.where(rng.random(n) < 0.5, rng.integers(0, 2, n), rng.random(n))
    return data.encode(x, dtype), data.reals(rng, dtype, t)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_elements_agree_with_the_definition(kind, dtype, backend):
    rng = np.random.default_rng(0)
    every = itertools.product(SIZES, (1.0, 5.0, 30.0), (False, True), (False, True))
    for n, spread, weighted, positive in backend.some(every):
        x, t = operands(rng, kind, dtype, n, spread)
        w = data.reals(rng, dtype, rng.random(n) + 0.5) if weighted else None
        r = data.reals(rng, dtype, rng.random(n) * 3) if positive else None
        oracle.check_binary(backend, kind, (x, t, w, r), data.reals(rng, dtype, rng.normal(size=n)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("x", [0.0, 0.3, -0.7, 1.1])
def test_the_sum_of_equal_losses_is_their_number_times_one(x, dtype, backend):
    # what an untrained model gives: roundings of a running sum that all go the same way
    n, limit = 100_000, oracle.K * 2.0**-24 if dtype == "float32" else 4096 * 2.0**-53  # a block of terms, all one way
    logits, target, losses = np.full(n, x, dtype), np.zeros(n, dtype), np.empty(n, dtype)
    total = backend.binary_loss("logits", (logits, target, None, None), losses)
    assert abs(total / n - losses[0]) <= limit * losses[0]


def views(rng, shape, axes_moved, *, backwards):
    """Arrays of this shape in every kind of memory layout; none runs backwards if none may."""
    n = int(np.prod(shape))
    values = rng.random(n)

    def some(x):
        return np.asarray(x, np.float32)

    yield some(values.reshape(shape))
    yield some(values.reshape([shape[a] for a in axes_moved])).transpose(np.argsort(axes_moved))
    yield some(np.repeat(values, 2).reshape(*shape[:-1], 2 * shape[-1]))[..., ::2]
    for view in (some(values.reshape(shape))[..., ::-1], some(values.reshape(shape))[::-1]):
        yield view if backwards else view.copy()
    yield np.broadcast_to(some(values[: shape[-1]]), shape)
    yield np.broadcast_to(some(values[: shape[0]]).reshape(-1, *[1] * (len(shape) - 1)), shape)
    yield np.broadcast_to(some(0.25), shape)


@pytest.mark.parametrize(("shape", "moved"), [((700, 3), (1, 0)), ((3, 700), (1, 0)), ((7, 5, 11, 13), (2, 0, 3, 1))])
def test_operands_of_any_layout_and_broadcast(shape, moved, backend):
    rng = np.random.default_rng(1)
    kinds = [list(views(rng, shape, moved, backwards=backend.backwards)) for _ in range(5)]
    for turn in backend.some(range(8)):
        x, t, w, r, g = (kinds[k][(turn * (k + 1) + k) % 8] for k in range(5))
        for kind in ("logits", "probabilities"):
            oracle.check_binary(backend, kind, (x, t, w, r), g)
            oracle.check_binary(backend, kind, (x, t, None, None), g)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,) * 16])
def test_numbers_nothing_and_many_axes(shape, backend):
    x = np.full(shape, 0.25, np.float32)
    for kind in ("logits", "probabilities"):
        oracle.check_binary(backend, kind, (x, x, None, x), x)


def value(backend, kind, dtype, x, t, w=None, r=None):
    """Loss and derivative of one element."""
    one = [None if v is None else np.full(1, v, dtype) for v in (x, t, w, r)]
    loss, grad = np.full(1, np.nan, dtype), np.full(1, np.nan, dtype)
    total = backend.binary_loss(kind, tuple(one), loss)
    assert total == loss[0] or (np.isnan(total) and np.isnan(loss[0]))
    backend.binary_grad(kind, tuple(one), np.ones(1, dtype), grad)
    return float(loss[0]), float(grad[0])


@pytest.mark.parametrize(("dtype", "u"), [("float32", 2.0**-24), ("float64", 2.0**-53)])
@pytest.mark.parametrize("x", [-87.0, -40.0, -17.0, -1.0, -1e-8, 0.0, 1e-8, 0.5, 16.6, 17.0, 40.0, 87.0, 1e4, -1e4])
def test_logits_against_mpmath(x, dtype, u, backend):
    # every digit, however confident: the sum of two terms that are never negative
    tiny = 1.2e-38 if dtype == "float32" else 2.3e-308
    for t, w, r in itertools.product((0.0, 1.0, 0.25, 0.875), (1.0, 2.5), (1.0, 3.0)):
        loss, grad = value(backend, "logits", dtype, x, t, w, r)
        with mpmath.workdps(60):
            z = mpmath.mpf(float(np.dtype(dtype).type(x)))
            right, wrong = mpmath.log1p(mpmath.exp(-z)), mpmath.log1p(mpmath.exp(z))
            up, down = 1 / (1 + mpmath.exp(-z)), 1 / (1 + mpmath.exp(z))
            want = w * (r * t * right + (1 - t) * wrong)
            assert abs(loss - want) <= oracle.K * u * want + tiny
            assert (
                abs(grad - w * ((1 - t) * up - r * t * down)) <= oracle.K * u * w * ((1 - t) * up + r * t * down) + tiny
            )


def test_a_confident_right_answer_costs_what_it_costs(backend):
    for dtype, u in (("float32", 2.0**-24), ("float64", 2.0**-53)):
        for x, t in ((-40.0, 0.0), (40.0, 1.0)):
            assert value(backend, "logits", dtype, x, t)[0] == pytest.approx(4.248354255291589e-18, rel=8 * u, abs=0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_infinite_and_missing_logits(dtype, backend):
    inf = np.inf
    assert value(backend, "logits", dtype, inf, 1.0) == (0.0, 0.0)
    assert value(backend, "logits", dtype, -inf, 0.0) == (0.0, 0.0)
    assert value(backend, "logits", dtype, inf, 0.0) == (inf, 1.0)
    assert value(backend, "logits", dtype, -inf, 1.0) == (inf, -1.0)
    assert value(backend, "logits", dtype, inf, 0.25) == (inf, 0.75)
    assert value(backend, "logits", dtype, -inf, 0.25) == (inf, -0.25)
    for t in (0.0, 0.5, 1.0):
        assert np.isnan(value(backend, "logits", dtype, np.nan, t)).all()
    x = np.array([0.5, np.nan, -0.5, 1.0], dtype)
    out = np.empty_like(x)
    assert np.isnan(backend.binary_loss("logits", (x, np.zeros_like(x), None, None), out))
    np.testing.assert_array_equal(np.isnan(out), [False, True, False, False])


@pytest.mark.parametrize(("dtype", "u"), [("float32", 2.0**-24), ("float64", 2.0**-53)])
def test_probabilities_against_mpmath(dtype, u, backend):
    one = np.dtype(dtype).type(1)
    info = np.finfo(dtype)
    for p in (
        info.smallest_subnormal,
        info.tiny / 3,
        info.tiny,
        one / 3,
        0.5,
        np.nextafter(one / 2, one),
        1 - info.epsneg,
    ):
        for t, w in itertools.product((0.0, 1.0, 0.25), (1.0, 2.5)):
            loss, grad = value(backend, "probabilities", dtype, p, t, w)
            with mpmath.workdps(60):
                x = mpmath.mpf(float(p))
                want = -w * (t * mpmath.log(x) + (1 - t) * mpmath.log1p(-x))
                slope = w * ((1 - t) / (1 - x) - t / x)
                assert abs(loss - want) <= oracle.K * u * want + info.tiny
                if abs(slope) < info.max:
                    assert abs(grad - slope) <= oracle.K * u * w * ((1 - t) / (1 - x) + t / x)
                else:
                    assert grad == -np.inf


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_certain_probabilities(dtype, backend):
    # nothing is clipped: certainty costs nothing if right, and everything if wrong
    inf = np.inf
    assert value(backend, "probabilities", dtype, 0.0, 0.0) == (0.0, 1.0)
    assert value(backend, "probabilities", dtype, 1.0, 1.0) == (0.0, -1.0)
    assert value(backend, "probabilities", dtype, 0.0, 1.0) == (inf, -inf)
    assert value(backend, "probabilities", dtype, 1.0, 0.0) == (inf, inf)
    assert value(backend, "probabilities", dtype, 0.0, 0.5) == (inf, -inf)
    assert value(backend, "probabilities", dtype, 1.0, 0.5) == (inf, inf)
    assert value(backend, "probabilities", dtype, -0.0, 0.0) == (0.0, 1.0)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("wrong", [-1e-6, 1.001, np.nan, np.inf, -np.inf, 7.0])
def test_what_is_no_probability_is_found(wrong, dtype, backend, monkeypatch):
    monkeypatch.setenv("CROSSENT_VALIDATE", "1")  # without it, a GPU says NaN
    x = np.full((3, 5000), 0.5, dtype)
    x[1, 4321] = wrong
    x[2, 17] = wrong
    for view, where in ((x, "(1, 4321)"), (np.ascontiguousarray(x.T).T, "(1, 4321)"), (x.T, "(17, 2)")):
        half, weight = np.full_like(view, 0.5), np.where((view >= 0) & (view <= 1), 1, 0).astype(dtype)
        for name, kind, x, t in (
            ("input", "probabilities", view, half),
            ("target", "probabilities", half, view),
            ("target", "logits", view, view),
        ):
            with pytest.raises(ValueError, match=f"^{name} must be between 0 and 1, got ") as error:
                _ = backend.binary_loss(kind, (x, t, None, None), None)
            assert where in str(error.value)
            assert np.isfinite(backend.binary_loss(kind, (x, t, weight, None), None))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_a_weight_of_0_removes_whatever_an_element_holds(kind, dtype, backend):
    every = [np.nan, np.inf, -np.inf, -1.0, 0.0, 1.0, 7.0]
    x, t = (a.ravel().astype(dtype) for a in np.meshgrid(every, every))
    w, g, loss, grad = np.zeros_like(x), np.full_like(x, 3), np.full_like(x, np.nan), np.full_like(x, np.nan)
    assert backend.binary_loss(kind, (x, t, w, None), loss) == 0
    backend.binary_grad(kind, (x, t, w, None), g, grad)
    assert not loss.any()
    assert not grad.any()
    backend.binary_grad(kind, (x, t, None, None), 0 * g, grad)
    assert not grad.any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_positive_weight_of_0_removes_the_positive_term(dtype, backend):
    for kind, hopeless in (("logits", -np.inf), ("probabilities", 0.0)):
        assert value(backend, kind, dtype, hopeless, 1.0, r=1.0)[0] == np.inf
        assert value(backend, kind, dtype, hopeless, 1.0, r=0.0) == (0.0, 0.0)
        assert value(backend, kind, dtype, 0.25, 0.75, r=0.0)[0] == pytest.approx(
            0.25 * value(backend, kind, dtype, 0.25, 0.0)[0], rel=1e-6
        )


def test_shapes_and_dtypes_that_do_not_fit(isa):
    x, out = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)
    for t in (np.zeros((3, 2), np.float32), np.zeros(3, np.float32), np.zeros((2, 3, 1), np.float32)):
        with pytest.raises(ValueError, match="shape"):
            _ = cpu.binary_loss("logits", (x, t, None, None), out)
    with pytest.raises(TypeError, match="target"):
        _ = cpu.binary_loss("logits", (x, np.zeros((2, 3), int), None, None), out)
    with pytest.raises(TypeError, match="input"):
        _ = cpu.binary_loss("logits", (np.zeros((2, 3), int), x, None, None), out)
    with pytest.raises(ValueError, match="contiguous"):
        _ = cpu.binary_loss("logits", (x, x, None, None), np.zeros((3, 2), np.float32).T)
    with pytest.raises(ValueError, match="shape"):
        cpu.binary_grad("logits", (x, x, None, None), np.zeros(2, np.float32), out)
    with pytest.raises(ValueError, match="axes"):
        _ = cpu.binary_loss("logits", (x.reshape(2, 3, *[1] * 15), x.reshape(2, 3, *[1] * 15), None, None), None)
