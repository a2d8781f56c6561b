"""linear_cross_entropy and torch: its samples, its compiler, and its checks of operators."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
import torch.nn.functional as nnf
from torch._subclasses.fake_tensor import FakeTensorMode

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import linear, plain
from tests.torch.linear import KINDS, draw

with warnings.catch_warnings():  # torch's testing package imports deprecated things
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

NAME, MODULE = "nn.functional.linear_cross_entropy", torch.nn.LinearCrossEntropyLoss
ours, theirs = linear.by_position(F.linear_cross_entropy), nnf.linear_cross_entropy
dtypes = pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)


@pytest.fixture(autouse=True)
def seeded_python():
    random.seed(0)


@pytest.fixture
def quiet():
    with warnings.catch_warnings():  # of torch's own machinery
        warnings.simplefilter("ignore")
        yield


# The samples that torch tests its own operator and module with


def positional(function):
    return lambda x, w, t, b=None, **options: function(x, w, t, linear_bias=b, **options)


@dtypes
@pytest.mark.parametrize("op", [op for op in op_db if op.name == NAME], ids=lambda op: op.variant_test_name or "plain")
def test_operator_samples(op, dtype):
    seen = 0
    for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
        kwargs = {k: v for k, v in sample.kwargs.items() if k != "options"}
        args = (sample.input, *sample.args, kwargs.pop("linear_bias", None))
        kwargs |= {"chunk_bytes": (None, 1, 64)[seen % 3]}

        def rival(*args, chunk_bytes, **options):
            return positional(theirs)(*args, **options)

        plain.compare(positional(F.linear_cross_entropy), rival, rival, dtype, args, kwargs)
        seen += 1
    assert seen >= 20


def test_operator_error_samples():
    op, seen = next(op for op in op_db if op.name == NAME), 0
    for error in op.error_inputs_func(op, "cpu"):
        sample = error.sample_input
        with pytest.raises((ValueError, TypeError, IndexError)):
            _ = F.linear_cross_entropy(sample.input, *sample.args, **sample.kwargs)
        seen += 1
    assert seen >= 5


def constructions(dtype):
    """What torch constructs its module with and calls it on, each once."""
    info = next(m for m in module_db if m.module_cls is MODULE)
    for sample in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=True):
        made = sample.constructor_input
        if made.kwargs["options"] is None:
            yield made.args, {k: v for k, v in made.kwargs.items() if k != "options"}, sample.forward_input.args


@dtypes
def test_module_samples(dtype):
    seen = 0
    for args, kwargs, inputs in constructions(dtype):
        right, made = MODULE(*args, **kwargs), F.LinearCrossEntropyLoss(*args, **kwargs)
        assert made.state_dict().keys() == right.state_dict().keys()
        _ = made.load_state_dict(right.state_dict())
        exact = MODULE(*args, **kwargs).double()
        _ = exact.load_state_dict(right.state_dict())

        def run(module, dtype, inputs=inputs):
            x, t = (plain.cast(i, dtype) for i in inputs)
            loss = module(x, t)
            leaves = [x, *module.parameters()]
            return loss, torch.autograd.grad(loss, leaves, plain.cotangent_like(loss).to(loss.dtype))

        (got, grads), (other, others) = run(made, dtype), run(right, dtype)
        want, wants = run(exact, torch.float64)
        plain.agree("loss", got, want, other, plain.FLOOR[got.dtype])
        for g, h, o in zip(grads, wants, others, strict=True):
            assert g.dtype == dtype
            plain.agree("gradient", g, h, o, plain.FLOOR[dtype])
        seen += 1
    assert seen >= 20


def test_module_error_samples():
    info, seen = next(m for m in module_db if m.module_cls is MODULE), 0
    for sample in info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=True, training=True
    ):
        module, call = sample.module_error_input.constructor_input, sample.module_error_input.forward_input
        with pytest.raises((ValueError, TypeError, IndexError)):
            F.LinearCrossEntropyLoss(*module.args, **module.kwargs)(*call.args, **call.kwargs)
        seen += 1
    assert seen >= 4


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"softcap": -1.0}, {"reduction": "average"}], ids=str)
def test_errors_of_the_module_come_early(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        _ = F.LinearCrossEntropyLoss(3, 4, **options)


def test_the_module_is_the_function_with_its_options_bound():
    options = {"label_smoothing": 0.1, "temperature": 0.5, "softcap": 4.0, "z_loss": 0.01, "weight": torch.rand(5)}
    for out in ((), (2, 3)):
        module = F.LinearCrossEntropyLoss(4, 5, out_features=out, bias=True, ignore_index=3, chunk_bytes=64, **options)
        x, y, s = torch.randn(6, 4), torch.randint(5, (6, *out)), torch.rand(6, *out)
        w, b = module.linear.weight.view(5, *out, 4), module.linear.bias.view(5, *out)
        want = ours(x, w, y, b, s, ignore_index=3, **options)
        torch.testing.assert_close(module(x, y, sample_weight=s), want, rtol=plain.FLOOR[torch.float32], atol=0)
        for name in ("softcap=4.0", "label_smoothing=0.1"):
            assert name in repr(module)
    loss, stats = F.LinearCrossEntropyLoss(4, 5, return_stats=True, dtype=torch.float64)(x.double(), y[:, 0, 0])
    assert loss.dtype == stats.lse.dtype == torch.float64


# The registered operators, whatever their arguments are


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


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("function", "dynamic"),
    [(f, True) for f in functions()] + [(f, False) for f in functions() if f.__name__ in {"index", "layer"}],
    ids=lambda x: getattr(x, "__name__", f"dynamic={x}"),
)
def test_compiled_without_a_graph_break(function, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n in (5, 7, 3) if dynamic else (5,):
        inputs = [torch.randn(size, requires_grad=True) for size in ((n, 4), (7, 4), (7,))]
        got, want = compiled(*inputs), function(*inputs)
        torch.testing.assert_close(got, want)
        g, options = plain.cotangent_like(want).float(), {"allow_unused": True, "materialize_grads": True}
        for a, b in zip(
            torch.autograd.grad(got, inputs, g, **options), torch.autograd.grad(want, inputs, g, **options), strict=True
        ):
            torch.testing.assert_close(a, b)
    torch._dynamo.reset()


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
