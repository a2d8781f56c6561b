"""The loss of few logits: the operator's own numbers by a shorter way, in every situation that a backward can meet."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.autograd import forward_ad

import crossent.torch as F
from crossent.spec import Scores, Target
from crossent.torch.operators import few
from crossent.torch.operators.rows import RowCall, RowLossCall, row_loss
from tests.torch.operators.watching import Watching

Y = torch.tensor([0, 4, -100, 2, 2, 1])
CALLS = {
    "plain": {},
    "weight": {"weight": torch.tensor([0.5, 0.0, 2.0, 1.0, 3.0])},
    "smoothed": {"smoothing": 0.1},
    "both": {"weight": torch.tensor([0.5, 0.0, 2.0, 1.0, 3.0]), "smoothing": 0.1},
    "int32": {"index": Y.int()},
    "all ignored": {"index": torch.full((6,), -100)},
}


def call_of(z, scores=Scores(), *, mean=True, index=Y, weight=None, smoothing=0.0):  # noqa: B008  frozen
    return RowLossCall(RowCall(z, Target(index, None, weight, smoothing, -100), scores), mean)


def logits(dtype=torch.float32):
    return torch.randn(6, 5, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()


def both(z, g=None, **options):
    """Loss and gradient by the short way and by the operator."""
    results = []
    for function in (few.loss_of_few, row_loss):
        call = call_of(z, **options)
        assert few.takes(call)
        loss = function(call)
        results.append((loss, torch.autograd.grad(loss, z, g)[0]))
    return results


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scores", [Scores(), Scores(0.5), Scores(2.0, 3.0)], ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_it_is_the_operator_to_the_last_bit(call, scores, dtype, mean):
    options = dict(CALLS[call])
    if "weight" in options:
        options["weight"] = options["weight"].to(dtype)
    (loss, grad), (want, want_grad) = both(logits(dtype), scores=scores, mean=mean, **options)
    assert loss.dtype == want.dtype == dtype
    assert torch.equal(loss, want) or (loss.isnan() and want.isnan())
    assert torch.equal(grad, want_grad)


@pytest.mark.parametrize("g", [0.0, -1.0, 0.3, 1e-30, float("inf"), float("nan")])
def test_a_cotangent_multiplies_the_gradient(g):
    z = logits()
    (_, grad), (_, want) = both(z, torch.tensor(g))
    torch.testing.assert_close(grad, want, rtol=3e-7, atol=1e-38, equal_nan=True)


def test_a_cotangent_beyond_1_enlarges_nothing_that_was_rounded_to_0():
    z = torch.tensor([[0.0, -87.0, -86.5, 0.0, -70.0]] * 6).requires_grad_()
    (_, grad), (_, want) = both(z, torch.tensor(1024.0))
    assert torch.equal(grad, want)
    assert grad[0, 2] > 0


def test_images_and_layouts_of_every_sort():
    y = torch.tensor([[0, 4, 1], [2, -100, 3]])
    z = torch.randn(2, 5, 3).requires_grad_()
    for view in (z, z.transpose(0, 2).contiguous().transpose(0, 2), z[:, :, :1].expand(2, 5, 3)):
        (loss, grad), (want, want_grad) = both(view, index=y.reshape(-1))
        assert torch.equal(loss, want)
        assert torch.equal(grad, want_grad)
    assert F.cross_entropy(z, y).item() == pytest.approx(torch.nn.functional.cross_entropy(z, y).item(), rel=1e-6)


def test_a_cotangent_of_0_removes_what_rows_hold():
    z = torch.full((6, 5), float("nan")).requires_grad_()
    for loss in (few.loss_of_few(call_of(z)), row_loss(call_of(z))):
        assert torch.equal(torch.autograd.grad(loss, z, torch.tensor(0.0))[0], torch.zeros(6, 5))


def test_a_graph_that_stays_gives_its_gradient_again():
    z = logits()
    loss = few.loss_of_few(call_of(z))
    (first,) = torch.autograd.grad(loss, z, retain_graph=True)
    want = first.clone()
    _ = first.fill_(7.0)  # belongs to whoever asked
    (again,) = torch.autograd.grad(loss, z, torch.tensor(2.0), retain_graph=True)
    assert torch.equal(again, 2 * want)
    loss.backward()
    assert torch.equal(z.grad, want)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_logits_and_classes_that_were_overwritten_are_errors_as_in_torch():
    for overwritten in (0, 1):
        leaf, y = logits(), Y.clone()
        z = leaf * 1.0
        loss = few.loss_of_few(call_of(z, index=y))
        _ = (z.detach(), y)[overwritten].zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_what_was_freed_since_is_not_read():
    z, y = logits(), Y.clone()
    loss = few.loss_of_few(call_of(z, index=y))
    want = torch.autograd.grad(row_loss(call_of(z, index=y)), z)[0]
    for x in (z, y):
        x.untyped_storage().resize_(0)
    (grad,) = torch.autograd.grad(loss, z)
    z.untyped_storage().resize_(120)
    assert torch.equal(grad, want)


def test_second_derivatives_are_the_operator_s():
    z = logits(torch.float64)
    _ = torch.autograd.gradcheck(lambda z: few.loss_of_few(call_of(z, Scores(0.7, 3.0), smoothing=0.1)), (z,))
    _ = torch.autograd.gradgradcheck(lambda z: few.loss_of_few(call_of(z, Scores(0.7, 3.0), smoothing=0.1)), (z,))


@pytest.mark.usefixtures("quiet")
def test_batched_and_dual_cotangents():
    z = logits(torch.float64)
    loss = few.loss_of_few(call_of(z))
    (want,) = torch.autograd.grad(loss, z, retain_graph=True)
    g = torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64)
    (found,) = torch.autograd.grad(loss, z, g, retain_graph=True, is_grads_batched=True)
    torch.testing.assert_close(found, g[:, None, None] * want)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(g[0], g[1])
        (found,) = torch.autograd.grad(loss, z, dual)
        torch.testing.assert_close(forward_ad.unpack_dual(found).tangent, 0.5 * want)


def test_a_class_that_does_not_exist():
    with pytest.raises(IndexError, match=r"class 7 \(row 1 of 6\)"):
        _ = few.loss_of_few(call_of(logits(), index=torch.tensor([0, 7, 0, 0, 0, 0])))


@pytest.mark.usefixtures("quiet")
def test_what_it_does_not_take():
    z = logits()
    soft = RowLossCall(RowCall(z, Target(prob=torch.rand(6, 5)), Scores()), True)
    padded = RowLossCall(RowCall(z, Target(Y, num_classes=4), Scores()), True)
    sharded = RowLossCall(RowCall(z, Target(Y), Scores(), ("group",)), True)
    half, meta = call_of(z.detach().bfloat16().requires_grad_()), call_of(z.detach().to("meta").requires_grad_())
    many = call_of(torch.randn(few.MOST // 4 + 1, 4, requires_grad=True))
    tagged = call_of(z.detach().as_subclass(type("Tagged", (torch.Tensor,), {})).requires_grad_())
    assert not any(map(few.takes, (soft, padded, sharded, half, meta, many, tagged, call_of(z.detach()))))
    assert few.takes(call_of(z))
    for watching in (torch.no_grad(), Watching(), forward_ad.dual_level()):
        with watching, contextlib.suppress(RuntimeError):
            seen = forward_ad.make_dual(z, z.detach()) if isinstance(watching, forward_ad.dual_level) else z
            assert not few.takes(call_of(seen))


def test_the_public_loss_goes_this_way(monkeypatch):
    gone = []
    monkeypatch.setattr(few, "loss_of_few", lambda call: gone.append(call) or row_loss(call))
    _ = F.cross_entropy(logits(), Y)
    assert len(gone) == 1
