"""Laws that the measures obey for any distributions, drawn by hypothesis; each law is shown to catch a mutant."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import crossent.measures

EPS = np.finfo(float).eps


def rows(classes, *, zeros=True, count=None):
    """Strategy of one distribution, or of `count` of them: weights over twelve orders of magnitude, normalised."""
    weight = st.floats(1e-12, 1.0) | st.just(0.0) if zeros else st.floats(1e-12, 1.0)
    shape = (classes,) if count is None else (count, classes)
    weights = hnp.arrays(np.float64, shape, elements=weight).filter(lambda w: (w.sum(-1) > 0).all())
    return weights.map(lambda w: w / w.sum(-1, keepdims=True))


@st.composite
def triples(draw):
    """Three distributions over the same classes: p may have zeros, q and r have none."""
    classes = draw(st.integers(1, 9))
    return draw(rows(classes)), draw(rows(classes, zeros=False)), draw(rows(classes, zeros=False))


def slack(*sizes):
    """Rounding of a few sums over at most a hundred classes, each no larger than the sizes."""
    return 100 * EPS * (1.0 + sum(sizes))


# The laws, each for any set m of measures and three distributions.


def chain(m, p, q, r):
    """H(p, q) = H(p) + KL(p ‖ q)."""
    cross = m.cross_entropy(p, q)
    assert cross == pytest.approx(m.entropy(p) + m.kl_divergence(p, q), abs=slack(cross))


def gibbs(m, p, q, r):
    """KL ≥ 0 and KL(p ‖ p) = 0 exactly, and H(p, q) ≥ H(p)."""
    assert m.kl_divergence(p, q) >= 0.0
    assert m.kl_divergence(p, p) == 0.0
    assert m.cross_entropy(p, q) >= m.entropy(p) - slack(m.entropy(p))


def bounds(m, p, q, r):
    """0 ≤ H ≤ log V, 1 ≤ perplexity ≤ V and 0 ≤ JS ≤ log 2."""
    assert 0.0 <= m.entropy(p) + slack() <= math.log(p.size) + 2 * slack()
    assert 1.0 <= m.perplexity(p) + slack(p.size) <= p.size + 2 * slack(p.size)
    assert 0.0 <= m.js_divergence(p, q) <= math.log(2.0) + slack()


def permutation(m, p, q, r):
    """The names of the classes mean nothing."""
    order = np.argsort(r)
    for measure in (m.cross_entropy, m.kl_divergence, m.js_divergence, m.perplexity):
        value = measure(p, q)
        assert measure(p[order], q[order]) == pytest.approx(value, rel=slack(), abs=slack())


def additivity(m, p, q, r):
    """Independent parts add: H(p ⊗ r) = H(p) + H(r), and likewise for cross-entropy and KL; perplexities multiply."""

    def product(a, b):
        return np.outer(a, b).ravel()

    for measure in (m.cross_entropy, m.kl_divergence):
        whole = measure(product(p, q), product(q, r))
        assert whole == pytest.approx(measure(p, q) + measure(q, r), abs=slack(whole))
    assert m.perplexity(product(p, q)) == pytest.approx(m.perplexity(p) * m.perplexity(q), rel=slack(math.log(81)))


def grouping(m, p, q, r):
    """Shannon's third axiom: H of all = H of the groups + the share of a group · H within it; and KL likewise."""
    half = (p.size + 1) // 2
    share, belief = p[:half].sum(), q[:half].sum()
    if share == 0.0:
        return
    merged, believed = np.append(share, p[half:]), np.append(belief, q[half:])
    inside, within = p[:half] / share, q[:half] / belief
    for measure in (m.cross_entropy, m.kl_divergence):
        whole = measure(p, q)
        assert whole == pytest.approx(measure(merged, believed) + share * measure(inside, within), abs=slack(whole))


def midpoint(m, p, q, r):
    """JS is symmetric to the last bit, 0 for p = q, and H of the midpoint less the mean of H (Lin's definition)."""
    divergence = m.js_divergence(p, q)
    assert divergence == m.js_divergence(q, p)
    assert m.js_divergence(p, p) == 0.0
    lin = m.entropy((p + q) / 2) - (m.entropy(p) + m.entropy(q)) / 2
    assert divergence == pytest.approx(lin, abs=slack(m.entropy(p), m.entropy(q)))


def metric(m, p, q, r):
    """The root of JS obeys the triangle inequality (Endres and Schindelin 2003)."""
    sides = [math.sqrt(m.js_divergence(*pair)) for pair in ((p, q), (q, r), (p, r))]
    assert sides[2] <= sides[0] + sides[1] + math.sqrt(EPS) * EPS + slack() * sides[2]


def change_of_base(m, p, q, r):
    """One bit is log 2 nats, whatever the measure."""
    assert m.entropy(p, base=2) * math.log(2) == pytest.approx(m.entropy(p), rel=slack())
    for measure in (m.cross_entropy, m.kl_divergence, m.js_divergence):
        assert measure(p, q, base=2) * math.log(2) == pytest.approx(measure(p, q), rel=slack())
    assert 2 ** m.entropy(p, base=2) == pytest.approx(m.perplexity(p), rel=slack(math.log(p.size)))


def batching(m, p, q, r):
    """A batch is its rows, whichever axis holds the classes."""
    left, right = np.stack([p, r, q]), np.stack([q, q, r])
    for measure in (m.cross_entropy, m.kl_divergence, m.js_divergence, m.perplexity):
        loop = [measure(a, b) for a, b in zip(left, right, strict=True)]
        assert measure(left, right) == pytest.approx(np.array(loop), rel=slack(), abs=slack() * EPS)
        assert np.array_equal(measure(left.T, right.T, axis=0), measure(left, right))


def libraries(m, p, q, r):
    """Torch says what NumPy says."""
    for measure in (m.cross_entropy, m.kl_divergence, m.js_divergence, m.perplexity):
        value = measure(torch.from_numpy(p), torch.from_numpy(q)).item()
        assert value == pytest.approx(measure(p, q), rel=slack(), abs=slack() * EPS)


LAWS = [chain, gibbs, bounds, permutation, additivity, grouping, midpoint, metric, change_of_base, batching, libraries]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@settings(max_examples=40, deadline=None)
@given(distributions=triples())
def test_law(law, distributions):
    law(crossent.measures, *distributions)


@settings(max_examples=60, deadline=None)
@given(p=rows(6, zeros=False), scale=st.floats(1e-15, 1.0), seed=st.integers(0, 2**32 - 1))
def test_kl_of_near_distributions_is_half_of_chi_squared(p, scale, seed):
    # for q = p (1 + y), Σ p y = 0 and |y| ≤ h ≤ 1/10: KL = Σ p (y − log(1 + y)) = Σ p y²/2, off by a part 3h/4 at most
    x = np.random.default_rng(seed).uniform(-1.0, 1.0, p.size)
    h = 0.1 * scale
    q = p * (1.0 + h * (x - (p * x).sum()) / 2.0)
    truth = ((p - q) ** 2 / p).sum() / 2
    assert crossent.measures.kl_divergence(p, q) == pytest.approx(truth, rel=0.75 * h + slack())


@settings(max_examples=40, deadline=None)
@given(p=rows(5, count=3), q=rows(5, count=3))
def test_zeros_never_give_nan(p, q):
    for x, y in ((p, q), (torch.from_numpy(p), torch.from_numpy(q))):
        for name in ("cross_entropy", "kl_divergence", "js_divergence", "perplexity"):
            value = np.asarray(getattr(crossent.measures, name)(x, y))
            assert not np.isnan(value).any()
            impossible = ((p > 0) & (q == 0)).any(-1)
            assert np.array_equal(np.isinf(value), impossible & (name != "js_divergence"))


# Mutants: measures that are wrong in one way, and the laws that must say so.


def _swapped(p, q, **options):
    return crossent.measures.cross_entropy(q, p, **options)


def _mean(p, q, **options):
    return crossent.measures.cross_entropy(p, q, **options) / np.shape(p)[-1]


def _clipped(p, q, **options):
    return -(p * np.log(np.clip(q, 0.31, 0.69))).sum(-1)


def _classical(p, q, **options):
    return crossent.measures.cross_entropy(p, q, **options) - crossent.measures.entropy(p, **options)


def _one_sided(p, q, **options):
    return crossent.measures.kl_divergence(p, (np.asarray(p) + q) / 2, **options)


def _first_class_counts_twice(p, q, **options):
    return crossent.measures.cross_entropy(p, q, **options) - np.log(np.asarray(q)[..., 0])


def _nats_only(p, q, base=None, **options):
    return crossent.measures.cross_entropy(p, q, **options)


def _averaged(p, q, **options):
    value = crossent.measures.cross_entropy(p, q, **options)
    return np.full_like(value, value.mean())


def _single(p, q, **options):
    if isinstance(p, torch.Tensor):
        p, q = p.float(), q.float()
    return crossent.measures.kl_divergence(p, q, **options)


def _bits(p, q=None, **options):
    return 2 ** crossent.measures.entropy(p, **options)


MUTANTS = [
    (chain, "cross_entropy", _swapped),
    (chain, "cross_entropy", _clipped),
    (gibbs, "cross_entropy", _mean),
    (gibbs, "kl_divergence", lambda p, q: crossent.measures.js_divergence(p, q) - 0.1),
    (bounds, "js_divergence", lambda p, q: 2 * crossent.measures.cross_entropy(p, q)),
    (permutation, "cross_entropy", _first_class_counts_twice),
    (additivity, "cross_entropy", _mean),
    (additivity, "kl_divergence", crossent.measures.js_divergence),
    (additivity, "perplexity", crossent.measures.entropy),
    (grouping, "kl_divergence", crossent.measures.js_divergence),
    (midpoint, "js_divergence", _one_sided),
    (metric, "js_divergence", lambda p, q: crossent.measures.js_divergence(p, q) ** 2),
    (change_of_base, "cross_entropy", _nats_only),
    (change_of_base, "perplexity", _bits),
    (batching, "cross_entropy", _averaged),
    (libraries, "kl_divergence", _single),
]


@pytest.mark.parametrize(("law", "name", "mutant"), MUTANTS)
def test_the_laws_catch_mutants(law, name, mutant):
    public = ("entropy", "cross_entropy", "kl_divergence", "js_divergence", "perplexity")
    measures = SimpleNamespace(**{each: getattr(crossent.measures, each) for each in public})
    p, q, r = np.array([0.7, 0.2, 0.1]), np.array([0.45, 0.2, 0.35]), np.array([0.25, 0.15, 0.6])
    law(measures, p, q, r)
    setattr(measures, name, mutant)
    with pytest.raises(AssertionError):
        law(measures, p, q, r)


def test_the_limit_of_near_distributions_catches_the_classical_difference():
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.7, 0.2, 0.1]) * (1 + 1e-9 * np.array([1.0, -1.0, 0.5]))
    truth = pytest.approx(((p - q) ** 2 / p).sum() / 2, rel=1e-8)
    assert crossent.measures.kl_divergence(p, q) == truth
    assert _classical(p, q) != truth
