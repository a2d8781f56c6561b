"""Divergences of two linear heads: who gets a gradient, when, how often, and derivatives of derivatives."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import crossent.torch as F
from tests.torch import plain, teaching, two_heads
from tests.torch.operators.watching import check_compiled

each_kind = pytest.mark.parametrize("kind", list(teaching.KINDS))
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
ONE_ROW = 200
"""Bytes of one row of both heads, or of a few."""
PLANS = tuple(itertools.product(("none", "sum", "mean"), (ONE_ROW, 900, None)))
each_plan = pytest.mark.parametrize(("reduction", "chunk_bytes"), PLANS)


# Who gets a gradient


@pytest.mark.slow
@each_kind
@each_plan
def test_a_gradient_only_where_one_is_wanted(kind, reduction, chunk_bytes):
    given = two_heads.draw((5,), 7)
    loss = two_heads.eager(given, kind=kind, reduction=reduction)
    wants = two_heads.gradients(loss, given, grad_outputs=plain.cotangent_like(loss))
    for wanted in itertools.product((False, True), repeat=6):
        frozen = [name for name, want in zip(two_heads.NAMES, wanted, strict=True) if not want]
        own = two_heads.copied(given, frozen=frozen)
        got = two_heads.ours(own, kind=kind, reduction=reduction, chunk_bytes=chunk_bytes)
        torch.testing.assert_close(got, loss, rtol=1e-11, atol=1e-13)
        assert got.requires_grad == any(wanted)
        if any(wanted):
            got.backward(plain.cotangent_like(got))
        for name, x in own.items():
            assert (x.grad is None) == (name in frozen), name
            if x.grad is not None:
                assert plain.off(x.grad, wants[name]) <= teaching.BAR[torch.float64], name


@pytest.mark.slow
@each_dtype
@each_plan
@pytest.mark.parametrize(
    "learning",
    [("linear_bias",), ("input",), ("linear_weight",), ("teacher_input",), ("teacher_bias",), two_heads.STUDENT,
     two_heads.TEACHER, ("input", "teacher_weight")],
    ids=str,
)  # fmt: skip
def test_parts_of_heads_that_learn_alone(learning, dtype, reduction, chunk_bytes):
    given = two_heads.draw((150,), 13, dtype=dtype)
    given = two_heads.copied(given, frozen=[name for name in given if name not in learning])
    exact = two_heads.copied(two_heads.doubled(given), frozen=[name for name in given if name not in learning])
    for kind in teaching.KINDS:
        each = two_heads.truth(exact, temperature=0.7)[teaching.KINDS[kind]]
        got = two_heads.ours(given, kind=kind, temperature=0.7, reduction=reduction, chunk_bytes=chunk_bytes)
        two_heads.compare(got, two_heads.reduced(each, reduction), given, exact)


@each_plan
def test_statistics_of_heads_of_which_parts_learn(reduction, chunk_bytes):
    for learning in (("input",), two_heads.STUDENT, two_heads.TEACHER, ("linear_bias", "teacher_weight")):
        given = two_heads.draw((6,), 9)
        frozen = [name for name in given if name not in learning]
        given = two_heads.copied(given, frozen=frozen)
        exact = two_heads.copied(two_heads.doubled(given), frozen=frozen)
        options = {"target": torch.tensor([0, -100, 8, 3, 3, 1]), "beta": 0.3}
        _, got = two_heads.ours(given, reduction=reduction, chunk_bytes=chunk_bytes, return_stats=True, **options)
        for name, x in two_heads.truth(exact, **options).items():
            found = getattr(got, name)
            if x.requires_grad:
                two_heads.compare(found, x, given, exact)
            elif found.requires_grad:  # an operator says so of all its results
                grads = two_heads.gradients(found.sum(), given, retain_graph=True, materialize_grads=True)
                assert all((g == 0).all() for g in grads.values()), name


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    given = two_heads.draw((6,), 9)
    want = two_heads.truth(given)
    for reduction, chunk_bytes in PLANS:
        with mode():
            loss, found = two_heads.ours(given, reduction=reduction, chunk_bytes=chunk_bytes, return_stats=True)
            assert not loss.requires_grad
            assert not found.kl.requires_grad
            assert not two_heads.ours(given, reduction=reduction, chunk_bytes=chunk_bytes).requires_grad
            torch.testing.assert_close(loss, two_heads.reduced(want["kl"], reduction).detach(), rtol=1e-11, atol=0)


@each_kind
@each_plan
def test_heads_that_share_their_operands_add_up_gradients(kind, reduction, chunk_bytes):
    # an exit of an early layer and the last one; and a head that is compared with itself on other features
    for shared in (("input",), ("linear_weight", "linear_bias")):
        given = two_heads.draw((5,), 7, widths=(4, 4))
        pairs = dict(zip(two_heads.STUDENT, two_heads.TEACHER, strict=True))
        both = given | {pairs[name]: given[name] for name in shared}
        leaves = list(dict.fromkeys(both.values()))
        got = two_heads.ours(both, kind=kind, reduction=reduction, chunk_bytes=chunk_bytes)
        want = two_heads.eager(both, kind=kind, reduction=reduction)
        g = plain.cotangent_like(want)
        for a, b in zip(torch.autograd.grad(got, leaves, g), torch.autograd.grad(want, leaves, g), strict=True):
            assert plain.off(a, b) <= teaching.BAR[torch.float64]


@each_plan
def test_sample_weights_get_a_gradient(reduction, chunk_bytes):
    given = two_heads.draw((5,), 7)
    results = []
    for call in (two_heads.ours, two_heads.eager):
        samples = torch.linspace(0.5, 2.0, 5, dtype=torch.float64).requires_grad_()
        more = {"chunk_bytes": chunk_bytes} if call is two_heads.ours else {}
        loss = call(given, sample_weight=samples, reduction=reduction, **more)
        results.append(torch.autograd.grad(loss, [samples, *given.values()], plain.cotangent_like(loss)))
    for a, b in zip(*results, strict=True):
        assert plain.off(a, b) <= teaching.BAR[torch.float64]


# When, and how often


@pytest.mark.slow
@each_dtype
@each_kind
@each_plan
def test_a_second_backward_gives_the_same_gradients(kind, dtype, reduction, chunk_bytes):
    given = two_heads.draw((6,), 20, dtype=dtype)
    x = list(given.values())
    for with_stats in (False, True):
        loss = two_heads.ours(
            given, kind=kind, reduction=reduction, chunk_bytes=chunk_bytes, return_stats=with_stats, temperature=0.7
        )
        if with_stats:
            loss = loss[0].sum() + loss[1].entropy.sum() + loss[1].teacher_lse.sum()
        g = plain.cotangent_like(loss).to(loss.dtype)
        first = [a.clone() for a in torch.autograd.grad(loss, x, g, retain_graph=True)]
        other = [a.clone() for a in torch.autograd.grad(loss, x, 2 * g, retain_graph=True)]
        third = torch.autograd.grad(loss, x, g)
        for a, b, c in zip(first, other, third, strict=True):
            assert torch.equal(a, c)
            if dtype != torch.bfloat16:  # which may be subnormal
                assert torch.equal(2 * a, b)


@each_plan
def test_gradients_accumulate_over_micro_batches(reduction, chunk_bytes):
    parts = [two_heads.draw((4,), 9) for _ in range(2)]
    parts[1] |= {name: parts[0][name] for name in two_heads.NAMES[2:]}
    for part in parts:
        two_heads.ours(part, reduction=reduction, chunk_bytes=chunk_bytes).sum().backward()
    wants = [two_heads.gradients(two_heads.eager(part, reduction=reduction).sum(), part) for part in parts]
    for name in two_heads.NAMES[2:]:
        assert plain.off(parts[0][name].grad, sum(w[name] for w in wants)) <= teaching.BAR[torch.float64], name


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant):
    given = two_heads.draw((4,), 9)
    leaves = list(given.values())
    for reduction, chunk_bytes in PLANS:

        def step(*leaves, reduction=reduction, chunk_bytes=chunk_bytes):
            own = dict(zip(given, leaves, strict=True))
            loss, found = two_heads.ours(own, reduction=reduction, chunk_bytes=chunk_bytes, return_stats=True)
            return loss.sum() + found.entropy.mean() + two_heads.ours(own, chunk_bytes=chunk_bytes)

        want = torch.autograd.grad(step(*leaves), leaves)
        own = [x.detach().clone().requires_grad_() for x in leaves]
        checkpoint(step, *own, use_reentrant=reentrant).backward()
        for leaf, g in zip(own, want, strict=True):
            torch.testing.assert_close(leaf.grad, g, rtol=1e-12, atol=1e-14)


def test_an_operand_changed_after_the_forward_pass_is_noticed_or_did_not_matter():
    given = two_heads.draw((5,), 9)
    for name, (reduction, chunk_bytes) in itertools.product(two_heads.NAMES, PLANS):
        want = two_heads.eager(given, reduction=reduction)
        wants = two_heads.gradients(want, given, grad_outputs=plain.cotangent_like(want))
        held = given | {name: given[name] * 1}
        loss = two_heads.ours(held, reduction=reduction, chunk_bytes=chunk_bytes)
        with torch.no_grad():
            _ = held[name].zero_()
        try:
            got = two_heads.gradients(loss, given, grad_outputs=plain.cotangent_like(loss))
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)  # noqa: PT017
            continue
        for key, g in got.items():
            assert plain.off(g, wants[key]) <= teaching.BAR[torch.float64], (name, key)


@each_kind
def test_cotangents_of_any_layout(kind):
    given = two_heads.draw((2, 3), 9)
    loss = two_heads.ours(given, kind=kind, reduction="none")
    full = plain.cotangent_like(loss)
    for g in (
        full.mT.contiguous().mT,
        torch.stack([full, full + 1], -1)[..., 0],
        torch.tensor(2.0, dtype=torch.float64).expand(loss.shape),
        full[:1].expand(loss.shape),
        torch.zeros_like(full),
    ):
        got = two_heads.gradients(loss, given, grad_outputs=g, retain_graph=True)
        want = two_heads.gradients(loss, given, grad_outputs=g.contiguous(), retain_graph=True)
        for name, a in got.items():
            assert torch.equal(a, want[name]), name


# Derivatives of derivatives


@pytest.mark.slow
@each_kind
@pytest.mark.parametrize("scores", teaching.SCORES[2:], ids=str)
def test_first_and_second_derivatives(kind, scores):
    for reduction, chunk_bytes in PLANS[::2]:
        given, target = two_heads.draw((3,), 4, widths=(2, 3)), torch.tensor([1, -100, 2])

        def call(*leaves, given=given, reduction=reduction, chunk_bytes=chunk_bytes, target=target):
            own = dict(zip(given, leaves, strict=True))
            options = {"reduction": reduction, "chunk_bytes": chunk_bytes, "target": target, **scores}
            return two_heads.ours(own, kind=kind, **options)

        assert gradcheck(call, list(given.values()), fast_mode=True)
        assert gradgradcheck(call, list(given.values()), fast_mode=True)


@pytest.mark.slow
def test_first_and_second_derivatives_of_the_statistics():
    given, target = two_heads.draw((3,), 4, widths=(2, 2)), torch.tensor([1, -100, 2])
    for chunk_bytes in (ONE_ROW, None):

        def call(*leaves, chunk_bytes=chunk_bytes):
            own = dict(zip(given, leaves, strict=True))
            found = two_heads.stats(own, target=target, beta=0.3, teacher_temperature=0.8, chunk_bytes=chunk_bytes)
            return tuple(getattr(found, name) for name in teaching.SMOOTH)

        assert gradcheck(call, list(given.values()))
        assert gradgradcheck(call, list(given.values()))


@each_kind
@each_plan
def test_a_gradient_with_a_graph(kind, reduction, chunk_bytes):
    given = two_heads.draw((4,), 6)
    results = []
    for call, how in ((two_heads.ours, {"chunk_bytes": chunk_bytes}), (two_heads.truth, {})):
        found = call(given, temperature=0.7, **how, **({"kind": kind, "reduction": reduction} if how else {}))
        loss = found if how else two_heads.reduced(found[teaching.KINDS[kind]], reduction)
        leaves = list(given.values())
        first = torch.autograd.grad(loss, leaves, plain.cotangent_like(loss), create_graph=True)
        results.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves)])
    for a, b in zip(*results, strict=True):
        assert plain.off(a, b) <= 10 * teaching.BAR[torch.float64]


# Compilers and function transforms


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_one_graph_under_a_compiler(dynamic, reduction):
    def inputs(n):
        return list(two_heads.draw((n,), 20, dtype=torch.float32).values())

    def given(leaves):
        return dict(zip(two_heads.NAMES, leaves, strict=True))

    for kind in teaching.KINDS:

        def loss(*leaves, kind=kind):
            target = torch.arange(len(leaves[0])) % 20
            options = {"kind": kind, "reduction": reduction, "target": target, "temperature": 0.7, "chunk_bytes": 300}
            return two_heads.ours(given(leaves), **options).square().sum()

        check_compiled(loss, inputs, dynamic=dynamic)

    def everything(*leaves):
        target = torch.arange(len(leaves[0])) % 20
        return teaching.summed(two_heads.stats(given(leaves), teacher_softcap=3.0, beta=0.3, target=target))

    check_compiled(everything, inputs, dynamic=dynamic)

    def closed(*leaves):
        return two_heads.ours(
            given(leaves), closing=lambda rows: rows.kl + rows.js * rows.entropy, reduction=reduction
        ).sum()

    check_compiled(closed, inputs, dynamic=dynamic)

    def of_topk(x, w, p):
        index = torch.arange(3).expand(len(x), 3)
        return F.linear_divergence(x, w, F.TopK(index, p.softmax(1)[:, :3]), tail="bucket", reduction=reduction).sum()

    check_compiled(of_topk, lambda n: [*inputs(n)[::2][:2], torch.randn(n, 5, requires_grad=True)], dynamic=dynamic)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("scores", teaching.SCORES[::2], ids=str)
def test_transforms_see_the_same_function(scores):
    given = two_heads.draw((4, 3), 6)
    leaves = [x.detach() for x in given.values()]

    def ours(*leaves):
        own = dict(zip(given, leaves, strict=True))
        loss, found = two_heads.ours(own, beta=0.3, return_stats=True, **scores)
        return loss + teaching.summed(found) + two_heads.ours(own, kind="js", reduction="sum", **scores)

    dims = tuple(0 if name in two_heads.NAMES[:2] else None for name in given)
    both = torch.func.vmap(torch.func.grad(ours, argnums=tuple(range(6))), in_dims=dims)(*leaves)
    for k in range(4):
        own = [(x[k] if dim == 0 else x).clone().requires_grad_() for x, dim in zip(leaves, dims, strict=True)]
        for found, want in zip(both, torch.autograd.grad(ours(*own), own), strict=True):
            torch.testing.assert_close(found[k], want, rtol=1e-9, atol=1e-11)
    tangents = tuple(torch.randn_like(x) for x in leaves)
    _, moved = torch.func.jvp(ours, tuple(leaves), tangents)
    own = [x.clone().requires_grad_() for x in leaves]
    grads = torch.autograd.grad(ours(*own), own)
    torch.testing.assert_close(moved, sum((g * v).sum() for g, v in zip(grads, tangents, strict=True)))
