"""Laws of the row functions and of the record, for rows of any kind and size drawn by hypothesis.

Logits are multiples of 1/64 below 64, so that shifting them by whole numbers is exact in float32 as well.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossent import closing, reference
from crossent.kernels import cpu
from crossent.spec import Scores, Target
from crossent.stats import RowStats
from tests import data, oracle
from tests.oracle import evaluate

EPS = np.finfo(float).eps
laws = settings(max_examples=40, deadline=None)


@dataclasses.dataclass
class Rows:
    """A call in float64 (or float32), with the generator that drew it for whatever a law needs besides."""

    rng: Any
    logits: Any
    target: Target

    @property
    def N(self):
        return self.logits.shape[0]

    @property
    def V(self):
        return self.logits.shape[1]


@st.composite
def rows(draw, kinds=data.KINDS, dtypes=("float64",), least=1):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    V = draw(st.integers(least, 40) | st.sampled_from([600, 2049, 4097]))
    N, kind = draw(st.integers(1, 5)), draw(st.sampled_from(kinds))
    spread = draw(st.sampled_from([1, 5, 20]))
    logits = (rng.normal(0, spread * 64, (N, V)).clip(-4095, 4095).round() / 64).astype(draw(st.sampled_from(dtypes)))
    if kind == "index":
        base = {"index": rng.integers(0, V, N)}
    elif kind == "topk":
        base = {"index": rng.integers(0, V, (N, 3)), "prob": rng.random((N, 3)).astype(logits.dtype)}
    else:
        base = {"prob": rng.dirichlet(np.ones(V), N).astype(logits.dtype)}
    weight = rng.random(V).astype(logits.dtype) if draw(st.booleans()) else None
    return Rows(rng, logits, Target(**base, weight=weight, smoothing=draw(st.sampled_from([0.0, 0.1, 0.75]))))


scores = st.sampled_from([*data.PHIS, Scores(2.0), Scores(0.25, 10.0)])


def change(target, **fields):
    return dataclasses.replace(target, **fields)


def close(got, want, size=1.0):
    """Equal up to the roundings of a few sums over some thousand classes of things of this size."""
    np.testing.assert_allclose(got, want, rtol=0, atol=200 * EPS * (1.0 + np.max(np.abs(size), initial=0.0)))


def permuted(target, order):
    """The target when column j holds what column order[j] held."""
    place = np.argsort(order)
    prob = target.prob if target.kind == "topk" else None if target.prob is None else target.prob[:, order]
    return change(
        target,
        index=None if target.index is None else place[target.index],
        prob=prob,
        weight=None if target.weight is None else target.weight[order],
    )


def part_of(target, first, last, V):
    """The target of columns [first, last)."""
    return change(
        target,
        prob=target.prob[:, first:last] if target.kind == "dense" else target.prob,
        weight=None if target.weight is None else target.weight[first:last],
        first_class=first,
        num_classes=V,
    )


# The logits


@laws
@given(rows(dtypes=("float32", "float64")), st.integers(-10_000, 10_000))
def test_a_shift_of_all_logits_changes_nothing_but_lse(r, by):
    a, b = evaluate(cpu, r.logits, r.target), evaluate(cpu, r.logits + r.logits.dtype.type(by), r.target)
    for name in ("loss", "entropy", "grad", "fused"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(a.stats.peak + by, b.stats.peak)


@laws
@given(rows(), scores)
def test_the_order_of_the_classes_does_not_matter(r, s):
    order = r.rng.permutation(r.V)
    g = tuple(r.rng.normal(size=r.N) for _ in range(3))
    a = evaluate(cpu, r.logits, r.target, s, g)
    b = evaluate(cpu, np.ascontiguousarray(r.logits[:, order]), permuted(r.target, order), s, g)
    for name in ("loss", "lse", "entropy"):
        close(getattr(b, name), getattr(a, name), a.loss)
    close(b.grad, a.grad[:, order], 10 * a.grad)


@laws
@given(rows(), scores)
def test_the_order_of_the_rows_does_not_matter_at_all(r, s):
    order = r.rng.permutation(r.N)
    target = change(
        r.target,
        index=None if r.target.index is None else r.target.index[order],
        prob=None if r.target.prob is None else r.target.prob[order],
    )
    a, b = evaluate(cpu, r.logits, r.target, s), evaluate(cpu, r.logits[order], target, s)
    for name in ("loss", "lse", "entropy", "grad", "fused"):
        np.testing.assert_array_equal(getattr(b, name), getattr(a, name)[order])


@laws
@given(rows(), st.sampled_from([0.25, 0.5, 2.0, 8.0, 0.7, 3.0]))
def test_a_temperature_is_a_scale_of_the_logits(r, temperature):
    a = evaluate(cpu, r.logits, r.target, Scores(temperature))
    b = evaluate(cpu, r.logits / temperature, r.target)
    for name in ("loss", "lse", "entropy"):
        close(getattr(a, name), getattr(b, name), 300 / temperature)
    close(a.grad, b.grad / temperature, 300 / temperature)


@laws
@given(rows(), st.lists(st.sampled_from([0.25, 0.5, 2.0, 8.0, 0.7, 3.0]), min_size=1, max_size=5))
def test_a_temperature_of_each_row_is_a_scale_of_its_logits(r, some):
    T = np.resize(np.array(some), r.N)
    a = evaluate(cpu, r.logits, r.target, Scores(1.0, None, T))
    b = evaluate(cpu, r.logits / T[:, None].astype(r.logits.dtype), r.target)
    for name in ("loss", "lse", "entropy"):
        close(getattr(a, name), getattr(b, name), 300 / min(some))
    close(a.grad, b.grad / T[:, None], 300 / min(some))


@laws
@given(rows())
def test_a_very_high_softcap_is_none(r):
    a, b = evaluate(cpu, r.logits, r.target, Scores(1.0, 1e9)), evaluate(cpu, r.logits, r.target)
    close(a.loss, b.loss, 1e3)
    close(a.grad, b.grad, 1e3)


# The target


@laws
@given(rows(kinds=("index",), dtypes=("float32", "float64")), scores)
def test_an_index_is_a_one_hot_row_is_one_pick(r, s):
    hot = np.zeros(r.logits.shape, r.logits.dtype)
    hot[np.arange(r.N), r.target.index] = 1
    g = tuple(r.rng.normal(size=r.N).astype(r.logits.dtype) for _ in range(3))
    a = evaluate(cpu, r.logits, r.target, s, g)
    size, u = 1 + np.abs(a.loss).max() + np.abs(r.logits).max(), np.finfo(r.logits.dtype).eps
    for other in (
        change(r.target, index=None, prob=hot),
        change(r.target, index=r.target.index[:, None], prob=np.ones((r.N, 1))),
    ):
        b = evaluate(cpu, r.logits, other, s, g)
        np.testing.assert_allclose(b.loss, a.loss, rtol=0, atol=20 * u * size)
        np.testing.assert_allclose(b.grad, a.grad, rtol=0, atol=20 * u * size)


@laws
@given(rows(kinds=("topk",)), scores)
def test_probabilities_of_a_class_picked_twice_add(r, s):
    twice = change(
        r.target,
        index=np.concatenate([r.target.index, r.target.index], 1),
        prob=np.concatenate([0.25 * r.target.prob, 0.75 * r.target.prob], 1),
    )
    a, b = evaluate(cpu, r.logits, r.target, s), evaluate(cpu, r.logits, twice, s)
    close(b.loss, a.loss, 10 * a.loss)
    close(b.grad, a.grad, 10)


@laws
@given(rows(), st.floats(0.0, 1.0))
def test_smoothing_mixes_two_losses(r, eps):
    loss = {e: evaluate(cpu, r.logits, change(r.target, smoothing=e)) for e in (0.0, 1.0, eps)}
    close(loss[eps].loss, (1 - eps) * loss[0.0].loss + eps * loss[1.0].loss, 10 * loss[1.0].loss)
    close(loss[eps].grad, (1 - eps) * loss[0.0].grad + eps * loss[1.0].grad, 10)
    mass = 1.0 if r.target.weight is None else r.target.weight.mean()
    close(loss[1.0].stats.mass, mass)


@laws
@given(rows(), st.floats(-2.0, 2.0), st.floats(-2.0, 2.0))
def test_the_loss_is_linear_in_the_weight(r, a, b):
    first, second = r.rng.random(r.V), r.rng.random(r.V)
    parts = [evaluate(cpu, r.logits, change(r.target, weight=w)) for w in (first, second, a * first + b * second)]
    for name in ("loss", "grad"):
        x, y, both = (getattr(part, name) for part in parts)
        close(both, a * x + b * y, 10 * np.abs(parts[0].loss).max())


@laws
@given(rows(kinds=("topk", "dense")))
def test_the_loss_is_linear_in_the_probabilities(r):
    # smoothing apart, which comes on top
    base = change(r.target, smoothing=0.0)
    other = r.rng.random(r.target.prob.shape)
    parts = [evaluate(cpu, r.logits, change(base, prob=p)) for p in (r.target.prob, other, r.target.prob + 2 * other)]
    for name in ("loss", "grad"):
        x, y, both = (getattr(part, name) for part in parts)
        close(both, x + 2 * y, 10 * np.abs(parts[1].loss).max())


@laws
@given(rows(kinds=("index",), dtypes=("float32", "float64")), scores)
def test_an_ignored_row_is_a_removed_row(r, s):
    gone = r.rng.random(r.N) < 0.5
    logits, index = r.logits.copy(), np.where(gone, -7, r.target.index)
    logits[gone] = np.nan
    a = evaluate(cpu, logits, change(r.target, index=index, ignore_index=-7), s)
    b = evaluate(cpu, r.logits[~gone], change(r.target, index=r.target.index[~gone]), s)
    for name in ("loss", "lse", "entropy", "grad", "fused"):
        np.testing.assert_array_equal(getattr(a, name)[~gone], getattr(b, name))
        assert (getattr(a, name)[gone] == 0).all()


# The record


def records(r, s, cuts):
    """Records of the shards between the cuts, by the core."""
    edges = [0, *sorted(cuts), r.V]
    for first, last in itertools.pairwise(edges):
        yield evaluate(cpu, r.logits[:, first:last], part_of(r.target, first, last, r.V), s).stats


def same_record(a, b):
    for field in oracle.FIELDS:
        x, y = getattr(a, field), getattr(b, field)
        close(x, y, 200 * (np.abs(x) + np.abs(y)))


@laws
@given(rows(least=3), scores, st.data())
def test_records_of_shards_merge_into_that_of_the_row(r, s, d):
    cuts = d.draw(st.sets(st.integers(1, r.V - 1), min_size=1, max_size=4))
    whole = evaluate(cpu, r.logits, r.target, s)
    merged = None
    for record in records(r, s, cuts):
        merged = record if merged is None else merged.merge(record)
    same_record(merged, whole.stats)
    close(merged.loss, whole.loss, 10 * whole.loss)
    close(merged.entropy, whole.entropy, 100)


@laws
@given(rows(least=3), scores, st.data())
def test_merging_is_associative_and_commutative_with_an_identity(r, s, d):
    cuts = d.draw(st.sets(st.integers(1, r.V - 1), min_size=2, max_size=2))
    a, b, c = records(r, s, cuts)
    same_record(a.merge(b).merge(c), a.merge(b.merge(c)))
    for field in oracle.FIELDS:
        np.testing.assert_array_equal(getattr(a.merge(b), field), getattr(b.merge(a), field))
    nothing = RowStats(**{field: np.full(r.N, -np.inf if field == "peak" else 0.0) for field in oracle.FIELDS})
    for merged in (a.merge(nothing), nothing.merge(a)):
        for field in oracle.FIELDS:
            np.testing.assert_array_equal(getattr(merged, field), getattr(a, field))


@laws
@given(rows(least=2), scores, st.data())
def test_gradients_of_shards_lie_side_by_side(r, s, d):
    cut = d.draw(st.integers(1, r.V - 1))
    g = tuple(r.rng.normal(size=r.N) for _ in range(3))
    whole = evaluate(cpu, r.logits, r.target, s, g)
    record = np.stack([getattr(whole.stats, field) for field in oracle.FIELDS])
    pieces = []
    for first, last in ((0, cut), (cut, r.V)):
        grad = np.full((r.N, last - first), np.nan)
        cpu.row_grad(r.logits[:, first:last], part_of(r.target, first, last, r.V), s, record, g, grad)
        pieces.append(grad)
    close(np.concatenate(pieces, 1), whole.grad, 10 * whole.grad)


@laws
@given(rows(), scores)
def test_derived_quantities_have_their_meaning(r, s):
    got = evaluate(cpu, r.logits, r.target, s)
    z, _ = reference.score_and_slope(r.logits, s)
    close(got.stats.confidence, 1 / np.exp(z - z.max(1, keepdims=True)).sum(1))
    assert (got.entropy >= 0).all()
    assert (got.entropy <= np.log(r.V) * (1 + 100 * EPS)).all()
    if r.target.kind == "dense" and r.target.weight is None and r.target.smoothing == 0:
        p = r.target.prob
        assert (got.loss + (p * np.log(p)).sum(1) >= -1e-12).all()  # Gibbs: no model beats the truth itself


# The gradient


@laws
@given(rows())
def test_gradients_of_a_row_sum_to_what_a_shift_does(r):
    one, none = np.ones(r.N), None
    for g, slope in (((one, none, none), 0), ((none, one, none), 1), ((none, none, one), 0)):
        grad = evaluate(cpu, r.logits, r.target, Scores(), g).grad
        close(grad.sum(1), slope, 100)


@laws
@given(rows(), scores)
def test_the_gradient_is_linear_in_its_cotangents(r, s):
    g = [r.rng.normal(size=r.N) for _ in range(3)]
    whole = evaluate(cpu, r.logits, r.target, s, tuple(g)).grad
    alone = [
        evaluate(cpu, r.logits, r.target, s, tuple(x if j == k else None for j, x in enumerate(g))).grad
        for k in range(3)
    ]
    close(whole, sum(alone), 100 * np.abs(alone).max())


@laws
@given(rows(dtypes=("float32", "float64")), scores, st.booleans())
def test_fused_is_two_steps(r, s, squares):
    dtype, u = r.logits.dtype, np.finfo(r.logits.dtype).eps
    scale = r.rng.normal(size=r.N).astype(dtype)
    square = r.rng.normal(size=r.N).astype(dtype) if squares else None
    record, fused = oracle.empty_record(r.N), np.full_like(r.logits, np.nan)
    cpu.row_fused(r.logits, r.target, s, (scale, square), record, fused)
    two = evaluate(cpu, r.logits, r.target, s)
    first = np.stack([getattr(two.stats, field) for field in oracle.FIELDS])
    np.testing.assert_allclose(record, first, rtol=oracle.K * u, atol=oracle.K * u * (1 + np.abs(first).max(0)).max())
    g_lse = None if square is None else 2.0 * square.astype(float) * two.stats.lse
    grad = np.full_like(r.logits, np.nan)
    cpu.row_grad(r.logits, r.target, s, record, (scale, g_lse, None), grad)
    size = np.abs(scale).max() + (0 if square is None else np.abs(g_lse).max())
    np.testing.assert_allclose(fused, grad, rtol=8 * u, atol=8 * u * size)


# The closings


@laws
@given(rows(kinds=("index",)), st.booleans(), st.booleans())
def test_a_mean_is_a_weighted_sum_over_its_normaliser(r, sampled, weighted):
    loss = evaluate(cpu, r.logits, r.target).loss
    s = r.rng.random(r.N) if sampled else None
    w = r.rng.random(r.N) if weighted else None
    one = np.ones(r.N)
    mean = closing.reduce(loss, "mean", sample_weight=s, row_weight=w)
    total = closing.reduce(loss, "sum", sample_weight=s, row_weight=w)
    assert total == pytest.approx(closing.reduce(loss, "none", sample_weight=s, row_weight=w).sum(), rel=1e-14, abs=0)
    normaliser = ((one if s is None else s) * (one if w is None else w)).sum()
    assert mean * normaliser == pytest.approx(total, rel=1e-12, abs=1e-300)
