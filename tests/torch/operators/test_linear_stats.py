"""The operators of a linear layer, as linear_cross_entropy calls them: opcheck, compile, shapes without data."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import linear, plain
from tests.torch.linear import KINDS, draw
from tests.torch.operators.watching import check_compiled

ours = linear.by_position(F.linear_cross_entropy)
dtypes = pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)


class Recording(torch.utils._python_dispatch.TorchDispatchMode):
    """Keeps the arguments of every operator of ours that has to do with linear layers."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if str(function).startswith("crossent.linear"):
            kept = [x.detach().clone() if isinstance(x, torch.Tensor) else x for x in args]
            self.calls.setdefault(str(function), []).append((function, args, kept))
        return function(*args, **(kwargs or {}))


def same_numbers(a, b):
    return a.dtype == b.dtype and a.data_ptr() == b.data_ptr() and a.numel() == b.numel() > 0


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("kind", "reduction"),
    [("index", "mean"), ("ignored", "none"), ("dense", "mean"), ("dense", "none"), ("topk", "sum")],
)
def test_operators_keep_their_contracts(kind, reduction):
    args, options = draw(linear.ROWS, kind, "everything", bias=True)
    args = [plain.cast(x, torch.float32) for x in args]
    with Recording() as forward:
        loss = ours(*args, **options, reduction=reduction, chunk_bytes=100)
    with Recording() as backward:
        _ = loss.sum().backward()
    assert forward.calls, "no operator of the namespace crossent whose name starts with linear was called"
    leaves = plain.leaves(*args)
    for function, given, kept in [calls[0] for calls in forward.calls.values()]:
        for x, copy in zip(given, kept, strict=True):
            if isinstance(x, torch.Tensor) and any(same_numbers(x, leaf) for leaf in leaves):
                _ = copy.requires_grad_()
        _ = torch.library.opcheck(function, tuple(kept))
    for function, _, kept in [calls[0] for calls in backward.calls.values()]:
        _ = torch.library.opcheck(function, tuple(kept))


@pytest.mark.parametrize("kind", KINDS)
def test_with_and_without_the_dispatcher_are_the_same(kind):
    results = []
    for watched in (False, True):
        _ = torch.manual_seed(3)
        args, options = draw(linear.BOTH, kind, "everything", bias=True)
        with Recording() if watched else torch.enable_grad():
            loss, stats = ours(*args, **options, return_stats=True, chunk_bytes=200)
            leaves = plain.leaves(*args)
            grads = torch.autograd.grad(loss + stats.entropy.sum(), leaves, create_graph=True)
            more = torch.autograd.grad(grads[0], leaves, plain.cotangent_like(grads[0]))
        results.append([loss, stats.lse, stats.logprob, stats.entropy, stats.confidence, stats.correct, *grads, *more])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def functions():
    """Functions of differentiable inputs for compile; sizes follow from the input."""

    def classes(x):
        return torch.arange(x.shape[0]) % 7

    def index(x, w, b):
        return F.linear_cross_entropy(x, w, classes(x), linear_bias=b, label_smoothing=0.1)

    def chunked(x, w, b):
        return F.linear_cross_entropy(x, w, classes(x), linear_bias=b, reduction="none", chunk_bytes=64)

    def dense(x, w, b):
        p = (x @ w.T.detach()).softmax(-1)
        return F.linear_cross_entropy(x, w, p, linear_bias=b, reduction="sum", temperature=0.7)

    def topk(x, w, b):
        y = classes(x)
        target = TopK(torch.stack([y, 6 - y], 1), x[:, :2].sigmoid())
        return F.linear_cross_entropy(x, w, target, linear_bias=b, softcap=2.0, reduction="none")

    def extras(x, w, b):
        options = {"z_loss": 0.01, "sample_weight": x[:, 0].sigmoid(), "return_stats": True}
        loss, stats = F.linear_cross_entropy(x, w, classes(x), linear_bias=b, **options)
        return loss + (stats.entropy * stats.lse + stats.logprob + stats.confidence + stats.correct).sum()

    def pixels(x, w, b):
        w, b = torch.stack([w, w * 2], 1), torch.stack([b, b], 1)
        return F.linear_cross_entropy(x, w, classes(x)[:, None].expand(-1, 2), linear_bias=b)

    def tokens(x, w, b):
        return F.linear_cross_entropy(x.unsqueeze(0), w, classes(x)[None], weight=b.detach().exp())

    def layer(x, w, b):
        return torch.tanh(F.linear_cross_entropy(torch.tanh(x), w * 2, classes(x), linear_bias=b + 1))

    return [index, chunked, dense, topk, extras, pixels, tokens, layer]


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("function", "dynamic"),
    [(f, True) for f in functions()] + [(f, False) for f in functions() if f.__name__ in {"index", "layer"}],
    ids=lambda x: getattr(x, "__name__", f"dynamic={x}"),
)
def test_compiled_without_a_graph_break(function, dynamic):
    def inputs(n):
        return [torch.randn(size, requires_grad=True) for size in ((n, 4), (7, 4), (7,))]

    check_compiled(function, inputs, dynamic=dynamic)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_compiled_module_under_autocast():
    torch._dynamo.reset()
    module = F.LinearCrossEntropyLoss(4, 7, bias=True)
    x, y = torch.randn(5, 4), torch.randint(7, (5,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, want = torch.compile(module, fullgraph=True, backend="aot_eager")(x, y), module(x, y)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want)
    for a, b in zip(*(torch.autograd.grad(z, module.parameters()) for z in (got, want)), strict=True):
        torch.testing.assert_close(a, b)
    torch._dynamo.reset()


@pytest.mark.slow
@dtypes
@pytest.mark.parametrize("shape", [linear.VECTOR, linear.ROWS, linear.BOTH], ids=str)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_shapes_without_data(device, shape, dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    with FakeTensorMode() if device == "cpu" else torch.enable_grad():
        made = {"dtype": dtype, "device": device, "requires_grad": True}
        x = torch.empty(*shape.lead, shape.D, **made)
        w, b = torch.empty(shape.C, *shape.out, shape.D, **made), torch.empty(shape.C, *shape.out, **made)
        index = torch.empty(shape.rows, dtype=torch.long, device=device)
        picks = torch.empty(shape.soft(2), dtype=torch.long, device=device)
        for target in (
            index,
            torch.empty(shape.soft(shape.C), **made),
            TopK(picks, torch.empty(shape.soft(2), **made)),
        ):
            for reduction in ("mean", "sum", "none"):
                loss, stats = ours(x, w, target, b, reduction=reduction, return_stats=True)
                assert loss.device.type == device
                assert (loss.shape, loss.dtype) == (shape.rows if reduction == "none" else (), wide)
                for name, kind in (("lse", wide), ("entropy", wide), ("correct", torch.bool)):
                    assert (getattr(stats, name).shape, getattr(stats, name).dtype) == (shape.rows, kind)
                leaves = [x, w, b, *plain.leaves(target)]
                for g, leaf in zip(torch.autograd.grad(loss.sum(), leaves), leaves, strict=True):
                    assert (g.shape, g.dtype) == (leaf.shape, leaf.dtype)
