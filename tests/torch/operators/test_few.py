"""The loss of few logits: the operator's own numbers by a shorter way, in every situation that a backward can meet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

import crossent.torch as F
from crossent.kernels.cpu import StepOptions
from crossent.spec import Scores, Target
from crossent.torch import functional
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


def few_loss(z, scores=Scores(), *, mean=True, index=Y, weight=None, smoothing=0.0):  # noqa: B008  frozen
    options = StepOptions(mean, -100, smoothing, 0.0, scores.temperature, scores.softcap)
    loss = few.loss_of_few(z, index, weight, options)
    assert loss is not None
    return loss


def operator_loss(z, scores=Scores(), *, mean=True, index=Y, weight=None, smoothing=0.0):  # noqa: B008  frozen
    target = Target(index.reshape(-1), None, weight, smoothing, -100)
    return row_loss(RowLossCall(RowCall(z if z.ndim < 4 else z.flatten(2), target, scores), mean))


def logits(dtype=torch.float32):
    return torch.randn(6, 5, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()


def both(z, g=None, **options):
    """Loss and gradient by the short way and by the operator."""
    results = []
    for function in (few_loss, operator_loss):
        loss = function(z, **options)
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


@pytest.mark.parametrize("g", [0.0, 1.0, -1.0, 0.3, 3.0, 65536.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_rounded_once_with_its_cotangent(dtype, g):
    z = logits(dtype)
    (loss, grad), (want, want_grad) = both(z, torch.tensor(g), smoothing=0.1)
    assert loss.dtype == want.dtype == torch.float32
    assert grad.dtype == dtype
    assert torch.equal(loss, want)
    assert torch.equal(grad, want_grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_a_loss_without_a_gradient(call, dtype):
    z = logits(dtype)
    want = operator_loss(z, **CALLS[call]).detach()
    with torch.no_grad():
        assert few_loss(z, **CALLS[call]).requires_grad is False
    with torch.inference_mode():
        assert few_loss(z, **CALLS[call]).is_inference()
    loss = few_loss(z.detach(), **CALLS[call])
    assert loss.dtype == want.dtype
    assert loss.grad_fn is None
    assert torch.equal(loss, want) or (loss.isnan() and want.isnan())


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("grad", [True, False])
def test_profilers_show_the_operator(grad):
    z = logits().requires_grad_(grad)
    with torch.profiler.profile() as profile:
        _ = F.cross_entropy(z, Y)
    assert "row_loss" in {event.key for event in profile.key_averages()}


def test_a_cotangent_beyond_1_enlarges_nothing_that_was_rounded_to_0():
    z = torch.tensor([[0.0, -87.0, -86.5, 0.0, -70.0]] * 6).requires_grad_()
    (_, grad), (_, want) = both(z, torch.tensor(1024.0))
    assert torch.equal(grad, want)
    assert grad[0, 2] > 0


def test_images_and_layouts_of_every_sort():
    y = torch.tensor([[0, 4, 1], [2, -100, 3]])
    z = torch.randn(2, 5, 3).requires_grad_()
    for view in (z, z.transpose(0, 2).contiguous().transpose(0, 2), z[:, :, :1].expand(2, 5, 3)):
        for index in (y, y.t().contiguous().t().contiguous(), y[:, :1].expand(2, 3).contiguous()):
            (loss, grad), (want, want_grad) = both(view, index=index)
            assert torch.equal(loss, want)
            assert torch.equal(grad, want_grad)
    z = torch.randn(2, 5, 3, 4).to(memory_format=torch.channels_last).requires_grad_()
    y = torch.randint(5, (2, 3, 4))
    for index in (
        y,
        y.int(),
        y[:, :1, :1].contiguous().expand(2, 3, 4),
        torch.zeros((), dtype=y.dtype).expand(2, 3, 4),
    ):
        options = few_options()
        loss = few.loss_of_few(z, index, None, options)
        if loss is None:  # no single stride
            assert index.stride() == (1, 0, 0)
            continue
        want = torch.nn.functional.cross_entropy(z, index.long())
        torch.testing.assert_close(loss, want)
        torch.testing.assert_close(*(torch.autograd.grad(x, z)[0] for x in (loss, want)))
    row = torch.randn(5).requires_grad_()
    for number in (row, row[::2], row.expand(3, 5)[1]):
        loss = few.loss_of_few(number, torch.tensor(2), None, few_options())
        want = torch.nn.functional.cross_entropy(number, torch.tensor(2))
        torch.testing.assert_close(loss, want)
        for g in (torch.tensor(0.5), torch.tensor(-3.0)):
            found = (torch.autograd.grad(x, row, g, retain_graph=True)[0] for x in (loss, want))
            torch.testing.assert_close(*found)


def test_a_cotangent_of_0_removes_what_rows_hold():
    z = torch.full((6, 5), float("nan")).requires_grad_()
    for loss in (few_loss(z), operator_loss(z)):
        assert torch.equal(torch.autograd.grad(loss, z, torch.tensor(0.0))[0], torch.zeros(6, 5))


def test_a_graph_that_stays_gives_its_gradient_again():
    z = logits()
    loss = few_loss(z)
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
        loss = few_loss(z, index=y)
        _ = (z.detach(), y)[overwritten].zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_what_was_freed_since_is_not_read():
    z, y = logits(), Y.clone()
    loss = few_loss(z, index=y)
    want = torch.autograd.grad(operator_loss(z, index=y), z)[0]
    for x in (z, y):
        x.untyped_storage().resize_(0)
    (grad,) = torch.autograd.grad(loss, z)
    z.untyped_storage().resize_(120)
    assert torch.equal(grad, want)


def test_second_derivatives_are_the_operator_s():
    z = logits(torch.float64)
    _ = torch.autograd.gradcheck(lambda z: few_loss(z, Scores(0.7, 3.0), smoothing=0.1), (z,))
    _ = torch.autograd.gradgradcheck(lambda z: few_loss(z, Scores(0.7, 3.0), smoothing=0.1), (z,))


@pytest.mark.usefixtures("quiet")
def test_batched_and_dual_cotangents():
    z = logits(torch.float64)
    loss = few_loss(z)
    (want,) = torch.autograd.grad(loss, z, retain_graph=True)
    g = torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64)
    (found,) = torch.autograd.grad(loss, z, g, retain_graph=True, is_grads_batched=True)
    torch.testing.assert_close(found, g[:, None, None] * want)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(g[0], g[1])
        (found,) = torch.autograd.grad(loss, z, dual)
        torch.testing.assert_close(forward_ad.unpack_dual(found).tangent, 0.5 * want)


def test_the_gradient_is_handed_over_and_not_copied():
    z = logits()
    loss = few_loss(z)
    kept = loss.grad_fn.gradient.data_ptr()
    loss.backward()
    assert z.grad.data_ptr() == kept


UNUSUAL = {
    "a class that is none": {"index": torch.tensor([0, 7, 0, 0, 0, 0])},
    "probabilities": {"index": torch.rand(6, 5)},
    "floats": {"index": torch.zeros(6)},
    "uint64": {"index": Y.clamp(0).to(torch.uint64)},
    "top-k": {"index": F.TopK(Y[:, None].clamp(0), torch.ones(6, 1))},
    "too many classes": {"index": torch.zeros(7, dtype=torch.int64)},
    "an axis too many": {"index": torch.zeros(6, 1, dtype=torch.int64)},
    "no tensor": {"index": Y.tolist()},
    "classes on another device": {"index": Y.to("meta")},
    "integer weights": {"weight": torch.ones(5, dtype=torch.int64)},
    "learned weights": {"weight": torch.ones(5, requires_grad=True)},
    "too few weights": {"weight": torch.ones(4)},
    "a column of weights": {"weight": torch.ones(5, 1)},
    "negated weights": {"weight": torch._neg_view(torch.ones(5))},
    "listed weights": {"weight": [1.0] * 5},
    "too smooth": {"label_smoothing": 1.5},
    "smoothing NaN": {"label_smoothing": float("nan")},
    "a switch for smoothing": {"label_smoothing": True},
    "a number of NumPy": {"label_smoothing": np.float32(0.1)},
    "a number in a tensor": {"temperature": torch.tensor(2.0)},
    "a penalty": {"z_loss": 1e-4},
    "a negative penalty": {"z_loss": -1.0},
    "no temperature": {"temperature": 0.0},
    "no number": {"temperature": None},
    "too warm": {"temperature": 10**400},
    "a cap of 0": {"softcap": 0.0},
    "an infinite cap": {"softcap": float("inf")},
    "a class of many bits": {"ignore_index": 2**70},
    "a class between": {"ignore_index": 1.0},
    "a switch for a class": {"ignore_index": False},
}


def few_options(**changed):
    usual = {"ignore_index": -100, "label_smoothing": 0.0, "z_loss": 0.0, "temperature": 1.0, "softcap": None}
    return StepOptions(True, **{**usual, **changed})


@pytest.mark.parametrize("unusual", UNUSUAL)
def test_unusual_and_wrong_arguments_go_the_general_way(unusual):
    arguments = {"index": Y, "weight": None, **UNUSUAL[unusual]}
    index, weight = arguments.pop("index"), arguments.pop("weight")
    assert few.loss_of_few(logits(), index, weight, few_options(**arguments)) is None


@pytest.mark.usefixtures("quiet")
def test_unusual_logits_go_the_general_way():
    z = logits()
    freed, kept = z.detach().clone().requires_grad_(), []
    freed.untyped_storage().resize_(0)
    _ = torch.func.vmap(lambda x: kept.append(x) or x.sum())(z)  # a wrapper that outlives its transform
    assert few.loss_of_few(kept[0], torch.tensor(0), None, few_options()) is None
    unusual = (
        z.detach().to(torch.float8_e4m3fn).requires_grad_(), z.detach().to("meta").requires_grad_(), freed,
        torch._neg_view(z), z.detach().to_sparse().requires_grad_(), z.detach().as_subclass(Tagged).requires_grad_(),
        torch.zeros(6, 0, requires_grad=True), torch.zeros(0, 5, requires_grad=True),
        torch.tensor(1.0, requires_grad=True), torch.randn(6, few.MOST // 6 + 1, requires_grad=True), [[0.0] * 5] * 6,
    )  # fmt: skip
    for x in unusual:
        y = Y[: len(x)] if isinstance(x, list) or x.ndim else Y[0]
        assert few.loss_of_few(x, y, None, few_options()) is None
    assert few.loss_of_few(z, Y, None, few_options()) is not None


class Tagged(torch.Tensor):
    pass


@pytest.mark.usefixtures("quiet")
def test_whoever_looks_sees_the_operator():
    z = logits()
    for watching in (Watching(), forward_ad.dual_level()):
        with watching:
            assert few.loss_of_few(z, Y, None, few_options()) is None

    def seen(x):
        assert few.loss_of_few(x, Y[: len(x)] if x.ndim > 1 else Y[0], None, few_options()) is None
        return x.sum()

    _ = torch.func.grad(seen)(z)
    _ = torch.jit.trace(seen, (z,), check_trace=False)
    _ = torch._vmap_internals._vmap(seen)(z)


def test_the_public_loss_goes_this_way(monkeypatch):
    gone = []
    monkeypatch.setattr(functional, "loss_of_few", lambda *call: gone.append(call))
    want = torch.nn.functional.cross_entropy(logits(), Y)
    torch.testing.assert_close(F.cross_entropy(logits(), Y), want)
    assert len(gone) == 1
    further = ({"reduction": "none"}, {"sample_weight": torch.ones(6)}, {"return_stats": True}, {"num_classes": 5})
    for options in further:
        _ = F.cross_entropy(logits(), Y, **options)
    assert len(gone) == 1
