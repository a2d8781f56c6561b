"""The numbers of the demonstration against scikit-learn, SciPy and NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax
from sklearn.metrics import log_loss

from crossent.demo import numbers, train
from tests.demo.runs import csv_name, read


def test_costs_are_the_logarithms() -> None:
    for cost, q in zip(numbers.textbook(), (0.7, 0.1), strict=True):
        assert (cost.measure, cost.one_hot, cost.index) == pytest.approx((-math.log(q),) * 3, rel=1e-15, abs=0)
        assert cost.bits == pytest.approx(-math.log2(q), rel=1e-15, abs=0)


class TestNumbers:
    def test_summary_against_scikit_learn_on_the_file(self, fit: train.Fit, finished: Any) -> None:
        _, _, y, p = read(finished.out / csv_name(fit))
        summary = numbers.summarise(fit)
        frequencies = np.bincount(fit.task.train.y) / len(fit.task.train.y)
        guess = np.tile(frequencies, (len(y), 1))
        assert summary.rows == len(y)
        assert summary.loss == pytest.approx(log_loss(y, p), rel=1e-12)
        assert summary.log_loss == pytest.approx(log_loss(y, p), rel=1e-12)
        assert summary.guess == pytest.approx(log_loss(y, guess), rel=1e-12)
        assert summary.accuracy == pytest.approx((p.argmax(axis=1) == y).mean(), rel=1e-15)
        assert summary.skill == pytest.approx(1 - log_loss(y, p) / log_loss(y, guess), rel=1e-12)
        assert summary.bits == pytest.approx(-np.log2(p[np.arange(len(y)), y]).mean(), rel=1e-12)
        assert summary.typical == pytest.approx(np.prod(p[np.arange(len(y)), y] ** (1 / len(y))), rel=1e-12)

    def test_probabilities_against_scipy(self, fit: train.Fit) -> None:
        logits, y = fit.test_logits, fit.task.test.y
        p = numbers.probabilities(logits)
        if logits.ndim == 1:
            np.testing.assert_allclose(p, expit(logits), rtol=1e-14)
            np.testing.assert_allclose(numbers.truth_probability(logits, y), expit(np.where(y, logits, -logits)))
        else:
            np.testing.assert_allclose(p, np.exp(log_softmax(logits, axis=1)), rtol=1e-13)
            np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-15)
            np.testing.assert_array_equal(numbers.truth_probability(logits, y), p[np.arange(len(y)), y])

    def test_truth_keeps_its_digits_where_one_minus_p_would_not(self) -> None:
        small = numbers.truth_probability(np.array([-40.0, 40.0]), np.array([1, 0]))
        np.testing.assert_allclose(small, 4.248354255291589e-18, rtol=1e-15)

    @pytest.mark.slow
    def test_loss_is_minus_log_likelihood_per_row(self, fit: train.Fit) -> None:
        for identity in numbers.identities(fit):
            assert identity.difference < 1e-14
            assert identity.loss == pytest.approx(-identity.log_likelihood / identity.rows, rel=1e-13)

    def test_identity_fails_on_other_labels(self, fit: train.Fit) -> None:
        y = fit.task.test.y
        swapped = (y + 1) % len(fit.task.classes)
        loss, total = train.mean_loss(fit.test_logits, y), numbers.log_likelihood(fit.test_logits, swapped)
        assert numbers.Identity("", len(y), loss, total).difference > 1

    def test_scale_curves_have_their_best_where_scipy_finds_it(self, fit: train.Fit) -> None:
        curves = numbers.scale_curves(fit)
        logits, y = fit.test_logits, fit.task.test.y
        if logits.ndim == 1:
            logits = np.stack([np.zeros_like(logits), logits], axis=1)

        def loss(scale: float) -> float:
            return -log_softmax(scale * logits, axis=1)[np.arange(len(y)), y].mean()

        best: Any = minimize_scalar(loss, bounds=(numbers.SCALES[0], numbers.SCALES[-1]), method="bounded")
        assert curves.smallest_loss == curves.largest_likelihood == pytest.approx(best.x, abs=0.0101)
        np.testing.assert_allclose(curves.losses, [loss(scale) for scale in numbers.SCALES], rtol=1e-12)
        np.testing.assert_allclose(curves.losses, -curves.log_likelihoods / curves.rows, rtol=1e-12)

    def test_row_costs_are_finite_where_the_probability_is_not(self) -> None:
        np.testing.assert_allclose(numbers.row_costs(np.array([[0.0, 2000.0]]), np.array([0])), [2000.0])
        np.testing.assert_allclose(numbers.row_costs(np.array([-2000.0]), np.array([1])), [2000.0])
