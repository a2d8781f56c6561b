"""The files of predictions, read again."""

from __future__ import annotations

from typing import Any

import numpy as np

from crossent.demo import numbers, train
from tests.demo.runs import csv_name, read


def test_predictions_come_back_bit_for_bit(fit: train.Fit, finished: Any) -> None:
    header, ids, y, p = read(finished.out / csv_name(fit))
    assert header == ["id", "y", *(["p"] if fit.task.binary else [f"p_{k}" for k in range(10)])]
    np.testing.assert_array_equal(ids, fit.task.test.id)
    np.testing.assert_array_equal(y, fit.task.test.y)
    expected = numbers.probabilities(fit.test_logits)
    np.testing.assert_array_equal(p[:, 1] if fit.task.binary else p, expected)
