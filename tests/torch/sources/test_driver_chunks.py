"""Laws of the chunks: they change nothing but rounding, whose size does not depend on them, and they bound the memory.

Each check takes the function that it is to hold for, so that functions with known mistakes can be seen to fail it.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from tests.torch import linear, plain
from tests.torch.linear import KINDS, Shape, draw

ROOT = Path(__file__).parents[3]
HALVES = (torch.bfloat16, torch.float16)
ONE, EVERYTHING = 1, 2**40
# A gradient of half precision is rounded twice at most, as the gradient of the logits and in the end, by no more than
# the unit roundoff of bfloat16, 2^-9, each; added in quadrature over many elements that is 2.8e-3.
TWICE_ROUNDED = 3e-3
# Products and sums are float32 beneath a loss of half precision.
LOSS = 1e-5


# The laws


def check_chunks(function, kind, dtype):
    """Any number of bytes gives the plain loss and its gradients."""
    calls = (
        (linear.TOKENS, "everything"),
        (linear.PIXELS, "weight"),
        (Shape((17,), (), 40, 5), "nothing"),
        (Shape((5,), (), 150, 3), "everything"),
    )
    for turn, ((shape, option), chunk_bytes) in enumerate(
        itertools.product(calls, (ONE, 300, 4096, 2**14, EVERYTHING))
    ):
        args, options = draw(shape, kind, option, bias=True, spread=3.0)
        options |= {"reduction": ("mean", "none")[turn % 2], "chunk_bytes": chunk_bytes}
        linear.compare(function, dtype, args, options)


def check_statistics(function, kind):
    """The statistics do not depend on the chunks either."""
    args, options = draw(Shape((9,), (), 70, 5), kind, "everything", bias=True)
    seen = []
    for chunk_bytes in (ONE, 1000, EVERYTHING):
        _, stats = linear.by_position(function)(*args, **options, chunk_bytes=chunk_bytes, return_stats=True)
        parts = [stats.lse, stats.logprob, stats.entropy]
        g = [plain.cotangent_like(x, k) for k, x in enumerate(parts)]
        grads = torch.autograd.grad(parts, plain.leaves(*args), g, allow_unused=True, materialize_grads=True)
        seen.append([*parts, stats.confidence, stats.correct.double(), *grads])
    for other in seen[1:]:
        for a, b in zip(seen[0], other, strict=True):
            plain.agree("a statistic, or its gradient", b, a, None, plain.FLOOR[torch.float64])


def check_packing(function, dtype):
    """Ignored rows change nothing: the same call without them gives the same sums, and their gradient is zero."""
    for reduction, chunk_bytes, option in itertools.product(
        ("mean", "sum"), (ONE, 2000, EVERYTHING), ("nothing", "everything")
    ):
        args, options = draw(Shape((60,), (), 33, 6), "ignored", option, bias=True)
        x, w, y, b, s = (plain.cast(a, dtype) for a in args)
        y[7:40] = -100  # more than a chunk in a row
        keep = y != -100
        options |= {"reduction": reduction, "chunk_bytes": chunk_bytes}
        got, grads = plain.run(linear.by_position(function), dtype, (x, w, y, b, s), options)
        packed = x.detach()[keep].requires_grad_(), w, y[keep], b, None if s is None else plain.cast(s[keep], dtype)
        want, wanted = plain.run(
            linear.linear_cross_entropy, torch.float64, tuple(plain.cast(a, torch.float64) for a in packed), options
        )
        assert torch.equal(grads[0][~keep], torch.zeros_like(grads[0][~keep]))
        grads[0] = grads[0][keep]
        grads[3:] = [g[keep] for g in grads[3:]]
        other, others = plain.run(linear.in_float32(linear.linear_cross_entropy), dtype, packed, options)
        plain.agree("loss", got, want, other, plain.FLOOR[got.dtype])
        for g, h, o in zip(grads, wanted, others, strict=True):
            plain.agree("gradient", g, h, o, plain.FLOOR[dtype])


def large(dtype, scale=1.0, N=1024, V=1000, D=48):
    """Operands of a call that is large enough to be cut into many pieces, and their values in float64."""
    generator = torch.Generator().manual_seed(5)
    x = scale * torch.randn(N, D, generator=generator)
    w = scale * torch.randn(V, D, generator=generator) * 2 / math.sqrt(D)
    b, y = torch.randn(V, generator=generator), torch.randint(V, (N,), generator=generator)
    operands = [t.to(dtype).requires_grad_() for t in (x, w, b)]
    return operands, y, [t.detach().double().requires_grad_() for t in operands]


def check_flat(function, dtype, reduction):
    """The error of half precision does not grow with the number of chunks."""
    operands, y, exact = large(dtype)
    want = nnf.cross_entropy(nnf.linear(*exact), y, reduction=reduction)
    g = plain.cotangent_like(want)
    wanted = torch.autograd.grad(want, exact, g)
    for chunks in (1, 8, 64, 512):
        call = {"reduction": reduction, "chunk_bytes": 4 * len(y) * len(operands[1]) // chunks}
        loss = function(*operands[:2], y, linear_bias=operands[2], **call)
        error = plain.off(loss, want)
        assert error <= LOSS, f"loss in {chunks} chunks is off by {error:.3g}"
        for name, a, b in zip(("dX", "dW", "db"), torch.autograd.grad(loss, operands, g.float()), wanted, strict=True):
            assert a.dtype == dtype
            error = plain.off(a, b)
            assert error <= TWICE_ROUNDED, f"{name} in {chunks} chunks is off by {error:.3g}"


def check_loss_scale(function):
    """Gradients too small for float16 survive if the loss is scaled, as torch.amp.GradScaler does it."""
    operands, y, exact = large(torch.float16, scale=1e-3)
    wanted = torch.autograd.grad(nnf.cross_entropy(nnf.linear(*exact), y), exact[:2])
    for g in wanted:  # the premise: they are too small, and fit if scaled
        assert plain.off(g.half(), g) > 3 * TWICE_ROUNDED
        assert (65536 * g).abs().max() < torch.finfo(torch.float16).max
    for chunk_bytes in (2**16, EVERYTHING):
        loss = function(*operands[:2], y, linear_bias=operands[2], chunk_bytes=chunk_bytes)
        for a, b in zip(torch.autograd.grad(loss * 65536, operands[:2]), wanted, strict=True):
            assert plain.off(a, 65536 * b) <= TWICE_ROUNDED
        scaled = function(*operands[:2], y, linear_bias=operands[2], chunk_bytes=chunk_bytes, reduction="none")
        for a, b in zip(torch.autograd.grad(scaled.mean() * 65536, operands[:2]), wanted, strict=True):
            assert plain.off(a, 65536 * b) <= TWICE_ROUNDED


# That they hold


@pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_change_nothing_but_rounding(kind, dtype):
    check_chunks(F.linear_cross_entropy, kind, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_do_not_depend_on_the_chunks(kind):
    check_statistics(F.linear_cross_entropy, kind)


@pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
def test_packing_is_removing_the_ignored_rows(dtype):
    check_packing(F.linear_cross_entropy, dtype)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_the_error_of_half_precision_is_flat(dtype, reduction):
    check_flat(F.linear_cross_entropy, dtype, reduction)


def test_scaled_losses_keep_small_gradients_of_float16():
    check_loss_scale(F.linear_cross_entropy)


def test_a_batch_is_the_sum_of_its_parts():
    args, options = draw(Shape((50,), (), 40, 6), "index", "everything", bias=True)
    x, w, y, b, s = args
    whole, grads = plain.run(
        linear.by_position(F.linear_cross_entropy), torch.float64, args, options | {"reduction": "sum"}
    )
    for cut in (1, 17):
        parts = [
            F.linear_cross_entropy(
                x[p], w, y[p], linear_bias=b, sample_weight=s[p], **options, reduction="sum", chunk_bytes=900
            )
            for p in (slice(cut), slice(cut, None))
        ]
        plain.agree("loss", sum(parts), whole, None, plain.FLOOR[torch.float64])
        for a, g in zip(torch.autograd.grad(sum(parts), (x, w, b, s), plain.cotangent_like(whole)), grads, strict=True):
            plain.agree("gradient", a, g, None, plain.FLOOR[torch.float64])


def test_a_bias_is_a_feature_that_is_one():
    (x, w, y, b, _), _ = draw(linear.LONG, "index", bias=True)
    got = F.linear_cross_entropy(x, w, y, linear_bias=b)
    more = torch.cat([x, torch.ones_like(x[:, :1])], 1), torch.cat([w, b[:, None]], 1)
    want = F.linear_cross_entropy(*more, y)
    plain.agree("loss", got, want, None, plain.FLOOR[torch.float64])
    for a, g in zip(torch.autograd.grad(got, (x, w, b)), torch.autograd.grad(want, (x, w, b)), strict=True):
        plain.agree("gradient", a, g, None, plain.FLOOR[torch.float64])


# Memory


N, V, D, CHUNK = 512, 8192, 64, 2**20
ALLOWED = 16 * 8 * N + 2**20
"""Bytes beyond gradients and chunk: sixteen doubles for each row, and what Linux counts late."""
MEMORY = f"""
import json, torch
from benchmarks.common import memory
import crossent.torch as F

def plain(x, w, y, **_):
    return torch.nn.functional.cross_entropy(torch.nn.functional.linear(x, w), y)

def extra(function, dtype, frozen, **options):
    x, w, y = torch.randn({N}, {D}), torch.randn({V}, {D}) / 8, torch.randint({V}, ({N},))
    x, w = x.to(dtype).requires_grad_("x" not in frozen), w.to(dtype).requires_grad_("w" not in frozen)
    def step():
        loss = function(x, w, y, chunk_bytes={CHUNK}, **options)
        if loss.requires_grad:
            loss.sum().backward()
    step()
    peaks = []
    for _ in range(2):
        x.grad = w.grad = None
        peaks.append(memory.peak(step))
    return min(peaks)

torch.set_num_threads(1)
f = F.linear_cross_entropy
print(json.dumps({{
    "float32": extra(f, torch.float32, ""),
    "float32 none": extra(f, torch.float32, "", reduction="none"),
    "bfloat16": extra(f, torch.bfloat16, ""),
    "frozen weight": extra(f, torch.float32, "w"),
    "frozen input": extra(f, torch.float32, "x"),
    "frozen": extra(f, torch.float32, "xw"),
    "plain": extra(plain, torch.float32, ""),
}}))
"""


@pytest.mark.slow
def test_memory_is_gradients_and_one_chunk():
    from benchmarks.common import memory

    if memory.why_not() is not None:
        pytest.skip(memory.why_not())
    environment = {**os.environ, **memory.ALLOCATOR}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    extra = json.loads(done.stdout)
    dx, dw = 4 * N * D, 4 * V * D
    gradients = {
        "float32": dx + dw,
        "float32 none": dx + dw,
        "bfloat16": (dx + dw) // 2 + dx + dw,  # which are summed in float32
        "frozen weight": dx,
        "frozen input": dw,
        "frozen": 0,
    }
    for name, bytes_ in gradients.items():
        assert extra[name] <= bytes_ + CHUNK + ALLOWED, f"{name}: {extra[name]} bytes"
    assert extra["plain"] >= 4 * N * V  # which is what would be seen if the logits were held


# Mistakes that the checks must see


class Chunked(torch.autograd.Function):
    """The product in float32, whose gradients are summed over chunks of rows in a dtype of one's choice."""

    @staticmethod
    def forward(ctx, x, w, rows, dtype):
        ctx.save_for_backward(x, w)
        ctx.rows, ctx.dtype = rows, dtype or torch.promote_types(x.dtype, torch.float32)
        return x.to(torch.promote_types(x.dtype, torch.float32)) @ w.to(torch.promote_types(x.dtype, torch.float32)).T

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        dw, dx = torch.zeros(w.shape, dtype=ctx.dtype), torch.empty_like(x)
        for start in range(0, len(x), ctx.rows):
            part = slice(start, start + ctx.rows)
            dw += (g[part].T @ x[part].to(g.dtype)).to(ctx.dtype)
            dx[part] = (g[part] @ w.to(g.dtype)).to(x.dtype)
        return dx, dw.to(w.dtype), None, None


def chunked(x, w, t, *, linear_bias=None, chunk_bytes=None, dtype=None, change=lambda z: z, **options):
    """A right function of rows of classes, into which mistakes can be put."""
    rows = max(1, (chunk_bytes or 2**20) // (4 * len(w)))
    z = change(Chunked.apply(x, w, rows, dtype))
    z = z if linear_bias is None else z + linear_bias
    if options.get("ignore_index") is not None:
        raise NotImplementedError
    return F.cross_entropy(z, t, **options)


class Early(torch.autograd.Function):
    """Gradients in half precision, made before the cotangent comes."""

    @staticmethod
    def forward(ctx, *args):
        with torch.enable_grad():
            x, w, b = (x.detach().requires_grad_() for x in args[:3])
            loss = chunked(x, w, args[3], linear_bias=b)
            ctx.save_for_backward(*torch.autograd.grad(loss, (x, w, b)))
        return loss.detach()

    @staticmethod
    def backward(ctx, g):
        return *((g * x.float()).to(x.dtype) for x in ctx.saved_tensors), None


class Scaled(torch.autograd.Function):
    """The identity, with another gradient."""

    @staticmethod
    def forward(ctx, z, change):
        ctx.change = change
        return z.clone()

    @staticmethod
    def backward(ctx, g):
        return ctx.change(g), None


def changed_gradient(change):
    return lambda *args, **options: chunked(*args, **options, change=lambda z: Scaled.apply(z, change))


def forgetting(name):
    """Nothing of a tensor is seen but its shape."""

    def mutant(*args, **options):
        x = options.get(name)
        nothing = {"linear_bias": 0, "weight": 1, "sample_weight": 1}[name]
        return chunked(*args, **options | {name: x if x is None else 0 * x + nothing})

    return mutant


def early(x, w, t, *, linear_bias, reduction="mean", **options):
    if reduction == "mean":
        return Early.apply(x, w, linear_bias, t)
    return chunked(x, w, t, linear_bias=linear_bias, reduction=reduction, **options)


def last_row_dropped(g):
    return torch.cat([g[:-1], torch.zeros_like(g[-1:])])


def flat(function):
    for reduction in ("mean", "none"):
        check_flat(function, torch.bfloat16, reduction)


def values(function):
    for kind, (option, reduction) in itertools.product(
        KINDS, itertools.product(("nothing", "weight"), ("mean", "none"))
    ):
        args, options = draw(Shape((33,), (), 70, 5), kind, option, bias=True)
        linear.compare(function, torch.float32, args, options | {"reduction": reduction, "chunk_bytes": 1000})


def packing(function):
    check_packing(function, torch.float32)


MUTANTS = {
    "sums in bfloat16": (lambda *a, **o: chunked(*a, **o, dtype=torch.bfloat16), {flat}),
    "sums in float16": (lambda *a, **o: chunked(*a, **o, dtype=torch.float16), {flat}),
    "logits in bfloat16": (lambda *a, **o: chunked(*a, **o, change=lambda z: z.bfloat16().to(z.dtype)), {flat, values}),
    "rounded before it is scaled": (early, {check_loss_scale}),
    "bias forgotten": (forgetting("linear_bias"), {flat, values, packing}),
    "weight forgotten": (forgetting("weight"), {values}),
    "sample weight forgotten": (forgetting("sample_weight"), {packing}),
    "last row dropped": (changed_gradient(last_row_dropped), {flat, values}),
    "off by one in a thousand": (changed_gradient(lambda g: 1.001 * g), {values, packing}),
    "ignored row counted": (lambda x, w, t, **o: chunked(x, w, t.clamp(min=0), **o), {packing}),
    "next row's gradient": (changed_gradient(lambda g: g.roll(1, 0)), {flat, values, packing}),
}


@pytest.mark.parametrize("check", [flat, values, packing, check_loss_scale])
def test_the_right_one_survives(check):
    check(chunked)


@pytest.mark.parametrize(
    ("name", "check"), [(name, check) for name, (_, checks) in MUTANTS.items() for check in checks]
)
def test_no_mutant_survives(name, check):
    with pytest.raises(AssertionError):
        check(MUTANTS[name][0])
