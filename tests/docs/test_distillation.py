"""What the pictures of guide/distillation.md say, against NumPy in float64: a search of every place and width."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.docs.blocks import ROOT

pytestmark = pytest.mark.slow

KINDS = [("forward", 0.5), ("js", 0.1), ("js", 0.5), ("reverse", 0.5)]
V = 40


@pytest.fixture(scope="module")
def drawn() -> Any:
    """The module that draws."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from pictures import distillation
    finally:
        sys.path.remove(str(ROOT / "docs"))
    return distillation


def bumps(places: Any, widths: Any) -> Any:
    """Log-probabilities (…, V) of one peak each."""
    z = -(((np.arange(V) - places[..., None]) / widths[..., None]) ** 2) / 2
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def teacher() -> Any:
    one, other = np.exp(bumps(np.array([11.0, 28.0]), np.array([2.2, 2.2])))
    return np.log(0.65 * one + 0.35 * other)


def kl(log_a: Any, log_b: Any) -> Any:
    return (np.exp(log_a) * (log_a - log_b)).sum(-1)


def divergences(kind: str, beta: float) -> Callable[[Any], Any]:
    """A function of log-probabilities of students."""
    p = teacher()

    def js(q: Any) -> Any:
        m = np.log(beta * np.exp(p) + (1 - beta) * np.exp(q))
        return beta * kl(p, m) + (1 - beta) * kl(q, m)

    return {"forward": lambda q: kl(p, q), "reverse": lambda q: kl(q, p), "js": js}[kind]


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_no_student_of_one_peak_is_nearer_than_the_one_that_is_drawn(drawn: Any, kind: str, beta: float) -> None:
    found = drawn.best(kind, beta) if kind == "js" else drawn.best(kind)
    places, widths = np.meshgrid(np.arange(0, V, 0.1), np.geomspace(0.8, 25, 200))
    nats = divergences(kind, beta)(bumps(places, widths))
    assert found.nats <= nats.min() + 1e-9  # and nearly so small is one of the search:
    assert nats.min() <= found.nats + 1e-3
    z = found.logits.numpy()
    assert divergences(kind, beta)(z - np.log(np.exp(z).sum())) == pytest.approx(found.nats, rel=1e-9)


def test_forward_spans_both_peaks_and_reverse_takes_the_larger_one(drawn: Any) -> None:
    def shares(kind: str, beta: float) -> list[float]:
        q = (drawn.best(kind, beta) if kind == "js" else drawn.best(kind)).logits.softmax(0)
        return [q[7:16].sum().item(), q[17:23].sum().item(), q[24:33].sum().item()]

    for kind, beta in KINDS[:2]:
        assert min(shares(kind, beta)) > 0.15  # between the peaks too
    for kind, beta in KINDS[2:]:
        assert shares(kind, beta)[0] > 0.9
        assert shares(kind, beta)[2] < 1e-4
    between = np.exp(teacher())[17:23].sum()
    assert between < 0.05


def test_js_over_beta_goes_from_forward_to_reverse(drawn: Any) -> None:
    z = drawn.best("forward").logits.numpy()
    q = z - np.log(np.exp(z).sum())
    for kind, beta, slack in (("forward", 1e-4, 1e-2), ("reverse", 1 - 1e-4, 5e-2)):
        js = divergences("js", beta)(q) / (beta * (1 - beta))
        assert js == pytest.approx(divergences(kind, 0.5)(q), rel=slack)
