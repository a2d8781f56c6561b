"""A head with low-rank adapters: who gets a gradient, how often, derivatives of derivatives, and tracers."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import adapted, linear, plain
from tests.torch.adapted import ADAPTERS, draw
from tests.torch.linear import KINDS, WITH, Shape
from tests.torch.operators.watching import check_compiled
from tests.torch.test_functional_func import QUICK, TRANSFORMS, agree
from tests.torch.transforming import INDEX, Case, D, N, V

REDUCTIONS = ("mean", "sum", "none")
each_adapter = pytest.mark.parametrize("adapters", ADAPTERS)
dtypes = pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
SMALL = {"rows": Shape((3,), (), 4, 2), "pixels": Shape((2,), (2,), 3, 2), "vector": Shape((), (), 4, 2)}


# Who gets a gradient


@pytest.mark.slow
@pytest.mark.parametrize("chunk_bytes", [None, 100])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_gradient_only_where_one_is_wanted(reduction, chunk_bytes):
    args, options = draw(linear.ROWS, "index", bias=True, adapters="own features")
    options |= {"reduction": reduction, "chunk_bytes": chunk_bytes}
    names = ("input", "linear_weight", "linear_bias", "a", "b", "own")
    held = [0, 1, 3, 5, 6, 7]
    _, wants = adapted.outcome(adapted.exact, args, {k: v for k, v in options.items() if k != "chunk_bytes"})
    for wanted in itertools.product((False, True), repeat=6):
        own = [x.detach().clone() if isinstance(x, Tensor) else x for x in args]
        for at, need in zip(held, wanted, strict=True):
            _ = own[at].requires_grad_(need)
        loss = adapted.ours(*own, **options)
        assert loss.requires_grad == any(wanted)
        if any(wanted):
            loss.backward(plain.cotangent_like(loss))
        for name, at, need, want in zip(names, held, wanted, wants, strict=True):
            assert (own[at].grad is not None) == need, name
            if need:
                plain.agree(name, own[at].grad, want, None, 1e-11)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@each_adapter
def test_without_gradients(adapters, mode):
    for kind, chunk_bytes in itertools.product(KINDS, (None, 100)):
        args, options = draw(linear.ROWS, kind, "everything", adapters=adapters, bias=True)
        want, _ = adapted.exact(*args, **options, return_stats=True)
        with mode():
            loss, stats = adapted.ours(*args, **options, return_stats=True, chunk_bytes=chunk_bytes)
            assert not loss.requires_grad
            assert not stats.lse.requires_grad
        torch.testing.assert_close(loss, want.detach(), rtol=1e-12, atol=0)


@dtypes
@each_adapter
def test_a_second_backward_gives_the_same_gradients(adapters, dtype):
    args, options = draw(linear.LONG, "ignored", "everything", adapters=adapters, bias=True)
    args = adapted.cast(args, dtype)
    leaves = plain.leaves(*args)
    for reduction, chunk_bytes in itertools.product(("mean", "none"), (None, 700)):
        loss = adapted.ours(*args, **options, reduction=reduction, chunk_bytes=chunk_bytes)
        g = plain.cotangent_like(loss).to(loss.dtype)
        first = [x.clone() for x in torch.autograd.grad(loss, leaves, g, retain_graph=True)]
        other = [x.clone() for x in torch.autograd.grad(loss, leaves, 2 * g, retain_graph=True)]
        for a, b, c in zip(first, other, torch.autograd.grad(loss, leaves, g), strict=True):
            assert torch.equal(a, c)
            if dtype in (torch.float64, torch.float32):  # a half may be subnormal
                assert torch.equal(2 * a, b)


@each_adapter
def test_gradients_accumulate_over_micro_batches(adapters):
    args, options = draw(linear.LONG, adapters=adapters, bias=True)
    x, w, y, b, _, *parts = args
    for half in (slice(0, 75), slice(75, 150)):
        some = [p if k % 3 != 2 or p is None else p[half] for k, p in enumerate(parts)]
        adapted.ours(x[half], w, y[half], b, None, *some, **options, reduction="sum").backward()
    leaves = plain.leaves(*args)
    wants = torch.autograd.grad(adapted.exact(*args, **options, reduction="sum"), leaves)
    for leaf, want in zip(leaves, wants, strict=True):
        torch.testing.assert_close(leaf.grad, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("adapters", ["one", "own input", "two"])
def test_checkpointing(adapters, reentrant):
    """With a dropout within: it is drawn again alike."""
    for reduction in ("mean", "none"):
        args, options = draw(linear.LONG, adapters=adapters, bias=True)
        leaves = plain.leaves(*args)

        def step(*leaves, args=args, options=options, reduction=reduction):
            left = iter(leaves)
            held = [next(left) if isinstance(t, Tensor) and t.requires_grad else t for t in args]
            held[7] = nnf.dropout(held[0], 0.5)
            return adapted.ours(*held, **options, reduction=reduction).sum()

        _ = torch.manual_seed(1)
        wants = torch.autograd.grad(step(*leaves), leaves, allow_unused=True)
        _ = torch.manual_seed(1)
        checkpoint(step, *leaves, use_reentrant=reentrant).backward()
        for leaf, want in zip(leaves, wants, strict=True):
            if want is not None:
                torch.testing.assert_close(leaf.grad, want, rtol=1e-12, atol=1e-14)


def test_an_operand_changed_after_the_forward_pass():
    # is noticed, or did not matter
    for at, reduction, chunk_bytes in itertools.product((0, 1, 5, 6, 7), ("mean", "none"), (None, 100)):
        args, options = draw(linear.ROWS, adapters="own input", bias=True)
        options |= {"reduction": reduction}
        _, wants = adapted.outcome(adapted.exact, args, options)
        held = [x * 1 if k == at else x for k, x in enumerate(args)]
        loss = adapted.ours(*held, **options, chunk_bytes=chunk_bytes)
        _ = held[at].zero_()
        try:
            got = torch.autograd.grad(loss, plain.leaves(*args), plain.cotangent_like(loss))
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)  # noqa: PT017
            continue
        for a, b in zip(got, wants, strict=True):
            plain.agree("gradient", a, b, None, 1e-10)


def test_cotangents_of_any_layout():
    args, options = draw(linear.BOTH, adapters="own features")
    loss = adapted.ours(*args, **options, reduction="none")
    full, leaves = plain.cotangent_like(loss), plain.leaves(*args)
    for g in (
        full.mT.contiguous().mT,
        torch.tensor(2.0, dtype=torch.float64).expand(loss.shape),
        full[:1].expand(loss.shape),
        torch.zeros_like(full),
    ):
        got = torch.autograd.grad(loss, leaves, g, retain_graph=True)
        for a, b in zip(got, torch.autograd.grad(loss, leaves, g.contiguous(), retain_graph=True), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-15)


# Derivatives of derivatives


@pytest.mark.slow
@pytest.mark.parametrize("option", WITH)
@pytest.mark.parametrize("kind", KINDS)
def test_first_and_second_derivatives(kind, option):
    names = ("own input", "two", "own features")
    for shape, reduction, adapters in zip(SMALL.values(), ("mean", "none", "sum"), names, strict=True):
        args, options = draw(shape, kind, option, bias=True, adapters=adapters)
        if kind == "dense":
            args[2].data += 0.1  # away from the edge, over which a small step would lead
        leaves = plain.leaves(*args)

        def call(*given, args=args, options=options, reduction=reduction):
            left, held = iter(given), []
            for x in args:
                if isinstance(x, TopK):
                    held.append(TopK(x.index, next(left)))
                else:
                    held.append(next(left) if isinstance(x, Tensor) and x.requires_grad else x)
            return adapted.ours(*held, **options, reduction=reduction)

        assert gradcheck(call, leaves, fast_mode=True)
        assert gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_bytes", [1, None])
def test_second_derivatives_are_those_of_the_plain_loss(chunk_bytes):
    """Of operands of which some are frozen, too."""
    for adapters, frozen in itertools.product(ADAPTERS, ((), ("linear_weight",), ("linear_weight", "input"))):
        args, options = draw(linear.ROWS, "ignored", "everything", adapters=adapters, bias=True, frozen=frozen)
        leaves, found = plain.leaves(*args), []
        for function in (adapted.ours, adapted.exact):
            more = {"chunk_bytes": chunk_bytes} if function is adapted.ours else {}
            loss = function(*args, **options, **more)
            grads = torch.autograd.grad(loss, leaves, create_graph=True)
            total = sum((plain.cotangent_like(g, k) * g).sum() for k, g in enumerate(grads))
            found.append(torch.autograd.grad(total, leaves, materialize_grads=True, allow_unused=True))
        for name, a, b in zip(adapted.names_of(args), *found, strict=True):
            plain.agree(name, a, b, None, 1e-10)


# Function transforms

A, UP = torch.tensor([[1.0, -0.5, 0.25]]).double(), torch.tensor([[0.3], [1.0], [-1.0], [0.5], [0.1]]).double()
CASES = {
    "all": Case(
        lambda x, w, a, b: F.linear_cross_entropy(x, F.LowRank(w, a, b, 0.7), INDEX),
        lambda x, w, a, b: nnf.cross_entropy(x @ (w + 0.7 * b @ a).T, INDEX),
        ((N, D), (V, D), (2, D), (V, 2)), ("real",) * 4,
    ),
    "adapter alone": Case(
        lambda x, a, b: F.linear_cross_entropy(
            x[0], F.LowRank(UP @ A, a, b, 0.7, input=x[1]), INDEX, reduction="sum", chunk_bytes=100
        ),
        lambda x, a, b: nnf.cross_entropy(x[0] @ (UP @ A).T + 0.7 * x[1] @ a.T @ b.T, INDEX, reduction="sum"),
        ((2, N, D), (2, D), (V, 2)), ("real",) * 3,
    ),
    "rows": Case(
        lambda x, a, b: F.linear_cross_entropy(
            x, F.LowRank(F.LowRank(UP @ A, A, UP, 0.4), a, b, -0.6), INDEX, reduction="none"
        ),
        lambda x, a, b: nnf.cross_entropy(x @ (1.4 * UP @ A - 0.6 * b @ a).T, INDEX, reduction="none"),
        ((N, D), (2, D), (V, 2)), ("real",) * 3,
    ),
}  # fmt: skip
transforms = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node"),
    pytest.mark.filterwarnings("ignore:`torch.jit"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def quietly(function):
    for mark in transforms:
        function = mark(function)
    return function


@quietly
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("transform", QUICK)
def test_a_loss_under_a_transform(transform, name):
    x = CASES[name].inputs()
    agree(TRANSFORMS[transform](CASES[name].ours, x), TRANSFORMS[transform](CASES[name].rival, x))


@quietly
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("transform", [t for t in TRANSFORMS if t not in QUICK])
def test_a_loss_under_every_other_transform(transform, name):
    x = CASES[name].inputs()
    agree(TRANSFORMS[transform](CASES[name].ours, x), TRANSFORMS[transform](CASES[name].rival, x))


# Tracers, the compiler and the dispatcher


@quietly
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tracer", ["jit", "make_fx"])
def test_a_graph_gives_the_numbers_of_new_inputs(tracer, name):
    case = CASES[name]
    graph = torch.jit.trace(case.ours, case.inputs()) if tracer == "jit" else make_fx(case.ours)(*case.inputs())
    x = case.inputs()
    torch.testing.assert_close(graph(*x), case.rival(*x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_shapes_of_fake_tensors(name):
    case = CASES[name]
    x = case.inputs()
    want = case.ours(*x)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = [mode.from_tensor(t).requires_grad_() for t in x]
        got = case.ours(*fakes)
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        for g, t in zip(torch.autograd.grad(got.sum(), fakes), x, strict=True):
            assert (g.shape, g.dtype) == (t.shape, t.dtype)


def functions():
    """Functions of differentiable inputs for compile; sizes follow from the input."""

    def classes(x):
        return torch.arange(x.shape[0]) % 7

    def index(x, w, a, b):
        return F.linear_cross_entropy(x, F.LowRank(w, a, b, 0.7), classes(x), label_smoothing=0.1)

    def frozen(x, w, a, b):
        return F.linear_cross_entropy(
            x.detach(), F.LowRank(w.detach(), a, b, 0.7), classes(x), reduction="none", chunk_bytes=64
        )

    def own(x, w, a, b):
        return F.linear_cross_entropy(x, F.LowRank(w, a, b, input=torch.tanh(x) * 2), classes(x), reduction="sum")

    def two(x, w, a, b):
        return torch.tanh(
            F.linear_cross_entropy(x, F.LowRank(F.LowRank(w * 2, a, b, 0.5), a + 1, b.exp(), 0.1), classes(x))
        )

    def statistics(x, w, a, b):
        loss, stats = F.linear_cross_entropy(x, F.LowRank(w, a, b, 0.7), classes(x), return_stats=True)
        return loss + (stats.entropy * stats.lse + stats.logprob).sum()

    def logprobs(x, w, a, b):
        return F.linear_logprobs(x, F.LowRank(w, a, b, 0.7), classes(x)).logprob

    return [index, frozen, own, two, statistics, logprobs]


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("function", functions(), ids=lambda f: f.__name__)
def test_compiled_without_a_graph_break(function, dynamic):
    def inputs(n):
        return [torch.randn(size, requires_grad=True) for size in ((n, 4), (7, 4), (2, 4), (7, 2))]

    check_compiled(function, inputs, dynamic=dynamic)


class Recording(TorchDispatchMode):
    """Keeps the arguments of every operator of ours."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if str(function).startswith("crossent."):
            kept = [x.detach().clone() if isinstance(x, Tensor) else x for x in args]
            _ = self.calls.setdefault(str(function), (function, args, kept))
        return function(*args, **(kwargs or {}))


def same_numbers(a, b):
    return a.dtype == b.dtype and a.data_ptr() == b.data_ptr() and a.numel() == b.numel() > 0


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@each_adapter
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_operators_keep_their_contracts(reduction, adapters):
    args, options = draw(linear.ROWS, "ignored", "everything", adapters=adapters, bias=True)
    args = adapted.cast(args, torch.float32)
    with Recording() as forward:
        loss = adapted.ours(*args, **options, reduction=reduction, chunk_bytes=100)
    with Recording() as backward:
        loss.sum().backward()
    assert forward.calls, "no operator of the namespace crossent was called"
    leaves = plain.leaves(*args)
    for function, given, kept in forward.calls.values():
        for x, copy in zip(given, kept, strict=True):
            if isinstance(x, Tensor) and any(same_numbers(x, leaf) for leaf in leaves):
                _ = copy.requires_grad_()
        _ = torch.library.opcheck(function, tuple(kept))
    for function, _, kept in backward.calls.values():
        _ = torch.library.opcheck(function, tuple(kept))


@pytest.mark.parametrize("kind", KINDS)
@each_adapter
def test_with_and_without_the_dispatcher_are_the_same(adapters, kind):
    results = []
    for watched in (False, True):
        _ = torch.manual_seed(3)
        args, options = draw(linear.BOTH, kind, "everything", adapters=adapters, bias=True)
        with Recording() if watched else torch.enable_grad():
            loss, stats = adapted.ours(*args, **options, return_stats=True, chunk_bytes=200)
            grads = torch.autograd.grad(loss + stats.entropy.sum(), plain.leaves(*args))
        results.append([loss, stats.lse, stats.logprob, stats.entropy, stats.confidence, *grads])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
