"""The pass before a fit: what it counts, and what it refuses, in the words of a score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

import crossent
from crossent.errors import InputError
from crossent.scoring.calibration.rows import Rows
from crossent.scoring.calibration.survey import survey
from crossent.scoring.input.arguments import RowArguments, ScoreOptions
from crossent.scoring.input.batch import batch
from tests.scoring.calibration.drawn import drawn


def rows(label: Any, parts: int = 1, **given: Any) -> Rows:
    places = np.array_split(np.arange(len(label)), parts)
    options = ScoreOptions(ignore=(9,))
    made = [
        batch(label[k], RowArguments(**{name: values[k] for name, values in given.items()}), options) for k in places
    ]
    return Rows(lambda: made)


@pytest.mark.parametrize("kind", ["logits", "probs", "logprobs"])
@pytest.mark.parametrize("parts", [1, 3])
def test_it_is_the_loss_of_a_score(kind: Any, parts: int) -> None:
    z, y, w = drawn(60, 3)
    values = {"logits": z, "probs": softmax(z, axis=1), "logprobs": np.log(softmax(z, axis=1))}[kind]
    y = y.copy()
    y[3] = 9
    w[5] = 0.0
    found = survey(rows(y, parts, **{kind: values}, weight=w, cluster=np.arange(60) // 4))
    wanted = crossent.score(y, **{kind: values}, weight=w, cluster=np.arange(60) // 4, ignore=9)
    assert found.look.loss == pytest.approx(wanted.loss, rel=1e-12)
    assert (found.n, found.clusters, found.parts) == (58, 15, 15)
    assert (found.classes, found.binary, found.warnings) == ((0, 1, 2), False, ())


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 59])
def test_what_is_no_number_is_refused_with_its_row(wrong: float, place: int) -> None:
    z, y, _ = drawn(60, 3)
    z[place, 1] = wrong
    with pytest.raises(InputError, match=f"row {place}"):
        _ = survey(rows(y, 2, logits=z))


def test_no_rows() -> None:
    z, _, _ = drawn(6, 3)
    with pytest.raises(InputError, match="no rows to fit"):
        _ = survey(rows(np.full(6, 9), logits=z))


def test_suspicious_rows_are_noted_wherever_they_stand() -> None:
    z, y, _ = drawn(60, 3)
    assert len(survey(rows(y, 3, logits=softmax(z, axis=1))).warnings) == 1
    mixed = np.concatenate([softmax(z[:30], axis=1), z[30:]])
    assert survey(rows(y, 2, logits=mixed)).warnings == ()
