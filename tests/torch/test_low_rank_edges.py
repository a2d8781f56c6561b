"""A head with low-rank adapters where rows or classes do not count or nothing is left; what a call leaves alone."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from tests.torch import adapted, linear, plain
from tests.torch.adapted import ADAPTERS, draw
from tests.torch.linear import KINDS, WITH, Shape

REDUCTIONS = ("mean", "sum", "none")
dtypes = pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
each_adapter = pytest.mark.parametrize("adapters", ADAPTERS)


def kept_rows(args, keep):
    """Leaves of fewer rows: input, target, sample weight and the adapters' own inputs have rows."""

    def rows(x):
        return x if x is None else x.detach()[keep].requires_grad_(x.requires_grad)

    x, w, y, b, s, *parts = args
    parts = [rows(p) if k % 3 == 2 else p for k, p in enumerate(parts)]
    return (rows(x), w, y[keep], b, rows(s), *parts)


def lost_rows(args, gone, bad):
    """The same leaves, in whose rows there is a bad number."""
    with torch.no_grad():
        for k, x in enumerate(args):
            if k == 0 or (k > 4 and (k - 5) % 3 == 2 and x is not None):
                x[gone] = bad
    return args


# Rows


@dtypes
@each_adapter
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_ignored_row_is_gone_whatever_it_holds(bad, adapters, dtype):
    for option, reduction, shape, chunk_bytes in itertools.product(
        ("nothing", "everything"), REDUCTIONS, (linear.ROWS, linear.TOKENS), (None, 100)
    ):
        args, options = draw(shape, "ignored", option, adapters=adapters, bias=True)
        args = adapted.cast(args, dtype)
        keep = args[2] != -100
        options |= {"reduction": reduction, "chunk_bytes": chunk_bytes}
        temperature = options.get("temperature")
        less = options | ({"temperature": temperature[keep]} if isinstance(temperature, torch.Tensor) else {})
        whole, wants = adapted.outcome(adapted.ours, kept_rows(args, keep), less)
        loss = adapted.ours(*lost_rows(args, ~keep, bad), **options)
        got = loss[keep] if reduction == "none" else loss
        plain.agree("loss", got, whole, None, plain.FLOOR[got.dtype])
        if reduction == "none":  # whose cotangents are of other rows then; the next test has them
            continue
        g = plain.cotangent_like(loss).to(loss.dtype)
        for name, a, h in zip(
            adapted.names_of(args), torch.autograd.grad(loss, plain.leaves(*args), g), wants, strict=True
        ):
            if name == "sample_weight" or name.split()[0] in ("input", "own"):
                assert torch.equal(a[~keep], torch.zeros_like(a[~keep])), name
                a = a[keep]  # noqa: PLW2901
            plain.agree(name, a, h, None, 2 * plain.FLOOR[dtype])


@each_adapter
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("how", ["ignored", "weighs nothing"])
def test_gradients_of_adapters_know_nothing_of_rows_that_are_gone(how, reduction, adapters):
    """NaN in an input times a gradient of zero is NaN: rows have to be left out of each product."""
    for chunk_bytes, frozen in itertools.product((None, 700, 1), ((), ("linear_weight", "linear_bias", "input"))):
        args, options = draw(Shape((20,), (), 13, 4), "index", adapters=adapters, bias=True, frozen=frozen)
        gone = torch.arange(20) % 3 == 1
        x, w, y, b, _, *parts = args
        if how == "ignored":
            given = (x, w, torch.where(gone, -100, y), b, None, *parts)
        else:
            given = (x, w, y, b, (~gone).double(), *parts)
        options |= {"reduction": reduction, "chunk_bytes": chunk_bytes}
        less = kept_rows((x, w, y, b, None, *parts), ~gone)
        want = adapted.exact(*less, scales=options["scales"], reduction=reduction)
        g = plain.cotangent_like(torch.zeros(20))[~gone] if reduction == "none" else None
        wants = torch.autograd.grad(want, plain.leaves(*less), g)
        loss = adapted.ours(*lost_rows(given, gone, math.nan), **options)
        whole = plain.cotangent_like(torch.zeros(20)) if reduction == "none" else None
        found = torch.autograd.grad(loss, plain.leaves(*given), whole)
        plain.agree("loss", loss[~gone] if reduction == "none" else loss, want, None, 1e-11)
        for name, a, h in zip(adapted.names_of(given), found, wants, strict=True):
            if name.split()[0] in ("input", "own"):
                assert torch.equal(a[gone], torch.zeros_like(a[gone])), name
                a = a[~gone]  # noqa: PLW2901
            plain.agree(name, a, h, None, 1e-11)


@dtypes
@each_adapter
def test_all_rows_ignored(adapters, dtype):
    for shape, option in itertools.product((linear.ROWS, linear.PIXELS, linear.TOKENS), ("nothing", "everything")):
        args, options = draw(shape, "index", option, adapters=adapters, bias=True)
        args = list(adapted.cast(args, dtype))
        args[2] = torch.full_like(args[2], -100)
        for reduction in REDUCTIONS:
            loss = adapted.ours(*args, **options, reduction=reduction)
            assert loss.isnan() if reduction == "mean" else torch.equal(loss, torch.zeros_like(loss))
            leaves = [x for k, x in enumerate(args) if k not in (2, 4) and x is not None]
            for g in torch.autograd.grad(loss.sum(), leaves):
                assert torch.equal(g, torch.zeros_like(g))


@dtypes
@each_adapter
@pytest.mark.parametrize("lead", [(0,), (2, 0), (0, 3)], ids=str)
def test_empty_batches_are_those_of_torch(lead, adapters, dtype):
    for kind, reduction in itertools.product(("index", "dense"), REDUCTIONS):
        args, options = draw(Shape(lead, (), 5, 3), kind, adapters=adapters, bias=True)
        args = adapted.cast(args, dtype)
        loss = adapted.ours(*args, **options, reduction=reduction)
        assert loss.shape == (lead if reduction == "none" else ())
        want = nnf.cross_entropy(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long), reduction=reduction)
        torch.testing.assert_close(loss.flatten(), want.flatten().to(loss.dtype), equal_nan=True)
        leaves = [x for k, x in enumerate(args) if k != 2 and x is not None]
        for g, x in zip(torch.autograd.grad(loss.sum(), leaves), leaves, strict=True):
            assert g.shape == x.shape
            assert g.dtype == x.dtype
            assert torch.equal(g, torch.zeros_like(g))


@each_adapter
def test_rows_do_not_touch_each_other(adapters):
    args, options = draw(linear.LONG, "index", "everything", adapters=adapters, bias=True)
    args = [x.detach() if isinstance(x, torch.Tensor) else x for x in args]
    options |= {"reduction": "none", "chunk_bytes": 200}
    want, keep = adapted.ours(*args, **options), torch.arange(150) != 7
    got = adapted.ours(*lost_rows(args, ~keep, math.nan), **options)
    assert got[7].isnan()
    torch.testing.assert_close(got[keep], want[keep], rtol=1e-14, atol=1e-14)


# Classes


@dtypes
@each_adapter
def test_a_bias_of_minus_infinity_takes_a_class_away(adapters, dtype):
    keep = torch.tensor([0, 1, 2, 4, 5, 6])
    for reduction in REDUCTIONS:
        args, options = draw(linear.ROWS, "ignored", adapters=adapters, bias=True)
        x, w, y, b, s, *parts = adapted.cast(args, dtype)
        options |= {"reduction": reduction}
        y = torch.where(y == 3, 4, y)
        with torch.no_grad():
            b[3] = -math.inf
        got, grads = adapted.outcome(adapted.ours, (x, w, y, b, s, *parts), options)
        named = dict(zip(adapted.names_of((x, w, y, b, s, *parts)), grads, strict=True))
        less = [p if k % 3 != 1 else p.detach()[keep].requires_grad_() for k, p in enumerate(parts)]
        w, b = (a.detach()[keep].requires_grad_() for a in (w, b))
        few = (x, w, torch.where(y > 3, y - 1, y), b, s, *less)
        want, wants = adapted.outcome(adapted.ours, few, options)
        plain.agree("loss", got, want, None, plain.FLOOR[got.dtype])
        for (name, g), h in zip(named.items(), wants, strict=True):
            if name in ("linear_weight", "linear_bias") or name.startswith("b "):
                assert torch.equal(g[3], torch.zeros_like(g[3])), name
                g = g[keep]  # noqa: PLW2901
            plain.agree(name, g, h, None, 2 * plain.FLOOR[dtype])


@dtypes
@each_adapter
@pytest.mark.parametrize("padding", [0.0, 1e4, math.inf, math.nan])
def test_padding_behind_the_classes_may_hold_anything(padding, adapters, dtype):
    for reduction, bias, chunk_bytes in itertools.product(REDUCTIONS, (False, True), (None, 200)):
        args, options = draw(linear.ROWS, "ignored", "smoothing", adapters=adapters, bias=bias)
        args = adapted.cast(args, dtype)
        options |= {"reduction": reduction, "chunk_bytes": chunk_bytes}

        def padded(k, x):
            if x is None or not (k in (1, 3) or (k > 4 and (k - 5) % 3 == 1)):
                return x
            more = x.detach().new_full((2, *x.shape[1:]), padding)
            return torch.cat([x.detach(), more]).requires_grad_()

        more = tuple(padded(k, x) for k, x in enumerate(args))
        want, wants = adapted.outcome(adapted.ours, args, options)
        got, grads = adapted.outcome(adapted.ours, more, options | {"num_classes": 7})
        plain.agree("loss", got, want, None, plain.FLOOR[got.dtype])
        for name, g, h in zip(adapted.names_of(more), grads, wants, strict=True):
            if g.shape != h.shape:
                assert torch.equal(g[7:], torch.zeros_like(g[7:])), name
                g = g[:7]  # noqa: PLW2901
            plain.agree(name, g, h, None, 2 * plain.FLOOR[dtype])


# What a call leaves alone


@each_adapter
def test_arguments_are_never_written_to(adapters):
    for kind, reduction in itertools.product(KINDS, ("mean", "none")):
        args, options = draw(linear.TOKENS, kind, "everything", adapters=adapters, bias=True)
        given = linear.tensors(*args, *options.values())
        before = [(x.detach().clone(), x._version) for x in given]
        loss, stats = adapted.ours(*args, **options, reduction=reduction, return_stats=True)
        torch.autograd.backward([loss, stats.entropy], [plain.cotangent_like(loss), torch.ones_like(stats.entropy)])
        with torch.no_grad():
            _ = adapted.ours(*args, **options, reduction=reduction)
        for x, (value, version) in zip(given, before, strict=True):
            assert torch.equal(x, value)
            assert x._version == version


LAYOUTS = {
    "transposed": lambda x: x.mT.contiguous().mT,
    "sliced": lambda x: torch.stack([x, x + 99], -1)[..., 0],
    "part of a larger one": lambda x: torch.cat([x + 9, x, x + 9], -1)[..., x.shape[-1] : 2 * x.shape[-1]],
    "offset": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    "reversed axes": lambda x: x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim))),
}


@dtypes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_of_any_layout(layout, dtype):
    lay = LAYOUTS[layout]
    for shape, adapters in itertools.product((linear.ROWS, linear.BOTH, linear.LONG), ("own features", "two")):
        args, options = draw(shape, "index", adapters=adapters, bias=True)

        def call(*given, **more):
            x, w, t, b, s, *parts = given
            return adapted.ours(lay(x), lay(w), t, b, s, *(p if p is None else lay(p) for p in parts), **more)

        args = adapted.cast(args, dtype)
        assert torch.equal(lay(args[5]), args[5])
        adapted.check(call, args, options)


@dtypes
def test_expanded_operands(dtype):
    """One row of A or B for all, or one input for all rows."""
    (x, w, y, b, _, *parts), options = draw(linear.LONG, adapters="own input", bias=True)
    sizes = (3, 13, 150)  # rows of a, b and the adapter's own input
    for at, size in enumerate(sizes):

        def call(*args, at=at, size=size, **more):
            held = list(args)
            held[5 + at] = held[5 + at].expand(size, -1)
            return adapted.ours(*held, **more)

        def whole(*args, at=at, size=size, **more):
            held = list(args)
            held[5 + at] = held[5 + at].repeat(size, 1)
            return adapted.ours(*held, **more)

        some = [p.detach()[:1].requires_grad_() if k == at else p for k, p in enumerate(parts)]
        args = adapted.cast((x, w, y, b, None, *some), dtype)
        (got, grads), (want, wants) = (adapted.outcome(f, args, options) for f in (call, whole))
        plain.agree("loss", got, want, None, plain.FLOOR[got.dtype])
        for name, g, h in zip(adapted.names_of(args), grads, wants, strict=True):
            plain.agree(name, g, h, None, plain.FLOOR[dtype])


def test_parameters_subclasses_and_negated_views():
    class Tagged(torch.Tensor):
        pass

    c = [torch.randn(n, dtype=torch.complex64) for n in ((6, 4), (5, 4), (2, 4), (5, 2))]
    y, negated = torch.randint(5, (6,)), [t.conj().imag for t in c]
    x, w, a, up = (-t.imag for t in c)
    assert negated[2].is_neg()
    want = F.linear_cross_entropy(x, F.LowRank(w, a, up, 0.5), y)
    for k in range(4):
        for other in (torch.nn.Parameter([x, w, a, up][k]), negated[k], [x, w, a, up][k].as_subclass(Tagged)):
            x2, w2, a2, up2 = (other if at == k else t for at, t in enumerate((x, w, a, up)))
            got = F.linear_cross_entropy(x2, F.LowRank(w2, a2, up2, 0.5), y)
            torch.testing.assert_close(torch.as_tensor(got).as_subclass(torch.Tensor), want)


def test_a_tied_embedding_gets_the_gradients_of_both_uses():
    table = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    a, up = (torch.randn(n, dtype=torch.float64, requires_grad=True) for n in ((2, 4), (9, 2)))
    ids, y = torch.randint(9, (6,)), torch.randint(9, (6,))
    got = F.linear_cross_entropy(table[ids], F.LowRank(table, a, up, 0.7), y)
    want = nnf.cross_entropy(table[ids] @ (table + 0.7 * up @ a).T, y)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    for g, h in zip(*(torch.autograd.grad(z, (table, a, up)) for z in (got, want)), strict=True):
        torch.testing.assert_close(g, h, rtol=1e-11, atol=1e-13)


def test_a_closing_reads_the_rows_of_the_adapted_head():
    def closing(rows, old):
        ratio = (rows.logprob - old).exp()
        return -torch.minimum(ratio, ratio.clamp(0.8, 1.2)) + 0.1 * rows.entropy

    args, options = draw(linear.LONG, "ignored", "temperature", adapters="three, one of its own", bias=True)
    old = -torch.rand(150, dtype=torch.float64) - 2
    scales, T = options["scales"], options["temperature"]
    x, w = adapted.whole(args[0], args[1], args[5:], scales)
    keep = args[2] != -100
    logp = (nnf.linear(x, w, args[3]) / T).log_softmax(1)
    ratio = (logp.gather(1, args[2].clamp(0)[:, None])[:, 0] - old).exp()
    each = -torch.minimum(ratio, ratio.clamp(0.8, 1.2)) - 0.1 * (logp.exp() * logp).sum(1)
    wants = {"sum": each[keep].sum(), "mean": each[keep].mean(), "none": torch.where(keep, each, 0.0)}
    leaves = plain.leaves(*args)
    for reduction, chunk_bytes in itertools.product(REDUCTIONS, (None, 13 * 8 * 130, 700)):
        got = adapted.ours(
            *args, **options, closing=closing, operands=(old,), reduction=reduction, chunk_bytes=chunk_bytes
        )
        torch.testing.assert_close(got, wants[reduction], rtol=1e-11, atol=1e-13)
        g = plain.cotangent_like(got)
        sides = [torch.autograd.grad(z, leaves, g, retain_graph=True) for z in (got, wants[reduction])]
        for a, b in zip(*sides, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_closing_over_sequences():
    def over_sequences(rows):
        at = rows.segments - rows.segments.min()
        mean = rows.logprob.new_zeros(150).index_add(0, at, rows.logprob) / 30
        return rows.loss * mean[at].exp()

    args, options = draw(linear.LONG, adapters="two", bias=True)
    segments = torch.arange(150) // 30
    x, w = adapted.whole(args[0], args[1], args[5:], options["scales"])
    logprob = nnf.linear(x, w, args[3]).log_softmax(1).gather(1, args[2][:, None])[:, 0].view(5, 30)
    want = -(logprob * logprob.mean(1, keepdim=True).exp()).mean()
    for chunk_bytes in (None, 13 * 8 * 40):
        got = adapted.ours(*args, **options, closing=over_sequences, segments=segments, chunk_bytes=chunk_bytes)
        torch.testing.assert_close(got, want, rtol=1e-11, atol=0)
        leaves = plain.leaves(*args)
        for g, h in zip(*(torch.autograd.grad(z, leaves, retain_graph=True) for z in (got, want)), strict=True):
            torch.testing.assert_close(g, h, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("option", WITH)
def test_options_do_not_depend_on_chunks(option):
    for adapters in ADAPTERS:
        args, options = draw(linear.LONG, "ignored", option, adapters=adapters, bias=True)
        want, wants = adapted.outcome(adapted.ours, args, options)
        for chunk_bytes in (1, 900, 13 * 8 * 128, 2**40):
            got, grads = adapted.outcome(adapted.ours, args, options | {"chunk_bytes": chunk_bytes})
            for a, b in zip((got, *grads), (want, *wants), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)
