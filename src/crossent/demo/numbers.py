"""The numbers of the demonstration: the textbook example, the test results, and loss against likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from crossent import measures
from crossent.demo.train import Fit, mean_loss, one_thread
from crossent.torch import binary_cross_entropy_with_logits, cross_entropy

TRUTH = (1.0, 0.0, 0.0)
PREDICTIONS = ((0.7, 0.2, 0.1), (0.1, 0.3, 0.6))
SCALES = np.linspace(0.1, 3.0, 146)
"""Factors on the fitted weights and biases along which loss and likelihood are compared; 1 is the fitted model."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Cross-entropy of a prediction against `TRUTH`: as measure, as loss of the one-hot row, and of the class index.

    All are in nats but `bits`, the measure in bits.
    """

    prediction: tuple[float, ...]
    measure: float
    one_hot: float
    index: float
    bits: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Results on the test rows; losses in nats per row.

    `log_loss` is scikit-learn's loss of the same predictions. `guess` is the loss of predicting the class frequencies
    of the training rows for every test row.
    """

    title: str
    rows: int
    loss: float
    log_loss: float
    guess: float
    accuracy: float

    @property
    def bits(self) -> float:
        """The loss in bits."""
        return self.loss / math.log(2)

    @property
    def skill(self) -> float:
        """Fraction of the loss of guessing that the model saves, 1 − loss / guess."""
        return 1.0 - self.loss / self.guess

    @property
    def typical(self) -> float:
        """Geometric mean of the probabilities of the true classes, e^(−loss)."""
        return math.exp(-self.loss)


@dataclass(frozen=True, slots=True)
class Identity:
    """The loss of N rows from crossent, and the log-likelihood of the same rows from their probabilities."""

    title: str
    rows: int
    loss: float
    log_likelihood: float

    @property
    def difference(self) -> float:
        """Absolute difference between the loss and −log-likelihood / N."""
        return abs(self.loss + self.log_likelihood / self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class ScaleCurves:
    """Loss and log-likelihood of the test rows, each (S,), for the fitted model with its weights scaled by `SCALES`."""

    rows: int
    losses: Any
    log_likelihoods: Any

    @property
    def smallest_loss(self) -> float:
        """The scale with the smallest loss."""
        return float(SCALES[np.argmin(self.losses)])

    @property
    def largest_likelihood(self) -> float:
        """The scale with the largest likelihood."""
        return float(SCALES[np.argmax(self.log_likelihoods)])


def textbook() -> list[Cost]:
    """Return the costs of `PREDICTIONS`, each by three routes."""
    one_hot, index = torch.tensor([TRUTH], dtype=torch.float64), torch.tensor([0])
    costs: list[Cost] = []
    for q in PREDICTIONS:
        logits = torch.tensor([q], dtype=torch.float64).log()
        costs.append(
            Cost(
                prediction=q,
                measure=float(measures.cross_entropy(TRUTH, q)),
                one_hot=cross_entropy(logits, one_hot).item(),
                index=cross_entropy(logits, index).item(),
                bits=float(measures.cross_entropy(TRUTH, q, base=2)),
            )
        )
    return costs


def row_text(p: Sequence[float]) -> str:
    """Return a row of probabilities as people write it, [0.7, 0.2, 0.1]."""
    return "[" + ", ".join(f"{value:g}" for value in p) + "]"


def probabilities(logits: Any) -> Any:
    """Return softmax probabilities (N, V) of logits (N, V), or the probabilities (N,) of class 1 of logits (N,)."""
    z = np.stack([np.zeros_like(logits), logits], axis=1) if logits.ndim == 1 else logits
    e = np.exp(z - z.max(axis=1, keepdims=True))
    q = e / e.sum(axis=1, keepdims=True)
    return q[:, 1] if logits.ndim == 1 else q


def truth_probability(logits: Any, y: Any) -> Any:
    """Return the probability (N,) of the true class of each row."""
    if logits.ndim == 1:
        return probabilities(np.where(y == 1, logits, -logits))
    return probabilities(logits)[np.arange(len(y)), y]


def predicted_class(logits: Any) -> Any:
    """Return the most probable class (N,) of each row."""
    return (logits > 0).astype(np.int64) if logits.ndim == 1 else logits.argmax(axis=1)


def row_costs(logits: Any, y: Any) -> Any:
    """Return the loss (N,) of each row in nats, finite even where the probability underflows to 0."""
    z, target = torch.as_tensor(logits), torch.as_tensor(y)
    if z.ndim == 1:
        return binary_cross_entropy_with_logits(z, target.to(z.dtype), reduction="none").numpy()
    return cross_entropy(z, target, reduction="none").numpy()


def log_likelihood(logits: Any, y: Any) -> float:
    """Return log Π q = Σ log q over the rows, from the probabilities and without any loss."""
    with np.errstate(divide="ignore"):
        return math.fsum(np.log(truth_probability(logits, y)))


def summarise(fit: Fit) -> Summary:
    """Return the results of a fit on its test rows."""
    from sklearn.metrics import log_loss

    task, y = fit.task, fit.task.test.y
    labels = np.arange(len(task.classes))
    expected, actual = ((rows.y[:, None] == labels).mean(axis=0) for rows in (task.train, task.test))
    return Summary(
        title=task.title,
        rows=len(y),
        loss=mean_loss(fit.test_logits, y),
        log_loss=float(log_loss(y, probabilities(fit.test_logits), labels=labels)),
        guess=float(measures.cross_entropy(actual, expected)),
        accuracy=float((predicted_class(fit.test_logits) == y).mean()),
    )


def identities(fit: Fit) -> list[Identity]:
    """Return loss and log-likelihood of a fit on its training rows and on its test rows."""
    parts = (("training", fit.train_logits, fit.task.train.y), ("test", fit.test_logits, fit.task.test.y))
    return [
        Identity(f"{fit.task.title}, {part}", len(y), mean_loss(logits, y), log_likelihood(logits, y))
        for part, logits, y in parts
    ]


@one_thread()
def scale_curves(fit: Fit) -> ScaleCurves:
    """Return loss and log-likelihood of the test rows along `SCALES`."""
    y = fit.task.test.y
    scaled = [scale * fit.test_logits for scale in SCALES]
    return ScaleCurves(
        rows=len(y),
        losses=np.array([mean_loss(logits, y) for logits in scaled]),
        log_likelihoods=np.array([log_likelihood(logits, y) for logits in scaled]),
    )
