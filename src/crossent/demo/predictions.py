"""Test predictions as CSV files, which any tool can score again."""

from __future__ import annotations

import csv
from pathlib import Path

from crossent.demo.numbers import probabilities
from crossent.demo.train import Fit
from crossent.outputs import whole_file


def write_predictions(path: Path, fit: Fit) -> None:
    """Write id, y and the probabilities of the test rows: p_0 … p_9 of ten classes, or p of class 1 of two.

    Floats have as many digits as are needed to read the same floats back.
    """
    q = probabilities(fit.test_logits)
    columns = ["p"] if q.ndim == 1 else [f"p_{k}" for k in range(q.shape[1])]
    with whole_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "y", *columns])
        for row, y, values in zip(fit.task.test.id, fit.task.test.y, q.reshape(len(q), -1), strict=True):
            writer.writerow([int(row), int(y), *values.tolist()])
