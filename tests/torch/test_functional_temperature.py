"""A temperature of each row: torch's own loss of logits that were divided row by row, in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as nnf
from torch._dynamo.backends.debugging import aot_eager
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import grad, vmap

import crossent.torch as F
from crossent.spec import Scores, Target
from crossent.torch.operators.rows import RowCall
from tests.torch import plain
from tests.torch.plain import classes_of, index_of, logits_of, probs_of, rows_of, topk_of

SHAPES = ((5, 7), (2, 6, 3), (3, 700), (70, 3), (130, 40))
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def temperatures(shape, dtype=torch.float64):
    """Numbers that every dtype of `DTYPES` holds."""
    return torch.tensor([0.25, 0.75, 1.0, 1.5, 3.0])[torch.randint(5, rows_of(shape))].to(dtype)


def target_of(kind, shape):
    if kind in {"index", "ignored"}:
        y = index_of(shape, -100 if kind == "ignored" else None)
        y.view(-1)[0] = 0
        return y
    return (probs_of if kind == "dense" else topk_of)(shape, requires_grad=True)


OPTIONS = {
    "nothing": {},
    "softcap": {"softcap": 3.0},
    "weight and smoothing": {"weight": True, "label_smoothing": 0.2},
    "z-loss": {"z_loss": 1e-2},
    "everything": {"softcap": 3.0, "weight": True, "label_smoothing": 0.2, "z_loss": 1e-2, "sample_weight": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["index", "ignored", "dense", "topk"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_beside_a_temperature_of_each_row(name, kind, dtype):
    for shape, reduction in itertools.product(SHAPES, ("none", "mean", "sum")):
        options = dict(OPTIONS[name], temperature=temperatures(shape), reduction=reduction)
        if "weight" in options:
            options["weight"] = torch.rand(classes_of(shape), dtype=torch.float64) + 0.1
        if "sample_weight" in options:
            options["sample_weight"] = torch.rand(rows_of(shape), dtype=torch.float64) + 0.1
        args = (logits_of(shape, 3.0), target_of(kind, shape))
        plain.compare(F.cross_entropy, plain.cross_entropy, plain.cross_entropy, dtype, args, options)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_loss_of_torch_of_logits_divided_by_row(shape, reduction):
    for kind in ("index", "ignored", "dense"):
        z, target, T = logits_of(shape, 3.0), target_of(kind, shape).detach(), temperatures(shape)
        got = F.cross_entropy(z, target, temperature=T, reduction=reduction)
        want = nnf.cross_entropy(z / T.unsqueeze(1), target, reduction=reduction)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        g = plain.cotangent_like(want)
        pair = (torch.autograd.grad(x, z, g) for x in (got, want))
        torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 5), (3, 200), (2, 6, 3)], ids=str)
def test_temperatures_of_every_dtype_and_stride(shape):
    z, y = logits_of(shape).float().detach(), index_of(shape)
    rows = rows_of(shape)
    base = torch.randint(1, 4, rows)
    want = F.cross_entropy(z, y, temperature=base.double(), reduction="none")
    every = torch.empty(*rows, 3, dtype=torch.float64)
    every[..., 1] = base
    dtypes = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.float16, torch.bfloat16,
              torch.float32, torch.float8_e5m2)  # fmt: skip
    for T in (*(base.to(dtype) for dtype in dtypes), every[..., 1], every.flip(0).flip(0)[..., 1]):
        got = F.cross_entropy(z, y, temperature=T, reduction="none")
        assert torch.equal(got, want), (T.dtype, T.stride())
    expanded = torch.full((1,) * len(rows), 0.7, dtype=torch.float64).expand(rows)
    assert torch.equal(
        F.cross_entropy(z, y, temperature=expanded, reduction="none"),
        F.cross_entropy(z, y, temperature=0.7, reduction="none"),
    )


def test_a_tensor_without_axes_is_a_number():
    z, y = logits_of((4, 5)).detach(), index_of((4, 5))
    want = F.cross_entropy(z, y, temperature=0.75)
    assert torch.equal(F.cross_entropy(z, y, temperature=torch.tensor(0.75)), want)
    assert torch.equal(
        F.cross_entropy(z[0], y[0], temperature=torch.tensor(0.75)), nnf.cross_entropy(z[0] / 0.75, y[0])
    )


@pytest.mark.parametrize("kind", ["index", "ignored", "dense", "topk"])
def test_statistics_at_the_temperature_of_their_row(kind):
    for shape in ((5, 7), (2, 6, 3), (3, 700)):
        z, target, T = logits_of(shape, 3.0), target_of(kind, shape), temperatures(shape)
        options = {"temperature": T, "softcap": 4.0, "label_smoothing": 0.1, "reduction": "sum", "return_stats": True}
        loss, stats = F.cross_entropy(z, target, **options)
        wanted, want = plain.cross_entropy(z, target, **options)
        total, expected = loss, wanted
        for seed, name in enumerate(("lse", "logprob", "entropy"), 1):
            torch.testing.assert_close(getattr(stats, name), want[name], rtol=1e-11, atol=1e-11)
            g = plain.cotangent_like(want[name], seed)
            total, expected = total + (g * getattr(stats, name)).sum(), expected + (g * want[name]).sum()
        for name in ("confidence", "correct"):
            torch.testing.assert_close(getattr(stats, name), want[name], rtol=1e-12, atol=0, check_dtype=False)
        for a, b in zip(*(torch.autograd.grad(x, plain.leaves(z, target)) for x in (total, expected)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_a_batch_without_rows(reduction):
    z = torch.empty(0, 5, requires_grad=True)
    y, T = torch.empty(0, dtype=torch.long), torch.empty(0)
    got = F.cross_entropy(z, y, temperature=T, reduction=reduction)
    torch.testing.assert_close(got, nnf.cross_entropy(z, y, reduction=reduction), equal_nan=True)
    got.sum().backward()
    assert z.grad is not None
    assert z.grad.shape == (0, 5)


@pytest.mark.parametrize("V", [3, 200])
def test_ignored_rows_may_have_any_temperature(V):
    z, y = torch.randn(6, V, requires_grad=True), torch.tensor([-100, 0, -100, 1, -100, 2])
    T = torch.tensor([0.0, 0.5, torch.nan, 2.0, torch.inf, 1.0])
    kept = y != -100
    got, want = F.cross_entropy(z, y, temperature=T), F.cross_entropy(z[kept], y[kept], temperature=T[kept])
    torch.testing.assert_close(got, want)
    (slope,) = torch.autograd.grad(got, z)
    assert not slope[~kept].any()
    assert slope.isfinite().all()


@pytest.mark.parametrize("V", [3, 200])
def test_second_derivatives(V):
    z, y, T = torch.randn(4, V, dtype=torch.float64, requires_grad=True), index_of((4, V)), temperatures((4, V))
    v = plain.cotangent_like(z)
    results = []
    for loss in (
        F.cross_entropy(z, y, temperature=T, label_smoothing=0.1),
        nnf.cross_entropy(z / T[:, None], y, label_smoothing=0.1),
    ):
        (first,) = torch.autograd.grad(loss, z, create_graph=True)
        results.append((first, *torch.autograd.grad(first, z, v)))
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-12)


def test_batches_and_gradients_of_torch_func():
    z, y, T = torch.randn(3, 4, 5).double(), torch.randint(5, (3, 4)), temperatures((3, 5, 4))

    def loss(z, y, T):
        return F.cross_entropy(z, y, temperature=T, z_loss=0.1)

    def want(z, y, T):
        s = z / T.unsqueeze(-1)
        return nnf.cross_entropy(s, y) + 0.1 * s.logsumexp(-1).square().mean()

    for over in ((0, 0, 0), (0, None, None), (None, 0, 0), (None, None, 0)):
        args = [x if axis == 0 else x[0] for x, axis in zip((z, y, T), over, strict=True)]
        torch.testing.assert_close(vmap(loss, over)(*args), vmap(want, over)(*args))
        torch.testing.assert_close(vmap(grad(loss), over)(*args), vmap(grad(want), over)(*args))
    with pytest.raises(ValueError, match=r"temperature must be between .* got 0\.0 \(row 6\)"):
        _ = vmap(loss)(z, y, T.index_fill(1, torch.tensor(2), 0.0).where(torch.arange(3)[:, None] == 1, T))


# Compilers


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_compiled_for_all_temperatures_at_once():
    z, y = torch.randn(4, 5, requires_grad=True), index_of((4, 5))

    def loss(z, T):
        return F.cross_entropy(z, y, temperature=T, softcap=3.0, return_stats=True)[0]

    programs = []

    def counting(graph, inputs):
        programs.append(graph)
        return aot_eager(graph, inputs)

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend=counting, fullgraph=True)
    for _ in range(3):
        T = torch.rand(4) + 0.5
        got, want = compiled(z, T), loss(z, T)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(*(torch.autograd.grad(x, z) for x in (got, want)))
    assert len(programs) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_operators_keep_their_contracts():
    ops = torch.ops.crossent
    T = torch.rand(4, dtype=torch.float64) + 0.5
    for V, softcap in ((5, 3.0), (200, None)):
        z = torch.randn(4, V, requires_grad=True)
        call = RowCall(z, Target(index_of((4, V)), ignore_index=-100), Scores(1.0, softcap, T))
        args = tuple(call.flatten())
        _ = torch.library.opcheck(ops.row_stats.default, args)
        _ = torch.library.opcheck(ops.row_loss.default, (*args, True))
        record = ops.row_stats.default(*args)[3].detach()
        _ = torch.library.opcheck(ops.row_grad.default, (*args, record, torch.randn(4, requires_grad=True), None, None))


def test_shapes_without_numbers():
    with FakeTensorMode():
        z, y, T = torch.randn(4, 5, requires_grad=True), torch.zeros(4, dtype=torch.long), torch.ones(4)
        loss = F.cross_entropy(z, y, temperature=T, reduction="none")
        assert loss.shape == (4,)
        loss.sum().backward()
        assert z.grad is not None
        with pytest.raises(ValueError, match="temperature must be a number, or a tensor of the shape"):
            _ = F.cross_entropy(z, y, temperature=torch.ones(3))


@pytest.mark.parametrize("module", [F.CrossEntropyLoss, lambda **o: F.LinearCrossEntropyLoss(3, 5, **o)])
def test_modules_take_a_number(module):
    with pytest.raises(TypeError, match="temperature must be a number"):
        _ = module(temperature=torch.ones(4))


def test_a_temperature_that_was_changed_after_the_loss_is_noticed():
    for V in (5, 200):
        z, T = torch.randn(4, V, requires_grad=True), torch.ones(4, dtype=torch.float64)
        loss = F.cross_entropy(z, index_of((4, V)), temperature=T)
        _ = T.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
