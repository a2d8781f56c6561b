"""The binary losses against torch's own, mpmath and plain operations; extremes, broadcasts, targets."""

from __future__ import annotations

import itertools
import math

import mpmath
import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from tests.torch import plain

SHAPES = ((), (1,), (5,), (4, 7), (2, 3, 4), (5000,), (3, 1700))


def targets_of(shape):
    yield torch.rand(shape, dtype=torch.float64, requires_grad=True)
    yield torch.randint(2, shape).double()


@pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits(shape, dtype):
    for spread, reduction, weighted, positive in itertools.product(
        (1.0, 5.0, 30.0), ("none", "mean", "sum"), (False, True), (False, True)
    ):
        x = (spread * torch.randn(shape, dtype=torch.float64)).requires_grad_()
        options = {"reduction": reduction}
        options["weight"] = torch.rand(shape[-1:], dtype=torch.float64) if weighted else None
        options["pos_weight"] = 3 * torch.rand(shape[-1:], dtype=torch.float64) if positive else None
        for t in targets_of(shape):
            # torch in float64 forgets confident right answers below 1e-16, the plain loss does not
            theirs = nnf.binary_cross_entropy_with_logits
            exact = plain.binary_cross_entropy_with_logits
            plain.compare(F.binary_cross_entropy_with_logits, theirs, exact, dtype, (x, t), options)


@pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_probabilities(shape, dtype):
    for reduction, weighted in itertools.product(("none", "mean", "sum"), (False, True)):
        p = (0.01 + 0.98 * torch.rand(shape, dtype=torch.float64)).requires_grad_()
        options = {"reduction": reduction, "weight": torch.rand(shape[-1:], dtype=torch.float64) if weighted else None}
        for t in targets_of(shape):
            theirs = nnf.binary_cross_entropy
            plain.compare(F.binary_cross_entropy, theirs, theirs, dtype, (p, t), options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_confident_right_answer_costs_what_it_costs(dtype):
    x = torch.tensor([-40.0, 40.0], dtype=dtype, requires_grad=True)
    t = torch.tensor([0.0, 1.0], dtype=dtype)
    loss = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    eps = torch.finfo(dtype).eps
    for value, sign, slope in zip(loss.tolist(), (1, -1), torch.autograd.grad(loss.sum(), x)[0].tolist(), strict=True):
        assert value == pytest.approx(4.248354255291589e-18, rel=4 * eps, abs=0)
        assert slope == pytest.approx(sign * 4.248354255291589e-18, rel=4 * eps, abs=0)
    assert F.binary_cross_entropy_with_logits(x, t).item() == pytest.approx(4.248354255291589e-18, rel=4 * eps, abs=0)


def test_extremes_are_those_of_the_formula():
    inf = math.inf
    x = torch.tensor([1e4, -1e4, 1e4, -1e4, inf, -inf, inf, -inf, inf, 0.0], requires_grad=True)
    t = torch.tensor([1, 0, 0, 1, 1, 0, 0, 1, 0.5, 0.5])
    loss = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    assert loss.tolist() == pytest.approx([0, 0, 1e4, 1e4, 0, 0, inf, inf, inf, math.log(2)])
    (g,) = torch.autograd.grad(loss.sum(), x)
    assert g.tolist() == [0, 0, 1, -1, 0, 0, 1, -1, 0.5, 0]
    assert F.binary_cross_entropy_with_logits(torch.tensor(math.nan), torch.tensor(0.0)).isnan()
    # and the derivative with respect to the target, −x
    _ = t.requires_grad_()
    gs = [torch.autograd.grad(home.binary_cross_entropy_with_logits(x, t, reduction="sum"), t)[0] for home in (F, nnf)]
    torch.testing.assert_close(gs[0], gs[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_digit_against_mpmath(dtype):
    x = torch.cat([torch.linspace(-85, 85, 101, dtype=dtype), torch.tensor([1e-20, -1e-20, 1e4, -1e4], dtype=dtype)])
    for t, r in ((0.0, 1.0), (1.0, 1.0), (0.5, 1.0), (0.25, 3.0), (1.0, 3.0)):
        got = F.binary_cross_entropy_with_logits(
            x, torch.full_like(x, t), pos_weight=torch.tensor(r, dtype=dtype), reduction="none"
        )
        with mpmath.workdps(60):
            for z, value in zip(x.tolist(), got.tolist(), strict=True):
                z = mpmath.mpf(z)  # noqa: PLW2901
                want = r * t * mpmath.log1p(mpmath.exp(-z)) + (1 - t) * mpmath.log1p(mpmath.exp(z))
                assert abs(value - want) <= 5 * torch.finfo(dtype).eps * want + torch.finfo(dtype).tiny


def test_weights_broadcast_as_in_torch():
    x, t = torch.randn(3, 4, 5), torch.rand(3, 4, 5)
    for shape in ((), (1,), (5,), (4, 1), (4, 5), (1, 1, 5), (3, 1, 1), (3, 4, 5)):
        w, r = torch.rand(shape), torch.rand(shape) * 3
        for reduction in ("none", "mean", "sum"):
            for options in ({"weight": w}, {"pos_weight": r}, {"weight": w, "pos_weight": r}):
                got = F.binary_cross_entropy_with_logits(x, t, reduction=reduction, **options)
                want = nnf.binary_cross_entropy_with_logits(x, t, reduction=reduction, **options)
                torch.testing.assert_close(got, want)
            got = F.binary_cross_entropy(x.sigmoid(), t, weight=w, reduction=reduction)
            torch.testing.assert_close(got, nnf.binary_cross_entropy(x.sigmoid(), t, weight=w, reduction=reduction))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float16, torch.float64], ids=str)
def test_targets_of_other_dtypes(dtype):
    x, t = torch.randn(4, 5, requires_grad=True), torch.randint(2, (4, 5))
    got, want = (
        F.binary_cross_entropy_with_logits(x, t.to(dtype)),
        nnf.binary_cross_entropy_with_logits(x, t.float()),
    )
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, x), torch.autograd.grad(want, x))


def test_probabilities_are_not_clipped():
    inf = math.inf
    p = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.5e-45, 0.0, 1 - 2**-24], requires_grad=True)
    t = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.5, 0.0])
    loss = F.binary_cross_entropy(p, t, reduction="none")
    tiny = p.tolist()[4]
    assert loss.tolist() == pytest.approx([0, 0, inf, inf, -math.log(tiny), inf, 24 * math.log(2)], rel=1e-6, abs=0)
    (g,) = torch.autograd.grad(loss.sum(), p)
    assert g.tolist() == pytest.approx([1, -1, -inf, inf, -inf, -inf, 2.0**24], rel=1e-6, abs=0)


def test_probabilities_and_logits_agree():
    x, t = torch.randn(200, dtype=torch.float64), torch.rand(200, dtype=torch.float64)
    a = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    torch.testing.assert_close(F.binary_cross_entropy(x.sigmoid(), t, reduction="none"), a, rtol=1e-12, atol=0)


def test_two_classes_are_one_logit():
    # softmax of [0, x] is the sigmoid of x
    x, y = torch.randn(100, dtype=torch.float64) * 10, torch.randint(2, (100,))
    two = F.cross_entropy(torch.stack([torch.zeros_like(x), x], 1), y, reduction="none")
    one = F.binary_cross_entropy_with_logits(x, y.double(), reduction="none")
    torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
def test_empty_and_layouts(dtype):
    for reduction in ("none", "sum", "mean"):
        x = torch.zeros(0, 3, dtype=dtype, requires_grad=True)
        got = F.binary_cross_entropy_with_logits(x, x.detach(), reduction=reduction)
        want = nnf.binary_cross_entropy_with_logits(x, x.detach(), reduction=reduction)
        torch.testing.assert_close(got.to(dtype), want, equal_nan=True)
        _ = torch.autograd.grad(got.sum(), x)
    base, t = torch.randn(6, 4, 5, dtype=torch.float64), torch.rand(6, 4, 5, dtype=torch.float64)
    for lay in (
        lambda a: a.permute(2, 0, 1),
        lambda a: a[::2, 1:, ::2],
        lambda a: a[:1].expand(6, 4, 5),
        lambda a: a.mT,
    ):
        for function in ("binary_cross_entropy_with_logits", "binary_cross_entropy"):
            x = (base if function.endswith("logits") else base.sigmoid()).clone().requires_grad_()

            def of(home, lay=lay, function=function):
                return lambda a, b: getattr(home, function)(lay(a), lay(b), reduction="none")

            plain.compare(of(F), of(nnf), of(nnf), dtype, (x, t), {})


@pytest.mark.parametrize("value", [0.0, 0.3, -0.7, 1.1])
def test_the_mean_of_equal_losses_is_the_loss(value):
    # what an untrained model gives; torch's error is about 4e-7
    x = torch.full((200_000,), value, requires_grad=True)
    t = torch.zeros(200_000)
    plain.compare(
        F.binary_cross_entropy_with_logits,
        nnf.binary_cross_entropy_with_logits,
        nnf.binary_cross_entropy_with_logits,
        torch.float32,
        (x, t),
        {},
    )


@pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
@pytest.mark.parametrize(
    ("function", "x"), [(F.binary_cross_entropy, 0.0), (F.binary_cross_entropy_with_logits, -math.inf)]
)
def test_targets_whose_loss_is_not_used_have_no_gradient_even_at_infinite_costs(function, x, dtype):
    given, target = torch.tensor([x, 0.25], dtype=dtype), torch.tensor([0.5, 0.5], dtype=dtype, requires_grad=True)
    loss = function(given, target, reduction="none")
    (grad,) = torch.autograd.grad(torch.where(torch.tensor([False, True]), loss, 0.0).sum(), target)
    assert grad[0] == 0
    assert grad[1] != 0
