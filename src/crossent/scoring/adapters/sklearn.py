"""Scorers for scikit-learn's model selection. Needs the extra `sklearn`.

A metric in `sklearn.metrics.make_scorer` gets probabilities without the classes of their columns, so it fails on a fold
that lacks a class. These scorers take the classes from the estimator.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from sklearn.utils.metadata_routing import MetadataRequest

from crossent.errors import Argument, as_python, errors_spelled, quoted, spelled
from crossent.scoring import score
from crossent.scoring.parts import Zero
from crossent.scoring.result import Score

Quantity = Literal["neg_cross_entropy", "skill"]
ResponseMethod = Literal["predict_proba", "predict_log_proba"]


def as_scorer_argument(argument: Argument) -> str:
    """Return an argument of `crossent.score` as scorers call it; they lack some, which `crossent.score` has.

    Examples
    --------
    >>> as_scorer_argument(Argument("zero", 1e-6)), as_scorer_argument(Argument("logprobs"))
    ('zero=1e-6', "response_method='predict_log_proba'")
    >>> as_scorer_argument(Argument("weight")), as_scorer_argument(Argument("ignore", 5))
    ('sample_weight=', 'ignore=5 of crossent.score')
    """
    match argument.name:
        case "zero" | "normalize":
            return as_python(argument)
        case "probs":
            return as_python(Argument("response_method", "predict_proba"))
        case "logprobs":
            return as_python(Argument("response_method", "predict_log_proba"))
        case "weight":
            return as_python(replace(argument, name="sample_weight"))
        case _:
            return f"{as_python(argument)} of crossent.score"


class Scorer:
    """A scorer: called with a fitted classifier, rows and their true classes, it returns a number to maximise.

    The columns of the probabilities are `estimator.classes_`; not every class needs rows. A true class outside them has
    probability 0, so its row has an infinite loss, or −log `zero`.

    Parameters
    ----------
    quantity
        "neg_cross_entropy", minus the loss in nats; or "skill", 1 − loss / baseline, the fraction of the baseline loss
        that the estimator saves. The baseline always predicts the class frequencies.
    zero
        Floor of the probability in the loss, or "inf" for none, so that a probability of 0 costs infinity.
    normalize
        Divide probabilities by their sum.
    response_method
        Method of the estimator to call. "predict_log_proba" keeps probabilities too small for a float, as from naive
        Bayes.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from crossent.scoring.sklearn import neg_cross_entropy
    >>> X, y = load_iris(return_X_y=True)
    >>> cross_val_score(LogisticRegression(max_iter=1000), X, y, scoring=neg_cross_entropy, cv=3).round(3)
    array([-0.142, -0.152, -0.156])
    """

    def __init__(
        self,
        quantity: Quantity = "neg_cross_entropy",
        *,
        zero: Zero = "inf",
        normalize: bool = False,
        response_method: ResponseMethod = "predict_proba",
    ) -> None:
        for name, value, known in (
            ("quantity", quantity, ("neg_cross_entropy", "skill")),
            ("response_method", response_method, ("predict_proba", "predict_log_proba")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got {quoted(value)}")
        self.quantity, self.zero, self.normalize = quantity, zero, normalize
        self.response_method = response_method
        self._weight_alias: bool | str | None = None

    def __repr__(self) -> str:
        given = {"zero": self.zero, "normalize": self.normalize, "response_method": self.response_method}
        return f"Scorer({self.quantity!r}, {', '.join(f'{name}={value!r}' for name, value in given.items())})"

    def __call__(self, estimator: Any, X: Any, y_true: Any, *, sample_weight: Any = None) -> float:
        """Return the score of an estimator, larger for a better one.

        Parameters
        ----------
        estimator
            A fitted classifier, or a pipeline or search that ends in one.
        X
            What it predicts from, (N, features).
        y_true
            The true class of each row, (N,).
        sample_weight
            Weight of each row, ≥ 0.

        Returns
        -------
        float
            −∞ if the loss is infinite; NaN for the skill on rows of one class.

        Raises
        ------
        TypeError
            If the estimator has no probabilities.
        InputError
            If the rows cannot be scored, with row, cause and fix; a ValueError.
        """
        found = self.score(estimator, X, y_true, sample_weight=sample_weight)
        return -found.loss if self.quantity == "neg_cross_entropy" else found.skill

    def score(self, estimator: Any, X: Any, y_true: Any, *, sample_weight: Any = None) -> Score:
        """Return the whole score, with its intervals.

        Parameters
        ----------
        estimator, X, y_true, sample_weight
            As for a call.

        Returns
        -------
        Score
            As `crossent.score` returns it.

        Raises
        ------
        TypeError, InputError
            As a call.

        Examples
        --------
        >>> from sklearn.datasets import load_breast_cancer
        >>> from sklearn.naive_bayes import GaussianNB
        >>> from crossent.scoring.sklearn import Scorer
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> Scorer(response_method="predict_log_proba").score(GaussianNB().fit(X[::2], y[::2]), X[1::2], y[1::2]).n
        284
        """
        predictions = self._predictions(estimator, X)
        classes = np.asarray(estimator.classes_).tolist()
        truth = np.asarray(y_true)
        unseen = [value for value in np.unique(truth).tolist() if value not in set(classes)]
        if unseen:
            never = 0.0 if self.response_method == "predict_proba" else -np.inf
            more = np.full((len(predictions), len(unseen)), never)
            predictions, classes = np.concatenate([predictions, more], axis=1), [*classes, *unseen]
        options: dict[str, Any] = {"classes": classes, "zero": self.zero, "normalize": self.normalize, "worst": 0}
        kind = "probs" if self.response_method == "predict_proba" else "logprobs"
        with errors_spelled(as_scorer_argument):
            found = score(truth, **{kind: predictions}, weight=sample_weight, **options)
        return replace(found, warnings=tuple(spelled(warning, as_scorer_argument) for warning in found.warnings))

    def _predictions(self, estimator: Any, X: Any) -> Any:
        name = type(estimator).__name__
        if not hasattr(estimator, self.response_method):
            why = "cross-entropy needs probabilities"
            if hasattr(estimator, "decision_function"):
                why = (
                    "its decision_function gives no log-odds; wrap it in sklearn.calibration.CalibratedClassifierCV, "
                    "or enable its probabilities if it has them"
                )
            raise TypeError(f"{name} has no {self.response_method}: {why}")
        if not hasattr(estimator, "classes_"):
            raise TypeError(f"{name} has no classes_, which name the columns of its probabilities")
        found = getattr(estimator, self.response_method)(X)
        if isinstance(found, list):
            raise TypeError(f"{name} predicts {len(found)} outputs; score each with crossent.score")
        return np.asarray(found)

    def set_score_request(self, *, sample_weight: bool | str | None = None) -> Scorer:
        """Return a scorer that requests weights from scikit-learn's metadata routing.

        Parameters
        ----------
        sample_weight
            True to request them, False to ignore them, None to raise if there are any, or their name.

        Returns
        -------
        Scorer
            A copy of this one with the request.

        Examples
        --------
        >>> from crossent.scoring.sklearn import neg_cross_entropy
        >>> weighted = neg_cross_entropy.set_score_request(sample_weight=True)
        >>> weighted.get_metadata_routing().score.requests
        {'sample_weight': True}
        """
        other = copy(self)
        other._weight_alias = sample_weight
        return other

    def get_metadata_routing(self) -> Any:
        """Return the request of this scorer to scikit-learn's metadata routing."""
        request = MetadataRequest(owner=self)
        request.score.add_request(param="sample_weight", alias=self._weight_alias)
        return request

    def _accept_sample_weight(self) -> bool:
        return True  # scikit-learn calls this where it routes no metadata


neg_cross_entropy = Scorer()
"""Minus the cross-entropy in nats."""
skill = Scorer("skill")
"""1 − loss / baseline: 1 is certainty, 0 is knowing the frequencies of the classes and nothing else."""
