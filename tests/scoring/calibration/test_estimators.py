"""Temperature and vector scaling as scikit-learn's users meet them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict, cross_val_score, train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.utils import get_tags

from crossent.errors import InputError
from crossent.scoring import CalibrationWarning, TemperatureScaling, VectorScaling
from tests.scoring.calibration.drawn import best_temperature, drawn

BOTH = pytest.mark.parametrize("kind", [TemperatureScaling, VectorScaling])


def digits() -> tuple[Any, Any, Any, Any]:
    """Return log-probabilities of naive Bayes, which are far too sure, and labels: to fit, and to judge."""
    X, y = load_digits(return_X_y=True)
    train, rest, y_train, y_rest = train_test_split(X, y, test_size=0.6, random_state=0)
    return train_test_split(
        GaussianNB(var_smoothing=1e-3).fit(train, y_train).predict_log_proba(rest), y_rest, random_state=0
    )


@BOTH
def test_real_predictions_get_better(kind: Any) -> None:
    fit, judge, y_fit, y_judge = digits()
    found = kind(input="logprobs").fit(fit, y_fit).predict_proba(judge)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-12)
    assert log_loss(y_judge, found) < 0.7 * log_loss(y_judge, np.exp(judge))


def test_beside_sklearn() -> None:
    z, y, _ = drawn(5000, 4)
    ours = TemperatureScaling().fit(z, y)

    class Model(ClassifierMixin, BaseEstimator):
        classes_ = np.arange(4)

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def fit(self, X: Any, y: Any) -> Any:
            return self

        def decision_function(self, X: Any) -> Any:
            return X

        def predict(self, X: Any) -> Any:
            return X.argmax(axis=1)

    theirs = CalibratedClassifierCV(FrozenEstimator(Model()), method="temperature").fit(z, y)
    np.testing.assert_allclose(ours.predict_proba(z), theirs.predict_proba(z), rtol=1e-5)


@BOTH
def test_sklearn_s_tools_take_it(kind: Any) -> None:
    z, y, _ = drawn(400, 3)
    estimator = kind()
    assert is_classifier(estimator)
    assert get_tags(estimator).target_tags.required
    assert clone(estimator).get_params() == estimator.get_params()
    held_out = cross_val_predict(estimator, z, y, method="predict_proba", cv=4)
    assert held_out.shape == (400, 3)
    assert cross_val_score(estimator, z, y, scoring="neg_log_loss", cv=4).mean() > -log_loss(y, softmax(z, axis=1))
    assert estimator.set_params(input="probs").get_params()["input"] == "probs"
    with pytest.raises(ValueError, match="has no parameter 'C'; it has 'input' and 'classes'"):
        _ = estimator.set_params(C=1.0)


@BOTH
@pytest.mark.parametrize("weighted", [False, True])
def test_parts_give_the_same_as_the_whole(kind: Any, weighted: bool) -> None:
    z, y, w = drawn(3000, 4, dtype=np.float32)
    whole = kind().fit(z, y, w if weighted else None)
    parts = [(z[k : k + 700], y[k : k + 700], *([w[k : k + 700]] if weighted else [])) for k in range(0, 3000, 700)]
    for batches in (parts, lambda: iter(parts)):
        found = kind().fit_batches(batches)
        np.testing.assert_allclose(found.predict_log_proba(z[:9]), whole.predict_log_proba(z[:9]), rtol=1e-7)
    if kind is TemperatureScaling:
        assert found.temperature_ == pytest.approx(best_temperature(z, y, w if weighted else None), rel=1e-9)


def test_batches_that_can_be_read_once_are_refused() -> None:
    z, y, _ = drawn(10, 3)
    with pytest.raises(TypeError, match="pass a list, or a function that returns a new iterator"):
        _ = TemperatureScaling().fit_batches(iter([(z, y)]))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("given", ["logits", "logprobs", "probs"])
def test_every_kind_of_predictions(given: Any) -> None:
    z, y, _ = drawn(500, 4)
    q = softmax(z, axis=1)
    X = {"logits": z, "logprobs": np.log(q), "probs": q}[given]
    found = TemperatureScaling(input=given).fit(X, y)
    assert found.temperature_ == pytest.approx(best_temperature(z, y), rel=1e-9)
    np.testing.assert_allclose(found.predict_proba(X), softmax(z / found.temperature_, axis=1), rtol=1e-9)
    np.testing.assert_array_equal(found.predict(X), z.argmax(axis=1))


def test_frames_name_the_classes() -> None:
    import pandas as pd
    import polars as pl

    z, y, _ = drawn(200, 3)
    names = np.array(["cat", "dog", "emu"])
    for frame in (
        pd.DataFrame(z, columns=[f"z_{name}" for name in names]),
        pl.DataFrame(z, schema=[f"z_{n}" for n in names]),
    ):
        found = TemperatureScaling().fit(frame, names[y])
        assert found.classes_.tolist() == names.tolist()
        assert found.predict(frame).tolist() == names[z.argmax(axis=1)].tolist()
        assert found.temperature_ == pytest.approx(best_temperature(z, y), rel=1e-9)


def test_columns_are_taken_by_their_names() -> None:
    import pandas as pd

    z, y, _ = drawn(200, 3)
    frame = pd.DataFrame(z, columns=["z_cat", "z_dog", "z_emu"])
    found = VectorScaling().fit(frame, np.array(["cat", "dog", "emu"])[y])
    turned = found.predict_proba(frame[["z_emu", "z_cat", "z_dog"]])
    np.testing.assert_array_equal(turned, found.predict_proba(frame))
    np.testing.assert_array_equal(found.predict_proba(z), turned)  # without names by place
    with pytest.raises(InputError, match=r"of classes \['cat', 'owl', 'emu'\]; in fit it had 3, of"):
        _ = found.predict(frame.rename(columns={"z_dog": "z_owl"}))


def test_accuracy_is_that_of_sklearn() -> None:
    from sklearn.metrics import accuracy_score

    z, y, w = drawn(200, 3)
    found = TemperatureScaling().fit(z, y)
    assert found.score(z, y, w) == pytest.approx(accuracy_score(y, z.argmax(axis=1), sample_weight=w))


def test_one_column_is_scaled_as_its_log_odds() -> None:
    z, y, _ = drawn(500, 2)
    odds = z[:, 1] - z[:, 0]
    for kind, X in {"logits": odds, "probs": 1.0 / (1.0 + np.exp(-odds))}.items():
        found = VectorScaling(input=kind).fit(X, y)  # pyright: ignore[reportArgumentType]
        assert found.scale_.shape == found.bias_.shape == (1,)
        by_hand = 1.0 / (1.0 + np.exp(-(found.scale_ * odds + found.bias_)))
        np.testing.assert_allclose(found.predict_proba(X)[:, 1], by_hand, rtol=1e-9)


def test_names_without_an_order_are_refused() -> None:
    z, _, _ = drawn(4, 2)
    with pytest.raises(InputError, match="pass classes="):
        _ = TemperatureScaling().fit(z, ["a", "b", "a", "a"])


@BOTH
def test_without_an_optimum_predictions_stay(kind: Any) -> None:
    z = np.array([[2.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    with pytest.warns(CalibrationWarning, match="predictions stay as they are: there (is|are) no best"):
        found = kind().fit(z, [0, 1, 0, 1])
    assert found.reason_ is not None
    assert found.calibrated_loss_ == found.loss_
    np.testing.assert_allclose(found.predict_proba(z), softmax(z, axis=1), rtol=1e-15)
    with (
        pytest.warns(CalibrationWarning),
        pytest.raises(InputError, match=r"nothing can be gained: there (is|are) no best"),
    ):
        _ = kind().cross_fit(z, [0, 1, 0, 1], folds=2)


def test_anti_predictive_logits_are_told() -> None:
    """Where the least loss lies at a negative 1 / T, no temperature is given, let alone a negative one."""
    z, y, _ = drawn(500, 3)
    with pytest.warns(CalibrationWarning, match="are the classes in the order of the columns"):
        assert TemperatureScaling().fit(-z, y).temperature_ == 1.0


def test_probabilities_passed_as_logits_are_told() -> None:
    z, y, _ = drawn(500, 3)
    with pytest.warns(CalibrationWarning, match="probs"):
        _ = TemperatureScaling().fit(softmax(z, axis=1), y)


def test_mistakes_say_what_to_do() -> None:
    z, y, _ = drawn(50, 3)
    with pytest.raises(InputError, match="not fitted yet; call fit first"):
        _ = TemperatureScaling().predict(z)
    fitted = TemperatureScaling().fit(z, y)
    with pytest.raises(InputError, match=r"X has 2 columns|classes names 3"):
        _ = fitted.predict(z[:, :2])
    with pytest.raises(InputError, match="folds must be from 2 to the 50 rows, got 51"):
        _ = TemperatureScaling().cross_fit(z, y, folds=51)
    with pytest.raises(InputError, match="folds must be from 2 to the 5 groups, got 6"):
        _ = TemperatureScaling().cross_fit(z, y, groups=np.arange(50) % 5, folds=6)
    with pytest.raises(InputError, match="NaN"):
        _ = TemperatureScaling().fit(np.where(z == z[3, 1], np.nan, z), y)
    with pytest.raises(TypeError, match="input must be one of probs, logits, logprobs, got 'scores'"):
        _ = TemperatureScaling(input="scores").fit(z, y)  # pyright: ignore[reportArgumentType]


def test_it_travels() -> None:
    import pickle

    z, y, _ = drawn(50, 3)
    fitted = TemperatureScaling().fit(z, y)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(z), fitted.predict_proba(z))
