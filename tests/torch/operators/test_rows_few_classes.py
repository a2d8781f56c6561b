"""Few classes: nothing is kept of rows, and values and gradients are those of float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

import crossent.torch as F
from crossent.kernels import cpu

MANY = 70_000
"""More logits than the shortest way takes."""
SHAPES = [
    (MANY // 2, 2),
    (MANY // 3, 3),
    (7001, 10),
    (3511, 20),
    (1301, 63),
    (701, 128),
    (2, 2, 139, 131),
    (1, 19, 61, 67),
]


def drawn(shape, dtype, soft, seed=0):
    random = torch.Generator().manual_seed(seed)
    z = (3 * torch.randn(shape, generator=random)).to(dtype).requires_grad_()
    rows = (shape[0], *shape[2:])
    if soft:
        return z, torch.randn(shape, generator=random).softmax(1).to(dtype)
    y = torch.randint(shape[1], rows, generator=random)
    y[torch.rand(rows, generator=random) < 0.3] = -100
    return z, y


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_float64(shape, dtype, soft):
    z, y = drawn(shape, dtype, soft)
    weight = 0.5 + torch.rand(shape[1])
    exact = z.detach().double().requires_grad_()
    wide = y.double() if soft else y
    for options in ({}, {"weight": weight}, {"label_smoothing": 0.1}, {"weight": weight, "label_smoothing": 0.1}):
        of_double = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        for reduction in ("mean", "sum", "none"):
            want = torch.nn.functional.cross_entropy(exact, wide, reduction=reduction, **of_double)
            got = F.cross_entropy(z, y, reduction=reduction, **options)
            torch.testing.assert_close(got.double(), want, rtol=2e-6, atol=0 if reduction != "none" else 1e-6)
            g = torch.rand(want.shape)
            (grad,) = torch.autograd.grad(got, z, g)
            (exact_grad,) = torch.autograd.grad(want, exact, g.double())
            size = exact_grad.abs().max()
            bound = {torch.float32: 2e-6, torch.bfloat16: 2**-8}[dtype]
            torch.testing.assert_close(grad.double(), exact_grad, rtol=bound, atol=2e-6 * size)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(MANY, 2), (2, 19, 61, 67)])
def test_nothing_is_kept_but_logits_and_target(shape, reduction):
    z, y = drawn(shape, torch.float32, soft=False)
    kept = []
    with saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        _ = F.cross_entropy(z, y, reduction=reduction)
    mine = {z.untyped_storage().data_ptr(), y.untyped_storage().data_ptr()}
    bytes_kept = sum(x.nbytes for x in kept if x.untyped_storage().data_ptr() not in mine)
    assert bytes_kept <= 8  # the scale of a mean


def test_the_last_few_and_the_first_many_differ_in_what_they_keep():
    for classes, kept in ((cpu.FEW_CLASSES, False), (cpu.FEW_CLASSES + 1, True)):
        z, y = torch.randn(1000, classes, requires_grad=True), torch.randint(classes, (1000,))
        record = F.cross_entropy(z, y, reduction="none").grad_fn.saved_tensors[-1]
        assert record.shape == (5, 1000 if kept else 0)


def test_statistics_of_few_classes_have_a_record_that_their_backward_does_without():
    z, y = drawn((MANY // 4, 4), torch.float32, soft=False)
    loss, stats = F.cross_entropy(z, y, return_stats=True, reduction="none")
    assert loss.grad_fn.saved_tensors[-1].shape == (5, 0)
    q = z.detach().double().softmax(1)
    valid = y != -100
    confidence = torch.where(valid, q.max(1).values, 0.0)
    torch.testing.assert_close(stats.confidence.double(), confidence, rtol=1e-6, atol=0)
    assert torch.equal(stats.correct, valid & (q.argmax(1) == y))
    entropy = torch.where(valid, -(q * q.log()).sum(1), 0.0)
    torch.testing.assert_close(stats.entropy.double(), entropy, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 5, 100])
@pytest.mark.parametrize("middle", [False, True])
def test_confident_rows_keep_their_digits(classes, middle):
    gaps = torch.linspace(1.0, 80.0, MANY // classes + 64)
    z = torch.zeros(len(gaps), classes)
    z[:, 0] = gaps
    z = z.t().contiguous()[None] if middle else z
    z.requires_grad_()
    y = torch.zeros((1, len(gaps)) if middle else len(gaps), dtype=torch.long)
    loss = F.cross_entropy(z, y, reduction="none")
    (grad,) = torch.autograd.grad(loss.sum(), z)
    rest = (classes - 1) * torch.exp(-gaps.double())
    digits = 3 * 2**-24 * (1 + 80)  # of the exponential of a number that is rounded
    torch.testing.assert_close(loss.double().flatten(), torch.log1p(rest), rtol=digits, atol=0)
    at_target = grad[0, 0] if middle else grad[:, 0]
    torch.testing.assert_close(at_target.double(), -rest / (1 + rest), rtol=digits, atol=0)


def test_ignored_rows_may_hold_anything_and_cost_nothing():
    z, y = drawn((MANY // 2, 2), torch.float32, soft=False)
    with torch.no_grad():
        z[y == -100] = math.nan
        z[:200], y[:200] = math.inf, -100  # whole tiles
    loss = F.cross_entropy(z, y)
    (grad,) = torch.autograd.grad(loss, z)
    assert loss.isfinite()
    assert (grad[y == -100] == 0).all()
    want = torch.nn.functional.cross_entropy(z[y != -100].double(), y[y != -100])
    torch.testing.assert_close(loss.double(), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(MANY // 2, 2), (2001, 100), (2, 8, 71, 73)])
def test_wrong_targets_are_named(shape):
    z, y = drawn(shape, torch.float32, soft=False)
    row = y.numel() - 3
    y.view(-1)[row] = shape[1]
    with pytest.raises(IndexError, match=rf"class {shape[1]} \(row {row} of {y.numel()}\)"):
        F.cross_entropy(z, y)
    z, p = drawn(shape, torch.float32, soft=True)
    for wrong in (-0.25, math.nan, math.inf):
        q = p.clone()
        q[(1, 1, *(5 for _ in shape[2:]))] = wrong
        with pytest.raises(ValueError, match=r"is not a finite number ≥ 0"):
            F.cross_entropy(z, q)


def test_zeros_of_either_sign_are_probabilities():
    z, p = drawn((MANY // 2, 2), torch.float32, soft=True)
    p[:, 0], p[:, 1] = -0.0, 1.0
    want = torch.nn.functional.cross_entropy(z.double(), p.double())
    torch.testing.assert_close(F.cross_entropy(z, p).double(), want, rtol=1e-6, atol=0)


def test_gradients_can_be_differentiated_again():
    z, y = torch.randn(40, 3, dtype=torch.float64, requires_grad=True), torch.randint(3, (40,))
    weight = torch.rand(40, dtype=torch.float64)

    def loss(z):
        return (F.cross_entropy(z, y, reduction="none", temperature=0.7) ** 2 * weight).sum()

    assert torch.autograd.gradcheck(loss, z)
    assert torch.autograd.gradgradcheck(loss, z)


def test_bits_do_not_depend_on_neighbours_layout_or_threads():
    z, y = drawn((1, 5, 97, 193), torch.float32, soft=False)
    whole = F.cross_entropy(z, y, reduction="none")
    parts = [F.cross_entropy(z[:, :, k], y[:, k], reduction="none") for k in range(97)]
    assert torch.equal(whole, torch.stack(parts, 1))
    flat = z.movedim(1, -1).reshape(-1, 5)
    assert torch.equal(whole.view(-1), F.cross_entropy(flat, y.view(-1), reduction="none"))
    before = torch.get_num_threads()
    try:
        means = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            means.append(F.cross_entropy(z, y))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in itertools.pairwise(means))
