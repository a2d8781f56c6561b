"""A deferred layer: its steps say what was done to its output, and scores say the same as the steps."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import given, settings
from hypothesis import strategies as st

from crossent.spec import Scores
from crossent.torch.call.layout import LayerOperands
from crossent.torch.lazy.deferred import Deferred, Step, take

HIDDEN, WEIGHT, BIAS = torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(5)


def deferred(*steps, dtype=torch.float32):
    return Deferred(HIDDEN.to(dtype), WEIGHT.to(dtype), BIAS.to(dtype), steps=tuple(Step(*step) for step in steps))


def phi(z, scores):
    z = z / scores.temperature
    return z if scores.softcap is None else scores.softcap * torch.tanh(z / scores.softcap)


def applied(z, steps):
    for name, operand in steps:
        z = take(z, name, operand)
    return z


factor = st.sampled_from((0.25, 0.5, 2.0, 3.0, 7, 1.7))
step = st.one_of(
    st.tuples(st.just("mul"), factor),
    st.tuples(st.just("div"), factor),
    st.tuples(st.just("to"), st.sampled_from((torch.float64, torch.float64))),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(step, max_size=4), st.booleans(), st.lists(step, max_size=4))
def test_positive_steps_with_one_cap_are_scores(before, capped, after):
    steps = [*before, *([("tanh", None)] if capped else []), *after]
    scores = deferred(*steps).scores()
    assert scores is not None
    assert (scores.softcap is not None) == capped
    z = torch.linspace(-9, 9, 41, dtype=torch.float64)
    torch.testing.assert_close(phi(z, scores), applied(z, steps), rtol=1e-12, atol=1e-12)


signed = st.one_of(
    st.tuples(st.sampled_from(("mul", "div")), st.sampled_from((-2.0, -0.5, 0.5, 3.0))),
    st.just(("tanh", None)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(signed, max_size=5))
def test_steps_that_have_scores_are_those_scores(steps):
    scores = deferred(*steps).scores()
    if scores is not None:
        z = torch.linspace(-9, 9, 41, dtype=torch.float64)
        torch.testing.assert_close(phi(z, scores), applied(z, steps), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "steps",
    [
        [("mul", 0)], [("div", 0)], [("mul", -1.0)], [("div", -2)], [("tanh", None), ("tanh", None)],
        [("tanh", None), ("mul", -1.0)], [("mul", math.inf)], [("div", math.inf)], [("mul", math.nan)],
        [("mul", 1e-200), ("mul", 1e-200)],
    ],
    ids=str,
)  # fmt: skip
def test_steps_that_temperature_and_softcap_do_not_say(steps):
    assert deferred(*steps).scores() is None


def test_no_steps_leave_the_logits_as_they_are():
    assert deferred().scores() == Scores()
    assert deferred(("to", torch.float16)).scores() == Scores()


# The layer


@pytest.mark.parametrize("bias", [True, False])
def test_logits_are_those_of_the_layer_and_its_steps(bias):
    x, w, b = torch.randn(2, 4, 3), torch.randn(5, 3), torch.randn(5) if bias else None
    layer = Deferred(x, w, b).then("mul", 2).then("tanh", None).then("div", 4).then("to", torch.float64)
    want = torch.tanh(nnf.linear(x, w, b) * 2).div(4).double()
    assert torch.equal(layer.compute(), want)
    assert (layer.shape, layer.dtype) == (want.shape, want.dtype)
    assert len(Deferred(x, w, b).steps) == 0


def test_the_last_cast_is_the_dtype():
    assert deferred().dtype == torch.float32
    assert deferred(("to", torch.float16), ("mul", 2), ("to", torch.bfloat16), ("tanh", None)).dtype == torch.bfloat16


def test_which_operands_want_a_gradient():
    for wanted in itertools.product((False, True), repeat=3):
        operands = [x.clone().requires_grad_(want) for x, want in zip((HIDDEN, WEIGHT, BIAS), wanted, strict=True)]
        layer = Deferred.of_layer(LayerOperands(*operands))
        assert layer.wants == (*wanted, False)
        assert layer.then("mul", 2).of_rows(HIDDEN[:1]).wants == (*wanted, False)
    learned = LayerOperands(HIDDEN, WEIGHT.clone().requires_grad_(), None)
    assert Deferred.of_layer(learned).wants == (False, True, False, False)
