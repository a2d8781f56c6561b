"""The frozen values that every backend is told: what they refuse, and the words of the errors they lend."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from crossent import spec
from crossent.spec import Scores, Target


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["temperature", "softcap"])
def test_scores_are_positive_and_finite(name, wrong):
    with pytest.raises(ValueError, match=name) as caught:
        _ = Scores(**{name: wrong})
    assert repr(wrong) in str(caught.value)


def test_rows_have_one_temperature():
    own = np.full(3, 0.5)
    assert Scores(1.0, 2.0, own).row_temperature is own
    with pytest.raises(ValueError, match=r"temperature must stay 1\.0 if each row has its own, got temperature=0\.7"):
        _ = Scores(0.7, None, own)
    for part in ("nan", "row 5", "1e-15", "1e15", "1.0"):
        assert part in str(spec.temperature_error(float("nan"), 5))


def test_scores_are_values():
    assert Scores() == Scores(1.0, None)
    assert hash(Scores(0.5, 30.0)) == hash(Scores(0.5, 30.0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Scores().temperature = 2.0


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), float("inf")])
def test_smoothing_is_a_share(wrong):
    with pytest.raises(ValueError, match="label_smoothing"):
        _ = Target(np.zeros(3, int), smoothing=wrong)


def test_targets_know_their_kind():
    index, prob = np.zeros((3, 2), int), np.zeros((3, 2))
    assert Target(index[:, 0]).kind == "index"
    assert Target(index, prob).kind == "topk"
    assert Target(prob=prob).kind == "dense"
    with pytest.raises(ValueError, match="class indices, class probabilities, or both"):
        _ = Target(weight=np.ones(3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Target(index).smoothing = 0.5


def test_errors_name_what_where_why_and_what_to_do():
    text = str(spec.class_error(5, 3, 10, Target(np.zeros(10, int)), 3))
    for part in ("class 5", "row 3 of 10", "3 classes", "[0, 2]", "ignore_index=5"):
        assert part in text
    assert "row 0 of 1" in str(spec.class_error(5, 0, 1, Target(np.zeros(1, int)), 3))
    assert "from 0" in str(spec.class_error(3, 0, 1, Target(np.zeros(1, int)), 3))
    soft = Target(np.zeros((1, 1), int), np.ones((1, 1)))
    assert "ignore_index" not in str(spec.class_error(5, 0, 1, soft, 3))
    for value, fix in ((-0.5, "exp"), (float("nan"), "data"), (float("inf"), "data")):
        text = str(spec.probability_error(value, 2, 7))
        for part in (repr(value), "row 2", "column 7", fix):
            assert part in text


@pytest.mark.parametrize("name", ["temperature", "softcap"])
def test_scales_fit_float32(name):
    for value in (1e-15, 1e15):
        assert getattr(Scores(**{name: value}), name) == value
    for value in (5e-324, 9e-16, 2e15, 1e308):
        with pytest.raises(ValueError, match=f"^{name} must be a positive finite number between 1e-15 and 1e15, got "):
            _ = Scores(**{name: value})
