"""Scaled logits and their log-probabilities."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax

from crossent.scoring.calibration.methods import OfVector, log_probabilities
from crossent.scoring.calibration.vector import Vector
from tests.scoring.calibration.drawn import drawn


def test_log_probabilities_are_those_of_scipy() -> None:
    z = drawn(50, 7).logits * 100.0
    z[3, 2] = -np.inf
    np.testing.assert_allclose(log_probabilities(z), log_softmax(z, axis=1), rtol=1e-14, atol=1e-300)


def test_what_is_impossible_stays_so() -> None:
    vector = Vector(np.array([-1.0, 0.0, 2.0]), np.array([0.5, 0.0, -0.5]), 0.0)
    found = OfVector(range(3)).scaled(np.array([[-np.inf, -np.inf, 1.0]]), vector)
    np.testing.assert_array_equal(found, [[-np.inf, -np.inf, 1.5]])
