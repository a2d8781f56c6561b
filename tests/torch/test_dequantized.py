"""A weight that is made a range of classes at a time: losses and gradients are those of the weight made at once."""

from __future__ import annotations

import copy
import itertools
import pickle
import sys

import pytest
import torch
import torch.nn.functional as nnf
from torch.autograd import gradcheck, gradgradcheck

import crossent.torch as F
from tests.torch import adapted, linear, logq, plain, teaching, two_heads
from tests.torch.linear import KINDS, WITH, Shape, draw
from tests.torch.test_linear_products import peak_of
from tests.torch.test_low_rank_memory import LargestMade

REDUCTIONS = ("mean", "sum", "none")
VECTOR, ROWS, TOKENS, WIDE, LONG, DEEP = (
    linear.VECTOR, linear.ROWS, linear.TOKENS, linear.WIDE, linear.LONG, linear.DEEP,
)  # fmt: skip
SHAPES = (VECTOR, ROWS, TOKENS, WIDE, LONG, DEEP)
dtypes = pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
kinds = pytest.mark.parametrize("kind", KINDS)


def made(w, result=None, asked=None):
    """The weight as one whose function takes rows of it, in another dtype if there is one."""

    def rows(begin, end):
        if asked is not None:
            asked.append((begin, end))
        return w.detach()[begin:end].to(w.dtype if result is None else result)

    return F.Dequantized(rows, tuple(w.shape), w.dtype)


def lazily(x, w, *rest, **options):
    return F.linear_cross_entropy(x, made(w), *rest, **options)


def quantised(V=23, D=6):
    """Codes of 8 bits, and a step for each class; and the numbers that they stand for."""
    codes, steps = torch.randint(-127, 128, (V, D), dtype=torch.int8), torch.rand(V, 1) / 100 + 0.001
    weight = F.Dequantized(lambda begin, end: codes[begin:end] * steps[begin:end], (V, D), torch.float32)
    return weight, codes * steps


# The loss


@pytest.mark.slow
@dtypes
@kinds
@pytest.mark.parametrize("option", WITH)
def test_every_option_of_every_target(option, kind, dtype):
    first = KINDS.index(kind) + plain.DTYPES.index(dtype) + list(WITH).index(option)
    for turn, shape in enumerate(SHAPES, first):
        reduction, alone = REDUCTIONS[turn % 3], ()
        if shape.rows == () and reduction == "mean":
            alone = ("sample_weight",)  # whose derivative is nothing
        args, options = draw(
            shape, kind, option, bias=turn % 2 == 0, spread=(1.0, 5.0, 3.0)[turn % 3],
            frozen=("linear_weight", *alone),
        )  # fmt: skip
        for chunk_bytes in (None, 8 * shape.C * 3, 1):
            more = {"reduction": reduction, "chunk_bytes": chunk_bytes}
            plain.compare(
                linear.by_position(lazily), linear.in_float32(linear.linear_cross_entropy),
                linear.linear_cross_entropy, dtype, args, options | more,
            )  # fmt: skip


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("chunk_bytes", [1, 23 * 4 * 10, 23 * 4 * 130, None])
def test_codes_of_8_bits_are_the_weight_that_they_stand_for(chunk_bytes, reduction):
    weight, numbers = quantised()
    x, b, y = torch.randn(150, 6, requires_grad=True), torch.randn(23, requires_grad=True), torch.arange(150) % 23
    exact = x.detach().double().requires_grad_(), b.detach().double().requires_grad_()
    got = F.linear_cross_entropy(x, weight, y, linear_bias=b, reduction=reduction, chunk_bytes=chunk_bytes)
    want = nnf.cross_entropy(nnf.linear(exact[0], numbers.double(), exact[1]), y, reduction=reduction)
    assert plain.off(got, want) <= 1e-6
    g = plain.cotangent_like(want)
    for a, h in zip(torch.autograd.grad(got, (x, b), g.float()), torch.autograd.grad(want, exact, g), strict=True):
        assert plain.off(a, h) <= 1e-6


@dtypes
@pytest.mark.parametrize("result", plain.DTYPES, ids=str)
def test_what_the_function_returns_is_cast_to_the_dtype(result, dtype):
    (x, w, y, b, _), _ = draw(LONG, bias=True, kind="ignored", frozen=("linear_weight",))
    x, w, b = (plain.cast(t, dtype) for t in (x, w, b))
    narrow = w.detach().to(result).to(dtype)
    for chunk_bytes, reduction in itertools.product((None, 700), REDUCTIONS):
        sides = [
            F.linear_cross_entropy(x, weight, y, linear_bias=b, reduction=reduction, chunk_bytes=chunk_bytes)
            for weight in (made(w, result), narrow)
        ]
        plain.agree("loss", *sides, None, plain.FLOOR[sides[0].dtype])
        g = plain.cotangent_like(sides[0]).to(sides[0].dtype)
        for a, h in zip(*(torch.autograd.grad(z, (x, b), g) for z in sides), strict=True):
            assert a.dtype == dtype
            plain.agree("gradient", a, h, None, plain.FLOOR[dtype])


@pytest.mark.parametrize("chunk_bytes", [None, 700])
def test_statistics(chunk_bytes):
    for kind, option in itertools.product(KINDS, WITH):
        args, options = draw(LONG, kind, option, bias=True, frozen=("linear_weight",))
        x, w, t, b, s = args
        found = []
        for weight in (made(w), w):
            loss, stats = F.linear_cross_entropy(
                x, weight, t, linear_bias=b, sample_weight=s, return_stats=True, chunk_bytes=chunk_bytes, **options
            )
            smooth = [loss, stats.lse, stats.logprob, stats.entropy, stats.log_sum_squares]
            total = sum((plain.cotangent_like(z, k) * z).sum() for k, z in enumerate(smooth))
            grads = torch.autograd.grad(total, plain.leaves(*args), allow_unused=True, materialize_grads=True)
            found.append([*smooth, stats.confidence, stats.correct.double(), stats.predicted.double(), *grads])
        for a, h in zip(*found, strict=True):
            torch.testing.assert_close(a, h, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("adapters", adapted.ADAPTERS)
@dtypes
def test_beneath_adapters(dtype, adapters):
    def call(x, w, *rest, **options):
        return adapted.ours(x, made(w), *rest, **options)

    for shape, reduction, chunk_bytes in itertools.product((VECTOR, LONG), REDUCTIONS, (None, 700)):
        args, options = adapted.draw(
            shape, "ignored", "smoothing", adapters=adapters, bias=True, frozen=("linear_weight",)
        )
        args, options = adapted.cast(args, dtype), options | {"reduction": reduction, "chunk_bytes": chunk_bytes}
        adapted.check(call, args, options)


@pytest.mark.parametrize("K", [None, 1, 3])
@pytest.mark.parametrize("scores", logq.SCORES, ids=str)
@pytest.mark.parametrize("chunk_bytes", [None, 300])
def test_log_probabilities(K, scores, chunk_bytes):
    x, w, b = (torch.randn(n, dtype=torch.float64) for n in ((9, 5), (70, 5), (70,)))
    leaves, classes = [x.requires_grad_(), b.requires_grad_()], logq.classes_of((9, 70), K, ignored=-100)
    exacts = [t.detach().clone().requires_grad_() for t in leaves]
    got = F.linear_logprobs(x, made(w), classes, linear_bias=b, chunk_bytes=chunk_bytes, **scores)
    want = logq.statistics(nnf.linear(exacts[0], w, exacts[1]), classes, **scores)
    logq.check(got, leaves, want, exacts, torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(teaching.KINDS))
@pytest.mark.parametrize("made_up", [("linear_weight",), ("teacher_weight",), ("linear_weight", "teacher_weight")])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("chunk_bytes", [1, 900, None])
def test_divergences_of_either_head(kind, made_up, reduction, chunk_bytes):
    for dtype, scores in itertools.product((torch.float64, torch.float32, torch.bfloat16), teaching.SCORES):
        given = two_heads.copied(two_heads.draw((9,), 40, dtype=dtype), frozen=made_up)
        exact = two_heads.copied(two_heads.doubled(given), frozen=made_up)
        options = dict(scores, target=torch.tensor([1, -100, 3, 4, 5, 6, -100, 8, 9]))
        held = given | {name: made(given[name]) for name in made_up}
        got = two_heads.ours(held, kind=kind, reduction=reduction, chunk_bytes=chunk_bytes, **options)
        each = two_heads.truth(exact, **options)[teaching.KINDS[kind]]
        want = two_heads.reduced(each, reduction, None, options["target"] != -100)
        two_heads.compare(got, want, given, exact)


def test_classes_of_a_teacher_in_another_order():
    given = two_heads.copied(two_heads.draw((6,), 9), frozen=("teacher_weight",))
    columns = torch.randperm(9)
    want = two_heads.ours(given, teacher_classes=columns)
    got = two_heads.ours(given | {"teacher_weight": made(given["teacher_weight"])}, teacher_classes=columns)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


@pytest.mark.slow
@kinds
def test_second_derivatives(kind):
    for option, reduction in itertools.product(("nothing", "everything"), REDUCTIONS):
        (x, w, t, b, s), options = draw(
            Shape((3,), (), 4, 2), kind, option, bias=True, frozen=("linear_weight", "prob", "sample_weight")
        )

        def call(x, b, w=w, t=t, s=s, options=options, reduction=reduction):
            return F.linear_cross_entropy(x, made(w), t, linear_bias=b, sample_weight=s, reduction=reduction, **options)

        assert gradcheck(call, (x, b), fast_mode=True)
        assert gradgradcheck(call, (x, b), fast_mode=True)


def test_padding_behind_the_classes_and_a_row_that_is_ignored():
    (x, w, y, b, _), _ = draw(LONG, "ignored", bias=True, frozen=("linear_weight",))
    want, wants = plain.run(linear.linear_cross_entropy, torch.float64, (x, w, y, b), {})
    padded = torch.cat([w, torch.full((3, 5), torch.nan, dtype=torch.float64)])
    more = torch.cat([b.detach(), torch.full((3,), torch.nan, dtype=torch.float64)]).requires_grad_()
    with torch.no_grad():
        x[y == -100] = torch.nan
    got = F.linear_cross_entropy(x, made(padded), y, linear_bias=more, num_classes=13)
    dx, db = torch.autograd.grad(got, (x, more), plain.cotangent_like(got))
    plain.agree("loss", got, want, None, 1e-11)
    assert (dx[y == -100] == 0).all()
    assert (db[13:] == 0).all()
    plain.agree("input", dx, wants[0], None, 1e-11)
    plain.agree("bias", db[:13], wants[1], None, 1e-11)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast(half):
    (x, w, y, b, _), _ = draw(LONG, "index", bias=True, frozen=("linear_weight",))
    x, w, b = (plain.cast(plain.cast(t, half), torch.float32) for t in (x, w, b))
    results = []
    for weight in (made(w), w):
        with torch.autocast("cpu", dtype=half):
            loss = F.linear_cross_entropy(x, weight, y, linear_bias=b)
        results.append([loss, *torch.autograd.grad(loss, (x, b))])
    for a, h in zip(*results, strict=True):
        assert a.dtype == torch.float32
        plain.agree("loss or gradient", a, h, None, plain.FLOOR[torch.float32])


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_it_is_the_same_or_says_so(backend):
    weight, numbers = quantised()
    x, y = torch.randn(9, 6, requires_grad=True), torch.arange(9)

    def loss(x, y):
        return torch.tanh(F.linear_cross_entropy(x * 2, weight, y)) + 1

    torch._dynamo.reset()
    try:
        got = torch.compile(loss, backend=backend)(x, y)
        (dx,) = torch.autograd.grad(got, x)
    except (RuntimeError, TypeError, NotImplementedError, torch._dynamo.exc.Unsupported) as error:
        assert "Dequantized" in str(error)  # noqa: PT017
        return
    want = torch.tanh(nnf.cross_entropy(2 * x @ numbers.T, y)) + 1
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(dx, *torch.autograd.grad(want, x))


# What is asked of the function, and what there is at a time


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_it_is_asked_for_all_classes_and_for_no_other(reduction):
    w, y = torch.randn(5000, 4), torch.randint(5000, (600,))
    for chunk_bytes in (4 * 5000 * 3, 2**20, None):
        asked, x = [], torch.randn(600, 4, requires_grad=True)
        F.linear_cross_entropy(
            x, made(w, asked=asked), y, reduction=reduction, chunk_bytes=chunk_bytes
        ).sum().backward()
        assert all(0 <= begin < end <= 5000 for begin, end in asked)
        covered = torch.zeros(5000, dtype=torch.bool)
        for begin, end in asked:
            covered[begin:end] = True
        assert covered.all()


def test_nothing_is_asked_where_nothing_is_to_be_done():
    asked = []
    weight = made(torch.randn(7, 3), asked=asked)
    assert weight.shape == (7, 3)
    _ = repr(weight), weight.detach(), weight[2:4], copy.deepcopy(weight)
    _ = F.LowRank(weight, torch.randn(2, 3), torch.randn(7, 2))
    assert not asked


@pytest.fixture
def kernels_in_sight(monkeypatch):
    for name, module in list(sys.modules.items()):
        if name.startswith("crossent.torch.") and hasattr(module, "is_watched"):
            monkeypatch.setattr(module, "is_watched", lambda: False)


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_no_operator_hands_out_the_weight(reduction, adapter, dtype, watched, request):
    if not watched:
        request.getfixturevalue("kernels_in_sight")
    N, V, D = 96, 20_000, 64  # a weight of several of the ranges that a function is asked for
    codes, steps = torch.randint(-127, 128, (V, D), dtype=torch.int8), torch.rand(V, 1) / 100
    weight = F.Dequantized(lambda begin, end: codes[begin:end] * steps[begin:end], (V, D), dtype)
    x = torch.randn(N, D).to(dtype).requires_grad_()
    a, b = torch.randn(2, D).to(dtype).requires_grad_(), torch.randn(V, 2).to(dtype).requires_grad_()
    held = F.LowRank(weight, a, b, 0.5) if adapter else weight
    with LargestMade(codes, steps, x, a, b) as seen:
        F.linear_cross_entropy(x, held, torch.arange(N), reduction=reduction, chunk_bytes=4 * V * 8).sum().backward()
    assert seen.elements < V * D


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_memory_that_torch_allocates(reduction):
    N, V, D = 512, 100_000, 256
    codes, steps = torch.randint(-127, 128, (V, D), dtype=torch.int8), torch.rand(V, 1) / 100
    weight = F.Dequantized(lambda begin, end: codes[begin:end] * steps[begin:end], (V, D), torch.float32)
    x = torch.randn(N, D, requires_grad=True)

    def step():
        F.linear_cross_entropy(x, weight, torch.arange(N), reduction=reduction, chunk_bytes=2**23).sum().backward()

    assert peak_of(step) < 4 * V * D / 2


# The object


def test_it_is_a_tensor_without_memory():
    w = torch.randn(7, 3)
    weight = made(w)
    assert isinstance(weight, torch.Tensor)
    assert isinstance(weight, F.Dequantized)
    assert weight.shape == (7, 3)
    assert (weight.ndim, len(weight), weight.numel(), weight.dtype) == (2, 7, 21, torch.float32)
    assert weight.device == torch.device("cpu")
    assert not weight.requires_grad
    assert "Dequantized" in repr(weight)
    assert torch.equal(weight.dequantize(), w)
    assert type(weight.dequantize()) is torch.Tensor
    whole = made(w.bfloat16(), torch.float32).dequantize()
    assert whole.dtype == torch.bfloat16


def test_slices_of_classes():
    w = torch.randn(17, 3)
    weight = made(w)
    for part in (
        slice(None), slice(3, 9), slice(0, 0), slice(16, 17), slice(-4, None), slice(None, -3), slice(5, 100),
        slice(9, 3),
    ):  # fmt: skip
        assert isinstance(weight[part], F.Dequantized)
        assert weight[part].shape == w[part].shape
        assert torch.equal(weight[part].dequantize(), w[part])
    assert torch.equal(weight[2:14][3:9][1:4].dequantize(), w[2:14][3:9][1:4])
    x, y = torch.randn(4, 3), torch.arange(4)
    torch.testing.assert_close(
        F.linear_cross_entropy(x, weight[4:12], y), nnf.cross_entropy(x @ w[4:12].T, y), rtol=1e-6, atol=1e-6
    )


def test_anything_else_has_all_of_the_numbers():
    w = torch.randn(7, 3)
    weight, x = made(w), torch.randn(4, 3, requires_grad=True)
    for f in (
        lambda t: x @ t.T, lambda t: nnf.linear(x, t), lambda t: t.sum(), lambda t: t * 2, lambda t: t[::2],
        lambda t: t[3], lambda t: t[:, 1:], lambda t: t[torch.tensor([1, 5])], lambda t: t.norm(dim=1),
        lambda t: torch.cat([t, t]), lambda t: t.double() @ x.double().T, lambda t: nnf.embedding(torch.arange(3), t),
        lambda t: t.clone() + 1, lambda t: t.contiguous().view(-1) + 0, lambda t: t.bfloat16() + 0,
    ):  # fmt: skip
        got, want = f(weight), f(w)
        assert type(got) is torch.Tensor
        torch.testing.assert_close(got, want)
    torch.testing.assert_close(
        torch.autograd.grad(nnf.linear(x, weight).sum(), x), torch.autograd.grad((x @ w.T).sum(), x)
    )


def test_copies():
    w = torch.randn(7, 3)
    weight = made(w)
    for other in (copy.deepcopy(weight), copy.copy(weight), weight.detach(), weight.to(torch.float32)):
        assert torch.equal(other.dequantize(), w)
    with pytest.raises((TypeError, AttributeError, RuntimeError, pickle.PicklingError)):
        _ = pickle.dumps(weight)


def test_it_takes_no_gradient():
    weight = made(torch.randn(7, 3))
    try:
        _ = weight.requires_grad_()
    except (RuntimeError, TypeError):
        return
    x = torch.randn(4, 3, requires_grad=True)
    with pytest.raises((RuntimeError, TypeError, ValueError), match=r"Dequantized|gradient"):
        F.linear_cross_entropy(x, weight, torch.arange(4)).backward()


# Errors

BAD = {
    "too few rows": (ValueError, lambda w: lambda b, e: w[b : e - 1], ["(22, 6)", "(23, 6)"]),
    "all rows": (ValueError, lambda w: lambda b, e: torch.cat([w, w]), ["(46, 6)", "(23, 6)"]),
    "other features": (ValueError, lambda w: lambda b, e: w[b:e, :5], ["(23, 5)", "(23, 6)"]),
    "transposed": (ValueError, lambda w: lambda b, e: w[b:e].T, ["(6, 23)", "(23, 6)"]),
    "flat": (ValueError, lambda w: lambda b, e: w[b:e].flatten(), ["(138,)", "(23, 6)"]),
    "a list": (TypeError, lambda w: lambda b, e: w[b:e].tolist(), ["list", "tensor"]),
    "nothing": (TypeError, lambda w: lambda b, e: None, ["None", "tensor"]),
    "codes": (TypeError, lambda w: lambda b, e: w[b:e].to(torch.int8), ["int8", "float"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_function_that_returns_something_else(name):
    error, function, words = BAD[name]
    w, x = torch.randn(23, 6), torch.randn(4, 6)
    weight = F.Dequantized(function(w), (23, 6), torch.float32)
    for call in (
        weight.dequantize,
        lambda: F.linear_cross_entropy(x, weight, torch.arange(4)),
        lambda: F.linear_cross_entropy(x.clone().requires_grad_(), weight, torch.arange(4), reduction="none"),
        lambda: F.linear_logprobs(x, weight, torch.arange(8).view(4, 2)),
        lambda: F.linear_divergence(x, w, x, weight),
        lambda: F.linear_cross_entropy(x, F.LowRank(weight, torch.randn(2, 6), torch.randn(23, 2)), torch.arange(4)),
    ):
        with pytest.raises(error) as caught:
            _ = call()
        for word in ("0", "23", *words):
            assert word in str(caught.value), f"{word!r} is not in {str(caught.value)!r}"


def test_an_error_of_the_function_is_the_callers():
    def broken(begin, end):
        raise KeyError("no such block")

    x = torch.randn(4, 6, requires_grad=True)
    with pytest.raises(KeyError, match="no such block"):
        _ = F.linear_cross_entropy(x, F.Dequantized(broken, (23, 6), torch.float32), torch.arange(4))


def test_arguments_that_are_no_weight():
    def rows(begin, end):
        return torch.zeros(end - begin, 6)

    for args in (
        (3, (23, 6), torch.float32), (rows, (23,), torch.float32), (rows, (23, 6, 2), torch.float32),
        (rows, (-1, 6), torch.float32), (rows, (23, 6), torch.int8), (rows, (23, 6), "float32"),
        (rows, 23, torch.float32), (rows, (23, 6.0), torch.float32), (None, (23, 6), torch.float32),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            _ = F.Dequantized(*args)


def test_operands_that_do_not_fit():
    weight, _ = quantised()
    x = torch.randn(4, 6)
    for error, text, call in (
        (TypeError, "linear_weight.*bfloat16|bfloat16.*linear_weight|float32", lambda: F.linear_cross_entropy(
            x.bfloat16(), weight, torch.arange(4))),
        (ValueError, "linear_weight", lambda: F.linear_cross_entropy(x[:, :5], weight, torch.arange(4))),
        (ValueError, "linear_bias", lambda: F.linear_cross_entropy(
            x, weight, torch.arange(4), linear_bias=torch.zeros(6))),
        (IndexError, "class 23", lambda: F.linear_cross_entropy(x, weight, torch.arange(4) + 20)),
    ):  # fmt: skip
        with pytest.raises(error, match=text):
            _ = call()
