"""Divergences of two linear heads against products, log_softmax and kl_div in float64: values, and all gradients."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

import crossent.torch as F
from crossent.torch import TopK
from crossent.torch.sources import linear
from tests.torch import plain, teaching, two_heads

each_kind = pytest.mark.parametrize("kind", list(teaching.KINDS))
each_score = pytest.mark.parametrize("scores", teaching.SCORES, ids=str)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
PAIRS = [*((d, d) for d in DTYPES), (torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16),
         (torch.float64, torch.float16), (torch.float16, torch.float64)]  # fmt: skip
ONE_LOGIT, ONE_ROW, SOME_ROWS = 1, 700, 3000
"""For 40 classes of two heads in float64."""
each_chunk = pytest.mark.parametrize("chunk_bytes", [ONE_ROW, SOME_ROWS, None])
tiny_too = pytest.mark.parametrize("chunk_bytes", [ONE_LOGIT, 200, None])


def labels(rows, V, ignored=0.3):
    """Random classes, some of them ignored, but never all."""
    found = torch.where(torch.rand(rows) < ignored, -100, torch.randint(V, rows))
    found.view(-1)[:1] = V - 1
    return found


@pytest.mark.slow
@each_score
@each_chunk
@pytest.mark.parametrize("dtypes", PAIRS, ids=str)
@pytest.mark.parametrize("target", [False, True])
def test_all_statistics_and_gradients(scores, dtypes, chunk_bytes, target):
    for V, bias in ((2, True), (7, False), (70, True)):
        given = two_heads.draw((6,), V, dtype=dtypes[0], teacher_dtype=dtypes[1], bias=bias)
        exact = two_heads.doubled(given)
        options = dict(scores, beta=0.3) | ({"target": labels((6,), V)} if target else {})
        got = two_heads.stats(given, chunk_bytes=chunk_bytes, **options)
        teaching.check(got, list(given.values()), two_heads.truth(exact, **options), list(exact.values()))


@pytest.mark.slow
@each_kind
@each_score
@each_dtype
@each_chunk
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_the_loss_of_each_kind(kind, scores, dtype, reduction, chunk_bytes):
    for weighted, bias in ((False, True), (True, False)):
        given = two_heads.draw((9,), 40, dtype=dtype, bias=bias)
        exact, target = two_heads.doubled(given), labels((9,), 40)
        samples = torch.rand(9, dtype=torch.float64) if weighted else None
        options = dict(scores, beta=0.7 if kind == "js" else 0.5, target=target)
        got = two_heads.ours(
            given, kind=kind, reduction=reduction, sample_weight=samples, chunk_bytes=chunk_bytes, **options
        )
        each = two_heads.truth(exact, **options)[teaching.KINDS[kind]]
        two_heads.compare(got, two_heads.reduced(each, reduction, samples, target != -100), given, exact)
        for name in ("input", "teacher_input"):
            (g,) = torch.autograd.grad(got.sum(), given[name], retain_graph=True)
            assert (g[target == -100] == 0).all()


@pytest.mark.slow
@each_kind
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("in_cache", [None, 5])
def test_many_rows_in_chunks_of_many(kind, reduction, dtype, in_cache, monkeypatch):
    N, V = 700, 33
    if in_cache is not None:  # a cache for so many rows of both heads, of which chunks have more
        monkeypatch.setattr(linear, "CPU", dataclasses.replace(linear.CPU, tile_logits=2 * V * in_cache))
    given = two_heads.draw((N,), V, dtype=dtype, widths=(20, 40))
    exact, samples = two_heads.doubled(given), torch.rand(N, dtype=torch.float64)
    each = two_heads.truth(exact, temperature=0.7)[teaching.KINDS[kind]]
    want = two_heads.reduced(each, reduction, samples)
    size = two_heads.wide(dtype).itemsize * V
    for chunk_bytes in (40 * size, 300 * size, 3 * 300 * size, None):
        got = two_heads.ours(
            given, kind=kind, reduction=reduction, temperature=0.7, sample_weight=samples, chunk_bytes=chunk_bytes
        )
        two_heads.compare(got, want, given, exact)


def test_forward_is_kl_div_of_torch_and_reverse_the_other_way_round():
    given = two_heads.draw((5,), 30)
    logq, logp = (z.log_softmax(1) for z in two_heads.logits(given))
    forward = torch.nn.functional.kl_div(logq, logp, log_target=True, reduction="batchmean")
    torch.testing.assert_close(two_heads.ours(given), forward)
    turned = {"input": "teacher_input", "linear_weight": "teacher_weight", "linear_bias": "teacher_bias"}
    turned |= {its: own for own, its in turned.items()}
    other = {name: given[turned[name]] for name in two_heads.NAMES}
    torch.testing.assert_close(two_heads.ours(given, kind="reverse"), two_heads.ours(other))
    torch.testing.assert_close(
        two_heads.ours(given, kind="js", beta=0.2), two_heads.ours(other, kind="js", beta=0.8), rtol=1e-12, atol=0
    )


@each_kind
@each_chunk
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("rows", [(6,), (2, 3)])
def test_a_temperature_for_each_row(kind, softcap, own, rows, chunk_bytes):
    given = two_heads.draw(rows, 40)
    exact = two_heads.doubled(given)
    options = {"temperature": torch.rand(rows) + 0.4, "softcap": softcap, "teacher_softcap": softcap}
    if own:
        options["teacher_temperature"] = torch.rand(rows) + 0.4
    loss, got = two_heads.ours(given, kind=kind, chunk_bytes=chunk_bytes, return_stats=True, **options)
    want = two_heads.truth(exact, **options)
    if kind == "js":
        teaching.check(got, list(given.values()), want, list(exact.values()))
    two_heads.compare(loss, want[teaching.KINDS[kind]].mean(), given, exact)
    alone = two_heads.ours(given, kind=kind, chunk_bytes=chunk_bytes, **options)
    two_heads.compare(alone, want[teaching.KINDS[kind]].mean(), given, exact)


def test_a_temperature_of_the_teacher_alone_is_of_each_row():
    given, warm = two_heads.draw((4,), 9), torch.rand(4) + 0.4
    exact = two_heads.doubled(given)
    for options in ({"teacher_temperature": warm}, {"temperature": warm, "teacher_temperature": 2.0}):
        for chunk_bytes in (ONE_ROW, None):
            got = two_heads.ours(given, chunk_bytes=chunk_bytes, **options)
            two_heads.compare(got, two_heads.truth(exact, **options)["kl"].mean(), given, exact)


@each_kind
@tiny_too
@pytest.mark.parametrize("rows", [(), (4,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_rows_of_any_shape(kind, rows, reduction, chunk_bytes):
    given = two_heads.draw(rows, 11)
    exact, samples = two_heads.doubled(given), torch.rand(rows, dtype=torch.float64) + 0.1
    options = {"kind": kind, "reduction": reduction, "sample_weight": samples, "chunk_bytes": chunk_bytes}
    loss, got = two_heads.ours(given, return_stats=True, **options)
    want = two_heads.truth(exact)
    assert all(x.shape == rows for x in teaching.as_dict(got).values())
    teaching.check(got, list(given.values()), want, list(exact.values()))
    want = two_heads.reduced(want[teaching.KINDS[kind]], reduction, samples)
    two_heads.compare(loss, want, given, exact)
    two_heads.compare(two_heads.ours(given, **options), want, given, exact)


@each_kind
@tiny_too
@pytest.mark.parametrize(("rows", "positions"), [((4,), (3,)), ((2, 3), (2,)), ((2, 2), (2, 2))])
def test_heads_of_more_dimensions(kind, rows, positions, chunk_bytes):
    V, all_rows = 6, (*rows, *positions)
    given = two_heads.draw(rows, V, positions)
    exact, samples = two_heads.doubled(given), torch.rand(all_rows, dtype=torch.float64)
    target, warm = labels(all_rows, V), torch.rand(all_rows, dtype=torch.float64) + 0.5
    options = {"target": target, "temperature": warm, "teacher_softcap": 3.0}
    want = two_heads.truth(exact, **options)
    got = two_heads.stats(given, chunk_bytes=chunk_bytes, **options)
    teaching.check(got, list(given.values()), want, list(exact.values()))
    for reduction in ("none", "sum", "mean"):
        loss = two_heads.ours(
            given, kind=kind, reduction=reduction, sample_weight=samples, chunk_bytes=chunk_bytes, **options
        )
        each = two_heads.reduced(want[teaching.KINDS[kind]], reduction, samples, target != -100)
        two_heads.compare(loss, each, given, exact)


@each_kind
@each_dtype
def test_one_class_and_one_feature(kind, dtype):
    given = two_heads.draw((5,), 1, dtype=dtype)
    loss = two_heads.ours(given, kind=kind, reduction="none")
    assert (loss == 0).all()
    assert all((g == 0).all() for g in two_heads.gradients(loss.sum(), given).values())
    given = two_heads.draw((5,), 4, dtype=dtype, widths=(1, 1))
    exact = two_heads.doubled(given)
    want = two_heads.truth(exact)[teaching.KINDS[kind]].mean()
    for chunk_bytes in (ONE_ROW, None):
        two_heads.compare(two_heads.ours(given, kind=kind, chunk_bytes=chunk_bytes), want, given, exact)


# Targets beside the teacher


@each_chunk
def test_a_target_may_hold_probabilities(chunk_bytes):
    given = two_heads.draw((5,), 8)
    exact = two_heads.doubled(given)
    p = torch.rand(5, 8, dtype=torch.float64).softmax(1).requires_grad_()
    index = torch.randint(8, (5, 3))
    prob = torch.rand(5, 3, dtype=torch.float64).requires_grad_()
    logq = two_heads.logits(exact)[0].log_softmax(1)
    exact_p, exact_q = (x.detach().clone().requires_grad_() for x in (p, prob))
    wants = (exact_p * logq).sum(1), (exact_q * logq.gather(1, index)).sum(1)
    for target, leaf, want, other in ((p, p, wants[0], exact_p), (TopK(index, prob), prob, wants[1], exact_q)):
        found = two_heads.stats(given, target=target, chunk_bytes=chunk_bytes)
        two_heads.compare(found.logprob, want, given | {"target": leaf}, exact | {"target": other})
        two_heads.compare(found.kl, two_heads.truth(exact)["kl"], given, exact)


@each_chunk
def test_probabilities_beside_heads_of_more_dimensions_are_those_of_linear_cross_entropy(chunk_bytes):
    given = two_heads.draw((4,), 6, (2,))
    index, prob = torch.randint(6, (4, 2, 3)), torch.rand(4, 2, 3, dtype=torch.float64)
    p, logq = torch.rand(4, 2, 6, dtype=torch.float64), two_heads.logits(given)[0].log_softmax(-1)
    pairs = (
        (p.movedim(-1, 1), (p * logq).sum(-1)),
        (TopK(index.movedim(-1, 1), prob.movedim(-1, 1)), (prob * logq.gather(-1, index)).sum(-1)),
    )
    for target, want in pairs:
        got = two_heads.stats(given, target=target, chunk_bytes=chunk_bytes)
        torch.testing.assert_close(got.logprob, want, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("integer", [torch.int8, torch.int16, torch.int32, torch.uint8], ids=str)
def test_classes_of_any_integer_dtype(integer):
    given, target = two_heads.draw((6,), 9), torch.randint(9, (6,))
    want = two_heads.stats(given, target=target, ignore_index=4)
    got = two_heads.stats(given, target=target.to(integer), ignore_index=4)
    for name in (*teaching.SMOOTH, "agreement"):
        assert torch.equal(getattr(got, name), getattr(want, name)), name


# Rows that are gone


@each_kind
@each_dtype
@tiny_too
@pytest.mark.parametrize("how", ["ignored", "weight"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_a_removed_row_holds_anything(kind, dtype, how, reduction, chunk_bytes):
    given = two_heads.draw((4,), 11, dtype=dtype)
    with torch.no_grad():
        given["input"][1] = torch.tensor([math.nan, math.inf, -math.inf, 0.0, 1.0])
        given["teacher_input"][1] = math.nan
        given["teacher_input"][2] = math.inf
    kept = torch.tensor([0, 3])
    options = {"target": torch.tensor([1, -100, -100, 2])} if how == "ignored" else {}
    samples = torch.tensor([0.5, 0.0, 0.0, 2.0]) if how == "weight" else None
    loss = two_heads.ours(
        given, kind=kind, reduction=reduction, sample_weight=samples, chunk_bytes=chunk_bytes, **options
    )
    exact = two_heads.doubled(given)
    few = {name: x.detach()[kept].requires_grad_() if name in two_heads.NAMES[:2] else x for name, x in exact.items()}
    each = two_heads.truth(few)[teaching.KINDS[kind]]
    want = two_heads.reduced(each, reduction, None if samples is None else samples[kept])
    assert plain.off(loss[kept] if reduction == "none" else loss, want) <= teaching.BAR[loss.dtype]
    grads, wants = two_heads.gradients(loss.sum(), given), two_heads.gradients(want.sum(), few)
    for name, g in grads.items():
        assert g.isfinite().all(), name
        if name in two_heads.NAMES[:2]:
            assert (g[1:3] == 0).all(), name
            g = g[kept]  # noqa: PLW2901
        assert plain.off(g, wants[name]) <= teaching.BAR[dtype], name


@each_chunk
def test_all_rows_ignored(chunk_bytes):
    given, gone = two_heads.draw((4,), 11), torch.full((4,), -100)
    for kind, reduction in itertools.product(teaching.KINDS, ("none", "sum", "mean")):
        for closing in (None, lambda rows: rows.kl + rows.js):
            options = {"kind": kind, "reduction": reduction, "closing": closing, "chunk_bytes": chunk_bytes}
            loss = two_heads.ours(given, target=gone, **options)
            assert loss.isnan() if reduction == "mean" else (loss == 0).all()
            for g in two_heads.gradients(loss.sum(), given).values():
                assert (g == 0).all()


def test_no_rows():
    for kind in teaching.KINDS:
        for rows in ((0,), (2, 0), (0, 3)):
            given = two_heads.draw(rows, 5)
            loss, found = two_heads.ours(given, kind=kind, reduction="none", return_stats=True)
            assert loss.shape == found.kl.shape == found.agreement.shape == rows
            assert two_heads.ours(given, kind=kind, reduction="sum") == 0
            assert two_heads.ours(given, kind=kind).isnan()
            for reduction in ("none", "sum", "mean"):
                loss = two_heads.ours(given, kind=kind, reduction=reduction)
                for name, g in two_heads.gradients(loss.sum(), given).items():
                    assert g.shape == given[name].shape
                    assert (g == 0).all(), name


def test_objects_that_act_like_tensors_are_asked_first():
    class Wrapped(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return func.__name__ if func is F.linear_divergence else NotImplemented

    x, w = torch.randn(2, 3), torch.randn(4, 3)
    for k in range(4):
        operands = [a.as_subclass(Wrapped) if at == k else a for at, a in enumerate((x, w, x, w))]
        assert F.linear_divergence(*operands) == "linear_divergence"
