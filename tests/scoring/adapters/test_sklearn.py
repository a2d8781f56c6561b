"""`crossent.scoring.sklearn` in scikit-learn's own model selection, against its own log_loss where that is right."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import check_scoring, d2_log_loss_score, log_loss
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from crossent.errors import InputError
from crossent.scoring.sklearn import Scorer, neg_cross_entropy, skill

PEER = 1e-12
"""How far we may be from scikit-learn's log_loss on ordinary data."""


def model():
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("load", [load_breast_cancer, load_iris, load_digits])
@pytest.mark.parametrize("names", [False, True])
def test_cross_validation_gives_the_log_loss_of_scikit_learn(load, names):
    X, y = load(return_X_y=True)
    y = np.array([f"class {k}" for k in y]) if names else y
    found = cross_val_score(model(), X, y, scoring=neg_cross_entropy, cv=3)
    np.testing.assert_allclose(found, cross_val_score(model(), X, y, scoring="neg_log_loss", cv=3), rtol=PEER)
    found = cross_val_score(model(), X, y, scoring=skill, cv=3)
    np.testing.assert_allclose(found, cross_val_score(model(), X, y, scoring="d2_log_loss_score", cv=3), rtol=PEER)


def test_a_fold_may_lack_classes_that_the_model_knows():
    X, y = load_iris(return_X_y=True)
    fitted = model().fit(X, y)
    two = y > 0
    found = neg_cross_entropy(fitted, X[two], y[two])
    assert found == pytest.approx(-log_loss(y[two], fitted.predict_proba(X[two]), labels=[0, 1, 2]), rel=PEER)
    with pytest.raises(ValueError, match="y_true"):  # what make_scorer does with these rows
        sklearn.metrics.get_scorer("neg_log_loss")(fitted, X[two], y[two])


def test_a_class_that_the_model_has_never_seen_has_probability_0():
    X, y = load_iris(return_X_y=True)
    fitted = model().fit(X[y < 2], y[y < 2])
    assert neg_cross_entropy(fitted, X, y) == -np.inf
    p = np.column_stack([fitted.predict_proba(X), np.zeros(len(y))])[np.arange(len(y)), y]
    wanted = np.log(np.maximum(p, 1e-6)).mean()
    assert Scorer(zero=1e-6)(fitted, X, y) == pytest.approx(wanted, rel=PEER)
    assert Scorer(response_method="predict_log_proba")(fitted, X, y) == -np.inf
    folds = cross_val_score(model(), X, y, scoring=neg_cross_entropy, cv=KFold(3))  # sorted by class: each fold is new
    np.testing.assert_array_equal(folds, [-np.inf] * 3)


def test_nothing_is_clipped_and_nothing_underflows():
    X = np.array([[0.0], [0.1], [100.0], [100.1], [60.0]])
    y = np.array([0, 0, 1, 1, 0])
    fitted = GaussianNB().fit(X[:4], y[:4])
    exact = -fitted.predict_log_proba(X)[np.arange(5), y].mean()
    assert fitted.predict_proba(X)[4, 0] == 0.0
    assert neg_cross_entropy(fitted, X, y) == -np.inf
    assert Scorer(response_method="predict_log_proba")(fitted, X, y) == pytest.approx(-exact, rel=PEER)
    assert exact > log_loss(y, fitted.predict_proba(X))


def test_weights():
    X, y = load_breast_cancer(return_X_y=True)
    weight = np.random.default_rng(1).gamma(1.0, 1.0, len(y))
    fitted = model().fit(X[::2], y[::2])
    X, y, weight = X[1::2], y[1::2], weight[1::2]
    p = fitted.predict_proba(X)
    wanted = -log_loss(y, p, sample_weight=weight)
    assert neg_cross_entropy(fitted, X, y, sample_weight=weight) == pytest.approx(wanted, rel=PEER)
    wanted = d2_log_loss_score(y, p, sample_weight=weight)
    assert skill(fitted, X, y, sample_weight=weight) == pytest.approx(wanted, rel=PEER)


@pytest.mark.usefixtures("routing")
def test_weights_are_routed():
    X, y = load_breast_cancer(return_X_y=True)
    weight = np.random.default_rng(1).gamma(1.0, 1.0, len(y))
    for request in (True, "importance"):
        name = request if isinstance(request, str) else "sample_weight"
        ours = neg_cross_entropy.set_score_request(sample_weight=request)
        theirs = sklearn.metrics.get_scorer("neg_log_loss").set_score_request(sample_weight=request)
        fit = {"sample_weight": False} if request != "importance" else {}
        one = LogisticRegression(max_iter=5000).set_fit_request(**fit)
        scaled = StandardScaler().fit_transform(X)
        found, wanted = (
            cross_validate(one, scaled, y, scoring=scoring, cv=3, params={name: weight})["test_score"]
            for scoring in (ours, theirs)
        )
        np.testing.assert_allclose(found, wanted, rtol=PEER)
    one = LogisticRegression().set_fit_request(sample_weight=False)
    with pytest.raises(ValueError, match="sample_weight"):
        cross_validate(one, X, y, scoring=neg_cross_entropy, params={"sample_weight": weight})
    assert neg_cross_entropy.get_metadata_routing().score.requests == {"sample_weight": None}  # left as it was


@pytest.mark.slow
def test_search_several_scores_and_processes():
    X, y = load_iris(return_X_y=True)
    scorings = {"ours": neg_cross_entropy, "skill": skill, "theirs": "neg_log_loss"}
    grid = {"logisticregression__C": [0.01, 1.0, 100.0]}
    search = GridSearchCV(model(), grid, scoring=scorings, refit="ours", cv=3, n_jobs=2).fit(X, y)
    found = search.cv_results_
    np.testing.assert_allclose(found["mean_test_ours"], found["mean_test_theirs"], rtol=PEER)
    assert search.score(X, y) == neg_cross_entropy(search, X, y)


def test_all_of_the_score():
    X, y = load_iris(return_X_y=True)
    score = neg_cross_entropy.score(model().fit(X[::2], y[::2]), X[1::2], y[1::2])
    assert score.n == 75
    assert score.ci[0] < score.loss < score.ci[1]
    assert score.classes == (0, 1, 2)


class Decides(ClassifierMixin, BaseEstimator):
    """A classifier with classes, but without probabilities."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


def test_estimators_without_probabilities_are_refused():
    X, y = load_iris(return_X_y=True)
    for estimator, message in (
        (
            LinearSVC(),
            "LinearSVC has no predict_proba: its decision_function gives no log-odds; wrap it in",
        ),
        (LinearRegression(), "LinearRegression has no predict_proba: cross-entropy needs probabilities"),
        (Decides(), "Decides has no predict_proba: cross-entropy needs probabilities"),
    ):
        with pytest.raises(TypeError, match=message):
            neg_cross_entropy(estimator.fit(X, y), X, y)
    wrapped = CalibratedClassifierCV(LinearSVC(), cv=2).fit(X, y)
    assert neg_cross_entropy(wrapped, X, y) == pytest.approx(-log_loss(y, wrapped.predict_proba(X)), rel=PEER)
    several = MultiOutputClassifier(DecisionTreeClassifier()).fit(X, np.column_stack([y, y]))
    with pytest.raises(TypeError, match="MultiOutputClassifier predicts 2 outputs"):
        neg_cross_entropy(several, X, y)


class Says(Decides):
    """A classifier of two classes whose methods return the numbers that they are told."""

    def __init__(self, proba=None, log_proba=None):
        self.proba, self.log_proba = proba, log_proba

    def predict_proba(self, X):
        return np.tile(self.proba, (len(X), 1))

    def predict_log_proba(self, X):
        return np.tile(self.log_proba, (len(X), 1))


@pytest.mark.parametrize(
    ("options", "numbers", "hint"),
    [
        (
            {},
            {"proba": [2.0, 2.0]},
            "if these are logits, pass logits= of crossent.score; if they are weights or counts",
        ),
        ({}, {"proba": [2.0, 2.0]}, "pass normalize=True"),
        ({}, {"proba": np.log([0.6, 0.4])}, "pass response_method='predict_log_proba'"),
        ({"response_method": "predict_log_proba"}, {"log_proba": [0.4, 0.6]}, "pass response_method='predict_proba'"),
    ],
)
def test_hints_name_the_arguments_of_a_scorer(options, numbers, hint):
    X, y = np.zeros((4, 1)), np.array([0, 1, 1, 0])
    with pytest.raises(InputError) as caught:
        Scorer(**options)(Says(**numbers).fit(X, y), X, y)
    assert hint in str(caught.value)


def test_warnings_name_the_arguments_of_a_scorer():
    X, y = np.zeros((4, 1)), np.array([0, 1, 1, 0])
    estimator = Says(proba=[0.0, 1.0]).fit(X, y)
    warnings = Scorer().score(estimator, X, y).warnings
    assert any("pass zero=1e-6, for example," in warning for warning in warnings)
    off = Scorer().score(Says(proba=[0.5, 0.5001]).fit(X, y), X, y).warnings
    assert any("normalize=True would change the loss" in warning for warning in off)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match=r"quantity must be one of \('neg_cross_entropy', 'skill'\), got 'loss'"):
        Scorer("loss")
    with pytest.raises(ValueError, match="response_method must be one of"):
        Scorer(response_method="predict")


def test_scorers_are_objects_that_scikit_learn_copies():
    X, y = load_breast_cancer(return_X_y=True)
    scorer = Scorer("skill", zero=1e-9)
    fitted = model().fit(X, y)
    for other in (pickle.loads(pickle.dumps(scorer)), clone(scorer, safe=False), check_scoring(fitted, scoring=scorer)):
        assert other(fitted, X, y) == scorer(fitted, X, y)
        assert repr(other) == ("Scorer('skill', zero=1e-09, normalize=False, response_method='predict_proba')")
