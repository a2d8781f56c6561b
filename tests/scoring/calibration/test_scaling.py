"""What both estimators share, seen from its base: arguments, representation, and what a fit leaves."""

from __future__ import annotations

import numpy as np

from crossent.scoring import TemperatureScaling, VectorScaling
from tests.scoring.calibration.drawn import drawn, loss


def test_a_representation_is_the_call() -> None:
    assert repr(TemperatureScaling()) == "TemperatureScaling()"
    made = VectorScaling(input="probs", classes=["a", "b"])
    assert repr(made) == "VectorScaling(input='probs', classes=['a', 'b'])"
    assert repr(eval(repr(made))) == repr(made)


def test_a_fit_leaves_what_it_saw_of_the_rows() -> None:
    z, y, w = drawn(300, 3)
    found = TemperatureScaling().fit(z, y, w)
    assert np.isclose(found.loss_, loss(z, y, w), rtol=1e-12)
    assert found.names_ == (0, 1, 2)
    assert (found.n_features_in_, found.classes_.tolist(), found.reason_) == (3, [0, 1, 2], None)


def test_one_column_has_two_classes() -> None:
    z, y, _ = drawn(300, 2)
    found = TemperatureScaling().fit(z[:, 1] - z[:, 0], y)
    whole = TemperatureScaling().fit(z, y)
    assert found.n_features_in_ == 1
    np.testing.assert_allclose(found.predict_proba(z[:, 1] - z[:, 0]), whole.predict_proba(z), rtol=1e-9)
