"""Vector scaling: the scales a and biases b with the least mean cross-entropy of softmax(a z + b), exactly.

The loss is convex in a and b together (Guo et al. 2017, https://arxiv.org/abs/1706.04599). Only differences of biases
count, so the first one is 0 while the optimum is sought, and their mean is 0 in the end. scipy's trust-region methods
take exact gradients and curvatures: the whole Hessian of few classes, its products with a vector of many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
    """The mean loss of softmax(a z + b) as a function of x = [a · unit, b_1 … b_{V−1}], with its derivatives.

    `unit` is the typical size of a logit, so that all of x is of one size.
    """

    def __init__(self, rows: Rows, columns: int, unit: float, mass: float) -> None:
        self.rows, self.columns, self.unit, self.mass = rows, columns, unit, mass
        self.size = 2 * columns - 1

    def parameters(self, x: Any) -> tuple[Any, Any]:
        """Return scales and biases."""
        return x[: self.columns] / self.unit, np.concatenate([[0.0], x[self.columns :]])

    def value(self, x: Any) -> tuple[float, Any]:
        """Return loss and gradient."""
        losses, gradient = [], np.zeros(2 * self.columns)
        for piece in self.rows:
            z, q, loss = _softmax(piece, *self.parameters(x))
            losses.append(piece.total(loss))
            q[np.arange(len(piece)), piece.label] -= 1.0
            weighted = q if piece.weight is None else q * piece.weight[:, None]
            gradient += np.concatenate([(weighted * z).sum(axis=0) / self.unit, weighted.sum(axis=0)])
        return math.fsum(losses) / self.mass, self._free(gradient) / self.mass

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
        keep = np.delete(np.arange(2 * v), v)
        return whole[np.ix_(keep, keep)] / self.mass

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
        return self._free(result) / self.mass

    def _free(self, gradient: Any) -> Any:
        return np.delete(gradient, self.columns)


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
    """Return the best scales and biases of rows; `start` are those of nearly the same rows.

    Raises
    ------
    NoOptimum
        If a class has no rows, a true class has no probability, or the rows can be told apart without a mistake.
    """
    from scipy.optimize import minimize

    columns = len(classes)
    mass, unit, count = _survey(rows, columns)
    missing = [name for name, rows_of_it in zip(classes, count.tolist(), strict=True) if rows_of_it == 0]
    if missing:
        raise NoOptimum(f"class {missing[0]!r} has no rows, so each smaller bias of it cuts the loss further")
    problem = _Problem(rows, columns, unit, mass)
    x = np.concatenate([np.full(columns, unit), np.zeros(columns - 1)])
    if start is not None:
        x = np.concatenate([start.scale * unit, start.bias[1:] - start.bias[0]])
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
            "the rows can be told apart nearly without a mistake, so ever larger scales cut the loss further, towards 0"
        )
    scale, bias = problem.parameters(found.x)
    return Vector(scale, bias - bias.mean(), float(found.fun))


def _survey(rows: Rows, columns: int) -> tuple[float, float, Any]:
    """Return Σ w, the typical size of a logit beside its row's mean, and the rows of each class."""
    mass, square, number, count = [], 0.0, 0, np.zeros(columns, np.int64)
    for piece in rows:
        if np.isneginf(piece.logits[np.arange(len(piece)), piece.label]).any():
            raise NoOptimum("a true class of probability 0 keeps it at all scales and biases")
        mass.append(piece.mass)
        count += np.bincount(piece.label, minlength=columns)
        finite = piece.logits[np.isfinite(piece.logits)].astype(np.float64)
        square, number = square + float(finite @ finite), number + finite.size
    return math.fsum(mass), max(math.sqrt(square / max(1, number)), 1e-300), count


def row_losses(piece: Piece, vector: Vector) -> Any:
    """Return the loss of each row, (n,)."""
    return _softmax(piece, vector.scale, vector.bias)[2]
