"""Laws of a score: rows that weigh more or nothing, and the same model written in another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import log_softmax

import crossent
from tests.scoring.drawn import EXAMPLES, Data, assert_close, data, numbers
from tests.scoring.exact import assert_same, made, softmax

pytestmark = pytest.mark.slow

# Weights


COUNTS = (
    "n", "clusters", "ci", "skill_ci", "bits_ci", "perplexity_ci", "se", "worst", "helps", "warnings", "recall_ci",
    "counts", "rows", "ids",
)  # fmt: skip


@EXAMPLES
@given(data(), st.data())
def test_rows_twice_have_twice_the_weight(rows, more):
    """Weights count in every mean; how sure one can be is another matter."""
    times = np.array(more.draw(st.lists(st.integers(0, 3), min_size=rows.n, max_size=rows.n)))
    times[0] = 2
    weight = rows.columns.get("weight", np.ones(rows.n))
    repeated = rows.take(np.repeat(np.arange(rows.n), times))
    assert_close(numbers(rows.but(weight=weight * times).score(), *COUNTS), numbers(repeated.score(), *COUNTS))


@EXAMPLES
@given(data(kinds=("logits",)), st.data())
def test_copies_of_a_row_in_its_cluster_are_a_weight(rows, more):
    """If the copies are in one cluster, the interval knows that they tell nothing new."""
    times = np.array(more.draw(st.lists(st.integers(1, 3), min_size=rows.n, max_size=rows.n)))
    rows = rows.but(weight=None, by=None, cluster=np.arange(rows.n))
    repeated = rows.take(np.repeat(np.arange(rows.n), times)).score()
    weighted = rows.but(weight=times.astype(float), cluster=None).score()
    for name in ("loss", "ci", "se", "skill", "skill_ci"):
        assert np.allclose(getattr(repeated, name), getattr(weighted, name), rtol=1e-12, atol=1e-13, equal_nan=True)


@EXAMPLES
@given(data(), st.data())
def test_weight_zero_is_left_out(rows, more):
    gone = np.array(more.draw(st.lists(st.booleans(), min_size=rows.n, max_size=rows.n)))
    gone[0] = False
    weight = np.where(gone, 0.0, rows.columns.get("weight", np.ones(rows.n)))
    rows = rows.but(weight=weight)
    assert_same(rows.score(), rows.take(~gone).score())


@EXAMPLES
@given(data(), st.data())
def test_ignored_is_left_out(rows, more):
    gone = np.array(more.draw(st.lists(st.booleans(), min_size=rows.n, max_size=rows.n)))
    gone[0] = False
    assume(gone.any())  # a label that no row has makes a warning
    ignoring = rows.but(y=np.where(gone, -100, rows.columns["y"]))
    ignoring.options = {**rows.options, "ignore": -100}
    assert_same(ignoring.score(), rows.take(~gone).score())
    missing = rows.but(y=np.where(gone, np.nan, rows.columns["y"]))
    missing.options = {**rows.options, "ignore": float("nan")}
    assert_same(missing.score(), rows.take(~gone).score())


def assert_scale_does_not_matter(rows, scale):
    weight = rows.columns.get("weight", np.ones(rows.n))
    a, b = rows.but(weight=weight).score(), rows.but(weight=weight * scale).score()
    assert_close(
        numbers(a, "weight", "answered"), numbers(b, "weight", "answered"), 1e-12
    )  # the weights themselves are rounded
    assert math.isclose(a.weight * scale, b.weight, rel_tol=1e-13)


@EXAMPLES
@given(data(), st.sampled_from([2.0**-20, 0.1, 3.0, 1e6]))
def test_the_scale_of_weights(rows, scale):
    assert_scale_does_not_matter(rows, scale)


@pytest.mark.parametrize("scale", [1e-69, 1e69])
def test_the_scale_of_large_and_small_weights(scale):
    y, z = made(3, 50, 3)
    assert_scale_does_not_matter(Data({"y": y, "logits": z}), scale)


@pytest.mark.parametrize("scale", [1e-200, 1e-120, 1e120, 1e200])
def test_weights_whose_powers_no_float64_holds_are_refused(scale):
    y, z = made(3, 50, 3)
    with pytest.raises(ValueError, match=r"weights from .* divide all of them by a typical one"):
        crossent.score(y, logits=z, weight=np.full(50, scale))


@EXAMPLES
@given(data())
def test_no_weights_are_weights_of_one(rows):
    rows = rows.but(weight=None)
    assert_same(rows.but(weight=np.ones(rows.n, np.int8)).score(), rows.score())


# The same model, written otherwise


@EXAMPLES
@given(data(kinds=("probs", "logits", "logprobs")), st.data())
def test_order_of_classes(rows, more):
    """Classes permuted, with their columns: the same table, in another order."""
    kind = next(k for k in ("probs", "logits", "logprobs") if k in rows.columns)
    classes = rows.columns[kind].shape[1]
    if classes == 2:
        return  # the second of two is the positive one, so their order means something
    order = more.draw(st.permutations(range(classes)))
    names = [f"c{k}" for k in range(classes)]
    rows = rows.but(y=np.array(names)[rows.columns["y"]])
    rows.options["classes"] = names
    other = rows.but(**{kind: rows.columns[kind][:, order]})
    other.options = {**rows.options, "classes": [names[k] for k in order]}
    a, b = rows.score(), other.score()
    ordered = ("classes", "per_class", "warnings", "confusion", "ranking", "class_reliability", "blame")
    assert_close(numbers(a, *ordered), numbers(b, *ordered))
    for left in a.per_class:
        right = next(s for s in b.per_class if s.value == left.value)
        assert (left.n, left.accuracy) == (right.n, right.accuracy)
        assert math.isclose(left.loss, right.loss, rel_tol=1e-13)


@EXAMPLES
@given(data(kinds=("column",)))
def test_one_column_is_two_columns(rows):
    p = np.round(rows.columns["probs"] * 2**20) / 2**20  # so that 1 − p is exact
    rows = rows.but(probs=p)
    assert_same(rows.but(probs=np.stack([1 - p, p], axis=1)).score(), rows.score())


@EXAMPLES
@given(data(kinds=("logits",)))
def test_logits_and_logarithms_and_probabilities(rows):
    """To the rounding of softmax; spreads of nearly equal losses have half of its digits."""
    z = rows.columns["logits"]
    base = rows.score()
    rough = math.sqrt(np.finfo(float).eps)
    assert_same(rows.but(logits=None, probs=softmax(z)).score(), base, rel=rough)
    assert_same(rows.but(logits=None, logprobs=log_softmax(z, axis=1)).score(), base, rel=rough)
    if z.shape[1] == 2:
        assert_same(rows.but(logits=z[:, 1] - z[:, 0]).score(), base, rel=rough)
        assert math.isclose(rows.but(logits=z[:, 1] - z[:, 0]).score().loss, base.loss, rel_tol=1e-12)
    assert math.isclose(rows.but(logits=None, probs=softmax(z)).score().loss, base.loss, rel_tol=1e-12)


@EXAMPLES
@given(data(kinds=("probs", "column")))
def test_clusters_of_one_row(rows):
    """Clusters of one row each are no clusters: for the interval of the whole, of classes and of slices.

    Intervals of accuracies have a quantile of Student's for clusters, and that of Wilson for rows.
    """
    alone, plain = rows.but(cluster=np.arange(rows.n)).score(), rows.but(cluster=None).score()
    assert alone.clusters == rows.n
    assert plain.clusters is None
    but = ("clusters", "warnings", "accuracy", "balanced_accuracy", "balanced_loss")
    assert_close(numbers(alone, *but), numbers(plain, *but))
    assert alone.accuracy == plain.accuracy
