"""The two methods in one form: the fit, the application to logits, and the losses of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crossent.scoring.calibration import temperature, vector
from crossent.scoring.calibration.rows import Piece, Rows
from crossent.scoring.calibration.temperature import Best, Look
from crossent.scoring.calibration.vector import Vector


class OfTemperature:
    """Temperature scaling as a `cross_fit.Method`; `look` is the result of a pass over all rows."""

    def __init__(self, look: Look | None = None) -> None:
        self.look = look

    def fit(self, rows: Rows, start: Best | None = None) -> Best:
        """Return the best 1 / T of rows."""
        return temperature.fit(rows, start, self.look)

    def losses(self, piece: Piece, found: Best | None) -> Any:
        """Return the loss of each row, (n,)."""
        return temperature.row_losses(piece, 1.0 if found is None else found.beta)

    def scaled(self, logits: Any, found: Best) -> Any:
        """Return z / T."""
        return logits * found.beta


class OfVector:
    """Vector scaling of these classes as a `cross_fit.Method`."""

    def __init__(self, classes: Sequence[Any]) -> None:
        self.classes = classes

    def fit(self, rows: Rows, start: Vector | None = None) -> Vector:
        """Return the best scales and biases of rows."""
        return vector.fit(rows, self.classes, start)

    def losses(self, piece: Piece, found: Vector | None) -> Any:
        """Return the loss of each row, (n,)."""
        return temperature.row_losses(piece, 1.0) if found is None else vector.row_losses(piece, found)

    def scaled(self, logits: Any, found: Vector) -> Any:
        """Return a z + b; a logit of −∞ stays one."""
        return np.where(
            np.isneginf(logits), -np.inf, found.scale * np.where(np.isneginf(logits), 0, logits) + found.bias
        )


def log_probabilities(logits: Any) -> Any:
    """Return log softmax of rows, (n, V)."""
    with np.errstate(divide="ignore"):
        shifted = logits - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
