"""Options of a state, checked when it is made, and the one kind of predictions that a call passes."""

from __future__ import annotations

import numpy as np
import pytest

from crossent import ScoreState, score
from crossent.errors import InputError, InputTypeError
from crossent.scoring.input.arguments import RowArguments, ScoreOptions
from tests.scoring.refusals import INF, NAN, P, Y, Z, assert_refused, names

# name: (call, words that the error must hold; lower case)
ERRORS = {
    "predictions by position": (lambda: score(Y, P), ["positional"]),
    "no predictions": (lambda: score(Y), ["probs", "logits", "logprobs"]),
    "two predictions": (lambda: score(Y, probs=P, logits=Z), ["probs", "logits"]),
    "a class twice": (lambda: score(names(Y), probs=P, classes=["ant", "bee", "bee"]), ["'bee'", "classes"]),
    "classes as one text": (lambda: score(Y, probs=P, classes="abc"), ["classes"]),
    "classes without an order": (lambda: score(names(Y), probs=P, classes={"ant", "bee", "cat"}), ["classes", "order"]),
    "number of classes": (lambda: score(Y, probs=P, classes=3), ["classes"]),
    "ci in percent": (lambda: score(Y, probs=P, ci=95), ["ci", "0.95"]),
    "ci of 1": (lambda: score(Y, probs=P, ci=1.0), ["ci"]),
    "ci of NaN": (lambda: score(Y, probs=P, ci=NAN), ["ci"]),
    "ci as text": (lambda: score(Y, probs=P, ci="95%"), ["ci"]),
    "zero below 0": (lambda: score(Y, probs=P, zero=-1e-9), ["zero"]),
    "zero above 1": (lambda: score(Y, probs=P, zero=2.0), ["zero"]),
    "zero as a word": (lambda: score(Y, probs=P, zero="skip"), ["zero", "inf"]),
    "worst below 0": (lambda: score(Y, probs=P, worst=-1), ["worst"]),
    "worst as a fraction": (lambda: score(Y, probs=P, worst=2.5), ["worst"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    assert_refused(*ERRORS[name])


def test_options_are_brought_into_one_form():
    options = ScoreState(classes=np.array(["a", "b"]), ignore=-1, zero=0).options
    assert options == ScoreOptions(classes=("a", "b"), ignore=(-1,), zero="inf")
    assert all(type(name) is str for name in options.classes)
    assert ScoreState(ignore=[-1, None], zero=INF).options == ScoreOptions(ignore=(-1, None))


@pytest.mark.parametrize(
    ("options", "argument"),
    [({"zero": 2.0}, "zero"), ({"ci": 95}, "ci"), ({"worst": -1}, "worst"), ({"classes": "ab"}, "classes")],
)
def test_errors_say_which_argument_is_wrong(options, argument):
    with pytest.raises(InputError) as caught:
        ScoreState(**options)
    assert caught.value.argument == argument


def test_the_one_kind_of_predictions():
    kind, values = RowArguments(logprobs=P, id="q").predictions
    assert kind == "logprobs"
    assert values is P
    with pytest.raises(InputTypeError) as caught:
        RowArguments(probs=P, logits=Z).predictions  # noqa: B018
    assert str(caught.value) == "pass exactly one of probs=, logits= and logprobs=; got probs= and logits="
    said = caught.value.spelled(lambda argument: f"--{argument.name}")
    assert said == "pass exactly one of --probs, --logits and --logprobs; got --probs and --logits"
