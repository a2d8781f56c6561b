"""Shared code of `TemperatureScaling` and `VectorScaling`: fit, cross-fit and predict, as in scikit-learn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np

from crossent.errors import InputError, InputTypeError, as_python, quoted, spelled
from crossent.scoring.calibration.cross_fit import CrossFit, cross_fit
from crossent.scoring.calibration.methods import log_probabilities
from crossent.scoring.calibration.parameters import Parameters
from crossent.scoring.calibration.rows import Rows, logits_of
from crossent.scoring.calibration.survey import Survey, survey
from crossent.scoring.calibration.temperature import Look, NoOptimum
from crossent.scoring.input.arguments import RowArguments, check_level
from crossent.scoring.input.batch import Batch, batch
from crossent.scoring.input.labels import listing
from crossent.scoring.parts import KINDS
from crossent.scoring.state import ScoreState

Batches = Callable[[], Iterable[Sequence[Any]]] | Sequence[Sequence[Any]]
"""A list of (X, y) or (X, y, sample_weight), or a function that yields them again at each call."""


class CalibrationWarning(UserWarning):
    """Warns that predictions have no best parameters and stay unchanged, or that they look wrong."""


class Scaling(Parameters):
    """Both estimators; `_fitted` is the result of the method, None if predictions stay unchanged."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to predictions and true classes, and return the estimator.

        Parameters
        ----------
        X
            Predictions, (N, V), or (N,) for the positive one of two classes: arrays of NumPy or torch, or frames.
        y
            The true class of each row, (N,).
        sample_weight
            Weight of each row, ≥ 0.

        Returns
        -------
        TemperatureScaling or VectorScaling
            The estimator itself. Where there are no best parameters (in every row the most probable class is the true
            one, or predictions are worse than chance), it leaves predictions unchanged, with the reason in `reason_`
            and in a `CalibrationWarning`.

        Raises
        ------
        InputError, InputTypeError
            If the rows cannot be scored, as `crossent.score` does.

        Examples
        --------
        >>> from crossent.scoring import TemperatureScaling
        >>> import numpy as np
        >>> X = np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
        >>> scaling = TemperatureScaling().fit(X, [0, 0, 1, 1, 1, 0])    # right in 4 of 6 rows: log-odds of log 2
        >>> round(2.0 / scaling.temperature_, 6), scaling.predict_proba(X[:1]).round(6).tolist()
        (0.693147, [[0.666667, 0.333333]])
        """
        made = self._batch(X, y, sample_weight)
        return self.fit_rows(Rows(lambda: [made]))

    def fit_batches(self, batches: Batches) -> Self:
        """Fit to predictions that come in parts, which are read about five times; the same numbers as `fit`.

        Parameters
        ----------
        batches
            Parts (X, y) or (X, y, sample_weight): a list of them, or a function that yields them again at each call.

        Returns
        -------
        TemperatureScaling or VectorScaling
            The estimator itself.

        Raises
        ------
        InputError, InputTypeError
            As `fit`, and if the parts can be read once only.

        Examples
        --------
        >>> from crossent.scoring import TemperatureScaling
        >>> parts = [([[2.0, 0.0]], [0]), ([[0.0, 2.0]], [1]), ([[2.0, 0.0]], [1])]
        >>> round(TemperatureScaling().fit_batches(lambda: iter(parts)).temperature_, 6)       # 2 / log 2
        2.88539
        """
        return self.fit_rows(Rows(self._reader(batches)))

    def cross_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        groups: Any = None,
        *,
        folds: int = 5,
        ci: float = 0.95,
    ) -> CrossFit:
        """Fit to all rows, and return the gain on rows that had no part in the fit.

        Each fold's rows are scored with a fit to the other folds; the estimator itself is fitted to all of them.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        groups
            Rows of one group (a document, a patient) share a fold, and the interval allows for them.
        folds
            How many parts the rows are cut into.
        ci
            Level of confidence of the interval.

        Returns
        -------
        CrossFit
            Loss before and after, and the gain with its interval and p-value, in nats.

        Raises
        ------
        InputError
            As `fit`; and if there are fewer rows, or groups, than folds, or there are no best parameters.

        Examples
        --------
        >>> from crossent.scoring import TemperatureScaling
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X = 6.0 * rng.normal(size=(2000, 3))
        >>> y = (X / 3.0 + rng.gumbel(size=X.shape)).argmax(axis=1)      # the right temperature is 3
        >>> found = TemperatureScaling().cross_fit(X, y)
        >>> round(found.gain, 3), found.ci[0] > 0
        (0.317, True)
        """
        check_level(ci)
        made = self._batch(X, y, sample_weight, groups)
        return self.cross_fit_rows(Rows(lambda: [made]), folds, ci)

    def predict_log_proba(self, X: Any) -> Any:
        """Return calibrated log-probabilities, (N, V) float64; for one column, of both classes.

        Parameters
        ----------
        X
            Predictions of the kind and with the columns of `fit`.

        Returns
        -------
        numpy.ndarray
            log softmax of the scaled logits.

        Raises
        ------
        InputError
            If the estimator is not fitted, or X has other columns.

        Examples
        --------
        >>> from crossent.scoring import TemperatureScaling
        >>> scaling = TemperatureScaling().fit([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]], [0, 1, 1])
        >>> scaling.predict_log_proba([[2.0, 0.0]]).round(6).tolist()                          # log 2/3, log 1/3
        [[-0.405465, -1.098612]]
        """
        if not hasattr(self, "classes_"):
            raise InputError(f"this {type(self).__name__} is not fitted yet; call fit first")
        names = self.names_
        made = self._batch(X, [names[0]] * _rows_of(X), like=names).in_order_of(names)
        if self.n_features_in_ != (1 if made.binary else made.values.shape[1]) or made.classes != names:
            columns = 1 if made.binary else made.values.shape[1]
            raise InputError(
                f"X has {columns} columns of classes {listing(made.classes)}; in fit it had {self.n_features_in_}, of "
                f"{listing(names)}",
                argument="X",
            )
        return log_probabilities(self.scaled(logits_of(made, slice(None)).astype(np.float64)))

    def scaled(self, logits: Any) -> Any:
        """Return logits (N, V) as the fit scales them."""
        return logits if self._fitted is None else self.method().scaled(logits, self._fitted)

    def predict_proba(self, X: Any) -> Any:
        """Return calibrated probabilities, (N, V) float64; for one column, of both classes.

        Parameters
        ----------
        X
            Predictions of the kind and with the columns of `fit`.

        Returns
        -------
        numpy.ndarray
            softmax of the scaled logits.

        Raises
        ------
        InputError
            If the estimator is not fitted, or X has other columns.

        Examples
        --------
        >>> from crossent.scoring import TemperatureScaling
        >>> scaling = TemperatureScaling().fit([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]], [0, 1, 1])
        >>> scaling.predict_proba([[0.0, 2.0]]).round(6).tolist()
        [[0.333333, 0.666667]]
        """
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> Any:
        """Return the most probable class of each row, (N,).

        Parameters
        ----------
        X
            Predictions of the kind and with the columns of `fit`.

        Returns
        -------
        numpy.ndarray
            One of `classes_` for each row.

        Raises
        ------
        InputError
            If the estimator is not fitted, or X has other columns.

        Examples
        --------
        >>> from crossent.scoring import TemperatureScaling
        >>> scaling = TemperatureScaling(classes=["no", "yes"]).fit([1.0, -1.0, 2.0, 3.0], ["yes", "no", "no", "yes"])
        >>> scaling.predict([3.0, -3.0]).tolist()
        ['yes', 'no']
        """
        found = self.predict_log_proba(X)
        return self.classes_[found.argmax(axis=1)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy, as classifiers of scikit-learn do; scaling by one temperature does not change it.

        Parameters
        ----------
        X
            Predictions of the kind and with the columns of `fit`.
        y
            The true class of each row, (N,).
        sample_weight
            Weight of each row.

        Returns
        -------
        float
            Share of the weight whose most probable class is the true one.

        Examples
        --------
        >>> from crossent.scoring import TemperatureScaling
        >>> TemperatureScaling().fit([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]], [0, 1, 1]).score([[1.0, 0.0]], [0])
        1.0
        """
        return float(np.average(self.predict(X) == np.asarray(y), weights=sample_weight))

    def method(self) -> Any:
        """Return the `cross_fit.Method`."""
        raise NotImplementedError

    def _take(self, found: Any) -> None:
        """Set the attributes from the result of the method; None stands for unchanged predictions."""
        raise NotImplementedError

    def fit_rows(self, rows: Rows) -> Self:
        """Fit to rows, as `fit` does to arrays."""
        self._settle(rows)
        try:
            found = self.method().fit(rows)
        except NoOptimum as none:
            self.reason_ = f"there {self._none} {self._what}: {none}"
            self._fitted, self.calibrated_loss_ = None, self.loss_
            warnings.warn(f"predictions stay as they are: {self.reason_}", CalibrationWarning, stacklevel=3)
        else:
            self.reason_, self._fitted, self.calibrated_loss_ = None, found, found.loss
        self._take(self._fitted)
        self._look = None  # its sample is as large as a part of the rows
        self._survey = replace(self._survey, look=Look())
        return self

    def cross_fit_rows(self, rows: Rows, folds: int, level: float, tell: Callable[[], None] = lambda: None) -> CrossFit:
        """Fit to rows, and return the gain on rows that had no part in the fit; `tell` is called after each fold."""
        return self.fit_rows(rows).gain(rows, folds, level, tell)

    def gain(self, rows: Rows, folds: int, level: float, tell: Callable[[], None] = lambda: None) -> CrossFit:
        """Return the gain on each fold from a fit to the other folds, after a fit to all rows."""
        if not 2 <= folds <= self._survey.parts:
            what = "rows" if self._survey.clusters is None else "groups"
            raise InputError(
                f"folds must be from 2 to the {self._survey.parts} {what}, got {quoted(folds)}", argument="folds"
            )
        if self._fitted is None:
            raise InputError(f"nothing can be gained: {self.reason_}")
        try:
            return cross_fit(rows, self.method(), self._fitted, folds=folds, level=level, tell=tell)[0]
        except NoOptimum as none:
            raise InputError(
                f"with one fold left out, there {self._none} {self._what}: {none}; there may be too few rows",
                argument="folds",
            ) from none

    def _settle(self, rows: Rows) -> None:
        """Check the rows and adopt their classes."""
        found = survey(rows)
        for note in found.warnings:
            warnings.warn(spelled(note, as_python), CalibrationWarning, stacklevel=4)
        self._survey, self._look = found, found.look
        self.names_, self.warnings_ = found.classes, found.warnings
        self.classes_ = _array(found.classes)
        self.n_features_in_ = 1 if found.binary else len(self.classes_)
        self.loss_ = math.inf if np.isnan(found.look.loss) else found.look.loss

    def _batch(self, X: Any, y: Any, weight: Any = None, groups: Any = None, like: Any = None) -> Batch:
        """Return rows as a batch; columns without names have the classes `like`, if there are some."""
        if self.input not in KINDS:
            raise InputTypeError(f"input must be one of {', '.join(KINDS)}, got {quoted(self.input)}", argument="input")
        given: Any = {self.input: X}
        named = self.classes if self.classes is not None or hasattr(X, "columns") else like
        return batch(y, RowArguments(**given, weight=weight, cluster=groups), ScoreState(classes=named).options)

    def _reader(self, batches: Batches) -> Callable[[], Iterator[Batch]]:
        if isinstance(batches, Iterator):
            raise InputTypeError(
                "batches are read several times; pass a list, or a function that returns a new iterator at each call",
                argument="batches",
            )

        def read() -> Iterator[Batch]:
            for part in batches() if callable(batches) else batches:
                X, y, *weight = part
                yield self._batch(X, y, *weight)

        return read

    _none, _what = "is no best", "parameter"
    _fitted: Any = None
    _look: Look | None = None
    _survey: Survey
    names_: tuple[Hashable, ...]
    warnings_: tuple[Any, ...]
    reason_: str | None
    calibrated_loss_: float


def _array(classes: Sequence[Any]) -> Any:
    """Return classes as an array: of numbers or texts if all are, else of objects."""
    if len({type(name) for name in classes}) == 1 and not isinstance(classes[0], tuple):
        return np.array(list(classes))
    result = np.empty(len(classes), object)
    result[:] = list(classes)
    return result


def _rows_of(X: Any) -> int:
    if isinstance(X, Mapping) or not hasattr(X, "__len__"):
        raise InputTypeError("X must be an array or a frame", argument="X")
    return len(X)
