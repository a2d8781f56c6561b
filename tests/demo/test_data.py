"""The tables of the demonstration: split and scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from crossent.demo import data


class TestData:
    @pytest.mark.parametrize("make", [data.digits, data.breast_cancer])
    @pytest.mark.parametrize("seed", [0, 5])
    def test_split_and_scale(self, make: Any, seed: int) -> None:
        task = make(seed)
        train_rows, test_rows = task.train, task.test
        assert sorted([*train_rows.id, *test_rows.id]) == list(range(len(train_rows.y) + len(test_rows.y)))
        shares = [np.bincount(rows.y, minlength=len(task.classes)) / len(rows.y) for rows in (train_rows, test_rows)]
        assert np.abs(shares[0] - shares[1]).max() < 1 / len(test_rows.y) + 1 / len(train_rows.y)
        assert np.abs(train_rows.x.mean(axis=0)).max() < 1e-12
        deviation = train_rows.x.std(axis=0)
        assert np.all((np.abs(deviation - 1) < 1e-12) | (deviation == 0))
        assert np.abs(test_rows.x.mean(axis=0)).max() > 1e-3  # the test rows had no say in the scale

    def test_seed_decides_the_split(self) -> None:
        assert not np.array_equal(data.digits(0).test.id, data.digits(1).test.id)

    def test_pictures_are_those_of_the_test_rows(self) -> None:
        table: Any = load_digits()
        task = data.digits(3)
        np.testing.assert_array_equal(task.pictures * 16, table.images[task.test.id])
