"""linear_cross_entropy: values and derivatives of every order, for all targets, options and layouts."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as nnf
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import linear, plain
from tests.torch.linear import KINDS, SHAPES, WITH, Shape, draw, target_of

REDUCTIONS = ("mean", "sum", "none")
SMALL = {"rows": Shape((3,), (), 4, 2), "pixels": Shape((2,), (2,), 3, 2), "vector": Shape((), (), 4, 2)}
ours = linear.by_position(F.linear_cross_entropy)
dtypes = pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
kinds = pytest.mark.parametrize("kind", KINDS)


# Values and first derivatives


@pytest.mark.slow
@dtypes
@kinds
@pytest.mark.parametrize("option", WITH)
def test_every_option_of_every_target(option, kind, dtype):
    first = (
        KINDS.index(kind) + plain.DTYPES.index(dtype) + list(WITH).index(option)
    )  # so that they meet in other pairs every time
    for turn, shape in enumerate(SHAPES, first):
        reduction = REDUCTIONS[turn % 3]
        alone = ("sample_weight",) if shape.rows == () and reduction == "mean" else ()  # whose derivative is nothing
        args, options = draw(shape, kind, option, bias=turn % 2 == 0, spread=(1.0, 5.0, 3.0)[turn % 3], frozen=alone)
        linear.compare(F.linear_cross_entropy, dtype, args, options | {"reduction": reduction})


@dtypes
def test_large_scores(dtype):
    for kind, reduction in itertools.product(KINDS, REDUCTIONS):
        args, options = draw(linear.ROWS, kind, "smoothing", bias=True, spread=30.0)
        linear.compare(F.linear_cross_entropy, dtype, args, options | {"reduction": reduction})


@pytest.mark.slow
@dtypes
@kinds
def test_statistics_and_their_gradients(kind, dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    floor, rival_of = plain.FLOOR[wide], linear.in_float32(linear.linear_cross_entropy)
    for turn, (shape, option) in enumerate(
        itertools.product((linear.VECTOR, linear.BOTH, linear.WIDE), ("smoothing", "weight", "softcap", "everything"))
    ):
        args, options = draw(shape, kind, option, bias=turn % 2 == 0, spread=3.0)
        options |= {"reduction": "none", "return_stats": True}
        args = tuple(plain.cast(x, dtype) for x in args)
        options = {k: plain.cast(v, dtype) for k, v in options.items()}
        exacts = tuple(plain.cast(x, torch.float64) for x in args)
        rivals = tuple(plain.cast(x, dtype) for x in args)
        loss, stats = ours(*args, **options)
        wanted, want = linear.linear_cross_entropy(
            *exacts, **{k: plain.cast(v, torch.float64) for k, v in options.items()}
        )
        other, rival = rival_of(*rivals, **options)
        plain.agree("loss", loss, wanted, other, floor)
        for name in ("lse", "logprob", "entropy", "confidence", "log_sum_squares"):
            got = getattr(stats, name)
            assert (got.dtype, got.shape) == (wide, shape.rows)
            plain.agree(name, got, want[name], rival[name], floor)
        assert stats.correct.dtype == torch.bool
        assert torch.equal(stats.correct, want["correct"].bool())
        assert torch.equal(stats.predicted, want["predicted"])
        kept = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        for k, name in enumerate(("lse", "logprob", "entropy", "log_sum_squares")):
            g = plain.cotangent_like(want[name], k)
            got = torch.autograd.grad(getattr(stats, name), plain.leaves(*args), g.to(wide), **kept)
            exact = torch.autograd.grad(want[name], plain.leaves(*exacts), g, **kept)
            near = torch.autograd.grad(rival[name], plain.leaves(*rivals), g.to(wide), **kept)
            for a, b, c in zip(got, exact, near, strict=True):
                plain.agree(f"gradient of {name}", a, b, c, plain.FLOOR[dtype])


@kinds
def test_statistics_together_give_the_sum_of_their_gradients(kind):
    for reduction in ("none", "mean"):
        args, options = draw(linear.ROWS, kind, "everything", bias=True)
        loss, stats = ours(*args, **options, reduction=reduction, return_stats=True)
        parts = [loss, stats.lse, stats.logprob, stats.entropy]
        gs = [plain.cotangent_like(p, k) for k, p in enumerate(parts)]
        kept = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        whole = torch.autograd.grad(parts, plain.leaves(*args), gs, **kept)
        alone = [torch.autograd.grad(p, plain.leaves(*args), g, **kept) for p, g in zip(parts, gs, strict=True)]
        for a, b in zip(whole, zip(*alone, strict=True), strict=True):
            torch.testing.assert_close(a, sum(b), rtol=1e-12, atol=1e-12)
        assert not stats.correct.requires_grad


def test_one_class_and_one_feature():
    for kind, dtype, (C, D) in itertools.product(KINDS, plain.DTYPES, ((1, 3), (4, 1), (1, 1))):
        args, options = draw(Shape((5,), (), C, D), kind, "everything", bias=True)
        # of one class only the penalty has a derivative: not one beneath the rounding of what cancels
        linear.compare(F.linear_cross_entropy, dtype, args, options | {"reduction": "none", "z_loss": 1.0})


@pytest.mark.parametrize(
    "integer",
    [torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16, torch.uint32, torch.uint64],
    ids=str,
)
def test_classes_of_every_integer_dtype(integer):
    (x, w, y, *_), _ = draw(linear.LONG, "index")
    for ignore in (None, 7):
        want = ours(x, w, y, ignore_index=ignore)
        torch.testing.assert_close(ours(x, w, y.to(integer), ignore_index=ignore), want, rtol=0, atol=0)
        top = TopK(y.to(integer)[:, None], torch.ones(len(y), 1))
        if ignore is None:
            torch.testing.assert_close(ours(x, w, top), want, rtol=1e-12, atol=0)


def test_targets_of_other_float_dtypes_than_the_input():
    (x, w, p, *_), _ = draw(linear.ROWS, "dense")
    p = p.detach().bfloat16()
    for dtype, other in itertools.product((torch.float32, torch.bfloat16), plain.DTYPES):
        q, exact_q = p.to(other).requires_grad_(), p.double().requires_grad_()
        args = x.detach().to(dtype), w.detach().to(dtype)
        got, want = ours(*args, q), linear.linear_cross_entropy(*(a.double() for a in args), exact_q)
        plain.agree("loss", got, want, None, plain.FLOOR[torch.float32])
        (g,), (h,) = torch.autograd.grad(got, q), torch.autograd.grad(want, exact_q)
        assert g.dtype == other
        plain.agree("gradient", g, h, None, max(plain.FLOOR[other], plain.FLOOR[torch.float32]))


@pytest.mark.slow
@dtypes
@kinds
@pytest.mark.parametrize("threads", [2, 5])
def test_any_number_of_threads(threads, kind, dtype):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for reduction in ("mean", "none"):
            args, options = draw(Shape((40,), (), 101, 9), kind, "everything", bias=True)
            linear.compare(F.linear_cross_entropy, dtype, args, options | {"reduction": reduction})
    finally:
        torch.set_num_threads(before)


LAYOUTS = {
    "transposed": lambda x: x.mT.contiguous().mT,
    "sliced": lambda x: torch.stack([x, x + 99], -1)[..., 0],
    "part of a larger one": lambda x: torch.cat([x + 9, x, x + 9], -1)[..., x.shape[-1] : 2 * x.shape[-1]],
    "offset": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    "every other one": lambda x: torch.stack([x, x + 9], 1).flatten(0, 1)[::2],
    "reversed axes": lambda x: x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim))),
}


@dtypes
@pytest.mark.parametrize("kind", ["index", "dense", "topk"])
def test_memory_of_any_layout(kind, dtype):
    def laid(lay, t):
        return TopK(lay(t.index), lay(t.prob)) if isinstance(t, TopK) else lay(t) if t.ndim > 1 else t

    for shape, (a, b) in itertools.product((linear.ROWS, linear.BOTH), itertools.pairwise([*LAYOUTS, "transposed"])):
        first, second = LAYOUTS[a], LAYOUTS[b]

        def call(x, w, t, bias=None, s=None, first=first, second=second, **options):
            bias = second(torch.stack([bias, bias]))[0]
            return ours(
                first(x), second(w), laid(first, t), bias, None if s is None else s.mT.contiguous().mT, **options
            )

        args, options = draw(shape, kind, "weight", bias=True)
        options["weight"] = torch.stack([options["weight"]] * 2, 1)[:, 1]
        assert torch.equal(first(args[0]), args[0])
        rival = linear.in_float32(linear.linear_cross_entropy)
        plain.compare(call, rival, linear.linear_cross_entropy, dtype, args, options)


@dtypes
def test_expanded_operands(dtype):
    shape, y = Shape((6,), (2,), 5, 3), torch.randint(5, (6, 1))

    def expanded(function):
        def rows(x, w, t, b, s, **more):
            return function(x.expand(6, 3), w, t.expand(6, 2), b.expand(5, 2), s.expand(6, 2), reduction="none", **more)

        def weights(x, w, t, b, s, **more):
            return function(x, w.expand(5, 2, 3), t.expand(6, 2), b, s, reduction="mean", **more)

        def features(x, w, t, b, s, **more):
            return function(x.expand(6, 3), w, t.expand(6, 5, 2), b, s, softcap=3.0, **more)

        return rows, weights, features

    (x, w, _, b, s), _ = draw(shape, "index", "everything", bias=True)
    prob = target_of(Shape((1,), (1,), 5, 3), "dense")
    few = [a.detach()[:, :1].requires_grad_() for a in (w, b, s)]
    first = (x.detach()[:1].requires_grad_(), w, y, *few[1:])
    for k, args in enumerate((first, (x, few[0], y, b, s), (x.detach()[:, :1].requires_grad_(), w, prob, b, s))):
        exact = expanded(linear.linear_cross_entropy)[k]
        plain.compare(expanded(ours)[k], linear.in_float32(exact), exact, dtype, args, {})


def test_the_same_tensor_as_input_and_weight():
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    y = torch.randint(5, (5,))
    (got,), (want,) = (torch.autograd.grad(f(x, x, y), x) for f in (ours, linear.linear_cross_entropy))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


# What needs no gradient, what gets two, what is differentiated twice


def test_a_gradient_only_where_one_is_wanted():
    names = ("input", "linear_weight", "prob", "linear_bias", "sample_weight")
    for kind, reduction in itertools.product(("dense", "topk"), ("mean", "none")):
        args, options = draw(linear.ROWS, kind, "everything", bias=True)
        _, want = plain.run(linear.linear_cross_entropy, torch.float64, args, options | {"reduction": reduction})
        for wanted in itertools.product((False, True), repeat=5):
            parts = [plain.cast(x, torch.float64) for x in args]
            held = [x.prob if isinstance(x, TopK) else x for x in parts]
            for x, need in zip(held, wanted, strict=True):
                _ = x.requires_grad_(need)
            loss = ours(*parts, **options, reduction=reduction)
            assert loss.requires_grad == any(wanted)
            if any(wanted):
                _ = loss.backward(plain.cotangent_like(loss))
            for name, x, need, exact in zip(names, held, wanted, want, strict=True):
                assert (x.grad is not None) == need, name
                if need:
                    plain.agree(name, x.grad, exact, None, plain.FLOOR[torch.float64])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    for kind in KINDS:
        args, options = draw(linear.ROWS, kind, "everything", bias=True)
        with mode():
            loss, stats = ours(*args, **options, return_stats=True)
            assert not loss.requires_grad
            assert not stats.lse.requires_grad
            torch.testing.assert_close(loss, linear.linear_cross_entropy(*args, **options), rtol=1e-12, atol=0)


@dtypes
@kinds
def test_a_second_backward_gives_the_same_gradients(kind, dtype):
    args, options = draw(linear.ROWS, kind, "everything", bias=True)
    args = tuple(plain.cast(x, dtype) for x in args)
    for reduction, more in itertools.product(("mean", "none"), (False, True)):
        loss = ours(*args, **options, reduction=reduction, return_stats=more)
        if more:
            loss = loss[0].sum() + loss[1].entropy.sum()
        g, x = plain.cotangent_like(loss).to(loss.dtype), plain.leaves(*args)
        first = [a.clone() for a in torch.autograd.grad(loss, x, g, retain_graph=True)]
        other = [a.clone() for a in torch.autograd.grad(loss, x, 2 * g, retain_graph=True)]
        third = torch.autograd.grad(loss, x, g)
        for a, b, c in zip(first, other, third, strict=True):
            assert torch.equal(a, c)
            if dtype in (torch.float64, torch.float32):  # a half may be subnormal
                assert torch.equal(2 * a, b)


@pytest.mark.slow
@pytest.mark.parametrize("option", WITH)
@kinds
def test_first_and_second_derivatives(kind, option):
    for shape, reduction in zip(SMALL.values(), ("mean", "none", "sum"), strict=True):
        args, options = draw(shape, kind, option, bias=True)
        leaves = plain.leaves(*args)
        if kind == "dense":
            args[2].data += 0.1  # away from the edge, over which a small step would lead

        def call(*given, args=args, options=options, reduction=reduction):
            left = iter(given)
            parts = [TopK(x.index, next(left)) if isinstance(x, TopK) else x for x in args]
            parts = [x if isinstance(x, TopK) or x is None or not x.requires_grad else next(left) for x in parts]
            return ours(*parts, **options, reduction=reduction)

        if kind == "topk":  # whose probabilities come first then
            leaves = [leaves[2], *leaves[:2], *leaves[3:]]
        assert gradcheck(call, leaves, fast_mode=True)
        assert gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.slow
@kinds
def test_first_and_second_derivatives_of_the_statistics(kind):
    for option in ("nothing", "everything"):
        (x, w, t, b, s), options = draw(SMALL["rows"], kind, option, bias=True, frozen=("prob", "sample_weight"))

        def call(x, w, b, t=t, s=s, options=options):
            loss, stats = ours(x, w, t, b, s, **options, return_stats=True)
            return loss, stats.lse, stats.logprob, stats.entropy

        assert gradcheck(call, (x, w, b))
        assert gradgradcheck(call, (x, w, b))


def test_gradients_accumulate_over_micro_batches_and_uses():
    # a tied embedding is used twice, and its gradients add
    table = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    ids, y = torch.randint(9, (2, 6)), torch.randint(9, (2, 6))
    for part in range(2):
        _ = ours(table[ids[part]], table, y[part], reduction="sum").backward()
    (want,) = torch.autograd.grad(
        nnf.cross_entropy(table[ids].flatten(0, 1) @ table.T, y.flatten(), reduction="sum"), table
    )
    torch.testing.assert_close(table.grad, want, rtol=1e-10, atol=1e-12)
    once, x = table.grad.clone(), torch.randn(6, 4, dtype=torch.float64)
    loss = ours(x, table, y[0])
    _ = loss.backward(retain_graph=True)
    step = table.grad - once
    _ = loss.backward()
    torch.testing.assert_close(table.grad, once + 2 * step, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant):
    for kind, reduction in itertools.product(KINDS, ("mean", "none")):
        args, options = draw(linear.ROWS, kind, "everything", bias=True)
        x, w, t, b, s = args

        def step(x, w, b, s, t=t, options=options, reduction=reduction):
            loss, stats = ours(x, w, t, b, s, **options, reduction=reduction, return_stats=True)
            return loss.sum() + stats.entropy.mean()

        want = torch.autograd.grad(step(x, w, b, s), (x, w, b, s))
        _ = checkpoint(step, x, w, b, s, use_reentrant=reentrant).backward()
        for leaf, g in zip((x, w, b, s), want, strict=True):
            torch.testing.assert_close(leaf.grad, g, rtol=1e-12, atol=1e-14)


def test_an_operand_changed_after_the_forward_pass():
    # is noticed, or did not matter
    for at, reduction in itertools.product((0, 1, 3), ("mean", "none")):
        args, _ = draw(linear.ROWS, "index", bias=True)
        held = [x * 1 if k == at else x for k, x in enumerate(args)]
        _, want = plain.run(linear.linear_cross_entropy, torch.float64, args, {"reduction": reduction})
        loss = ours(*held, reduction=reduction)
        _ = held[at].zero_()
        try:
            got = torch.autograd.grad(loss, plain.leaves(*args), plain.cotangent_like(loss))
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)  # noqa: PT017
            continue
        for a, b in zip(got, want, strict=True):
            plain.agree("gradient", a, b, None, plain.FLOOR[torch.float64])


# Precision of autocast


def test_under_autocast():
    for kind, half in itertools.product(KINDS, (torch.bfloat16, torch.float16)):
        args, options = draw(linear.ROWS, kind, "everything", bias=True)
        x, w, t, b, s = (plain.cast(a, torch.float32) for a in args)
        x.data, w.data, b.data = (a.data.to(half).float() for a in (x, w, b))  # so that the cast loses nothing
        low = [
            plain.cast(a, half) if k in (0, 1, 3) else plain.cast(a, torch.float32)
            for k, a in enumerate((x, w, t, b, s))
        ]
        for given in ((x, w, t, b, s), (plain.cast(x, half), w, t, b, s)):
            with torch.autocast("cpu", dtype=half):
                loss = ours(*given, **options)
            want = ours(*low, **options)
            assert loss.dtype == torch.float32
            assert torch.equal(loss, want)
            got = torch.autograd.grad(loss, plain.leaves(*given))
            for g, h, leaf in zip(
                got, torch.autograd.grad(want, plain.leaves(*low)), plain.leaves(*given), strict=True
            ):
                assert g.dtype == leaf.dtype
                plain.agree("gradient", g, h.double(), None, plain.FLOOR[half])
        with torch.autocast("cpu", dtype=half, enabled=False):
            assert torch.equal(ours(x, w, t, b, s, **options), ours(x, w, t, b, s, **options))
            linear.compare(F.linear_cross_entropy, torch.float32, args, options)
