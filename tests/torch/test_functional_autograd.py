"""Derivatives of every order: numerical ones, plain ones, twice the same one, with any cotangent."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as nnf
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import plain

pytestmark = pytest.mark.slow

SHAPES = {"rows": (3, 4), "pixels": (2, 3, 2), "vector": (4,)}
OPTIONS = {
    "plain": {},
    "weight": {"weight": "C"},
    "smoothing": {"label_smoothing": 0.2},
    "temperature": {"temperature": 0.6},
    "softcap": {"softcap": 2.0},
    "z-loss": {"z_loss": 0.1},
    "sample weight": {"sample_weight": "N"},
    "everything": {
        "weight": "C",
        "label_smoothing": 0.2,
        "temperature": 0.6,
        "softcap": 2.0,
        "z_loss": 0.1,
        "sample_weight": "N",
    },
}
KINDS = ("index", "ignored", "dense", "topk")


def rows_of(shape):
    return () if len(shape) == 1 else (shape[0], *shape[2:])


def arguments(shape, kind, option):
    """Differentiable inputs, and a function of them that calls with the rest."""
    C, axis = (shape[0], 0) if len(shape) == 1 else (shape[1], 1)
    z = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    options = dict(OPTIONS[option])
    sizes = {"C": (C,), "N": rows_of(shape)}
    for key, size in options.items():
        if isinstance(size, str):
            options[key] = torch.rand(sizes[size], dtype=torch.float64) + 0.5
    if kind in {"index", "ignored"}:
        y = torch.randint(C, rows_of(shape))
        if kind == "ignored" and y.ndim:
            y[0] = -100
        return (z,), lambda z, **k: F.cross_entropy(z, y, **options, **k), y, options
    if kind == "dense":
        p = torch.rand(shape, dtype=torch.float64, requires_grad=True)
        return (z, p), lambda z, p, **k: F.cross_entropy(z, p, **options, **k), None, options
    inner = [*shape[:axis], 2, *shape[axis + 1 :]]
    index, p = torch.randint(C, inner), torch.rand(inner, dtype=torch.float64, requires_grad=True)
    return (z, p), lambda z, p, **k: F.cross_entropy(z, TopK(index, p), **options, **k), index, options


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_first_and_second_derivatives(shape, kind, option):
    for reduction in ("mean", "none"):
        inputs, function, *_ = arguments(shape, kind, option)

        def call(*x, function=function, reduction=reduction):
            return function(*x, reduction=reduction)

        assert gradcheck(call, inputs)
        assert gradgradcheck(call, inputs)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_first_and_second_derivatives_of_the_statistics(kind, option):
    inputs, function, *_ = arguments(SHAPES["pixels"], kind, option)

    def call(*x):
        loss, stats = function(*x, return_stats=True)
        return loss, stats.lse, stats.logprob, stats.entropy

    assert gradcheck(call, inputs)
    assert gradgradcheck(call, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_of_double_backward(kind):
    # float32 throughout: the second derivative is that of the plain loss, up to float32
    for option in OPTIONS:
        inputs, function, target, options = arguments((3, 4), kind, option)
        results = []
        for dtype in (torch.float32, torch.float64):
            x = [plain.cast(v, dtype) for v in inputs]
            if dtype == torch.float32:
                loss = function(*x)
            else:
                soft = x[1] if kind == "dense" else TopK(target, x[1]) if kind == "topk" else target
                loss = plain.cross_entropy(x[0], soft, **options)
            (g,) = torch.autograd.grad(loss, x[0], create_graph=True)
            results.append(torch.autograd.grad(g, x, plain.cotangent_like(g).to(dtype), allow_unused=True))
        for got, want in zip(*results, strict=True):
            plain.agree(f"second derivative with {option}", got, want, None, 4e-6)


@pytest.mark.parametrize("option", ["plain", "smoothing", "temperature", "softcap", "z-loss"])
def test_ignored_and_impossible_are_so_in_second_derivatives_too(option):
    y = torch.tensor([0, -100, 2])
    z = torch.randn(3, 4, dtype=torch.float64)
    z[1] = torch.nan
    if option != "smoothing":
        z[0, 1] = z[2, 0] = -torch.inf
    _ = z.requires_grad_()
    loss, stats = F.cross_entropy(z, y, return_stats=True, **OPTIONS[option])
    (g,) = torch.autograd.grad(loss + stats.entropy.sum() + stats.lse.sum(), z, create_graph=True)
    (h,) = torch.autograd.grad((g * plain.cotangent_like(z)).sum(), z)
    assert torch.equal(h[1], torch.zeros(4, dtype=h.dtype))
    assert h.isfinite().all()
    kept = z.detach()[[0, 2]].requires_grad_()
    finite = torch.where(kept.isfinite(), kept, -1e3)  # plain operations cannot be differentiated twice at −inf
    want, more = plain.cross_entropy(finite, y[[0, 2]], return_stats=True, **OPTIONS[option])
    (g,) = torch.autograd.grad(want + more["entropy"].sum() + more["lse"].sum(), finite, create_graph=True)
    (want,) = torch.autograd.grad((g * plain.cotangent_like(z)[[0, 2]]).sum(), finite)
    torch.testing.assert_close(h[[0, 2]], want)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vectorised_jacobians():
    z, y = torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 1, 3])

    def of(home):
        return lambda x: home.cross_entropy(x, y, reduction="none")

    want = torch.autograd.functional.jacobian(of(nnf), z)
    for vectorize in (False, True):
        torch.testing.assert_close(torch.autograd.functional.jacobian(of(F), z, vectorize=vectorize), want)


def test_the_third_derivative():
    z = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 3])
    results = []
    for f in (F.cross_entropy, nnf.cross_entropy):
        out, gs = f(z, y), []
        for k in range(3):
            (out,) = torch.autograd.grad(
                out.sum() if k == 0 else (out * plain.cotangent_like(z, k)).sum(), z, create_graph=True
            )
            gs.append(out)
        results.append(gs)
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_hessians():
    z = torch.randn(5, dtype=torch.float64)
    y = torch.tensor(2)
    p = z.softmax(0)
    want = torch.diag(p) - torch.outer(p, p)
    torch.testing.assert_close(torch.autograd.functional.hessian(lambda x: F.cross_entropy(x, y), z), want)
    x, t = torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    want = torch.diag(x.sigmoid() * (-x).sigmoid())
    got = torch.autograd.functional.hessian(lambda x: F.binary_cross_entropy_with_logits(x, t, reduction="sum"), x)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_second_backward_gives_the_same_gradients(kind, dtype):
    inputs, function, *_ = arguments((5, 7), kind, "everything")
    x = [plain.cast(v, dtype) for v in inputs]
    for reduction in ("mean", "none"):
        loss, stats = function(*x, reduction=reduction, return_stats=True)
        total = (loss * plain.cotangent_like(loss).to(loss.dtype)).sum() + stats.entropy.sum()
        first = [g.clone() for g in torch.autograd.grad(total, x, retain_graph=True)]
        second = [g.clone() for g in torch.autograd.grad(total, x, retain_graph=True)]
        third = torch.autograd.grad(total, x)
        for a, b, c in zip(first, second, third, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(a, c)


def test_gradients_accumulate_like_others():
    z = torch.randn(4, 5, requires_grad=True)
    y = torch.randint(5, (4,))
    loss = F.cross_entropy(z, y)
    _ = loss.backward(retain_graph=True)
    once = z.grad.clone()
    _ = loss.backward()
    torch.testing.assert_close(z.grad, 2 * once)


@pytest.mark.parametrize("kind", KINDS)
def test_cotangents_of_any_layout(kind):
    shape = (4, 5, 3)
    inputs, function, *_ = arguments(shape, kind, "smoothing")
    loss = function(*inputs, reduction="none")
    full = plain.cotangent_like(loss)
    for g in (
        full.mT.contiguous().mT,
        torch.stack([full, full + 1], -1)[..., 0],
        torch.tensor(2.0, dtype=torch.float64).expand(loss.shape),
        full[:1].expand(loss.shape),
        torch.zeros_like(full),
    ):
        got = torch.autograd.grad(loss, inputs, g, retain_graph=True)
        want = torch.autograd.grad(loss, inputs, g.contiguous(), retain_graph=True)
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a, b)


def test_a_gradient_only_where_one_is_wanted():
    z, p = torch.randn(3, 4), torch.rand(3, 4)
    for need_z, need_p in itertools.product((False, True), repeat=2):
        for target in (lambda q: q, lambda q: TopK(torch.arange(4).expand(3, 4), q)):
            a, b = z.clone().requires_grad_(need_z), p.clone().requires_grad_(need_p)
            loss = F.cross_entropy(a, target(b))
            assert loss.requires_grad == (need_z or need_p)
            if loss.requires_grad:
                _ = loss.backward()
            assert (a.grad is not None) == need_z
            assert (b.grad is not None) == need_p


def test_sample_weights_have_gradients():
    z, y = torch.randn(4, 5, dtype=torch.float64), torch.randint(5, (4,))
    s = torch.rand(4, dtype=torch.float64, requires_grad=True)
    for reduction in ("mean", "sum"):
        (got,) = torch.autograd.grad(F.cross_entropy(z, y, sample_weight=s, z_loss=0.1, reduction=reduction), s)
        (want,) = torch.autograd.grad(plain.cross_entropy(z, y, sample_weight=s, z_loss=0.1, reduction=reduction), s)
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    z, y = torch.randn(4, 5, requires_grad=True), torch.randint(5, (4,))
    with mode():
        loss, stats = F.cross_entropy(z, y, return_stats=True)
        assert not loss.requires_grad
        assert not stats.lse.requires_grad
        torch.testing.assert_close(loss, nnf.cross_entropy(z, y))
        made = torch.randn(4, 5)
        torch.testing.assert_close(F.cross_entropy(made, y), nnf.cross_entropy(made, y))
        torch.testing.assert_close(
            F.binary_cross_entropy_with_logits(made, made.sigmoid()),
            nnf.binary_cross_entropy_with_logits(made, made.sigmoid()),
        )


def test_tensors_that_are_views_of_other_things():
    # a view whose numbers are negated when read, and logits that are a view of what has the gradient
    c = torch.randn(4, 5, dtype=torch.complex64)
    lazy, done = c.conj().imag, -c.imag
    assert lazy.is_neg()
    y = torch.randint(5, (4,))
    for x, t in ((lazy, done.sigmoid()), (done, lazy.neg().sigmoid()), (done, lazy.sigmoid())):
        torch.testing.assert_close(F.cross_entropy(x, y), nnf.cross_entropy(done, y))
        torch.testing.assert_close(
            F.binary_cross_entropy_with_logits(x, t), nnf.binary_cross_entropy_with_logits(done, t.clone())
        )
    weight = torch.randn(5, dtype=torch.complex64).conj().imag
    torch.testing.assert_close(F.cross_entropy(done, y, weight), nnf.cross_entropy(done, y, weight))
    loss = F.cross_entropy(done.requires_grad_(), y, reduction="none")
    g = torch.randn(4, dtype=torch.complex64).conj().imag
    (got,), (want,) = (torch.autograd.grad(loss, done, x, retain_graph=True) for x in (g, g.clone()))
    assert torch.equal(got, want)
    base = torch.randn(4, 10, requires_grad=True)
    (got,) = torch.autograd.grad(F.cross_entropy((base * 2)[:, ::2], y), base)
    (want,) = torch.autograd.grad(nnf.cross_entropy((base * 2)[:, ::2], y), base)
    torch.testing.assert_close(got, want)


def test_changing_the_logits_after_the_forward_pass_is_noticed():
    # saved tensors are versioned: no silently wrong gradient
    z = torch.randn(4, 5, requires_grad=True)
    held = z * 1
    loss = F.cross_entropy(held, torch.randint(5, (4,)))
    _ = held.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        _ = loss.backward()
    p = torch.rand(4, 5, requires_grad=True)
    held = p * 1
    loss = F.cross_entropy(z, held)
    _ = held.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        _ = loss.backward()


class Tagged(torch.Tensor):
    pass


@pytest.mark.parametrize("kind", [torch.nn.Parameter, lambda x: x.as_subclass(Tagged).requires_grad_()])
def test_parameters_and_subclasses(kind):
    z = kind(torch.randn(4, 5))
    y = torch.randint(5, (4,))
    for name, target in (("cross_entropy", y), ("binary_cross_entropy_with_logits", torch.rand(4, 5))):
        got, want = (getattr(home, name)(z, target) for home in (F, nnf))
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(got, z), torch.autograd.grad(want, z))


def test_checkpointing_and_saved_tensor_hooks():
    from torch.utils.checkpoint import checkpoint

    w = torch.randn(6, 5, requires_grad=True)
    x, y = torch.randn(4, 6), torch.randint(5, (4,))

    def step(w):
        loss, stats = F.cross_entropy(x @ w, y, z_loss=0.1, return_stats=True)
        return (
            loss
            + stats.entropy.mean()
            + F.cross_entropy(x @ w, y)
            + F.binary_cross_entropy_with_logits(x @ w, (x @ w).sigmoid())
        )

    (want,) = torch.autograd.grad(step(w), w)
    (got,) = torch.autograd.grad(checkpoint(step, w, use_reentrant=False), w)
    assert torch.equal(got, want)
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t.clone(), lambda t: t):
        loss = step(w)
    (got,) = torch.autograd.grad(loss, w)
    assert packed
    assert torch.equal(got, want)


def test_nothing_is_kept_alive_by_a_loss_that_is_gone():
    import gc
    import weakref

    z = torch.randn(4, 5, requires_grad=True)
    held = z * 1
    alive = weakref.ref(held)
    loss = F.cross_entropy(held, torch.randint(5, (4,)))
    _ = loss.backward()
    del held, loss
    _ = gc.collect()
    assert alive() is None


LOSSES = {
    "mean": lambda home, z, y: home.cross_entropy(z, y),
    "rows": lambda home, z, y: home.cross_entropy(z, y, reduction="none"),
    "binary": lambda home, z, y: home.binary_cross_entropy_with_logits(z, torch.full_like(z, 0.25)),
    "linear": lambda home, z, y: home.linear_cross_entropy(z, z.detach() + 1, y),
    "rows of a layer": lambda home, z, y: home.linear_cross_entropy(z, z.detach() + 1, y, reduction="none"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by the first dual number of a process
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("keep", [True, False])
def test_a_tangent_of_a_cotangent_is_refused_or_comes_through(keep, loss):
    # forward-mode over reverse-mode; the gradient is linear in the cotangent, and so is its tangent
    z, y = torch.randn(4, 4, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 3, 2])
    with forward_ad.dual_level():
        found = loss(F, z, y)
        g, t = plain.cotangent_like(found), plain.cotangent_like(found, 1)
        try:
            (d,) = torch.autograd.grad(found, z, forward_ad.make_dual(g, t), retain_graph=keep)
        except NotImplementedError as error:
            assert "forward-mode" in str(error)  # noqa: PT017
            return
        tangent = forward_ad.unpack_dual(d).tangent
    assert tangent is not None, "a tangent was dropped in silence"
    torch.testing.assert_close(tangent, torch.autograd.grad(loss(F, z, y), z, t)[0])


# The binary losses


@pytest.mark.parametrize("name", ["binary_cross_entropy_with_logits", "binary_cross_entropy"])
def test_binary_derivatives(name):
    function = getattr(F, name)
    for shape, weighted, reduction in itertools.product(((), (3,), (2, 3)), (False, True), ("mean", "sum", "none")):
        x = torch.randn(shape, dtype=torch.float64)
        x = (x if name.endswith("logits") else x.sigmoid()).requires_grad_()
        t = torch.rand(shape, dtype=torch.float64, requires_grad=True)
        options = {"weight": torch.rand(shape[-1:], dtype=torch.float64)} if weighted else {}
        if weighted and name.endswith("logits"):
            options["pos_weight"] = torch.rand(shape[-1:], dtype=torch.float64) * 3

        def call(a, b, options=options, reduction=reduction):
            return function(a, b, reduction=reduction, **options)

        assert gradcheck(call, (x, t))
        assert gradgradcheck(call, (x, t))
        loss = call(x, t)
        twice = [torch.autograd.grad(loss.sum(), (x, t), retain_graph=True) for _ in range(2)]
        for a, b in zip(*twice, strict=True):
            assert torch.equal(a, b)
