"""Scorers for scikit-learn's model selection. Needs the extra `sklearn`.

`sklearn.metrics.make_scorer` hands a metric the probabilities without the classes that they are of, so a fold that
lacks a class breaks it. These scorers ask the estimator.
"""

from __future__ import annotations

from copy import copy
from typing import Any, Literal

import numpy as np
from sklearn.utils.metadata_routing import MetadataRequest

from crossent.scoring import score
from crossent.scoring.parts import Zero
from crossent.scoring.result import Score

Quantity = Literal["neg_cross_entropy", "skill"]
Response = Literal["predict_proba", "predict_log_proba"]


class Scorer:
    """A scorer: called with a fitted classifier, rows and their true classes, it returns a number to maximise.

    The classes of the probabilities are `estimator.classes_`, so rows may lack some of them. A true class that the
    estimator has never seen got probability 0 from it: such a row costs infinity, or −log `zero`.

    Parameters
    ----------
    quantity
        "neg_cross_entropy", minus the loss in nats; or "skill", the share that predicting the frequencies of the
        classes would cost more: 1 − loss / baseline.
    zero
        The smallest probability to charge, or "inf" to charge none, so that a probability of 0 costs infinity.
    normalize
        Divide probabilities by their sum.
    response_method
        What to ask the estimator. "predict_log_proba" loses nothing where probabilities are too small to be stored, as
        those of naive Bayes are.

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
        response_method: Response = "predict_proba",
    ) -> None:
        for name, value, known in (
            ("quantity", quantity, ("neg_cross_entropy", "skill")),
            ("response_method", response_method, ("predict_proba", "predict_log_proba")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got {value!r}")
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
        ValueError
            If the rows cannot be scored, with row, cause and fix.
        """
        found = self.score(estimator, X, y_true, sample_weight=sample_weight)
        return -found.loss if self.quantity == "neg_cross_entropy" else found.skill

    def score(self, estimator: Any, X: Any, y_true: Any, *, sample_weight: Any = None) -> Score:
        """Return all of the score, with its intervals.

        Parameters
        ----------
        estimator, X, y_true, sample_weight
            As for a call.

        Returns
        -------
        Score
            That of `crossent.score`.

        Raises
        ------
        TypeError, ValueError
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
        if self.response_method == "predict_proba":
            return score(truth, probs=predictions, weight=sample_weight, **options)
        return score(truth, logprobs=predictions, weight=sample_weight, **options)

    def _predictions(self, estimator: Any, X: Any) -> Any:
        name = type(estimator).__name__
        if not hasattr(estimator, self.response_method):
            why = "cross-entropy needs probabilities"
            if hasattr(estimator, "decision_function"):
                why = (
                    "what its decision_function returns are no log-odds; wrap it in "
                    "sklearn.calibration.CalibratedClassifierCV, or switch on its probabilities if it can have them"
                )
            raise TypeError(f"{name} has no {self.response_method}: {why}")
        if not hasattr(estimator, "classes_"):
            raise TypeError(f"{name} has no classes_, which say what the columns of its probabilities are")
        found = getattr(estimator, self.response_method)(X)
        if isinstance(found, list):
            raise TypeError(f"{name} predicts {len(found)} outputs; score each with crossent.score")
        return np.asarray(found)

    def set_score_request(self, *, sample_weight: bool | str | None = None) -> Scorer:
        """Return a scorer that asks for weights, where scikit-learn routes metadata.

        Parameters
        ----------
        sample_weight
            True to ask for them, False to ignore them, None to raise if there are any, or the name that they have.

        Returns
        -------
        Scorer
            One like this; this one stays as it is.

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
        """Return what scikit-learn's metadata routing asks of a scorer."""
        request = MetadataRequest(owner=self)
        request.score.add_request(param="sample_weight", alias=self._weight_alias)
        return request

    def _accept_sample_weight(self) -> bool:
        return True  # scikit-learn asks this where it routes no metadata


neg_cross_entropy = Scorer()
"""Minus the cross-entropy in nats."""
skill = Scorer("skill")
"""1 − loss / baseline: 1 is certainty, 0 is knowing the frequencies of the classes and nothing else."""
