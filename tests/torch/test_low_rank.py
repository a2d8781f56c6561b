"""A head with low-rank adapters: values and first derivatives, for all targets, options, dtypes and chunks."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from tests.torch import adapted, linear, plain
from tests.torch.adapted import ADAPTERS, adapters_of, draw
from tests.torch.linear import KINDS, SHAPES, WITH, Shape

REDUCTIONS = ("mean", "sum", "none")
dtypes = pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
kinds = pytest.mark.parametrize("kind", KINDS)
each_adapter = pytest.mark.parametrize("adapters", ADAPTERS)


# Values and first derivatives


@pytest.mark.slow
@dtypes
@kinds
@pytest.mark.parametrize("option", WITH)
def test_every_option_of_every_target(option, kind, dtype):
    first = KINDS.index(kind) + plain.DTYPES.index(dtype) + list(WITH).index(option)
    names = list(ADAPTERS)
    for turn, shape in enumerate(SHAPES, first):
        reduction = REDUCTIONS[turn % 3]
        alone = ("sample_weight",) if shape.rows == () and reduction == "mean" else ()  # whose derivative is nothing
        args, options = draw(
            shape, kind, option, adapters=names[turn % 5], bias=turn % 2 == 0,
            spread=(1.0, 5.0, 3.0)[turn % 3], frozen=alone,
        )  # fmt: skip
        chunks = (None, 8 * shape.C * 3, 1)[turn // 2 % 3]
        adapted.compare(dtype, args, options | {"reduction": reduction, "chunk_bytes": chunks})


@dtypes
@each_adapter
def test_each_adapter(adapters, dtype):
    for shape, reduction in itertools.product((linear.ROWS, linear.BOTH, linear.LONG), REDUCTIONS):
        args, options = draw(shape, "ignored", "smoothing", adapters=adapters, bias=True)
        adapted.compare(dtype, args, options | {"reduction": reduction})


@pytest.mark.slow
@dtypes
@each_adapter
@pytest.mark.parametrize("chunk_bytes", [1, 1500, 33 * 8 * 150, None])
def test_chunks_of_any_size(chunk_bytes, adapters, dtype):
    for reduction, bias in ((r, k) for r in REDUCTIONS for k in (False, True)):
        args, options = draw(Shape((150,), (), 33, 6), "ignored", "softcap", adapters=adapters, bias=bias)
        adapted.compare(dtype, args, options | {"reduction": reduction, "chunk_bytes": chunk_bytes})


@pytest.mark.slow
@dtypes
@pytest.mark.parametrize("learning", [("a", "b"), ("a", "b", "input"), ("b",), ("a",), ("own",), ("linear_weight",)])
def test_some_operands_learn_alone(learning, dtype):
    """A frozen head, as adapters have one, and every other choice."""
    frozen = tuple(n for n in (*adapted.NAMES, "a", "b", "own") if n not in learning)
    for adapters, reduction, chunk_bytes in itertools.product(
        ("one", "own features", "three, one of its own"), REDUCTIONS, (1500, None)
    ):
        if learning == ("own",) and adapters == "one":
            continue
        args, options = draw(Shape((150,), (), 33, 6), "ignored", "temperature", adapters=adapters, frozen=frozen)
        adapted.compare(dtype, args, options | {"reduction": reduction, "chunk_bytes": chunk_bytes})


@dtypes
def test_large_scores(dtype):
    for kind, reduction in itertools.product(KINDS, REDUCTIONS):
        args, options = draw(linear.ROWS, kind, "smoothing", adapters="own input", bias=True, spread=30.0)
        adapted.compare(dtype, args, options | {"reduction": reduction})


@pytest.mark.slow
@dtypes
@kinds
def test_statistics_and_their_gradients(kind, dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    names, smooth = list(ADAPTERS), ("lse", "logprob", "entropy", "log_sum_squares")
    for turn, (shape, option) in enumerate(
        itertools.product((linear.VECTOR, linear.BOTH, linear.WIDE), ("smoothing", "weight", "softcap", "everything"))
    ):
        args, options = draw(shape, kind, option, adapters=names[turn % 5], bias=turn % 2 == 0, spread=3.0)
        options |= {"reduction": "none", "return_stats": True}
        args, options = adapted.cast(args, dtype), {k: plain.cast(v, dtype) for k, v in options.items()}
        exacts = adapted.doubled(args)
        loss, stats = adapted.ours(*args, **options)
        wanted, want = adapted.exact(*exacts, **{k: plain.cast(v, torch.float64) for k, v in options.items()})
        near = [(adapted.cast(args, dtype), f) for f in adapted.rivals(args, options)]
        near = [(held, *f(*held, **options)) for held, f in near]
        adapted.agree("loss", loss, wanted, [x for _, x, _ in near], plain.FLOOR[wide])
        for name in (*smooth, "confidence"):
            adapted.agree(name, getattr(stats, name), want[name], [x[name] for _, _, x in near], plain.FLOOR[wide])
        if dtype in (torch.float64, torch.float32):
            assert torch.equal(stats.predicted, want["predicted"])
            assert torch.equal(stats.correct, want["correct"].bool())
        kept = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        for k, name in enumerate(smooth):
            g = plain.cotangent_like(want[name], k)
            outs = [(getattr(stats, name), args), (want[name], exacts), *((x[name], held) for held, _, x in near)]
            sides = [torch.autograd.grad(out, plain.leaves(*held), g.to(out.dtype), **kept) for out, held in outs]
            for a, b, *others in zip(*sides, strict=True):
                adapted.agree(f"gradient of {name}", a, b, others, plain.FLOOR[dtype])


@pytest.mark.slow
@dtypes
@pytest.mark.parametrize("threads", [2, 5])
def test_any_number_of_threads(threads, dtype):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for reduction, adapters in itertools.product(("mean", "none"), ADAPTERS):
            args, options = draw(Shape((40,), (), 101, 9), "index", "everything", adapters=adapters, bias=True)
            adapted.compare(dtype, args, options | {"reduction": reduction})
    finally:
        torch.set_num_threads(before)


# Against the modules that people write


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_it_is_the_loss_of_torch_of_two_layers(reduction):
    """As PEFT writes them: head(x) + lora_B(lora_A(dropout(x))) · scale."""
    x, w, b = torch.randn(20, 6), torch.randn(11, 6), torch.randn(11)
    y, a, up = torch.randint(11, (20,)), torch.randn(3, 6), torch.randn(11, 3)
    leaves = [t.double().requires_grad_() for t in (x, a, up, w, b)]
    x, a, up, w, b = leaves
    dropped = nnf.dropout(x, 0.5)
    assert not torch.equal(dropped, x)
    want = nnf.cross_entropy(nnf.linear(x, w, b) + nnf.linear(nnf.linear(dropped, a), up) * 1.5, y, reduction=reduction)
    got = F.linear_cross_entropy(
        x, F.LowRank(w, a, up, 1.5, input=dropped), y, linear_bias=b, reduction=reduction, chunk_bytes=800
    )
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    g = plain.cotangent_like(want)
    for one, other in zip(*(torch.autograd.grad(z, leaves, g, retain_graph=True) for z in (got, want)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_the_scale_is_1_by_default_and_any_number():
    (x, w, y, b, _, a, up, _), _ = draw(linear.ROWS, bias=True)
    for scale, args in ((1.0, ()), (2, (2,)), (-0.25, (-0.25,)), (0.0, (0.0,))):
        got = F.linear_cross_entropy(x, F.LowRank(w, a, up, *args), y, linear_bias=b)
        want = nnf.cross_entropy(nnf.linear(x, w + scale * up @ a, b), y)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
        for g, h in zip(*(torch.autograd.grad(z, (x, w, b, a, up)) for z in (got, want)), strict=True):
            torch.testing.assert_close(g, h, rtol=1e-11, atol=1e-14)
    for g in torch.autograd.grad(F.linear_cross_entropy(x, F.LowRank(w, a, up, 0.0), y), (a, up)):
        assert torch.equal(g, torch.zeros_like(g))


def test_a_new_adapter_changes_nothing_and_its_b_learns():
    """B is zero then, as PEFT begins: so is the gradient of A, and that of B is not."""
    (x, w, y, b, _, a, up, _), _ = draw(linear.LONG, bias=True)
    up = torch.zeros_like(up).requires_grad_()
    got = F.linear_cross_entropy(x, F.LowRank(w, a, up, 2.0), y, linear_bias=b)
    want = nnf.cross_entropy(nnf.linear(x, w, b), y)
    torch.testing.assert_close(got, want, rtol=1e-13, atol=0)
    da, db = torch.autograd.grad(got, (a, up), retain_graph=True)
    assert torch.equal(da, torch.zeros_like(da))
    (dw,) = torch.autograd.grad(want, w)
    torch.testing.assert_close(db, 2.0 * dw @ a.T, rtol=1e-11, atol=1e-14)


def test_the_input_of_the_head_as_that_of_the_adapter():
    (x, w, y, b, _, a, up, _), _ = draw(linear.LONG, bias=True)
    leaves, results = (x, w, b, a, up), []
    for own in (None, x, x * 1, x.view_as(x)):
        loss = F.linear_cross_entropy(x, F.LowRank(w, a, up, 0.7, input=own), y, linear_bias=b)
        results.append([loss, *torch.autograd.grad(loss, leaves)])
    for other in results[1:]:
        for g, h in zip(results[0], other, strict=True):
            torch.testing.assert_close(g, h, rtol=1e-12, atol=1e-14)


def test_the_order_of_adapters_does_not_matter():
    args, options = draw(linear.LONG, adapters="three, one of its own", bias=True)
    found = {}
    for order in itertools.permutations(range(3)):
        parts = [x for k in order for x in list(adapters_of(args[5:]))[k]]
        scales = tuple(options["scales"][k] for k in order)
        loss = adapted.ours(*args[:5], *parts, scales=scales)
        found[order] = [loss, *torch.autograd.grad(loss, plain.leaves(*args))]
    for other in found.values():
        for g, h in zip(found[0, 1, 2], other, strict=True):
            torch.testing.assert_close(g, h, rtol=1e-11, atol=1e-13)


def test_an_adapter_that_is_used_twice_adds_up():
    (x, w, y, b, _, a, up, _), _ = draw(linear.LONG, bias=True)
    got = F.linear_cross_entropy(x, F.LowRank(F.LowRank(w, a, up, 0.5), a, up, 0.75), y, linear_bias=b)
    want = F.linear_cross_entropy(x, F.LowRank(w, a, up, 1.25), y, linear_bias=b)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    for g, h in zip(*(torch.autograd.grad(z, (x, w, a, up)) for z in (got, want)), strict=True):
        torch.testing.assert_close(g, h, rtol=1e-11, atol=1e-13)


def test_one_object_serves_many_calls_and_reads_its_operands_anew():
    (x, w, y, _, _, a, up, _), _ = draw(linear.LONG)
    source = F.LowRank(w, a, up, 1.5)
    for step in range(3):
        got = F.linear_cross_entropy(x, source, y)
        want = nnf.cross_entropy(nnf.linear(x, w + 1.5 * up @ a), y)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
        for g, h in zip(*(torch.autograd.grad(z, (a, up, w)) for z in (got, want)), strict=True):
            torch.testing.assert_close(g, h, rtol=1e-11, atol=1e-13)
        with torch.no_grad():  # an optimiser's step in place
            _ = a.mul_(1.5 + step), up.add_(0.3), w.mul_(0.5)


@pytest.mark.parametrize("rank", [1, 6, 9])
def test_ranks_up_to_that_of_the_weight_and_beyond(rank):
    x, w, y = (t.double() for t in (torch.randn(40, 6), torch.randn(11, 6), torch.randint(11, (40,))))
    y, leaves = y.long(), [t.double().requires_grad_() for t in (torch.randn(rank, 6), torch.randn(11, rank))]
    got = F.linear_cross_entropy(x, F.LowRank(w, *leaves, 0.3), y)
    want = nnf.cross_entropy(nnf.linear(x, w + 0.3 * leaves[1] @ leaves[0]), y)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    for g, h in zip(*(torch.autograd.grad(z, leaves) for z in (got, want)), strict=True):
        torch.testing.assert_close(g, h, rtol=1e-11, atol=1e-13)


def test_one_class_and_one_feature():
    for kind, dtype, (C, D) in itertools.product(KINDS, plain.DTYPES, ((1, 3), (4, 1), (1, 1))):
        args, options = draw(Shape((5,), (), C, D), kind, "everything", adapters="two", bias=True)
        # of one class only the penalty has a derivative: not one beneath the rounding of what cancels
        adapted.compare(dtype, args, options | {"reduction": "none", "z_loss": 1.0})


# Dtypes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "of_adapters"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float32, torch.bfloat16),
     (torch.float32, torch.float64), (torch.float64, torch.float32), (torch.bfloat16, torch.float16)],
    ids=str,
)  # fmt: skip
def test_adapters_of_another_dtype(dtype, of_adapters):
    """As PEFT keeps float32 adapters on a bfloat16 head; every gradient has the dtype of its operand."""
    for adapters, reduction, chunk_bytes in itertools.product(ADAPTERS, REDUCTIONS, (1500, None)):
        args, options = draw(Shape((60,), (), 33, 6), "ignored", "smoothing", adapters=adapters, bias=True)
        options |= {"reduction": reduction, "chunk_bytes": chunk_bytes}
        adapted.compare(dtype, args, options, of_adapters)


def test_float32_adapters_with_an_input_in_float32_beside_a_bfloat16_head():
    """PEFT casts the features to the adapter's dtype before its dropout."""
    (x, w, y, b, _, a, up, _), _ = draw(Shape((60,), (), 33, 6), bias=True)
    x, w, b = (t.detach().bfloat16().requires_grad_() for t in (x, w, b))
    a, up = (t.detach().float().requires_grad_() for t in (a, up))
    own = x.float()
    got = F.linear_cross_entropy(x, F.LowRank(w, a, up, 1.5, input=own), y, linear_bias=b)
    alone = F.linear_cross_entropy(x, F.LowRank(w, a, up, 1.5), y, linear_bias=b)
    assert torch.equal(got, alone)
    leaves = (x, w, b, a, up)
    for leaf, g, h in zip(leaves, *(torch.autograd.grad(z, leaves) for z in (got, alone)), strict=True):
        assert g.dtype == leaf.dtype
        plain.agree("gradient", g, h, None, plain.FLOOR[leaf.dtype] if leaf is not x else plain.FLOOR[torch.bfloat16])


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_under_autocast(reduction, half):
    for adapters, kind in itertools.product(ADAPTERS, KINDS):
        args, options = draw(Shape((30,), (), 13, 6), kind, "everything", adapters=adapters, bias=True)
        options |= {"reduction": reduction}
        given = adapted.cast(adapted.cast(args, half), torch.float32)  # so that the cast loses nothing
        low = tuple(plain.cast(x, torch.float32 if k in (2, 4) else half) for k, x in enumerate(given))

        def cast_by_torch(*call, half=half, **more):
            with torch.autocast("cpu", dtype=half):
                return adapted.ours(*call, **more)

        adapted.check(cast_by_torch, given, options, low)
