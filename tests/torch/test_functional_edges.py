"""cross_entropy where nothing is left to average, where numbers are not finite, and where little is left to lose."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import plain
from tests.torch.plain import rows_of

dtypes = pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)


@dtypes
def test_all_rows_ignored(dtype):
    for shape in ((3, 5), (2, 5, 3)):
        z = torch.randn(shape).to(dtype).requires_grad_()
        y = torch.full(rows_of(shape), -100)
        for options in ({}, {"weight": torch.rand(5)}, {"label_smoothing": 0.1}, {"z_loss": 0.1}):
            loss = F.cross_entropy(z, y, **options)
            assert loss.isnan()
            (g,) = torch.autograd.grad(loss, z)
            assert torch.equal(g, torch.zeros_like(g))
            for reduction in ("sum", "none"):
                loss = F.cross_entropy(z, y, reduction=reduction, **options)
                (g,) = torch.autograd.grad(loss.sum(), z)
                assert torch.equal(loss, torch.zeros_like(loss))
                assert torch.equal(g, torch.zeros_like(g))


@dtypes
@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 3), (2, 5, 0), (0, 5, 0, 2)], ids=str)
def test_empty_batches_are_those_of_torch(shape, dtype):
    for kind, reduction in itertools.product(("index", "dense"), ("mean", "sum", "none")):
        results = []
        for f in (F.cross_entropy, nnf.cross_entropy):
            z = torch.zeros(shape, dtype=dtype, requires_grad=True)
            target = (
                torch.zeros(rows_of(shape), dtype=torch.long) if kind == "index" else torch.zeros(shape, dtype=dtype)
            )
            loss = f(z, target, reduction=reduction)
            (g,) = torch.autograd.grad(loss.sum(), z)
            results.append((loss.float(), g))
        (a, g), (b, h) = results
        torch.testing.assert_close(a, b, equal_nan=True)
        torch.testing.assert_close(g, h, equal_nan=True)


def test_an_empty_batch_has_empty_statistics():
    loss, stats = F.cross_entropy(
        torch.zeros(0, 5), torch.zeros(0, dtype=torch.long), reduction="none", return_stats=True
    )
    for x in (loss, stats.lse, stats.logprob, stats.entropy, stats.confidence, stats.correct):
        assert x.shape == (0,)
    empty = TopK(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 2))
    assert F.cross_entropy(torch.zeros(0, 5), empty, reduction="sum") == 0


def test_one_row_without_a_batch():
    z = torch.randn(7, dtype=torch.float64, requires_grad=True)
    for target in (torch.tensor(3), torch.rand(7, dtype=torch.float64)):
        for reduction in ("mean", "sum", "none"):
            got, want = (
                F.cross_entropy(z, target, reduction=reduction),
                nnf.cross_entropy(z, target, reduction=reduction),
            )
            assert got.shape == want.shape == ()
            torch.testing.assert_close(got, want)
    _, stats = F.cross_entropy(z, torch.tensor(3), return_stats=True)
    assert stats.lse.shape == stats.correct.shape == ()


def test_zero_weights_and_zero_normalisers_are_those_of_torch():
    z, y = torch.randn(4, 5, requires_grad=True), torch.tensor([0, 0, 1, 1])
    w = torch.tensor([0.0, 0.0, 1, 1, 1])
    for reduction in ("mean", "sum", "none"):
        got, want = (f(z, y, w, reduction=reduction) for f in (F.cross_entropy, nnf.cross_entropy))
        torch.testing.assert_close(got, want, equal_nan=True)
    assert F.cross_entropy(z, y, sample_weight=torch.zeros(4)).isnan()


@dtypes
def test_special_values_are_those_of_torch(dtype):
    inf, nan = math.inf, math.nan
    z = torch.tensor([[0, -inf, 1], [-inf, 0, 0], [nan, 0, 0], [-inf, -inf, -inf], [inf, 0, 0], [1, 2, 3]]).to(dtype)
    for y in (torch.tensor([0, 0, 0, 0, 0, 0]), torch.tensor([2, 1, -100, -100, 1, 2])):
        got, want = F.cross_entropy(z, y, reduction="none"), nnf.cross_entropy(z.float(), y, reduction="none")
        torch.testing.assert_close(got, want.to(got.dtype), equal_nan=True)


def test_an_ignored_row_with_nan_is_gone():
    z = torch.randn(4, 6, requires_grad=True)
    with torch.no_grad():
        z[1] = math.nan
    y = torch.tensor([0, -100, 2, 5])
    keep = torch.tensor([0, 2, 3])
    for options in ({}, {"label_smoothing": 0.1}, {"z_loss": 0.1}, {"sample_weight": torch.rand(4)}, {"softcap": 2.0}):
        got, stats = F.cross_entropy(z, y, return_stats=True, **options)
        less = {k: v[keep] if k == "sample_weight" else v for k, v in options.items()}
        want = plain.cross_entropy(z[keep], y[keep], **less)
        torch.testing.assert_close(got, want)
        (g,) = torch.autograd.grad(got + stats.lse.sum() + stats.entropy.sum() + stats.logprob.sum(), z)
        assert torch.equal(g[1], torch.zeros(6))
        assert g.isfinite().all()
        for x in (stats.lse, stats.logprob, stats.entropy, stats.confidence, stats.correct):
            assert x[1] == 0


def test_confident_rows_have_a_loss_and_a_gradient():
    z = torch.tensor([[0.0, -30.0]], requires_grad=True)
    loss = F.cross_entropy(z, torch.tensor([0]))
    # the record holds 1 + rest in double: relative accuracy down to 1e-9, below that 2^-52 in all
    assert loss.item() == pytest.approx(math.log1p(math.exp(-30)), rel=1e-6, abs=2**-52)
    z = torch.tensor([[0.0, -18.0]], requires_grad=True)
    assert F.cross_entropy(z, torch.tensor([0])).item() == pytest.approx(math.log1p(math.exp(-18)), rel=1e-6, abs=0)
    for dtype in (torch.bfloat16, torch.float16):
        z = torch.zeros(1, 1000, dtype=dtype)
        z[0, 5] = 16.0
        _ = z.requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(z, torch.tensor([5])), z)
        rest = 999 * math.exp(-16)
        assert g[0, 5].item() == pytest.approx(-rest / (1 + rest), rel=torch.finfo(dtype).eps, abs=0)
