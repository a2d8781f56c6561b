"""Rows that count: what they are charged and called, and that others may hold anything."""

from __future__ import annotations

import numpy as np
import pytest

import crossent
from crossent import ScoreState, score
from tests.scoring.exact import close, exact_mean
from tests.scoring.refusals import NAN, P, Y, changed


def test_a_floor_charges_no_less_than_it_says():
    """A probability above the floor is charged as it is, one below as the floor: for logits as for probabilities."""
    p = np.array([[0.999, 0.001], [1 - 1e-12, 1e-12], [0.4, 0.6]])
    expected = exact_mean([1e-3, 1e-6, 0.6])
    close(crossent.score([1, 1, 1], probs=p, zero=1e-6).loss, expected)
    close(crossent.score([1, 1, 1], logits=np.log(p), zero=1e-6).loss, expected, 1e-12)
    close(crossent.score([1, 1, 1], logprobs=np.log(p), zero=1e-6).loss, expected)
    close(crossent.score([1, 1, 1], probs=p[:, 1], zero=1e-6).loss, expected)


def test_the_row_is_named_as_the_caller_names_it():
    with pytest.raises(ValueError, match="'q17'"):
        score(Y, probs=changed(P, 2, NAN), id=["a", "b", "q17", "d"])
    state = ScoreState().update(Y, probs=P)
    with pytest.raises(ValueError, match="row 6"):
        state.update(Y, probs=changed(P, 2, NAN))


def test_rows_that_do_not_count_may_hold_anything():
    """A masked position has whatever the model left there."""
    rows = changed(P, 1, NAN)
    assert score(Y, probs=rows, weight=[1, 0, 1, 1]).n == 3
    assert score([0, -100, 2, 1], probs=rows, ignore=-100).n == 3
    assert score([0, None, 2, 1], probs=rows, ignore=NAN).n == 3
    assert score([0, NAN, 2, 1], probs=rows, ignore=[None]).n == 3
