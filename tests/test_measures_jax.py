"""The measures on JAX arrays, where JAX is installed; the values are NumPy's, the gradients closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from crossent.measures import cross_entropy, entropy, js_divergence, kl_divergence, perplexity

jax = pytest.importorskip("jax")

P, Q = [[0.0, 0.3, 0.7], [0.25, 0.25, 0.5]], [0.2, 0.3, 0.5]


@pytest.mark.parametrize("function", [entropy, cross_entropy, kl_divergence, js_divergence, perplexity])
def test_jax_says_what_numpy_says(function):
    rest = () if function is entropy else (Q,)
    p = jax.numpy.asarray(P)
    stored = [np.asarray(x, np.float32) for x in (p, *rest)]
    truth = pytest.approx(function(*stored), rel=4 * float(np.finfo(np.float32).eps))
    for value in (function(p, *rest), jax.jit(function)(p, *map(jax.numpy.asarray, rest))):
        assert isinstance(value, jax.Array)
        assert value.dtype == np.float32
        assert np.asarray(value) == truth
    assert function(p.astype("bfloat16"), *rest).dtype == np.float32
    assert np.isfinite(jax.grad(lambda p: function(p, *rest).sum())(p)).all()


def test_jax_gradients_are_the_closed_forms():
    p, q = jax.numpy.asarray(P[1]), jax.numpy.asarray(Q)
    by_p, by_q = jax.grad(cross_entropy, (0, 1))(p, q)
    assert np.asarray(by_p) == pytest.approx(-np.log(Q), rel=1e-6)
    assert np.asarray(by_q) == pytest.approx(-np.asarray(P[1]) / Q, rel=1e-6)
    by_p, by_q = jax.grad(kl_divergence, (0, 1))(p, q)
    assert np.asarray(by_p) == pytest.approx(np.log(np.asarray(P[1]) / Q), rel=1e-5, abs=1e-7)
    assert np.asarray(by_q) == pytest.approx(1 - np.asarray(P[1]) / Q, rel=1e-5, abs=1e-7)
