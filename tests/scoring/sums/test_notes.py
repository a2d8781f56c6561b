"""Row validation: each mistake is a one-line error with row, cause and fix, or a warning of the score."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch

from crossent import score
from crossent.errors import InputError
from tests.scoring.refusals import INF, NAN, P, Y, Z, assert_refused, assert_warned, changed

# name: (call, words that the error must hold; lower case)
ERRORS = {
    "logits as probs": (lambda: score(Y, probs=Z), ["row", "logits="]),
    "binary logits as probs": (lambda: score([1, 0], probs=[2.5, -1.5]), ["row 0", "logits="]),
    "log-probabilities as probs": (lambda: score(Y, probs=np.log(P)), ["row 0", "logprobs="]),
    "probs as log-probabilities": (lambda: score(Y, logprobs=P), ["row 0", "probs="]),
    "binary probs as log-probabilities": (lambda: score([1, 0], logprobs=[0.7, 0.2]), ["row 0", "probs="]),
    "logits as log-probabilities": (lambda: score(Y, logprobs=Z), ["row 0", "logits="]),
    "a frame with the label inside": (
        lambda: score(Y, probs=pa.table({"y": Y, **{f"p_{k}": P[:, k] for k in range(3)}})),
        ["row 0"],
    ),
    "NaN row": (lambda: score(Y, probs=changed(P, 2, NAN)), ["row 2", "nan"]),
    "NaN beside the truth": (lambda: score(Y, probs=changed(P, (2, 0), NAN)), ["row 2", "nan"]),
    "NaN logit": (lambda: score(Y, logits=changed(Z, (3, 1), NAN)), ["row 3", "nan"]),
    "NaN, one column": (lambda: score([1, 0], probs=[0.5, NAN]), ["row 1", "nan"]),
    "null probability": (lambda: score([1, 0], probs=pa.array([0.5, None])), ["row 1", "nan"]),
    "infinite probability": (lambda: score(Y, probs=changed(P, (1, 1), INF)), ["row 1", "inf"]),
    "infinite logit": (lambda: score(Y, logits=changed(Z, (1, 1), INF)), ["row 1", "inf"]),
    "all logits -inf": (lambda: score(Y, logits=changed(Z, 1, -INF)), ["row 1", "inf"]),
    "negative probability": (lambda: score(Y, probs=changed(P, 0, [1.1, -0.2, 0.1])), ["row 0", "-0.2"]),
    "probability above 1": (lambda: score([1, 0], probs=[0.5, 1.01]), ["row 1", "1.01"]),
    "sums off by a half": (lambda: score(Y, probs=changed(P, 3, [0.2, 0.2, 0.1])), ["row 3", "0.5", "normalize=true"]),
    "percentages": (lambda: score(Y, probs=P * 100), ["row 0", "percent"]),
    "percentages, one column": (lambda: score([1, 0], probs=[93.0, 20.0]), ["row 0", "93", "percent"]),
    "sentinel among log-probabilities": (lambda: score(Y, logprobs=changed(np.log(P), (2, 2), -9999.0)), ["row 2"]),
    "sentinels in one column": (lambda: score([1, 1, 0], logprobs=[-0.5, -9999.0, -1.0]), ["row 1", "-9999"]),
    "positive log-probability": (lambda: score([1, 0], logprobs=[-0.5, 0.1]), ["row 1", "0.1"]),
    "row of zeros to normalize": (lambda: score(Y, probs=changed(P, 1, 0.0), normalize=True), ["row 1"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    assert_refused(*ERRORS[name])


# name: (call, words that one of the warnings must hold)
WARNINGS = {
    "sums off by 1e-4": (lambda: score(Y, probs=changed(P, 2, [0.2, 0.2, 0.6001])), ["0.0001", "row 2", "nat"]),
    "distributions as logits": (lambda: score(Y, logits=P), ["probs="]),
    "log-probabilities as logits are fine": (lambda: score(Y * 5, logits=np.tile(np.log(P), (5, 1))), None),
    "hard predictions": (lambda: score(Y, probs=np.eye(3)[Y]), ["0 or 1"]),
    "hard predictions, one column": (lambda: score([0, 1, 1], probs=[0, 1, 1]), ["0 or 1"]),
    "hard and wrong": (lambda: score([0, 1, 1], probs=[0.0, 1.0, 0.0]), ["(2)", "zero="]),
    "impossible truth": (lambda: score(Y, probs=changed(P, 1, [1.0, 0.0, 0.0])), ["(1)", "zero="]),
    "impossible truth, logits": (lambda: score(Y, logits=changed(Z, (1, 1), -INF)), ["(1)", "zero="]),
    "floats that are whole are fine": (lambda: score([0.0, 1.0] * 10, probs=[0.3, 0.6] * 10), None),
    "sums off by 1e-9 are fine": (lambda: score(Y * 5, probs=np.tile(P, (5, 1)) * (1 + 1e-9)), None),
    "float32 sums are fine": (
        lambda: score(Y * 5, probs=torch.softmax(torch.randn(20, 3, generator=torch.manual_seed(0)), 1).numpy()),
        None,
    ),
    "float16 sums are fine": (
        lambda: score(Y * 5, probs=torch.softmax(torch.randn(20, 3, generator=torch.manual_seed(0)), 1).half()),
        None,
    ),
    "ordinary": (lambda: score(Y * 5, probs=np.tile(P, (5, 1))), None),
    "no warning for weights": (lambda: score(Y * 5, probs=np.tile(P, (5, 1)), weight=np.arange(20) + 0.5), None),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_warnings(name):
    assert_warned(*WARNINGS[name])


def test_effect_of_sums_in_nats():
    """The warning says what normalising would change: log 1.0001 for one row of four."""
    p = changed(P, 2, [0.2, 0.2, 0.6001])
    a, b = score(Y, probs=p), score(Y, probs=p, normalize=True)
    assert math.isclose(b.loss - a.loss, math.log(1.0001) / 4, rel_tol=1e-9)
    assert b.warnings == tuple(text for text in b.warnings if "sum" not in text)


def test_nothing_goes_through_the_warnings_of_python():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for call, _ in WARNINGS.values():
            call().to_json()
        score([1, 0], probs=[0.0, 1.0])
        score([1, 0], probs=[[1.0, 0.0], [0.0, 1.0]], worst=0)
        score([1], logits=[[INF * -1, 5.0]])
    assert caught == []


@pytest.mark.parametrize("p", [1 + 2.0**-52, 1 + 1e-7])
def test_rounding_above_one_is_not_an_error(p):
    assert abs(score([1, 0], probs=[p, 0.5]).loss - math.log(2) / 2) < 1e-6


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: score(Y, probs=Z), "if these are logits, pass --logits"),
        (lambda: score(Y, probs=np.log(P)), "if these are log-probabilities, pass --logprobs"),
        (lambda: score(Y, logprobs=P), "pass --probs"),
        (
            lambda: score(Y, probs=P * 100),
            "if these are percentages, pass --normalize True; if they are logits, pass --logits",
        ),
        (lambda: score(Y, probs=P / 2), "pass --logits; if they are weights or counts, pass --normalize True"),
    ],
)
def test_hints_name_their_arguments(call, hint):
    with pytest.raises(InputError) as caught:
        call()
    said = caught.value.spelled(lambda each: f"--{each.name}" + (f" {each.value}" if each.has_value else ""))
    assert hint in said
    assert caught.value.argument in {"probs", "logprobs"}
