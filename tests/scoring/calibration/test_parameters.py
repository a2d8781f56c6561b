"""Arguments of the estimators as scikit-learn's tools handle them."""

from __future__ import annotations

import pytest
from sklearn.base import clone

from crossent.scoring import TemperatureScaling, VectorScaling


@pytest.mark.parametrize("kind", [TemperatureScaling, VectorScaling])
def test_arguments_come_back_and_are_copied(kind: type[TemperatureScaling]) -> None:
    made = kind(input="probs", classes=["a", "b"])
    assert made.get_params() == {"input": "probs", "classes": ["a", "b"]}
    copy = clone(made)
    assert copy is not made
    assert copy.get_params() == made.get_params()
    assert copy.set_params(classes=None) is copy
    assert copy.get_params()["classes"] is None
    assert made.get_params()["classes"] == ["a", "b"]


def test_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match="TemperatureScaling has no parameter 'cv'"):
        _ = TemperatureScaling().set_params(cv=3)
