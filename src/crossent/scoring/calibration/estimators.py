"""`TemperatureScaling` and `VectorScaling`: calibration of predictions in the manner of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np

from crossent.scoring.calibration.methods import OfTemperature, OfVector
from crossent.scoring.calibration.scaling import Scaling


class TemperatureScaling(Scaling):
    """One temperature for all rows: q = softmax(z / T), where T minimises Σ w (−log q(y)) / Σ w exactly.

    T divides the logits: it changes the confidence of predictions, not the predicted class. It is exact to about 10⁻¹⁰
    for logits of any scale, from arrays or from batches larger than memory.

    Parameters
    ----------
    input
        Kind of numbers in `X`: "logits" (for one column log-odds), "logprobs" or "probs", as in `crossent.score`.
    classes
        The classes in the order of the columns, or a mapping of labels to names; by default the column names of a
        frame, else 0 … V − 1. For a classifier of scikit-learn, its `classes_`.

    Attributes
    ----------
    temperature_
        T > 0; above 1 the predictions were over-confident. 1 if there is no best one, with the reason in `reason_`.
    loss_, calibrated_loss_
        Mean loss in nats of the rows of the fit, at 1 and at T. `cross_fit` estimates the gain on new rows.
    reason_
        None, or why there is no best temperature.
    classes_, n_features_in_
        The classes of the columns, and their number.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = 6.0 * rng.normal(size=(20000, 3))
    >>> y = (X / 3.0 + rng.gumbel(size=X.shape)).argmax(axis=1)
    >>> round(TemperatureScaling().fit(X, y).temperature_, 2)
    2.97

    References
    ----------
    Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks" (2017), https://arxiv.org/abs/1706.04599
    """

    temperature_: float
    _none, _what = "is no best", "temperature"

    def method(self) -> OfTemperature:
        """Return the method."""
        return OfTemperature(self._look)

    def _take(self, found: Any) -> None:
        self.temperature_ = 1.0 if found is None else 1.0 / found.beta


class VectorScaling(Scaling):
    """A scale and a bias for each class: q = softmax(a z + b), where a and b minimise Σ w (−log q(y)) / Σ w exactly.

    It corrects shifted class frequencies, and classes with too high or low confidence. It has 2 V − 1 parameters; check
    with `cross_fit` whether there are enough rows for them. The log-odds z of one column become a z + b too (Platt's
    scaling).

    Parameters
    ----------
    input
        Kind of numbers in `X`: "logits" (for one column log-odds), "logprobs" or "probs", as in `crossent.score`.
    classes
        The classes in the order of the columns, or a mapping of labels to names; by default the column names of a
        frame, else 0 … V − 1. For a classifier of scikit-learn, its `classes_`.

    Attributes
    ----------
    scale_, bias_
        a and b, (V,) each, and the mean of b is 0; of one column those of its log-odds, (1,). Ones and zeros if there
        are no best ones, with the reason in `reason_`.
    loss_, calibrated_loss_
        Mean loss in nats of the rows of the fit, unscaled and scaled. `cross_fit` estimates the gain on new rows.
    reason_
        None, or why there are no best parameters.
    classes_, n_features_in_
        The classes of the columns, and their number.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = 3.0 * rng.normal(size=(20000, 3))
    >>> y = (X * [1.0, 0.5, 0.5] + [0.0, 1.0, -1.0] + rng.gumbel(size=X.shape)).argmax(axis=1)
    >>> fitted = VectorScaling().fit(X, y)
    >>> fitted.scale_.round(1).tolist(), fitted.bias_.round(1).tolist()
    ([1.0, 0.5, 0.5], [0.0, 1.0, -1.0])

    References
    ----------
    Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks" (2017), https://arxiv.org/abs/1706.04599
    """

    scale_: Any
    bias_: Any
    _none, _what = "are no best", "scales and biases"

    def method(self) -> OfVector:
        """Return the method of these classes."""
        return OfVector(self.classes_.tolist())

    def _take(self, found: Any) -> None:
        size = len(self.classes_)
        self.scale_ = np.ones(size) if found is None else found.scale
        self.bias_ = np.zeros(size) if found is None else found.bias
        if self.n_features_in_ == 1:
            self.scale_, self.bias_ = self.scale_[1:], self.bias_[1:] - self.bias_[:1]
