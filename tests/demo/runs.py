"""What the tests of the demonstration share: how long it trains, and readers of the files that it writes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from crossent.demo import train

EPOCHS, SEED = 12, 0


def nothing(*_: float) -> None:
    pass


def csv_name(fit: train.Fit) -> str:
    return "predictions_breast_cancer.csv" if fit.task.binary else "predictions.csv"


def read(path: Path) -> tuple[list[str], Any, Any, Any]:
    """Return header, id, y and probabilities (N, C) of a file of predictions."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    table = np.array([[float(value) for value in row] for row in rows])
    p = table[:, 2:]
    return header, table[:, 0].astype(int), table[:, 1].astype(int), p if p.shape[1] > 1 else np.hstack([1 - p, p])
