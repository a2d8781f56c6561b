"""The two tables of the demonstration, from scikit-learn: split into training and test rows, and standardised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

TEST_SHARE = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class TaskRows:
    """N rows: features x (N, D) float64, classes y (N,) int64, and id (N,), row numbers in the whole table."""

    x: Any
    y: Any
    id: Any


@dataclass(frozen=True, slots=True, eq=False)
class LearningTask:
    """A table to learn: training rows, held-out test rows, and the names of its classes.

    `pictures` (N, h, w) in [0, 1] are the test rows as images, or None. With two classes the model has one logit.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    train: TaskRows
    test: TaskRows
    pictures: Any = None

    @property
    def binary(self) -> bool:
        """Whether the model is a sigmoid (one logit per row) and not a softmax (one per class)."""
        return len(self.classes) == 2


def digits(seed: int) -> LearningTask:
    """Return scikit-learn's 1797 handwritten digits, 8 × 8 pixels, ten classes."""
    from sklearn.datasets import load_digits

    table: Any = load_digits()
    rows = _split(table.data, table.target, seed)
    return LearningTask("digits", "Digits", tuple("0123456789"), *rows, pictures=table.images[rows.test.id] / 16.0)


def breast_cancer(seed: int) -> LearningTask:
    """Return scikit-learn's breast-cancer table: 569 tumours, 30 measurements, class 0 malignant and 1 benign."""
    from sklearn.datasets import load_breast_cancer

    table: Any = load_breast_cancer()
    rows = _split(table.data, table.target, seed)
    return LearningTask("breast_cancer", "Breast cancer", tuple(str(name) for name in table.target_names), *rows)


class Split(NamedTuple):
    """The rows of a table in two parts."""

    train: TaskRows
    test: TaskRows


def _split(x: Any, y: Any, seed: int) -> Split:
    """Return training and test rows with equal frequencies of classes, and features in standard deviations."""
    from sklearn.model_selection import train_test_split

    parts: Any = train_test_split(np.arange(len(y)), test_size=TEST_SHARE, stratify=y, random_state=seed)
    known = x[parts[0]]
    deviation = known.std(axis=0)
    scaled = (x - known.mean(axis=0)) / np.where(deviation == 0, 1.0, deviation)
    return Split(*(TaskRows(scaled[rows], y[rows].astype(np.int64), rows) for rows in parts))
