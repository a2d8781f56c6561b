"""A weight of 0 removes: value and gradients are those of the call without the row or element, whatever it holds."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import crossent.torch as F
from crossent.torch import TopK

N, V, D = 7, 40, 5
GONE = torch.tensor([2, 5])
KEPT = torch.tensor([0, 1, 3, 4, 6])
HELD = {"nan": float("nan"), "inf": float("inf"), "-inf": -float("inf")}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
held = pytest.mark.parametrize("held", HELD.values(), ids=HELD)
KINDS = ("index", "dense", "topk", "class weight", "padding", "no probability")


def drawn(kind: str) -> dict[str, Any]:
    """Target and options of a call of which the rows GONE count nothing, and the same without these rows."""
    index, prob = torch.randint(0, V - 1, (N,)), torch.rand(N, V)
    picks, few = torch.randint(0, V, (N, 3)), torch.rand(N, 3)
    samples, weight = torch.rand(N) + 0.5, torch.rand(V) + 0.5
    weight[V - 1] = 0.0
    if kind in ("index", "dense", "topk"):
        samples[GONE] = 0.0
    if kind == "class weight":
        index[GONE] = V - 1
    if kind == "padding":
        picks[GONE], few[GONE] = -1, 0.0
    if kind == "no probability":
        prob[GONE] = 0.0
    target: Any = {"dense": prob, "no probability": prob, "topk": TopK(picks, few), "padding": TopK(picks, few)}.get(
        kind, index
    )
    options: dict[str, Any] = {"sample_weight": samples} if kind in ("index", "dense", "topk") else {}
    return options | ({"weight": weight} if kind == "class weight" else {}) | {"target": target}


def without(options: dict[str, Any]) -> dict[str, Any]:
    """The options of the call without the rows GONE."""

    def kept(x: Any) -> Any:
        return TopK(x.index[KEPT], x.prob[KEPT]) if isinstance(x, TopK) else x[KEPT]

    return {name: x if name == "weight" else kept(x) for name, x in options.items()}


def of_logits(z, options, **more):
    z = z.clone().requires_grad_()
    loss = F.cross_entropy(z, **options, **more)
    return loss, torch.autograd.grad(loss.sum(), z)


def of_layer(operands, options, **more):
    operands = [x.clone().requires_grad_() for x in operands]
    loss = F.linear_cross_entropy(operands[0], operands[1], linear_bias=operands[2], **options, **more)
    return loss, torch.autograd.grad(loss.sum(), operands)


def assert_same(found, wanted):
    """The same numbers, but that a sum of other addends may round otherwise."""
    u = 4 * torch.finfo(wanted.dtype).eps
    torch.testing.assert_close(found, wanted, rtol=u, atol=u * float(wanted.detach().abs().max()))


@held
@dtypes
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_logits(kind, dtype, held):
    z = torch.randn(N, V, dtype=dtype)
    options = drawn(kind)
    averaged = "sample_weight" in options or kind == "class weight"  # a soft row without mass counts in a mean
    for reduction, scores in itertools.product(("none", "sum", "mean"), ({}, {"softcap": 3.0, "temperature": 0.7})):
        if reduction == "mean" and not averaged:
            continue
        z[GONE] = held
        z[GONE[0], :3] = 0.0
        loss, (grad,) = of_logits(z, options, reduction=reduction, **scores)
        want, (wanted,) = of_logits(z[KEPT], without(options), reduction=reduction, **scores)
        assert_same(loss[KEPT] if reduction == "none" else loss, want)
        assert reduction != "none" or not loss[GONE].any()
        assert_same(grad[KEPT], wanted)
        assert not grad[GONE].any()


@held
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_layer(kind, dtype, held):
    x, weight, bias = torch.randn(N, D, dtype=dtype), torch.randn(V, D, dtype=dtype), torch.randn(V, dtype=dtype)
    x[GONE] = held
    x[GONE[0], 0] = 1.0
    options = drawn(kind)
    averaged = "sample_weight" in options or kind == "class weight"
    for reduction, more in itertools.product(("none", "sum", "mean"), ({}, {"chunk_bytes": 512}, {"z_loss": 0.1})):
        if (reduction == "mean" and not averaged) or ("z_loss" in more and "sample_weight" not in options):
            continue  # the penalty of a row does not depend on its target
        loss, grads = of_layer((x, weight, bias), options, reduction=reduction, **more)
        want, wanted = of_layer((x[KEPT], weight, bias), without(options), reduction=reduction, **more)
        loss = loss[KEPT] if reduction == "none" else loss
        close = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 2 * V * torch.finfo(dtype).eps}  # other sums, one rounding
        torch.testing.assert_close(loss, want, rtol=1e-5 if dtype != torch.float64 else 1e-13, atol=0)
        torch.testing.assert_close(grads[0][KEPT], wanted[0], **close)
        assert not grads[0][GONE].any()
        torch.testing.assert_close(grads[1:], wanted[1:], **close)


@held
def test_gradients_of_what_else_is_differentiable(held):
    z, index = torch.randn(N, V), torch.randint(0, V, (N,))
    z[GONE] = held
    samples = torch.rand(N)
    samples[GONE] = 0.0
    samples.requires_grad_()
    for target in (
        index,
        torch.rand(N, V, requires_grad=True),
        TopK(index[:, None], torch.rand(N, 1, requires_grad=True)),
    ):
        wanted = [samples] + [
            x for x in (target, getattr(target, "prob", None)) if isinstance(x, torch.Tensor) and x.requires_grad
        ]
        for grad in torch.autograd.grad(F.cross_entropy(z, target, sample_weight=samples, reduction="sum"), wanted):
            assert grad.isfinite().all()
            assert not grad[GONE].any()
            assert grad[KEPT].any()


def test_a_weight_of_0_still_has_its_own_gradient():
    # reweighting by meta-gradients starts from weights of 0: the derivative by a weight is the row's loss
    z, y, samples = torch.randn(N, V), torch.randint(0, V, (N,)), torch.zeros(N, requires_grad=True)
    (grad,) = torch.autograd.grad(F.cross_entropy(z, y, sample_weight=samples, reduction="sum"), samples)
    assert torch.equal(grad, F.cross_entropy(z, y, reduction="none"))
    z.requires_grad_()
    loss = F.cross_entropy(z, y, sample_weight=samples, reduction="sum")
    (by_row,) = torch.autograd.grad(loss, z, create_graph=True)
    (found,) = torch.autograd.grad(by_row.sum(0)[3], samples)
    plain = torch.autograd.functional.jacobian(lambda z: torch.nn.functional.cross_entropy(z, y, reduction="none"), z)
    torch.testing.assert_close(found, plain.sum(1)[:, 3])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_nothing_counts(reduction):
    z = torch.full((N, V), float("nan"))
    for options in (drawn("index"), drawn("class weight")):
        if "weight" in options:
            options["target"][:] = V - 1
        else:
            options["sample_weight"][:] = 0.0
        loss, (grad,) = of_logits(z, options, reduction=reduction)
        assert loss.isnan() if reduction == "mean" else loss == 0
        assert not grad.any()
        _, grads = of_layer(
            (torch.full((N, D), float("nan")), torch.randn(V, D), torch.randn(V)), options, reduction=reduction
        )
        assert not any(grad.any() for grad in grads)


@dtypes
@pytest.mark.parametrize("loss", [F.binary_cross_entropy, F.binary_cross_entropy_with_logits])
def test_elements(loss, dtype):
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), 2.0, 0.0, 1.0])
    x, t = (a.flatten().to(dtype) for a in torch.meshgrid(values, values, indexing="ij"))
    x, t = (
        torch.cat((x, torch.rand(5).to(dtype))).requires_grad_(),
        torch.cat((t, torch.rand(5).to(dtype))).requires_grad_(),
    )
    weight = torch.cat((torch.zeros(36), torch.ones(5)))
    for reduction in ("none", "sum"):
        value = loss(x, t, weight, reduction=reduction)
        grads = torch.autograd.grad(value.sum(), (x, t))
        rest = [a[36:].detach().requires_grad_() for a in (x, t)]
        want = loss(*rest, reduction=reduction)
        assert_same(value[36:] if reduction == "none" else value, want)
        for grad, wanted in zip(grads, torch.autograd.grad(want.sum(), rest), strict=True):
            assert not grad[:36].any()
            assert torch.equal(grad[36:], wanted)


@dtypes
@pytest.mark.parametrize("weight", [None, 0.25])
def test_the_slope_by_a_binary_target_is_the_logit(dtype, weight):
    # the difference of both losses would round twice, and be 0 for small logits
    x = torch.tensor([1e-4, -3e-5, 0.7576, -17.3, 800.0, float("inf"), -float("inf")]).to(dtype)
    t = torch.rand(7).to(dtype).requires_grad_()
    given = None if weight is None else torch.full((7,), weight)
    (grad,) = torch.autograd.grad(F.binary_cross_entropy_with_logits(x, t, given, reduction="sum"), t)
    assert torch.equal(grad, -x * (weight or 1.0))


def test_second_derivatives_do_not_meet_what_was_removed():
    z = torch.randn(N, V, dtype=torch.float64)
    z[GONE] = float("nan")
    for kind in ("class weight", "padding", "no probability"):
        x = z.clone().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(x, **drawn(kind), reduction="sum"), x, create_graph=True)
        (second,) = torch.autograd.grad(grad.square().sum(), x)
        assert second.isfinite().all()
        assert not second[GONE].any()
        assert second[KEPT].any()


@pytest.mark.parametrize("target", [2.0, -1.0, 5, float("nan")])
@pytest.mark.parametrize("loss", [F.binary_cross_entropy, F.binary_cross_entropy_with_logits])
def test_a_binary_target_is_between_0_and_1(loss, target):
    x = torch.rand(3, 4)
    t = torch.zeros(3, 4, dtype=torch.int64 if isinstance(target, int) else torch.float32)
    t[1, 2] = target
    with pytest.raises(ValueError, match=r"target must be between 0 and 1, got .* at \(1, 2\)"):
        _ = loss(x, t)
    weight = torch.ones(3, 4)
    weight[1, 2] = 0
    assert loss(x, t, weight).isfinite()


def test_a_compiled_binary_loss_checks_its_target():
    compiled = torch.compile(F.binary_cross_entropy_with_logits, fullgraph=True, backend="aot_eager")
    x, t = torch.rand(3, 4), torch.zeros(3, 4)
    assert torch.equal(compiled(x, t), F.binary_cross_entropy_with_logits(x, t))
    t[1, 2] = 2.0
    with pytest.raises(ValueError, match=r"target must be between 0 and 1, got 2.0 at \(1, 2\)"):
        _ = compiled(x, t)


def test_statistics_of_a_padded_row_are_those_of_its_prediction():
    z, target = torch.randn(N, V), drawn("padding")["target"]
    _, stats = F.cross_entropy(z, target, return_stats=True)
    assert not stats.correct[GONE].any()
    assert not stats.logprob[GONE].any()
    torch.testing.assert_close(stats.lse, z.logsumexp(1))


@pytest.mark.parametrize("penalty", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_a_row_whose_positions_are_removed_in_different_ways(reduction, penalty):
    # ignored here, of weight 0 there: the row of the input is left with no part in the gradient of the weight
    x, weight, bias = torch.randn(3, D), torch.randn(V, 2, D), torch.zeros(V, 2)
    x[1] = float("nan")
    y, samples, rest = torch.randint(0, V, (3, 2)), torch.ones(3, 2), [0, 2]
    y[1, 0], samples[1, 1] = -100, 0.0
    options: dict[str, Any] = {"reduction": reduction, "z_loss": penalty}
    loss, grads = of_layer((x, weight, bias), {"target": y, "sample_weight": samples}, **options)
    kept = {"target": y[rest], "sample_weight": samples[rest]}
    want, wanted = of_layer((x[rest], weight, bias), kept, **options)
    torch.testing.assert_close(loss.sum(), want.sum())
    torch.testing.assert_close(grads[1:], wanted[1:])
    assert not grads[0][1].any()
