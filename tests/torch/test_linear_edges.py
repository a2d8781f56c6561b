"""linear_cross_entropy where rows do not count, where nothing is left, and that it leaves its arguments alone."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from tests.torch import linear, plain
from tests.torch.linear import KINDS, WITH, Shape, draw, target_of

REDUCTIONS = ("mean", "sum", "none")
ours = linear.by_position(F.linear_cross_entropy)
dtypes = pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)


DIFFERENTIABLE = ("lse", "logprob", "entropy", "log_sum_squares")


def step(function, args, options):
    """Loss, statistics, and the gradients by input, weight and bias of a sum of them all in which nothing cancels."""
    loss, stats = function(*args, **options, return_stats=True)
    stats = stats if isinstance(stats, dict) else {name: getattr(stats, name) for name in DIFFERENTIABLE}
    parts = [loss, *(stats[name] for name in DIFFERENTIABLE)]
    total = sum(c * x.sum() for c, x in zip((1.0, 0.3, -0.7, 0.5, 0.2), parts, strict=True))
    return parts, torch.autograd.grad(total, (args[0], args[1], args[3]))


def truth_and_rival(dtype, args, options):
    plain_loss = linear.linear_cross_entropy
    yield step(plain_loss, tuple(plain.cast(a, torch.float64) for a in args), options)
    yield step(linear.in_float32(plain_loss), tuple(plain.cast(a, dtype) for a in args), options)


def check(dtype, got, args, options):
    """Hold values and gradients, of what is left of them, against a call without the rest."""
    for kind, ours_, wanted, rivals in zip(
        ("value", "gradient"), got, *truth_and_rival(dtype, args, options), strict=True
    ):
        for x, exact, rival in zip(ours_, wanted, rivals, strict=True):
            plain.agree(kind, x, exact, rival, plain.FLOOR[x.dtype])


@dtypes
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_ignored_row_is_gone_whatever_it_holds(bad, dtype):
    for option, reduction, shape in itertools.product(WITH, REDUCTIONS, (linear.ROWS, linear.TOKENS)):
        args, options = draw(shape, "ignored", option, bias=True)
        x, w, y, b, s = (plain.cast(a, dtype) for a in args)
        keep = y != -100
        with torch.no_grad():
            x[~keep] = bad
        options |= {"reduction": reduction}
        (loss, *stats), (dx, dw, db) = step(ours, (x, w, y, b, s), options)
        got = [loss[keep] if reduction == "none" else loss, *(part[keep] for part in stats)], [dx[keep], dw, db]
        less = x.detach()[keep].requires_grad_(), w, y[keep], b, None if s is None else s.detach()[keep]
        temperature = options.get("temperature")
        of_rows = {"temperature": temperature[keep]} if isinstance(temperature, torch.Tensor) else {}
        check(dtype, got, less, options | of_rows)
        _, more = ours(x, w, y, b, s, **options, return_stats=True)
        for part in (dx, *stats, more.confidence, more.correct):
            assert torch.equal(part[~keep], torch.zeros_like(part[~keep]))


@dtypes
def test_a_row_of_which_all_positions_are_ignored_is_gone_too(dtype):
    for option, reduction in itertools.product(WITH, ("mean", "none")):
        args, options = draw(linear.BOTH, "index", option, bias=True)
        x, w, y, b, s = (plain.cast(a, dtype) for a in args)
        y[0, 1], y[1, 0, 0, 1] = -100, -100
        want, wanted = plain.run(ours, dtype, (x, w, y, b, s), options | {"reduction": reduction})
        with torch.no_grad():
            x[0, 1] = math.nan
        got, grads = plain.run(ours, dtype, (x, w, y, b, s), options | {"reduction": reduction})
        for g, h in zip((got, *grads), (want, *wanted), strict=True):
            plain.agree("loss or gradient", g, h, None, plain.FLOOR[h.dtype])
        assert torch.equal(grads[0][0, 1], torch.zeros_like(x[0, 1]))


@dtypes
def test_a_bias_of_minus_infinity_takes_a_class_away(dtype):
    keep = torch.tensor([0, 1, 2, 4, 5, 6])
    for reduction, option in itertools.product(REDUCTIONS, ("nothing", "temperature", "z-loss", "sample weight")):
        args, options = draw(linear.ROWS, "ignored", option, bias=True)
        x, w, y, b, s = (plain.cast(a, dtype) for a in args)
        options |= {"reduction": reduction}
        y = torch.where(y == 3, 4, y)
        with torch.no_grad():
            b[3] = -math.inf
        values, (dx, dw, db) = step(ours, (x, w, y, b, s), options)
        w, b = (a.detach()[keep].requires_grad_() for a in (w, b))
        check(dtype, (values, (dx, dw[keep], db[keep])), (x, w, torch.where(y > 3, y - 1, y), b, s), options)
        for g in (dw, db):
            assert torch.equal(g[3], torch.zeros_like(g[3]))


@dtypes
def test_all_rows_ignored(dtype):
    for shape, option in itertools.product((linear.ROWS, linear.PIXELS, linear.TOKENS), WITH):
        args, options = draw(shape, "index", option, bias=True)
        x, w, y, b, s = (plain.cast(a, dtype) for a in args)
        for reduction in REDUCTIONS:
            loss = ours(x, w, torch.full_like(y, -100), b, s, **options, reduction=reduction)
            assert loss.isnan() if reduction == "mean" else torch.equal(loss, torch.zeros_like(loss))
            for g in torch.autograd.grad(loss.sum(), (x, w, b)):
                assert torch.equal(g, torch.zeros_like(g))


@dtypes
@pytest.mark.parametrize("lead", [(0,), (2, 0), (0, 3)], ids=str)
def test_empty_batches_are_those_of_torch(lead, dtype):
    for kind, reduction in itertools.product(("index", "dense"), REDUCTIONS):
        (x, w, t, b, _), _ = draw(Shape(lead, (), 5, 3), kind, bias=True)
        x, w, t, b = (plain.cast(a, dtype) for a in (x, w, t, b))
        loss = ours(x, w, t, b, reduction=reduction)
        flat = (x.flatten(0, -2), w, b)
        want = nnf.cross_entropy(nnf.linear(*flat), t.flatten(0, len(lead) - 1), reduction=reduction)
        assert loss.shape == (lead if reduction == "none" else ())
        torch.testing.assert_close(loss.flatten(), want.flatten().to(loss.dtype), equal_nan=True)
        for g, h in zip(*(torch.autograd.grad(a.sum(), (x, w, b)) for a in (loss, want)), strict=True):
            torch.testing.assert_close(g, h, equal_nan=True)


def test_arguments_are_never_written_to():
    for kind, reduction in itertools.product(KINDS, ("mean", "none")):
        args, options = draw(linear.TOKENS, kind, "everything", bias=True)
        given = linear.tensors(*args, *options.values())
        before = [(x.detach().clone(), x._version) for x in given]
        loss, stats = ours(*args, **options, reduction=reduction, return_stats=True)
        g = plain.cotangent_like(loss)
        copy = g.clone()
        ones = torch.ones_like(stats.entropy)
        torch.autograd.backward([loss, stats.entropy], [g, ones])
        with torch.no_grad():
            _ = ours(*args, **options, reduction=reduction)
        assert torch.equal(g, copy)
        assert torch.equal(ones, torch.ones_like(ones))
        for x, (value, version) in zip(given, before, strict=True):
            assert torch.equal(x, value)
            assert x._version == version


def test_cotangents_of_any_layout():
    args, options = draw(linear.BOTH, "index", "smoothing")
    loss = ours(*args, **options, reduction="none")
    full, x = plain.cotangent_like(loss), plain.leaves(*args)
    for g in (
        full.mT.contiguous().mT,
        torch.stack([full, full + 1], -1)[..., 0],
        torch.tensor(2.0, dtype=torch.float64).expand(loss.shape),
        full[:1].expand(loss.shape),
        torch.zeros_like(full),
    ):
        got = torch.autograd.grad(loss, x, g, retain_graph=True)
        for a, b in zip(got, torch.autograd.grad(loss, x, g.contiguous(), retain_graph=True), strict=True):
            assert torch.equal(a, b)


def test_special_targets():
    (x, w, y, *_), _ = draw(linear.ROWS, "index")
    assert ours(x, w, target_of(linear.ROWS, "dense") * 0).item() == 0
    for reduction in REDUCTIONS:  # a weight of zero for every class that occurs
        got = ours(x, w, y, weight=torch.zeros(7), reduction=reduction)
        want = nnf.cross_entropy(x @ w.T, y, torch.zeros(7).double(), reduction=reduction)
        torch.testing.assert_close(got, want, equal_nan=True)


class Tagged(torch.Tensor):
    pass


def test_tensors_that_are_views_of_other_things():
    # operands whose numbers are negated when read, parameters, and subclasses
    c, d, y = torch.randn(6, 4, dtype=torch.complex64), torch.randn(5, 4, dtype=torch.complex64), torch.randint(5, (6,))
    x, w = c.conj().imag, d.conj().imag
    assert x.is_neg()
    want = ours(-c.imag, -d.imag, y)
    for pair in ((x, w), (torch.nn.Parameter(-c.imag), w), (x, torch.nn.Parameter(-d.imag))):
        torch.testing.assert_close(ours(*pair, y), want)
    tagged = (-c.imag).as_subclass(Tagged).requires_grad_()
    got = ours(tagged, w, y)
    torch.testing.assert_close(torch.as_tensor(got).as_subclass(torch.Tensor), want)
    (g,), (h,) = (
        torch.autograd.grad(got, tagged),
        torch.autograd.grad(nnf.cross_entropy(nnf.linear(tagged, w), y), tagged),
    )
    torch.testing.assert_close(g, h)


def test_rows_do_not_touch_each_other():
    args, options = draw(linear.LONG, "index", "everything", bias=True)
    x, w, y, b, s = (a.detach() for a in args)
    want = ours(x, w, y, b, s, **options, reduction="none", chunk_bytes=200)
    x[7], keep = math.nan, torch.arange(len(y)) != 7
    got = ours(x, w, y, b, s, **options, reduction="none", chunk_bytes=200)
    assert got[7].isnan()
    assert torch.equal(got[keep], want[keep])


@dtypes
@pytest.mark.parametrize("options", [{"label_smoothing": 0.2}, {"weight": torch.rand(5)}], ids=["smoothing", "weight"])
def test_stats_of_dense_targets_with_one_position_are_those_without_the_axis(options, dtype):
    x, head, p = torch.randn(4, 3, dtype=dtype), torch.randn(5, 3, dtype=dtype), torch.rand(4, 5).to(dtype)
    loss, stats = F.linear_cross_entropy(x, head, p, return_stats=True, **options)
    again, same = F.linear_cross_entropy(x, head[:, None], p[:, :, None], return_stats=True, **options)
    assert torch.equal(loss, again)
    for name in (*DIFFERENTIABLE, "confidence", "correct", "predicted"):
        assert torch.equal(getattr(stats, name), getattr(same, name).squeeze(1))
