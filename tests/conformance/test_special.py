"""Infinite and missing numbers, confident rows, ignored rows: the declared semantics, on every backend."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from crossent.spec import Scores, Target
from tests import data, oracle
from tests.oracle import evaluate

INF, NAN = np.inf, np.nan
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])


def targets(index, V, **options):
    """The same one-hot target of each kind."""
    index = np.asarray(index)
    hot = np.zeros((index.size, V), np.float32)
    hot[np.arange(index.size), index] = 1
    yield Target(index, **options)
    yield Target(index[:, None], np.ones((index.size, 1)), **options)
    yield Target(prob=hot, **options)


def ln(x):
    """Natural logarithm of Σ e^x to 40 digits, rounded once."""
    with mpmath.workdps(40):
        return float(mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(float(v))) for v in x)))


def u(dtype):
    return 2.0**-53 if dtype == "float64" else 2.0**-24


@DTYPES
def test_minus_infinity_off_the_target_is_a_class_that_cannot_be(dtype, backend):
    logits = np.array([[0.0, -INF, 1.0], [-INF, -INF, 2.0]], dtype)
    lse = np.array([ln([0, 1]), 2.0])
    for target in backend.some(targets([2, 2], 3)):
        every = (np.ones(2, dtype), np.ones(2, dtype), np.ones(2, dtype))
        got = evaluate(backend, logits, target, cotangents=every)
        q = np.array([[1 / (1 + math.e), 0, math.e / (1 + math.e)], [0, 0, 1]])
        np.testing.assert_allclose(got.loss, lse - [1, 2], rtol=oracle.K * u(dtype))
        np.testing.assert_allclose(got.lse, lse, rtol=oracle.K * u(dtype))
        assert got.entropy[1] == 0
        H = -(q[0, 0] * math.log(q[0, 0]) + q[0, 2] * math.log(q[0, 2]))
        np.testing.assert_allclose(got.entropy[0], H, rtol=oracle.K * u(dtype))
        qlog = np.where(q == 0, 0, q * np.log(np.where(q == 0, 1, q)))
        want = 2 * q - [0, 0, 1] - qlog - q * [[H], [0]]
        np.testing.assert_allclose(got.grad, want, atol=data.spacing(dtype)[0] * 2)
        assert (got.grad[q == 0] == 0).all()
        assert (got.fused[q == 0] == 0).all()


@DTYPES
def test_minus_infinity_on_the_target_costs_everything(dtype, backend):
    logits = np.array([[0.0, -INF, 0.0], [1.0, 1.0, 0.0]], dtype)
    for target in backend.some(targets([1, 1], 3)):
        got = evaluate(backend, logits, target)
        assert got.loss[0] == INF
        assert np.isfinite(got.loss[1])
        np.testing.assert_array_equal(got.grad[0], [0.5, -1.0, 0.5])
        np.testing.assert_array_equal(got.fused[0], [0.5, -1.0, 0.5])
        got = evaluate(backend, logits, target, Scores(0.5))
        assert got.loss[0] == INF


@DTYPES
def test_nothing_times_infinity_is_nothing_in_soft_targets(dtype, backend):
    logits = np.array([[0.0, -INF, 1.0]], dtype)
    soft = (
        Target(prob=np.array([[0.5, 0.0, 0.5]], np.float32)),
        Target(np.array([[0, 1, 2]]), np.array([[0.5, 0.0, 0.5]], np.float32)),
    )
    for target in soft:
        got = evaluate(backend, logits, target)
        np.testing.assert_allclose(got.loss, ln([0, 1]) - 0.5, rtol=oracle.K * u(dtype))
        assert got.grad[0, 1] == 0
    # so is a class of weight zero, as the label of a row or beneath the smoothing
    weight = np.array([1, 0, 1], np.float32)
    for target in backend.some(targets([1], 3, weight=weight)):
        got = evaluate(backend, logits, target)
        assert got.loss[0] == 0
        assert (got.grad == 0).all()
        assert (got.fused == 0).all()
    for target in backend.some(targets([1], 3, weight=weight, smoothing=0.3)):
        got = evaluate(backend, logits, target)
        np.testing.assert_allclose(got.loss, 0.2 * ln([0, 1]) - 0.1, rtol=2 * oracle.K * u(dtype))
    for target in backend.some(
        targets([2], 3, smoothing=0.3)
    ):  # without the weight, the smoothing asks for the impossible
        assert evaluate(backend, logits, target).loss[0] == INF


@DTYPES
@pytest.mark.parametrize("V", [1, 2, 17, 5003])
def test_a_row_of_nothing_but_minus_infinity_has_no_distribution(dtype, V, backend):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, V)).astype(dtype)
    alone = logits[[0, 2]]
    logits[1] = -INF
    for target, other in backend.some(zip(targets([0, 0, V - 1], V), targets([0, V - 1], V), strict=True)):
        got, want = evaluate(backend, logits, target), evaluate(backend, alone, other)
        assert np.isnan(got.loss[1])
        assert got.lse[1] == -INF
        assert np.isnan(got.grad[1]).all()
        for name in ("loss", "lse", "entropy", "grad", "fused"):
            np.testing.assert_array_equal(getattr(got, name)[[0, 2]], getattr(want, name))


@DTYPES
@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("at", [0, 7, 4500])
def test_what_is_no_number_stays_in_its_row(bad, at, dtype, backend):
    rng = np.random.default_rng(1)
    V = 5003
    logits = rng.normal(size=(5, V)).astype(dtype)
    index = rng.integers(0, V, 5)
    cotangents = tuple(rng.normal(size=5).astype(np.float32) for _ in range(3))
    for target, smooth in ((Target(index), 0), (Target(index, smoothing=0.1), 1)):
        want = evaluate(backend, logits, target, cotangents=cotangents)
        broken = logits.copy()
        broken[2, at] = bad
        got = evaluate(backend, broken, target, cotangents=cotangents)
        for name in ("loss", "lse", "entropy", "grad", "fused"):
            kept = np.delete(getattr(got, name), 2, 0)
            np.testing.assert_array_equal(kept, np.delete(getattr(want, name), 2, 0))
        assert np.isnan([got.loss[2], got.entropy[2]]).all()
        assert np.isnan(got.lse[2]) or (bad == INF and got.lse[2] == INF)
        assert np.isnan(got.grad[2]).any()
        assert np.isnan(got.fused[2]).any(), smooth


@DTYPES
def test_a_row_with_nan_has_no_gradient_to_speak_of(dtype, backend):
    # softmax of it is NaN everywhere, so is the gradient: an optimiser must not step on half a row
    logits = np.zeros((1, 40), dtype)
    logits[0, 33] = NAN
    for target in backend.some(targets([3], 40)):
        got = evaluate(backend, logits, target)
        assert np.isnan(got.grad).all()
        assert np.isnan(got.fused).all()


@DTYPES
@pytest.mark.parametrize("options", [{}, {"smoothing": 0.1}, {"weight": np.linspace(0.5, 2, 17, dtype=np.float32)}])
def test_an_ignored_row_is_nothing_whatever_it_holds(options, dtype, backend):
    rng = np.random.default_rng(2)
    for layout in backend.some(
        (*data.layouts(2, backwards=backend.backwards), *data.layouts(3, backwards=backend.backwards))
    ):
        axes = len(layout.order)
        rows = rng.normal(size=(6, 17)).astype(dtype)
        rows[1], rows[3], rows[4] = NAN, INF, -INF
        index = np.array([2, -100, 5, -100, -100, 16])
        logits = layout.hold(data.from_rows(rows, axes))
        got = evaluate(
            backend, logits, Target(index, ignore_index=-100, **options), cotangents=(np.ones(6, np.float32),) * 3
        )
        gone = [1, 3, 4]
        for name in ("loss", "lse", "entropy", "grad", "fused"):
            assert (getattr(got, name)[gone] == 0).all(), name
        for field in oracle.FIELDS:
            assert (getattr(got.stats, field)[gone] == (field == "total")).all(), field
        want = evaluate(backend, np.delete(rows, gone, 0), Target(np.delete(index, gone), **options))
        np.testing.assert_array_equal(np.delete(got.loss, gone), want.loss)
        np.testing.assert_array_equal(np.delete(got.fused, gone, 0), want.fused)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_long_row_may_begin_with_nothing(dtype, backend):
    V = 10_000
    rng = np.random.default_rng(3)
    for first, last in backend.some(((0, 4096), (0, 4500), (0, 9999), (4096, V), (1, V), (100, 9000))):
        logits = rng.normal(size=(2, V)).astype(dtype)
        logits[:, first:last] = -INF
        held = np.flatnonzero(np.isfinite(logits[0]))
        dense = logits[:, held]
        for target, short in backend.some(zip(targets([held[0]] * 2, V), targets([0, 0], len(held)), strict=True)):
            got, want = evaluate(backend, logits, target), evaluate(backend, dense, short)
            for name in ("loss", "lse", "entropy"):
                np.testing.assert_allclose(
                    getattr(got, name), getattr(want, name), rtol=2 * oracle.K * u(dtype), atol=0
                )
            assert (got.grad[:, first:last] == 0).all()
            np.testing.assert_allclose(got.grad[:, held], want.grad, rtol=0, atol=2 * oracle.K * u(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("V", "at"), [(2, 0), (17, 16), (5003, 0), (5003, 4100), (12_345, 12_344)])
@pytest.mark.parametrize("gap", [1.0, 20.0, 30.0, 80.0])
@pytest.mark.parametrize("scores", [Scores(), Scores(0.5), Scores(0.7), Scores(3.0)])
def test_a_confident_row_keeps_all_its_digits(dtype, V, at, gap, scores, backend):
    # loss = log(1 + (V − 1) e^−gap), and the gradient of the label is −(V − 1) e^−gap / (1 + ...); wherever zero is
    for offset in backend.some((0.0, 1e4, -300.0)):
        logits = np.full((2, V), offset - gap, dtype)
        logits[:, at] = offset
        d = float(logits[0, at]) - float(logits[0, (at + 1) % V])
        with mpmath.workdps(40):
            rest = (V - 1) * mpmath.exp(-mpmath.mpf(d) / mpmath.mpf(scores.temperature))
            loss, slope = float(mpmath.log1p(rest)), float(-rest / (1 + rest) / scores.temperature)
        if dtype == "float64" and scores.temperature not in {0.5, 1.0} and offset:
            continue  # z / temperature is itself rounded
        bound = oracle.K * u(dtype) * (1 + d / scores.temperature)
        # the record holds 1 + rest in double
        tiny = 2.0**-52 * (1 + 1 / scores.temperature)
        for target in backend.some(targets([at, at], V)):
            got = evaluate(backend, logits, target, scores)
            np.testing.assert_allclose(got.loss, loss, rtol=bound, atol=tiny)
            if target.kind == "index":
                np.testing.assert_allclose(got.grad[:, at], slope, rtol=bound, atol=tiny)
                np.testing.assert_allclose(got.fused[:, at], slope, rtol=bound, atol=tiny)


def test_a_confident_row_of_two_classes(backend):
    got = evaluate(backend, np.array([[0, -30]], np.float32), Target(np.array([0])))
    # the record holds 1 + rest in double: relative accuracy down to 1e-9, below that 2^-52 in all
    assert got.loss[0] == pytest.approx(math.log1p(math.exp(-30)), rel=1e-6, abs=2**-52)
    half = evaluate(backend, np.array([[0, -30]], np.float16), Target(np.array([0])))
    assert half.loss[0] == got.loss[0]


@DTYPES
def test_the_gradient_of_a_confident_label_is_rounded_once(dtype, backend):
    # never q first, then − 1 in the dtype of the logits: most bits would be lost
    rng = np.random.default_rng(4)
    logits = data.encode(rng.normal(size=(64, 33)), dtype)
    index = rng.integers(0, 33, 64)
    logits[np.arange(64), index] = 9.0
    got = evaluate(backend, logits, Target(index))
    exact = evaluate(backend, logits.astype(np.float64), Target(index))
    label = np.arange(64), index
    rtol = data.spacing(dtype)[0] / 2 + 32 * u(dtype)
    for grad in (got.grad, got.fused):
        np.testing.assert_allclose(grad[label], exact.grad[label], rtol=rtol, atol=data.spacing(dtype)[1])


@pytest.mark.parametrize(("dtype", "huge"), [("float32", 3e38), ("float64", 1.5e308), ("float16", 65504.0)])
def test_the_largest_numbers_do_not_overflow_into_nan(dtype, huge, backend):
    logits = np.array([[huge, -huge, 0.0], [huge, huge, huge], [-huge, -huge, -huge]], dtype)
    for scores in (Scores(), Scores(4.0)):
        for target in backend.some(targets([0, 1, 2], 3)):
            got = evaluate(backend, logits, target, scores, (np.ones(3, dtype), None, np.ones(3, dtype)))
            np.testing.assert_allclose(got.loss, [0, np.log(3), np.log(3)], rtol=1e-6)
            np.testing.assert_allclose(got.entropy, [0, np.log(3), np.log(3)], rtol=1e-6)
            assert np.isfinite(got.grad).all()
            assert np.isfinite(got.fused).all()
            assert (got.grad[0] == 0).all()


@DTYPES
def test_a_softcap_makes_infinity_finite(dtype, backend):
    # softcap · tanh(±inf) = ±softcap; NaN stays
    logits = np.array([[INF, 0.0, -INF], [NAN, 0.0, 1.0]], dtype)
    for target in backend.some(targets([0, 0], 3)):
        got = evaluate(backend, logits, target, Scores(1.0, 2.0))
        np.testing.assert_allclose(got.lse[0], ln([2, 0, -2]), rtol=oracle.K * u(dtype))
        np.testing.assert_allclose(got.loss[0], ln([0, -2, -4]), rtol=oracle.K * u(dtype))
        assert np.isnan(got.loss[1])
        q = np.exp(np.array([2, 0, -2]) - ln([2, 0, -2]))
        np.testing.assert_allclose(got.grad[0], [0, q[1], 0], rtol=0, atol=data.spacing(dtype)[0])


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.3, 3.0, 1 / 3, 0.1, 7.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_top_class_lies_at_the_peak_exactly(temperature, dtype, backend):
    # `target_score` of a right answer is 0, not a rounding below: losses are never negative, "correct" is never wrong
    logits = np.random.default_rng(5).normal(0, 30, (500, 20)).astype(dtype)
    for scores in (Scores(temperature), Scores(temperature, 30.0)):
        got = evaluate(backend, logits, Target(logits.argmax(1)), scores)
        assert (got.stats.target_score == 0).all()
        assert (got.loss >= 0).all()
        assert (evaluate(backend, logits[:, :1], Target(np.zeros(500, int)), scores).loss == 0).all()


@DTYPES
def test_zero_cotangents_silence_a_broken_row(dtype, backend):
    # the second rule of the reference: a row that nothing depends on has gradient zero whatever it holds
    logits = np.full((2, 20), NAN, dtype)
    logits[1] = 1.0
    g = np.array([0, 1], np.float32)
    for target in backend.some(targets([3, 3], 20)):
        got = evaluate(backend, logits, target, cotangents=(g, g * 0, None))
        assert (got.grad[0] == 0).all()
        assert np.isfinite(got.grad[1]).all()


@DTYPES
def test_cotangents_may_be_huge_or_tiny(dtype, backend):
    logits = np.random.default_rng(6).normal(size=(4, 30)).astype(dtype)
    index = np.array([0, 5, 10, 29])
    one = evaluate(backend, logits.astype(np.float64), Target(index)).grad
    least = data.spacing(dtype)[1]
    for size in (2.0**10, 2.0**-10, 2.0**-24):
        g = np.full(4, size, np.float32)
        got = evaluate(backend, logits, Target(index), cotangents=(g, None, None)).grad
        np.testing.assert_allclose(got, size * one, rtol=data.spacing(dtype)[0] + 64 * u(dtype), atol=least)
    g = np.array([np.inf, np.nan, 1, 1], np.float32)
    got = evaluate(backend, logits, Target(index), cotangents=(g, None, None)).grad
    assert not np.isfinite(got[:2]).any()
    np.testing.assert_allclose(got[2:], one[2:], rtol=data.spacing(dtype)[0] + 64 * u(dtype), atol=least)
