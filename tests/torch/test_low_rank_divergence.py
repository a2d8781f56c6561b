"""Divergences of heads with low-rank adapters, on either side or on both, against float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import crossent.torch as F
from crossent.torch import TopK
from tests.torch import plain, teaching, two_heads

each_kind = pytest.mark.parametrize("kind", list(teaching.KINDS))
each_score = pytest.mark.parametrize("scores", teaching.SCORES, ids=str)
each_side = pytest.mark.parametrize("side", ["student", "teacher", "both", "two of the student"])
SCALES = {"student": 1.7, "second": -0.6, "teacher": 0.4}
OWN = {"student": "own", "second": None, "teacher": "teacher_own"}
SIDES = {
    "student": ("student",), "teacher": ("teacher",), "both": ("student", "teacher"),
    "two of the student": ("student", "second"),
}  # fmt: skip


def draw(rows, V, side, positions=(), *, dtype=torch.float64, of_adapters=None, widths=(5, 3), own=True, bias=True):
    """Operands of both heads, and a, b and own input of adapters by name."""
    given = two_heads.draw(rows, V, positions, dtype=dtype, widths=widths, bias=bias)
    for name in SIDES[side]:
        D = widths[name == "teacher"]
        shapes = {"a": (2, D), "b": (V, *positions, 2), "own": (*rows, D)}
        for part, shape in shapes.items():
            if part != "own" or (own and OWN[name]):
                x = torch.randn(shape, dtype=torch.float64) / (math.sqrt(D) if part == "a" else 1)
                given[f"{name} {part}"] = x.to(of_adapters or dtype).requires_grad_()
    return given


def adapters(given, of):
    for name in ("student", "second", "teacher"):
        if f"{name} a" in given and (name == "teacher") == of.startswith("teacher"):
            yield given[f"{name} a"], given[f"{name} b"], given.get(f"{name} own"), SCALES[name]


def sources(given):
    """The operands with adapters in the place of weights."""
    found = {name: x for name, x in given.items() if name in two_heads.NAMES}
    for weight in ("linear_weight", "teacher_weight"):
        for a, b, own, scale in adapters(given, weight):
            found[weight] = F.LowRank(found[weight], a, b, scale, input=own)
    return found


def whole(given):
    """Heads of the whole weight, of more features where an adapter has an input of its own."""
    found = {name: x for name, x in given.items() if name in two_heads.NAMES}
    for weight, x in (("linear_weight", "input"), ("teacher_weight", "teacher_input")):
        for a, b, own, scale in adapters(given, weight):
            product = scale * (b @ a)
            if own is None:
                width = product.shape[-1]
                head = found[weight]
                found[weight] = torch.cat((head[..., :width] + product, head[..., width:]), -1)
            else:
                found[weight] = torch.cat((found[weight], product), -1)
                found[x] = torch.cat((found[x], own), -1)
    return found


def ours(given, **options):
    return two_heads.ours(sources(given), **options)


def truth(exact, **options):
    return two_heads.truth(whole(exact), **options)


def compare(got, want, given, exact):
    """As two_heads.compare, for operands of any name."""
    kept = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    bar = max(teaching.BAR[x.dtype] for x in given.values())
    assert plain.off(got, want) <= teaching.BAR[got.dtype]
    leaves = [name for name, x in given.items() if x.requires_grad]
    g = plain.cotangent_like(want)
    grads = torch.autograd.grad(got, [given[n] for n in leaves], g.to(got.dtype), **kept)
    wants = torch.autograd.grad(want, [exact[n] for n in leaves], g, **kept)
    for name, a, b in zip(leaves, grads, wants, strict=True):
        assert a.dtype == given[name].dtype, name
        error = plain.off(a, b)
        assert error <= bar, f"the gradient of {name} is off by {error:.2g}"


@pytest.mark.slow
@each_side
@each_score
@pytest.mark.parametrize("chunk_bytes", [700, 3000, None])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_all_statistics_and_gradients(side, scores, chunk_bytes, dtype):
    for V, own in ((7, True), (70, False)):
        given = draw((6,), V, side, dtype=dtype, own=own)
        exact = two_heads.doubled(given)
        options = dict(scores, beta=0.3, target=torch.tensor([0, -100, V - 1, 2, 2, 1]))
        got = two_heads.stats(sources(given), chunk_bytes=chunk_bytes, **options)
        want = truth(exact, **options)
        for name in teaching.SMOOTH:
            compare(getattr(got, name), want[name], given, exact)
        assert torch.equal(got.agreement, want["agreement"])


@pytest.mark.slow
@each_side
@each_kind
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("chunk_bytes", [700, 3000, None])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_loss_of_each_kind(side, kind, reduction, chunk_bytes, dtype):
    for scores, weighted in itertools.product(teaching.SCORES, (False, True)):
        given = draw((9,), 40, side, dtype=dtype, own=weighted)
        exact, samples = two_heads.doubled(given), torch.rand(9, dtype=torch.float64) if weighted else None
        target = torch.where(torch.rand(9) < 0.3, -100, torch.arange(9))
        target[0] = 3
        options = dict(scores, beta=0.7 if kind == "js" else 0.5, target=target)
        got = ours(given, kind=kind, reduction=reduction, sample_weight=samples, chunk_bytes=chunk_bytes, **options)
        each = truth(exact, **options)[teaching.KINDS[kind]]
        compare(got, two_heads.reduced(each, reduction, samples, target != -100), given, exact)


@pytest.mark.slow
@each_side
@each_kind
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_many_rows_in_chunks_of_many(side, kind, reduction):
    given = draw((700,), 33, side, widths=(20, 12))
    exact = two_heads.doubled(given)
    want = two_heads.reduced(truth(exact, temperature=0.7)[teaching.KINDS[kind]], reduction)
    for chunk_bytes in (8 * 33 * 40, 8 * 33 * 900, None):
        got = ours(given, kind=kind, reduction=reduction, temperature=0.7, chunk_bytes=chunk_bytes)
        compare(got, want, given, exact)


@pytest.mark.slow
@each_side
@each_kind
@pytest.mark.parametrize("frozen", ["heads", "teacher", "everything but b", "inputs and weights"])
def test_parts_that_learn_alone(side, kind, frozen):
    still = {
        "heads": lambda n: n in two_heads.NAMES,
        "teacher": lambda n: n.startswith("teacher"),
        "everything but b": lambda n: not n.endswith(" b"),
        "inputs and weights": lambda n: n in two_heads.NAMES[:3] or n == "teacher_weight" or n.endswith("own"),
    }[frozen]
    for reduction, chunk_bytes in itertools.product(("none", "mean"), (200, 900, None)):
        given = draw((5,), 9, side)
        given = two_heads.copied(given, frozen=[n for n in given if still(n)])
        exact = two_heads.copied(two_heads.doubled(given), frozen=[n for n in given if still(n)])
        want = two_heads.reduced(truth(exact)[teaching.KINDS[kind]], reduction)
        got = ours(given, kind=kind, reduction=reduction, chunk_bytes=chunk_bytes)
        assert got.requires_grad == want.requires_grad
        if want.requires_grad:
            compare(got, want, given, exact)


@each_side
@each_kind
@pytest.mark.parametrize("chunk_bytes", [1, 200, None])
@pytest.mark.parametrize(("rows", "positions"), [((), ()), ((2, 3), ()), ((4,), (3,)), ((2, 2), (2, 2))])
def test_rows_and_heads_of_any_shape(side, kind, rows, positions, chunk_bytes):
    given = draw(rows, 6, side, positions)
    exact = two_heads.doubled(given)
    for reduction in ("none", "mean"):
        want = two_heads.reduced(truth(exact)[teaching.KINDS[kind]], reduction)
        compare(ours(given, kind=kind, reduction=reduction, chunk_bytes=chunk_bytes), want, given, exact)


@each_side
@each_kind
@pytest.mark.parametrize("how", ["ignored", "weight"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_a_removed_row_holds_anything(side, kind, how, reduction):
    for chunk_bytes in (1, 300, None):
        given = draw((4,), 11, side)
        with torch.no_grad():
            for name, x in given.items():
                if name in two_heads.NAMES[:2] or name.endswith("own"):
                    x[1:3] = math.nan
        kept = torch.tensor([0, 3])
        options = {"target": torch.tensor([1, -100, -100, 2])} if how == "ignored" else {}
        samples = torch.tensor([0.5, 0.0, 0.0, 2.0]).double() if how == "weight" else None
        loss = ours(given, kind=kind, reduction=reduction, sample_weight=samples, chunk_bytes=chunk_bytes, **options)
        exact = two_heads.doubled(given)
        few = {n: x.detach()[kept].requires_grad_() if len(x) == 4 else x for n, x in exact.items()}
        each = truth(few)[teaching.KINDS[kind]]
        want = two_heads.reduced(each, reduction, None if samples is None else samples[kept])
        assert plain.off(loss[kept] if reduction == "none" else loss, want) <= teaching.BAR[loss.dtype]
        grads, wants = two_heads.gradients(loss.sum(), given), two_heads.gradients(want.sum(), few)
        for name, g in grads.items():
            assert g.isfinite().all(), name
            if g.shape[0] == 4:
                assert (g[1:3] == 0).all(), name
                g = g[kept]  # noqa: PLW2901
            assert plain.off(g, wants[name]) <= teaching.BAR[torch.float64], name


@pytest.mark.slow
@each_side
@each_kind
def test_second_derivatives(side, kind):
    given = draw((3,), 5, side)
    names = list(given)

    def call(*leaves):
        return ours(dict(zip(names, leaves, strict=True)), kind=kind, temperature=0.7, softcap=3.0)

    assert torch.autograd.gradcheck(call, tuple(given.values()), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, tuple(given.values()), fast_mode=True)


@each_side
@pytest.mark.parametrize("dtypes", [(torch.bfloat16, None), (torch.bfloat16, torch.float32)], ids=str)
def test_halves(side, dtypes):
    """The divergence of logits that are made first, of a head in two parts, is as wrong."""
    dtype, of_adapters = dtypes
    for kind, reduction in itertools.product(teaching.KINDS, ("none", "mean")):
        given = draw((60,), 40, side, dtype=dtype, of_adapters=of_adapters)
        exact = two_heads.doubled(given)
        want = two_heads.reduced(truth(exact)[teaching.KINDS[kind]], reduction)
        got = ours(given, kind=kind, reduction=reduction)
        assert got.dtype == torch.float32
        # u has the 8 bits of a bfloat16, and so has what is made of it
        assert plain.off(got, want) <= teaching.BAR[torch.bfloat16]
        names = [n for n, x in given.items() if x.requires_grad]
        g = plain.cotangent_like(want)
        grads = torch.autograd.grad(got, [given[n] for n in names], g.float())
        for n, a, b in zip(names, grads, torch.autograd.grad(want, [exact[n] for n in names], g), strict=True):
            assert a.dtype == given[n].dtype
            assert plain.off(a, b) <= 2 * teaching.BAR[torch.bfloat16], n


@each_kind
def test_a_head_against_itself_with_an_adapter_that_does_nothing_is_exactly_zero(kind):
    given = draw((6,), 9, "student", widths=(5, 5), own=False)
    w, x, bias = given["linear_weight"], given["input"], given["linear_bias"]
    zero = torch.zeros_like(given["student b"])
    loss = F.linear_divergence(
        x, F.LowRank(w, given["student a"], zero, 2.0), x, w, linear_bias=bias, teacher_bias=bias, kind=kind,
        reduction="none",
    )  # fmt: skip
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-14)


def test_a_reference_without_the_adapter_as_preference_training_has_one():
    """One frozen weight, with the adapter for the policy and without for the reference."""
    x, w = torch.randn(20, 6, dtype=torch.float64, requires_grad=True), torch.randn(11, 6, dtype=torch.float64)
    a, b = (torch.randn(n, dtype=torch.float64, requires_grad=True) for n in ((2, 6), (11, 2)))
    got = F.linear_divergence(x, F.LowRank(w, a, b, 0.5), x.detach(), w, kind="reverse", chunk_bytes=900)
    logq, logp = (x @ (w + 0.5 * b @ a).T).log_softmax(1), (x.detach() @ w.T).log_softmax(1)
    want = (logq.exp() * (logq - logp)).sum(1).mean()
    torch.testing.assert_close(got, want, rtol=1e-11, atol=0)
    for g, h in zip(*(torch.autograd.grad(z, (x, a, b)) for z in (got, want)), strict=True):
        torch.testing.assert_close(g, h, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("chunk_bytes", [700, None])
def test_a_sparse_teacher_of_an_adapted_student(chunk_bytes):
    given = draw((6,), 9, "two of the student")
    exact = two_heads.doubled(given)
    index = torch.stack([torch.randperm(9)[:3] for _ in range(6)])
    prob = torch.rand(6, 3, dtype=torch.float64) * 0.3
    held = sources(given)
    for kind, tail in itertools.product(teaching.KINDS, ("ignore", "bucket")):
        got = F.linear_divergence(
            held["input"], held["linear_weight"], TopK(index, prob), linear_bias=held["linear_bias"], kind=kind,
            tail=tail, chunk_bytes=chunk_bytes,
        )  # fmt: skip
        full = whole(exact)
        z = two_heads.head(full["input"], full["linear_weight"], full["linear_bias"])
        want = teaching.of_topk(z, index, prob, tail, 0.5)[teaching.KINDS[kind]].mean()
        student = {n: x for n, x in given.items() if not n.startswith("teacher")}
        compare(got, want, student, exact)


def test_classes_of_a_teacher_in_another_order():
    given = draw((6,), 9, "both")
    exact = two_heads.doubled(given)
    columns = torch.randperm(9)
    full = whole(exact)
    reordered = full | {n: full[n][columns] for n in ("teacher_weight", "teacher_bias")}
    want = two_heads.truth(reordered)["kl"].mean()
    compare(ours(given, teacher_classes=columns), want, given, exact)


def test_padding_behind_the_classes():
    given = draw((6,), 9, "both")
    exact = two_heads.doubled(given)
    want = truth(exact)["kl"].mean()

    def padded(name, x):
        if name in two_heads.NAMES[2:] or name.endswith(" b"):
            more = 2 if name.startswith("teacher") else 3
            return torch.cat([x.detach(), x.detach().new_full((more, *x.shape[1:]), math.nan)]).requires_grad_()
        return x

    own = {name: padded(name, x) for name, x in given.items()}
    got = ours(own, num_classes=9)
    assert plain.off(got, want) <= teaching.BAR[torch.float64]
    wants = two_heads.gradients(want, exact)
    for name, g in two_heads.gradients(got, own).items():
        size = len(wants[name])
        assert (g[size:] == 0).all(), name
        assert plain.off(g[:size], wants[name]) <= teaching.BAR[torch.float64], name
