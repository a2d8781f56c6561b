"""Divergences of two linear heads at their edges: equal heads, classes that are not there, memory of any layout."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import crossent.torch
from tests.torch import plain, teaching, two_heads
from tests.torch.test_linear import LAYOUTS

each_kind = pytest.mark.parametrize("kind", list(teaching.KINDS))
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
ONE_ROW, SOME_ROWS = 200, 900
each_chunk = pytest.mark.parametrize("chunk_bytes", [ONE_ROW, SOME_ROWS, None])
inf = math.inf


def twins(given, *, same):
    """A head that is student and teacher: the same tensors, or copies of them."""
    found = dict(given)
    for own, its in zip(two_heads.STUDENT, two_heads.TEACHER, strict=True):
        if own in given:
            found[its] = given[own].detach() if same else given[own].detach().clone()
    return found


# Never negative, and zero for equals


@each_dtype
@each_kind
@pytest.mark.parametrize(
    ("V", "chunk_bytes"), [(3, 1), (3, None), (50, 1000), (50, 3000), (1201, 20_000), (1201, 10**5), (1201, None)]
)
def test_equal_heads_are_exactly_zero_apart(dtype, kind, V, chunk_bytes):
    for same, scores, reduction in itertools.product(
        (True, False), ({"temperature": 0.7}, {"softcap": 3.0, "teacher_softcap": 3.0}), ("none", "sum", "mean")
    ):
        given = twins(two_heads.draw((7,), V, dtype=dtype, spread=5.0), same=same)
        options = {"kind": kind, "reduction": reduction, "chunk_bytes": chunk_bytes, **scores}
        assert (two_heads.ours(given, **options) == 0).all()
        loss, found = two_heads.ours(given, return_stats=True, **options)
        for x in (loss, found.kl, found.reverse_kl, found.js):
            assert (x == 0).all()
        assert found.agreement.all()
        leaves = {name: given[name] for name in two_heads.STUDENT}
        for way in (loss, two_heads.ours(given, **options)):
            assert all((g == 0).all() for g in two_heads.gradients(way.sum(), leaves).values())


@pytest.mark.slow
@each_kind
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_large_vocabulary_in_bfloat16(kind, reduction):
    given = two_heads.draw((3,), 248320, dtype=torch.bfloat16, widths=(8, 8), spread=8.0)
    equal = twins(given, same=False)
    for chunk_bytes in (None, 300_000):
        options = {"kind": kind, "reduction": reduction, "temperature": 0.6, "chunk_bytes": chunk_bytes}
        assert (two_heads.ours(equal, **options) == 0).all()
        near = twins(given, same=False)
        with torch.no_grad():
            near["teacher_weight"].mul_(torch.where(torch.rand(248320, 1) < 0.01, 1.01, 1.0).bfloat16())
        loss = two_heads.ours(near, **options)
        assert (loss > 0).all()
        each = two_heads.truth(two_heads.doubled(near), temperature=0.6)[teaching.KINDS[kind]]
        # each logit is known to the rounding of float32, and a difference of 1 % of it to 100 times that
        rounding = torch.finfo(torch.float32).eps
        assert plain.off(loss, two_heads.reduced(each, reduction)) <= teaching.BAR[torch.float32] + 2 * rounding / 0.01


@each_kind
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("apart", [1e-8, 1e-4, 1e-2])
def test_nearly_equal_heads_are_never_less_than_zero_apart(kind, dtype, apart):
    given = twins(two_heads.draw((50,), 400, spread=3.0), same=False)
    given["teacher_weight"] += apart * torch.randn(400, 5, dtype=torch.float64)
    given = {name: x.detach().to(dtype).requires_grad_() for name, x in given.items()}
    for chunk_bytes in (ONE_ROW, 20_000, None):
        options = {"kind": kind, "chunk_bytes": chunk_bytes}
        assert (two_heads.ours(given, reduction="none", **options) >= 0).all()
        assert two_heads.ours(given, **options) >= 0


@each_kind
def test_cold_rows_far_apart_are_finite(kind):
    given = two_heads.draw((1,), 4, dtype=torch.float32, bias=False, widths=(4, 4))
    with torch.no_grad():
        for name in ("linear_weight", "teacher_weight"):
            given[name].copy_(torch.eye(4))
        given["input"].copy_(torch.tensor([[100.0, 0.0, 0.0, 0.0]]))
        given["teacher_input"].copy_(torch.tensor([[0.0, 100.0, 0.0, 0.0]]))
    for reduction in ("none", "mean"):
        loss = two_heads.ours(given, kind=kind, temperature=0.05, reduction=reduction)
        assert loss.item() == pytest.approx(math.log(2) if kind == "js" else 2000.0, rel=1e-6)
        assert all(g.isfinite().all() for g in two_heads.gradients(loss.sum(), given).values())


# Classes that are not there


@each_kind
@each_dtype
@pytest.mark.parametrize("chunk_bytes", [ONE_ROW, None])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_bias_of_minus_infinity_takes_a_class_away(kind, dtype, chunk_bytes, reduction):
    keep = torch.tensor([0, 1, 2, 4, 5, 6])
    given = two_heads.draw((5,), 7, dtype=dtype)
    with torch.no_grad():
        given["linear_bias"][3], given["teacher_bias"][3] = -inf, -inf
    exact = two_heads.doubled(given)
    less = {name: x if name in two_heads.NAMES[:2] else x.detach()[keep].requires_grad_() for name, x in exact.items()}
    loss = two_heads.ours(given, kind=kind, chunk_bytes=chunk_bytes, reduction=reduction)
    want = two_heads.reduced(two_heads.truth(less)[teaching.KINDS[kind]], reduction)
    assert plain.off(loss, want) <= teaching.BAR[loss.dtype]
    wants = two_heads.gradients(want.sum(), less)
    for name, g in two_heads.gradients(loss.sum(), given).items():
        if name not in two_heads.NAMES[:2]:
            assert (g[3] == 0).all(), name
            g = g[keep]  # noqa: PLW2901
        assert plain.off(g, wants[name]) <= teaching.BAR[dtype], name


@pytest.mark.parametrize("chunk_bytes", [ONE_ROW, None])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_class_that_one_head_alone_excludes(chunk_bytes, reduction):
    for name, infinite in (("teacher_bias", "reverse"), ("linear_bias", "forward")):
        given = two_heads.draw((5,), 7)
        with torch.no_grad():
            given[name][3] = -inf
        for kind in teaching.KINDS:
            loss = two_heads.ours(given, kind=kind, chunk_bytes=chunk_bytes, reduction=reduction)
            assert (loss == inf).all() if kind == infinite else loss.isfinite().all()
            want = two_heads.eager(given, kind=kind, reduction=reduction)
            torch.testing.assert_close(loss, want, rtol=1e-12, atol=0)
            if kind == infinite:
                continue
            wants = two_heads.gradients(want.sum(), given)
            for key, g in two_heads.gradients(loss.sum(), given).items():
                torch.testing.assert_close(g, wants[key], rtol=1e-11, atol=1e-14)


@each_chunk
def test_rows_do_not_touch_each_other(chunk_bytes):
    for bad, name in itertools.product((math.nan, inf), two_heads.NAMES[:2]):
        given = two_heads.draw((6,), 40, dtype=torch.float32)
        want = two_heads.stats(given, chunk_bytes=chunk_bytes)
        with torch.no_grad():
            given[name][2] = bad
        got = two_heads.stats(given, chunk_bytes=chunk_bytes)
        keep = torch.tensor([0, 1, 3, 4, 5])
        for field in ("lse", "teacher_lse", "entropy", "teacher_entropy", "kl", "reverse_kl", "js", "agreement"):
            assert torch.equal(getattr(got, field)[keep], getattr(want, field)[keep]), field
        for field in teaching.KINDS.values():
            assert getattr(got, field)[2].isnan()
        assert not got.agreement[2]
        for of_input in two_heads.NAMES[:2]:
            (g,) = torch.autograd.grad(got.kl.sum(), given[of_input], retain_graph=True)
            assert g[keep].isfinite().all()
            assert g[2].isnan().any()


@each_kind
@each_chunk
@pytest.mark.parametrize(("own", "its"), [(7, 9), (9, 7), (8, 12), (7, 7)])
def test_rows_of_the_weight_after_the_classes_are_padding(kind, own, its, chunk_bytes):
    given = two_heads.draw((2, 3), 12)
    sizes = dict.fromkeys(two_heads.STUDENT[1:], own) | dict.fromkeys(two_heads.TEACHER[1:], its)
    exact = {
        name: x.detach()[:7].requires_grad_() if name in sizes else x for name, x in two_heads.doubled(given).items()
    }
    given = {name: x.detach()[: sizes[name]].clone() if name in sizes else x for name, x in given.items()}
    for name in sizes:
        given[name][7:] = 100.0
        _ = given[name].requires_grad_()
    want = two_heads.truth(exact, temperature=0.7)[teaching.KINDS[kind]]
    for reduction in ("none", "mean"):
        options = {"kind": kind, "reduction": reduction, "num_classes": 7, "chunk_bytes": chunk_bytes}
        loss = two_heads.ours(given, temperature=0.7, **options)
        torch.testing.assert_close(loss, two_heads.reduced(want, reduction), rtol=1e-11, atol=1e-13)
        wants = two_heads.gradients(two_heads.reduced(want, reduction).sum(), exact, retain_graph=True)
        for name, g in two_heads.gradients(loss.sum(), given).items():
            w = wants[name]
            if name in sizes:
                assert (g[7:] == 0).all(), name
                g = g[:7]  # noqa: PLW2901
            torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-13)


# Classes of the teacher's vocabulary


@each_kind
@each_chunk
@pytest.mark.parametrize("scores", teaching.SCORES[:3], ids=str)
@pytest.mark.parametrize("columns", [[6, 0, 3, 3, 7], [2, -1, 0, -1, 1]], ids=str)
def test_a_map_picks_rows_of_the_teachers_weight(kind, scores, columns, chunk_bytes):
    given, its = two_heads.draw((2, 3), 5), two_heads.draw((2, 3), 8)
    given |= {name: its[name] for name in two_heads.TEACHER}
    options = {"kind": kind, "teacher_classes": torch.tensor(columns, dtype=torch.int32), **scores}
    for reduction in ("none", "mean"):
        got = two_heads.ours(given, reduction=reduction, chunk_bytes=chunk_bytes, **options)
        want = two_heads.eager(given, reduction=reduction, **options)
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)
        if kind == "reverse" and -1 in columns:
            assert (got == inf).all()
            continue
        wants = two_heads.gradients(want.sum(), given)
        for name, g in two_heads.gradients(got.sum(), given).items():
            torch.testing.assert_close(g, wants[name], rtol=1e-10, atol=1e-13)


def test_a_map_beside_padding_is_the_head_of_its_rows():
    given, its = two_heads.draw((4,), 6), two_heads.draw((4,), 9)
    given |= {name: its[name] for name in two_heads.TEACHER}
    columns = torch.tensor([8, 1, 2, 0])
    few = {name: x if name in two_heads.NAMES[:2] else x[:4] for name, x in given.items()}
    few |= {name: given[name][columns] for name in two_heads.TEACHER[1:]}
    got = two_heads.ours(given, teacher_classes=columns, num_classes=4)
    torch.testing.assert_close(got, two_heads.truth(few)["kl"].mean())


def test_a_map_beside_a_softcap_of_the_teacher_is_right_or_refused():
    given, its = two_heads.draw((4,), 5), two_heads.draw((4,), 8)
    given |= {name: its[name] for name in two_heads.TEACHER}
    for columns in ([6, 0, 3, 3, 7], [2, -1, 0, -1, 1]):
        options = {"teacher_classes": torch.tensor(columns), "teacher_softcap": 2.0}
        try:
            got = two_heads.ours(given, **options)
        except NotImplementedError as error:
            for word in ("teacher_classes", "teacher_softcap"):
                assert word in str(error)  # noqa: PT017
            continue
        torch.testing.assert_close(got, two_heads.eager(given, **options))


# Memory


@each_dtype
@each_kind
def test_memory_of_any_layout(kind, dtype):
    for positions, (first, second) in itertools.product(((), (2,)), itertools.pairwise([*LAYOUTS, "transposed"])):
        given = two_heads.draw((5,), 7, positions, dtype=dtype)
        exact = two_heads.doubled(given)

        def laid(given, first=first, second=second):
            lay = LAYOUTS[first], LAYOUTS[second]
            found = {name: lay[k % 2](x) for k, (name, x) in enumerate(given.items()) if x.ndim > 1}
            return given | found | {name: torch.stack([x, x])[0] for name, x in given.items() if x.ndim == 1}

        for reduction, chunk_bytes in (("none", ONE_ROW), ("mean", None)):
            got = two_heads.ours(laid(given), kind=kind, reduction=reduction, chunk_bytes=chunk_bytes)
            each = two_heads.truth(exact)[teaching.KINDS[kind]]
            two_heads.compare(got, two_heads.reduced(each, reduction), given, exact)


@each_kind
def test_expanded_operands(kind):
    few, many = two_heads.draw((1,), 7), two_heads.draw((6,), 7)
    few["linear_weight"], few["teacher_bias"] = (
        few[name].detach()[..., :1] for name in ("linear_weight", "teacher_bias")
    )
    given = two_heads.copied(few)
    exact = two_heads.doubled(given)

    def expanded(part):
        return {name: x.expand(many[name].shape) for name, x in part.items()}

    for reduction, chunk_bytes in itertools.product(("none", "mean"), (ONE_ROW, None)):
        got = two_heads.ours(expanded(given), kind=kind, reduction=reduction, chunk_bytes=chunk_bytes)
        each = two_heads.truth(expanded(exact))[teaching.KINDS[kind]]
        # one number more for all logits changes nothing, and its gradient is rounding
        of = [{name: x for name, x in part.items() if name != "teacher_bias"} for part in (given, exact)]
        two_heads.compare(got, two_heads.reduced(each, reduction), *of)


@each_kind
def test_arguments_are_never_written_to(kind):
    given, target = two_heads.draw((6,), 20, dtype=torch.float32), torch.tensor([1, -100, 3, 4, 5, 6])
    target_before = target.clone()
    before = {name: (x.detach().clone(), x._version) for name, x in given.items()}
    for reduction, chunk_bytes in itertools.product(("none", "mean"), (ONE_ROW, None)):
        loss, found = two_heads.ours(
            given, kind=kind, reduction=reduction, chunk_bytes=chunk_bytes, target=target, return_stats=True
        )
        g = plain.cotangent_like(loss).float()
        copy = g.clone()
        torch.autograd.backward([loss, found.js], [g, torch.ones(6)])
        assert torch.equal(g, copy)
    assert torch.equal(target, target_before)
    for name, x in given.items():
        assert torch.equal(x.detach(), before[name][0]), name
        assert x._version == before[name][1], name


@pytest.mark.slow
@each_kind
@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_any_number_of_threads(threads, kind, dtype):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for reduction, chunk_bytes in itertools.product(("none", "mean"), (30_000, None)):
            given = two_heads.draw((200,), 301, dtype=dtype)
            exact = two_heads.doubled(given)
            each = two_heads.truth(exact)[teaching.KINDS[kind]]
            got = two_heads.ours(given, kind=kind, reduction=reduction, chunk_bytes=chunk_bytes)
            two_heads.compare(got, two_heads.reduced(each, reduction), given, exact)
    finally:
        torch.set_num_threads(before)


def test_heads_without_padding_may_say_so():
    given = two_heads.draw((4,), 9)
    torch.testing.assert_close(two_heads.ours(given, num_classes=9), two_heads.ours(given), rtol=1e-13, atol=0)


def test_autocast_casts_the_operands_of_both_heads():
    """As torch's own linear does; the logits stay float32."""
    operands = [torch.randn(*s) for s in ((6, 4), (9, 4), (6, 3), (9, 3))]
    leaves = [x.clone().requires_grad_() for x in operands]
    with torch.autocast("cpu", torch.bfloat16):
        loss = crossent.torch.linear_divergence(*leaves, kind="js")
    rounded = [x.bfloat16().double().requires_grad_() for x in operands]
    want = crossent.torch.divergence(rounded[0] @ rounded[1].T, rounded[2] @ rounded[3].T, kind="js")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), want, rtol=2e-5, atol=0)
    grads = torch.autograd.grad(loss, leaves), torch.autograd.grad(want, rounded)
    for a, b in zip(*grads, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2e-2 * float(b.abs().max()))
