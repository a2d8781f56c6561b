"""What people do wrong: each a one-line error with row, cause and fix, or a warning that the score carries."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch

import crossent
from crossent import ScoreState, score

Y = [0, 1, 2, 1]
P = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.3, 0.4, 0.3]])
Z = np.log(P) + np.array([[3.0], [1.0], [-2.0], [0.5]])
NAN, INF = float("nan"), float("inf")


def changed(array, place, value):
    array = np.array(array, np.float64)
    array[place] = value
    return array


def names(y):
    return [["ant", "bee", "cat"][k] for k in y]


# name: (call, words that the error must hold; lower case)
ERRORS = {
    # the wrong thing in the wrong place
    "swapped": (lambda: score(P, probs=Y), ["y", "swap"]),
    "swapped, binary": (lambda: score([0.9, 0.2, 0.7], probs=[1, 0, 1]), ["0.9", "row 0"]),
    "predictions by position": (lambda: score(Y, P), ["positional"]),
    "no predictions": (lambda: score(Y), ["probs", "logits", "logprobs"]),
    "two predictions": (lambda: score(Y, probs=P, logits=Z), ["probs", "logits"]),
    "logits as probs": (lambda: score(Y, probs=Z), ["row", "logits="]),
    "binary logits as probs": (lambda: score([1, 0], probs=[2.5, -1.5]), ["row 0", "logits="]),
    "log-probabilities as probs": (lambda: score(Y, probs=np.log(P)), ["row 0", "logprobs="]),
    "probs as log-probabilities": (lambda: score(Y, logprobs=P), ["row 0", "probs="]),
    "binary probs as log-probabilities": (lambda: score([1, 0], logprobs=[0.7, 0.2]), ["row 0", "probs="]),
    "logits as log-probabilities": (lambda: score(Y, logprobs=Z), ["row 0", "logits="]),
    "one-hot y": (lambda: score(np.eye(3)[Y], probs=P), ["y", "argmax"]),
    "three axes": (lambda: score(Y, probs=P[None]), ["(1, 4, 3)", "probs"]),
    "tokens of a batch of texts": (lambda: score(np.zeros((2, 2), int), logits=np.zeros((2, 2, 3))), ["(2, 2, 3)"]),
    "transposed": (lambda: score(Y, probs=P.T), ["3", "4"]),
    "a single number": (lambda: score(1, probs=0.5), ["()"]),
    "a path": (lambda: score("labels.csv", probs=P), ["y"]),
    "a frame with the label inside": (
        lambda: score(Y, probs=pa.table({"y": Y, **{f"p_{k}": P[:, k] for k in range(3)}})),
        ["row 0"],
    ),
    # labels
    "labels from 1": (lambda: score([1, 2, 3, 2], probs=P), ["label 3", "row 2", "[1, 2, 3]"]),
    "label outside": (lambda: score([0, 1, 7, 1], probs=P), ["label 7", "row 2"]),
    "negative label": (lambda: score([0, -100, 2, 1], probs=P), ["label -100", "row 1", "ignore=-100"]),
    "binary -1 and 1": (lambda: score([1, -1, 1], probs=[0.5, 0.4, 0.3]), ["-1", "row 1", "classes="]),
    "float labels": (lambda: score([0, 1, 1.5, 1], probs=P), ["1.5", "row 2"]),
    "names without classes": (lambda: score(names(Y), probs=P), ["'ant'", "classes="]),
    "a name that is no class": (
        lambda: score(["ant", "bee", "dog", "bee"], probs=P, classes=["ant", "bee", "cat"]),
        ["'dog'", "row 2"],
    ),
    "None label": (lambda: score([0, None, 2, 1], probs=P), ["row 1", "ignore="]),
    "NaN label": (lambda: score([0, NAN, 2, 1], probs=P), ["row 1", "ignore="]),
    "null label": (lambda: score(pa.array([0, None, 2, 1]), probs=P), ["row 1", "ignore="]),
    "infinite label": (lambda: score([0, INF, 2, 1], probs=P), ["inf", "row 1"]),
    "all ignored": (lambda: score([-1] * 4, probs=P, ignore=-1), ["ignore"]),
    # numbers
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
    "complex": (lambda: score(Y, probs=P.astype(complex)), ["probs", "complex"]),
    "objects": (lambda: score(Y, probs=np.array(P.tolist(), object)), ["probs", "object"]),
    "texts": (lambda: score(Y, probs=P.astype(str)), ["probs"]),
    "ragged": (lambda: score([0, 1], probs=[[0.5, 0.5], [1.0]]), ["probs"]),
    "dates": (lambda: score([0, 1], probs=np.array(["2026", "2027"], "datetime64[D]")), ["probs"]),
    "row of zeros to normalize": (lambda: score(Y, probs=changed(P, 1, 0.0), normalize=True), ["row 1"]),
    "masked labels": (lambda: score(np.ma.masked_array(Y, [0, 1, 0, 0]), probs=P), ["mask"]),
    "masked predictions": (lambda: score([1, 0], probs=np.ma.masked_array([0.5, 0.2], [0, 1])), ["mask"]),
    # sizes
    "empty": (lambda: score([], probs=np.zeros((0, 3))), ["no rows"]),
    "empty lists": (lambda: score([], probs=[]), ["no rows"]),
    "lengths": (lambda: score(Y[:3], probs=P), ["3", "4"]),
    "weights of another length": (lambda: score(Y, probs=P, weight=[1, 2]), ["weight", "2", "4"]),
    "clusters of another length": (lambda: score(Y, probs=P, cluster=[1, 2]), ["cluster", "2", "4"]),
    "slices of another length": (lambda: score(Y, probs=P, by={"a": [1, 2]}), ["a", "2", "4"]),
    "ids of another length": (lambda: score(Y, probs=P, id=["a"]), ["id", "1", "4"]),
    "no columns": (lambda: score([0, 0], probs=np.zeros((2, 0))), ["(2, 0)"]),
    # weights
    "zero weights": (lambda: score(Y, probs=P, weight=[0, 0, 0, 0]), ["weight", "0"]),
    "negative weight": (lambda: score(Y, probs=P, weight=[1, 1, -2, 1]), ["row 2", "weight", "-2"]),
    "NaN weight": (lambda: score(Y, probs=P, weight=[1, NAN, 1, 1]), ["row 1", "weight", "nan"]),
    "infinite weight": (lambda: score(Y, probs=P, weight=[1, INF, 1, 1]), ["row 1", "weight", "inf"]),
    "weights of words": (lambda: score(Y, probs=P, weight=list("abcd")), ["weight"]),
    "weights by class": (lambda: score(Y, probs=P, weight={0: 1.0, 1: 2.0, 2: 1.0}), ["weight"]),
    "matrix of weights": (lambda: score(Y, probs=P, weight=P), ["weight"]),
    # options
    "too few classes": (lambda: score(names(Y), probs=P, classes=["ant", "bee"]), ["classes", "2", "3"]),
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
    "slices that are a number": (lambda: score([0, 1], probs=[0.5, 0.5], by=3), ["by"]),
    # states
    "nothing yet": (lambda: ScoreState().finalize(), ["no rows"]),
    "other options": (lambda: ScoreState().merge(ScoreState(worst=3)), ["worst"]),
    "other classes": (
        lambda: ScoreState(classes=["a", "b"]).merge(ScoreState(classes=["a", "c"])),
        ["classes"],
    ),
    "other number of classes": (
        lambda: ScoreState().update(Y, probs=P).merge(ScoreState().update([0], probs=[[0.5, 0.5]])),
        ["classes"],
    ),
    "other kind": (
        lambda: ScoreState().update(Y, probs=P).merge(ScoreState().update(Y, logits=Z)),
        ["probs", "logits"],
    ),
    "more columns later": (lambda: ScoreState().update(Y, probs=P).update([0], probs=[[0.5, 0.5]]), ["classes"]),
    "another kind later": (lambda: ScoreState().update(Y, probs=P).update(Y, logits=Z), ["probs", "logits"]),
    "clusters only first": (lambda: ScoreState().update(Y, probs=P, cluster=Y).update(Y, probs=P), ["cluster"]),
    "clusters only later": (lambda: ScoreState().update(Y, probs=P).update(Y, probs=P, cluster=Y), ["cluster"]),
    "clusters in one of two": (
        lambda: ScoreState().update(Y, probs=P).merge(ScoreState().update(Y, probs=P, cluster=Y)),
        ["cluster"],
    ),
    "slices only first": (lambda: ScoreState().update(Y, probs=P, by={"a": Y}).update(Y, probs=P), ["'a'"]),
    "other slices": (
        lambda: ScoreState().update(Y, probs=P, by={"a": Y}).update(Y, probs=P, by={"b": Y}),
        ["'a'", "'b'"],
    ),
    "merge a score into a state": (lambda: ScoreState().merge(score(Y, probs=P)), ["score"]),
    "merge a state into a score": (lambda: score(Y, probs=P).merge(ScoreState().update(Y, probs=P)), ["state"]),
    "merge nothing": (lambda: ScoreState().merge(None), ["scorestate"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, words = ERRORS[name]
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 300
    assert not any(leak in text for leak in ("np.", "dtype('", "array(")), text
    assert not [word for word in words if word not in text.lower()], text


def test_the_row_is_named_as_the_caller_names_it():
    with pytest.raises(ValueError, match="'q17'"):
        score(Y, probs=changed(P, 2, NAN), id=["a", "b", "q17", "d"])
    state = ScoreState().update(Y, probs=P)
    with pytest.raises(ValueError, match="row 6"):
        state.update(Y, probs=changed(P, 2, NAN))


def test_rows_that_do_not_count_may_hold_anything():
    """A masked position has whatever the model left there."""
    rows = changed(P, 1, NAN)
    assert score(Y, probs=rows, weight=[1, 0, 1, 1]).n == 3
    assert score([0, -100, 2, 1], probs=rows, ignore=-100).n == 3
    assert score([0, None, 2, 1], probs=rows, ignore=NAN).n == 3
    assert score([0, NAN, 2, 1], probs=rows, ignore=[None]).n == 3


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
    "one class in the data": (lambda: score([1, 1], probs=[0.5, 0.4]), ["class 1", "skill"]),
    "one row": (lambda: score([1], probs=[0.5]), ["interval"]),
    "one cluster": (lambda: score(Y * 5, probs=np.tile(P, (5, 1)), cluster=["a"] * 20), ["one cluster"]),
    "rare class": (lambda: score([1] + [0] * 50, probs=[0.1] * 51), ["class 1", "1 row"]),
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
    call, words = WARNINGS[name]
    result = call()
    told = [text.lower() for text in result.warnings]
    assert all("\n" not in text and len(text) < 300 for text in told)
    if words is None:
        assert told == []
    else:
        assert any(all(word in text for word in words) for text in told), told
        assert all(text in repr(result) for text in result.warnings)


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


def test_a_state_may_go_on_after_it_was_finalized():
    state = ScoreState().update(Y, probs=P)
    assert state.finalize().n == 4
    assert state.update(Y, probs=P).finalize().n == 8


def test_a_refused_update_leaves_no_half_of_it():
    """Either nothing was added, or the state says that it cannot be used; never some of the rows."""
    state = ScoreState().update(Y, probs=P)
    big = np.tile(P, (30_000, 1))
    big[-1] = NAN
    with pytest.raises(ValueError, match="row 120003"):
        state.update(Y * 30_000, probs=big)
    try:
        assert state.finalize().n == 4
    except ValueError as error:
        assert "update" in str(error)  # noqa: PT017


@pytest.mark.parametrize("p", [1 + 2.0**-52, 1 + 1e-7])
def test_rounding_above_one_is_not_an_error(p):
    assert abs(score([1, 0], probs=[p, 0.5]).loss - math.log(2) / 2) < 1e-6


def test_names_of_numpy_are_names():
    classes = np.array(["ant", "bee", "cat"])
    result = score(classes[Y], probs=P, classes=list(classes), by={"b": classes[Y]}, id=classes[[0, 1, 2, 0]])
    assert "np." not in repr(result)
    assert all(type(c) is str for c in result.classes)
    assert type(result.worst[0].label) is str
    with pytest.raises(ValueError, match="'dog'") as caught:
        score(np.array(["dog"]), probs=P[:1], classes=list(classes))
    assert "np." not in str(caught.value)


def test_a_bool_column_is_binary():
    result = score(np.array([True, False]), probs=[0.75, 0.5])
    assert math.isclose(result.loss, -math.log(0.75 * 0.5) / 2)


def test_public_names():
    assert crossent.Score is type(score(Y, probs=P))
    assert callable(crossent.score)
    assert callable(crossent.compare)


def test_few_rows_of_many_classes_make_a_low_baseline():
    """Entropy of frequencies is too low by (C − 1) / 2n (Miller 1955), which one can see: uniform labels, log 50."""
    rng = np.random.default_rng(0)
    baselines = [crossent.score(rng.integers(0, 50, 400), probs=np.full((400, 50), 0.02)).baseline for _ in range(50)]
    bias = np.log(50) - np.mean(baselines)
    (said,) = [
        w
        for w in crossent.score(rng.integers(0, 50, 400), probs=np.full((400, 50), 0.02)).warnings
        if "too low by" in w
    ]
    told = float(said.split("about ")[1].split()[0])
    assert abs(told - bias) < 0.15 * bias
