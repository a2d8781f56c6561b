"""Function transforms and forward mode on every loss: what torch gives for its own loss, or for the plain formula."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd import functional as af
from torch.func import grad, grad_and_value, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import plain
from tests.torch.transforming import CASES, Case

pytestmark = [
    # of torch's own: the first dual number of a process, and slow loops of the old vmap in torch.autograd.functional
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node"),  # by linearize, for targets
]

Function = Callable[..., Any]
Tensors = tuple[Tensor, ...]


def tangents(x: Tensors) -> Tensors:
    return tuple(0.3 * torch.ones_like(a) + 0.1 * a for a in x)


def every(x: Tensors) -> tuple[int, ...]:
    return tuple(range(len(x)))


def total(f: Function) -> Function:
    return lambda *x: f(*x).sum()


def cotangents(out: Tensor, number: int) -> Tensor:
    return torch.stack([plain.cotangent_like(out, seed) for seed in range(number)])


def samples(x: Tensors) -> Tensors:
    return tuple(torch.stack([a, 0.5 * a, 0.2 * a]) for a in x)


def with_gradients(x: Tensors) -> list[Tensor]:
    return [a.clone().requires_grad_() for a in x]


def pushed(f: Function, x: Tensors) -> Any:
    with forward_ad.dual_level():
        out = f(*map(forward_ad.make_dual, x, tangents(x)))
        return tuple(forward_ad.unpack_dual(out))


def pushed_back(f: Function, x: Tensors) -> Any:
    """Forward over reverse: a Hessian-vector product."""
    with forward_ad.dual_level():
        duals = list(map(forward_ad.make_dual, with_gradients(x), tangents(x)))
        return [tuple(forward_ad.unpack_dual(g)) for g in torch.autograd.grad(total(f)(*duals), duals)]


def dual_cotangent(f: Function, x: Tensors) -> Any:
    """The tangent of a cotangent, through a backward whose forward had none."""
    leaves = with_gradients(x)
    with forward_ad.dual_level():
        out = f(*leaves)
        g = forward_ad.make_dual(cotangents(out, 1)[0], cotangents(out, 2)[1])
        return [tuple(forward_ad.unpack_dual(d)) for d in torch.autograd.grad(out, leaves, g)]


def batched_cotangents(f: Function, x: Tensors) -> Any:
    leaves = with_gradients(x)
    out = f(*leaves)
    found = torch.autograd.grad(out, leaves, cotangents(out, 3), is_grads_batched=True, create_graph=True)
    return found, torch.autograd.grad(sum((d * d).sum() for d in found), leaves)


def pulled(f: Function, x: Tensors) -> Any:
    out, pull = vjp(f, *x)
    return out, pull(cotangents(out, 1)[0])


def linear_part(f: Function, x: Tensors) -> Any:
    out, push = linearize(f, *x)
    return out, push(*tangents(x))


TRANSFORMS: dict[str, Callable[[Function, Tensors], Any]] = {
    "grad": lambda f, x: grad(total(f), every(x))(*x),
    "grad_and_value": lambda f, x: grad_and_value(total(f), every(x))(*x),
    "vjp": pulled,
    "jvp": lambda f, x: jvp(f, x, tangents(x)),
    "linearize": linear_part,
    "jacrev": lambda f, x: jacrev(f, every(x))(*x),
    "jacfwd": lambda f, x: jacfwd(f, every(x))(*x),
    "hessian": lambda f, x: hessian(total(f), every(x))(*x),
    "jacrev of jacrev": lambda f, x: jacrev(jacrev(total(f), every(x)), every(x))(*x),
    "jacrev of jacfwd": lambda f, x: jacrev(jacfwd(total(f), every(x)), every(x))(*x),
    "vmap": lambda f, x: vmap(f)(*samples(x)),
    "vmap of one": lambda f, x: vmap(f, in_dims=(0, *[None] * (len(x) - 1)))(samples(x)[0], *x[1:]),
    "vmap of vmap": lambda f, x: vmap(vmap(f), in_dims=1)(*samples(samples(x))),
    "vmap of grad": lambda f, x: vmap(grad(total(f), every(x)))(*samples(x)),
    "vmap of hessian": lambda f, x: vmap(hessian(total(f)))(*samples(x)),
    "functional.jacobian": af.jacobian,
    "functional.jacobian, vectorized": lambda f, x: af.jacobian(f, x, vectorize=True),
    "functional.jacobian, forward": lambda f, x: af.jacobian(f, x, vectorize=True, strategy="forward-mode"),
    "functional.hessian": lambda f, x: af.hessian(total(f), x),
    "functional.hessian, vectorized": lambda f, x: af.hessian(total(f), x, vectorize=True),
    "functional.hessian, forward": lambda f, x: af.hessian(
        total(f), x, vectorize=True, outer_jacobian_strategy="forward-mode"
    ),
    "functional.hvp": lambda f, x: af.hvp(total(f), x, tangents(x)),
    "functional.vhp": lambda f, x: af.vhp(total(f), x, tangents(x)),
    "functional.jvp": lambda f, x: af.jvp(f, x, tangents(x)),
    "dual numbers": pushed,
    "dual numbers, backward": pushed_back,
    "a dual cotangent": dual_cotangent,
    "batched cotangents": batched_cotangents,
}
QUICK = ("grad", "jvp", "hessian", "vmap", "vmap of grad", "dual numbers", "a dual cotangent", "batched cotangents")


def agree(got: Any, want: Any) -> None:
    for a, b in zip(pytree.tree_leaves(got), pytree.tree_leaves(want), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def inputs_of(name: str, case: Case) -> Tensors:
    x = case.inputs()
    return (0.1 + 0.8 * torch.rand_like(x[0]), *x[1:]) if name.startswith("binary ") and "logits" not in name else x


def check(transform: str, name: str) -> None:
    case, apply = CASES[name], TRANSFORMS[transform]
    x = inputs_of(name, case)
    agree(apply(case.ours, x), apply(case.rival, x))


FEW = ("index mean", "topk", "binary mean", "linear mean")
LOOKS_AT_NUMBERS = ("topk", "statistics", "linear statistics")
"""Losses whose plain formula looks at numbers, which linearize cannot."""


@pytest.mark.parametrize(
    ("transform", "name"),
    [(t, n) for t in QUICK for n in FEW if (t, n) != ("hessian", "linear mean")],  # which takes a second
)
def test_the_losses_under_a_transform(transform, name):
    check(transform, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("transform", "name"),
    [(t, n) for t in TRANSFORMS for n in CASES if t != "linearize" or n not in LOOKS_AT_NUMBERS],
)
def test_every_loss_under_every_transform(transform, name):
    check(transform, name)


@pytest.mark.slow
def test_linearize_is_the_jvp():
    for name in LOOKS_AT_NUMBERS:
        case = CASES[name]
        x = case.inputs()
        agree(linear_part(case.ours, x), jvp(case.ours, x, tangents(x)))


# Over samples and models -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_vmap_over_every_choice_of_arguments():
    z, y, w = torch.randn(3, 6, 5), torch.randint(5, (3, 6)), torch.rand(3, 5)
    s, top = torch.rand(3, 6), TopK(torch.randint(5, (3, 6, 2)), torch.rand(3, 6, 2))

    def loss(home, z, y, w, s, index, prob):
        soft = home.cross_entropy(z, TopK(index, prob), w, sample_weight=s)
        return soft + home.cross_entropy(z, y, w, sample_weight=s, label_smoothing=0.1, temperature=1.3)

    whole = (z, y, w, s, top.index, top.prob)
    for choice in range(1, 64):
        dims: Any = tuple(0 if choice >> k & 1 else None for k in range(6))
        given = [x if d == 0 else x[1] for x, d in zip(whole, dims, strict=True)]
        rows = [[x[k] if d == 0 else x for x, d in zip(given, dims, strict=True)] for k in range(3)]
        got = vmap(lambda *x: loss(F, *x), in_dims=dims)(*given)
        torch.testing.assert_close(got, torch.stack([loss(plain, *row) for row in rows]), rtol=1e-5, atol=1e-5)


def test_per_sample_gradients_of_a_network():
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5)).double()
    x, y, state = torch.randn(7, 6, dtype=torch.float64), torch.randint(5, (7,)), dict(net.named_parameters())

    def loss(state, x, y, home):
        out = torch.func.functional_call(net, state, (x[None],))
        return home.cross_entropy(out, y[None])

    got = vmap(grad(lambda *a: loss(*a, F)), in_dims=(None, 0, 0))(state, x, y)
    for k in range(len(x)):
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(x[k : k + 1]), y[k : k + 1]).backward()
        agree({name: g[k] for name, g in got.items()}, {name: p.grad for name, p in net.named_parameters()})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_per_sample_gradients_by_opacus():
    samples_of = pytest.importorskip("opacus.grad_sample", reason="Opacus takes gradients of single samples")
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5))
    x, y, found = torch.randn(7, 6), torch.randint(5, (7,)), []
    for home in (F, torch.nn.functional):
        wrapped = samples_of.GradSampleModule(copy.deepcopy(net), force_functorch=True, loss_reduction="mean")
        home.cross_entropy(wrapped(x), y, label_smoothing=0.1).backward()
        found.append([p.grad_sample for p in wrapped.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_an_ensemble_of_heads():
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randint(5, (6,))
    weights, biases = torch.randn(3, 5, 4, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)

    def loss(w, b):
        return F.linear_cross_entropy(x, w, y, linear_bias=b)

    got = vmap(grad_and_value(loss, (0, 1)))(weights, biases)
    for k in range(3):
        w, b = weights[k].clone().requires_grad_(), biases[k].clone().requires_grad_()
        want = torch.nn.functional.cross_entropy(x @ w.T + b, y)
        agree(pytree.tree_map(lambda t, k=k: t[k], got), (torch.autograd.grad(want, (w, b)), want.detach()))


def test_the_gauss_newton_matrix_is_that_of_the_softmax():
    z, y = torch.randn(5, dtype=torch.float64), torch.tensor(2)
    q = z.softmax(0)
    torch.testing.assert_close(hessian(lambda z: F.cross_entropy(z, y))(z), q.diag() - q.outer(q), rtol=1e-10, atol=0)


@pytest.mark.slow
def test_compiled_around_transforms():
    z, y = torch.randn(3, 6, 5), torch.randint(5, (3, 6))

    def per_sample(z, y):
        return vmap(grad(lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1)))(z, y)

    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = torch.compile(per_sample, fullgraph=True, backend="aot_eager")(z, y)
    torch._dynamo.reset()
    want = vmap(grad(lambda z, y: torch.nn.functional.cross_entropy(z, y, label_smoothing=0.1)))(z, y)
    torch.testing.assert_close(got, want)


# Types, errors, corners --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_half_precision_under_a_transform(dtype):
    z, y = torch.randn(6, 5).to(dtype), torch.randint(5, (6,))
    g, loss = grad_and_value(lambda z: F.cross_entropy(z, y))(z)
    assert (g.dtype, loss.dtype) == (dtype, torch.float32)
    eager = z.clone().requires_grad_()
    want = F.cross_entropy(eager, y)
    want.backward()
    torch.testing.assert_close(loss, want.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(g, eager.grad, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_under_autocast():
    x, w, y = torch.randn(6, 4), torch.randn(5, 4), torch.randint(5, (6,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        g, loss = grad_and_value(lambda w: F.linear_cross_entropy(x, w, y))(w)
        eager = w.clone().requires_grad_()
        want = F.linear_cross_entropy(x, eager, y)
        want.backward()
    assert (g.dtype, loss.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(loss, want.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(g, eager.grad, rtol=2**-7, atol=2**-9)


@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap", "vmap of grad", "hessian"])
def test_a_class_that_does_not_exist_raises_as_ever(transform):
    y = torch.tensor([0, 1, 9, 2])
    for f, shapes in (
        (lambda z: F.cross_entropy(z, y), [(4, 5)]),
        (lambda z: F.cross_entropy(z, TopK(y[:, None], torch.ones(4, 1))), [(4, 5)]),
        (lambda x, w: F.linear_cross_entropy(x, w, y), [(4, 3), (5, 3)]),
    ):
        with pytest.raises(IndexError, match=r"class 9 \(row 2 of 4\) is not one of the 5 classes"):
            _ = TRANSFORMS[transform](f, tuple(torch.randn(shape) for shape in shapes))


def test_a_class_of_one_sample_is_counted_through_the_samples():
    z, y = torch.randn(3, 4, 5), torch.randint(5, (4, 3))
    y[2, 1] = -7
    with pytest.raises(IndexError, match=r"class -7 \(row 6 of 12\)"):
        _ = vmap(F.cross_entropy, in_dims=(0, 1))(z, y)


def test_what_is_no_probability_raises_as_ever():
    z, p = torch.randn(4, 5), torch.rand(4, 5)
    p[1, 3] = -0.5
    with pytest.raises(ValueError, match=r"target probability -0.5 \(row 1, column 3\)"):
        _ = grad(lambda z: F.cross_entropy(z, p))(z)
    with pytest.raises(ValueError, match="input must be between 0 and 1, got"):
        _ = grad(lambda q: F.binary_cross_entropy(q, torch.rand(4, 5)))(z * 9)


def test_nothing_times_infinity_is_nothing_and_has_a_gradient():
    # the derivative by a probability is what its class costs, also at probability 0
    z, p = torch.randn(3, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)[:3]
    torch.testing.assert_close(grad(lambda p: F.cross_entropy(z, p, reduction="sum"))(p), -z.log_softmax(1))
    z[0, 1] = -torch.inf
    assert F.cross_entropy(z, p).isfinite()
    got = grad(lambda z: F.cross_entropy(z, p))(z)
    torch.testing.assert_close(got, (z.softmax(1) - p) / 3)


@pytest.mark.parametrize("name", ["binary_cross_entropy_with_logits", "binary_cross_entropy"])
def test_mixed_derivatives_at_targets_of_zero_and_one(name):
    x, t = torch.rand(6, dtype=torch.float64, requires_grad=True), torch.tensor([0.0, 1, 0, 1, 0.5, 1]).double()
    t = t.requires_grad_()
    for f in (getattr(F, name), getattr(torch.nn.functional, name)):
        (g,) = torch.autograd.grad(f(x, t, reduction="sum"), x, create_graph=True)
        (mixed,) = torch.autograd.grad(g.sum(), t)
        want = -torch.ones_like(x) if name.endswith("logits") else -1 / (x * (1 - x))
        torch.testing.assert_close(mixed, want.detach())


def test_mixed_derivatives_at_probabilities_of_zero():
    z, p = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.eye(4).double()[:3].requires_grad_()
    v, mixed = torch.randn(3, 4, dtype=torch.float64), []
    for home in (F, torch.nn.functional):
        (g,) = torch.autograd.grad(home.cross_entropy(z, p), z, create_graph=True)
        mixed.append(torch.autograd.grad((g * v).sum(), p)[0])
    torch.testing.assert_close(*mixed)


def test_a_fused_head_and_its_loss():
    head = torch.nn.Linear(4, 5).double()
    x, y, state = torch.randn(6, 4, dtype=torch.float64), torch.randint(5, (6,)), dict(head.named_parameters())

    def loss(state, home):
        return home.cross_entropy(torch.func.functional_call(head, state, (x,)), y)

    want = grad(lambda s: loss(s, torch.nn.functional))(state)
    _ = F.fuse_lm_head(head)
    agree(grad(lambda s: loss(s, F))(state), want)
    agree(grad(lambda s: loss(s, torch.nn.functional))(state), want)
