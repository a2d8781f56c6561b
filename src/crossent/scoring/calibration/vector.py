"""Vector scaling: the scales a and biases b with the least mean cross-entropy of softmax(a z + b), exactly.

The loss is convex in a and b together (Guo et al. 2017, https://arxiv.org/abs/1706.04599). Only differences of biases
count, so the first one is 0 while the optimum is sought, and their mean is 0 in the end. A class whose logits are all
0, as the first of log-odds is, has no scale. scipy's trust-region methods take exact gradients and curvatures: the
whole Hessian of few classes, its products with a vector of many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossent.scoring.calibration import temperature
from crossent.scoring.calibration.rows import Piece, Rows
from crossent.scoring.calibration.temperature import NoOptimum

FEW = 128
"""Classes up to which the whole Hessian is made."""
_FLAT = 1e-9
"""Norm of the gradient at an optimum, in nats for a step of one typical logit."""
_MOST = 100
_FAR = 1e6


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """Scales a (V,) and biases b (V,), whose mean is 0, and the mean loss."""

    scale: Any
    bias: Any
    loss: float


class _Problem:
    """The mean loss of softmax(a z + b) as a function of x, with its derivatives.

    x holds a · unit of the classes that have a scale, then b_1 … b_{V−1}. `unit` (V,) is the typical size of a class's
    logits, so that all of x is of one size.
    """

    def __init__(self, rows: Rows, unit: Any, mass: float) -> None:
        self.rows, self.unit, self.mass = rows, np.where(unit > 0, unit, 1.0), mass
        self.columns = len(unit)
        self.free = np.concatenate([np.flatnonzero(unit > 0), np.arange(self.columns + 1, 2 * self.columns)])

    def parameters(self, x: Any) -> tuple[Any, Any]:
        """Return scales and biases; a scale that there is none of is 0."""
        whole = np.zeros(2 * self.columns)
        whole[self.free] = x
        return whole[: self.columns] / self.unit, whole[self.columns :]

    def place(self, scale: Any, bias: Any) -> Any:
        """Return the x of scales and biases."""
        return np.concatenate([scale * self.unit, bias - bias[0]])[self.free]

    def value(self, x: Any) -> tuple[float, Any]:
        """Return loss and gradient."""
        losses, gradient = [], np.zeros(2 * self.columns)
        for piece in self.rows:
            z, q, loss = _softmax(piece, *self.parameters(x))
            losses.append(piece.total(loss))
            q[np.arange(len(piece)), piece.label] -= 1.0
            weighted = q if piece.weight is None else q * piece.weight[:, None]
            gradient += np.concatenate([(weighted * z).sum(axis=0) / self.unit, weighted.sum(axis=0)])
        return math.fsum(losses) / self.mass, gradient[self.free] / self.mass

    def hessian(self, x: Any) -> Any:
        """Return the second derivatives, (n, n)."""
        v = self.columns
        whole = np.zeros((2 * v, 2 * v))
        for piece in self.rows:
            z, q, _ = _softmax(piece, *self.parameters(x))
            z = z / self.unit
            root = np.ones(1) if piece.weight is None else np.sqrt(piece.weight)[:, None]
            both = np.concatenate([q * z, q], axis=1) * root
            whole -= both.T @ both
            heavy = q * root * root
            for first, second, part in ((0, 0, heavy * z * z), (0, 1, heavy * z), (1, 1, heavy)):
                diagonal = part.sum(axis=0)
                whole[first * v + np.arange(v), second * v + np.arange(v)] += diagonal
                if first != second:
                    whole[second * v + np.arange(v), first * v + np.arange(v)] += diagonal
        return whole[np.ix_(self.free, self.free)] / self.mass

    def product(self, x: Any, d: Any) -> Any:
        """Return the product of the second derivatives with a vector."""
        scale, bias = self.parameters(d)
        result = np.zeros(2 * self.columns)
        for piece in self.rows:
            z, q, _ = _softmax(piece, *self.parameters(x))
            moved = scale * z + bias
            moved = q * (moved - (q * moved).sum(axis=1, keepdims=True))
            weighted = moved if piece.weight is None else moved * piece.weight[:, None]
            result += np.concatenate([(weighted * z).sum(axis=0) / self.unit, weighted.sum(axis=0)])
        return result[self.free] / self.mass


def _softmax(piece: Piece, scale: Any, bias: Any) -> tuple[Any, Any, Any]:
    """Return finite logits, probabilities and losses of rows; an infinitely small logit has a probability of 0."""
    logits = piece.logits.astype(np.float64)
    none = np.isneginf(logits)
    z = np.where(none, 0.0, logits)
    s = np.where(none, -np.inf, scale * z + bias)
    s -= s.max(axis=1, keepdims=True)
    q = np.exp(s)
    total = q.sum(axis=1)
    loss = np.log(total) - s[np.arange(len(piece)), piece.label]
    return z, q / total[:, None], loss


def fit(rows: Rows, classes: Sequence[Any], start: Vector | None = None) -> Vector:
    """Return the best scales and biases of rows; `start` are the parameters of similar rows.

    Raises
    ------
    NoOptimum
        If a class has no rows, a true class has no probability, or the classes are separated without error.
    """
    from scipy.optimize import minimize

    columns = len(classes)
    mass, unit, count = _survey(rows, columns)
    missing = [name for name, rows_of_it in zip(classes, count.tolist(), strict=True) if rows_of_it == 0]
    if missing:
        raise NoOptimum(f"class {missing[0]!r} has no rows, so every smaller bias for it lowers the loss")
    problem = _Problem(rows, unit, mass)
    if start is None:
        x = problem.place(np.full(columns, _one_scale(rows, unit)), np.zeros(columns))
    else:
        x = problem.place(start.scale, start.bias)
    few = columns <= FEW
    with np.errstate(over="ignore", invalid="ignore"):  # of scipy, where a trial step is far too long
        found = minimize(
            problem.value,
            x,
            jac=True,
            method="trust-exact" if few else "trust-krylov",
            hess=problem.hessian if few else None,
            hessp=None if few else problem.product,
            options={"gtol": _FLAT, "maxiter": _MOST, "initial_trust_radius": 1.0, "max_trust_radius": 1e3},
        )
    slope = float(np.abs(problem.value(found.x)[1]).max())
    if np.abs(found.x).max() > _FAR or slope > 100.0 * _FLAT or found.fun < 1e-6:
        raise NoOptimum(
            "the classes are separated almost without error, so ever larger scales lower the loss, towards 0"
        )
    scale, bias = problem.parameters(found.x)
    return Vector(scale, bias - bias.mean(), float(found.fun))


def _one_scale(rows: Rows, unit: Any) -> float:
    """Return the best scale of all classes together, a good beginning, or one of a typical size if there is none."""
    try:
        return temperature.fit(rows).beta
    except NoOptimum:
        return 1.0 / float(unit.max() or 1.0)


def _survey(rows: Rows, columns: int) -> tuple[float, Any, Any]:
    """Return Σ w, and the typical size of the logits, (V,), and the number of rows, (V,), of each class."""
    mass, square, number, count = [], np.zeros(columns), np.zeros(columns), np.zeros(columns, np.int64)
    for piece in rows:
        if np.isneginf(piece.logits[np.arange(len(piece)), piece.label]).any():
            raise NoOptimum("a true class has probability 0, at all scales and biases")
        mass.append(piece.mass)
        count += np.bincount(piece.label, minlength=columns)
        finite = np.isfinite(piece.logits)
        square += (np.where(finite, piece.logits, 0.0).astype(np.float64) ** 2).sum(axis=0)
        number += finite.sum(axis=0)
    return math.fsum(mass), np.sqrt(square / np.maximum(number, 1)), count


def row_losses(piece: Piece, vector: Vector) -> Any:
    """Return the loss of each row, (n,)."""
    return _softmax(piece, vector.scale, vector.bias)[2]
