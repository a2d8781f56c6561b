"""Errors and warnings of scores: four rows to spoil, and what a text must be whatever it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import crossent

Y = [0, 1, 2, 1]
P = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.3, 0.4, 0.3]])
Z = np.log(P) + np.array([[3.0], [1.0], [-2.0], [0.5]])
NAN, INF = float("nan"), float("inf")


def changed(array: Any, place: Any, value: Any) -> Any:
    array = np.array(array, np.float64)
    array[place] = value
    return array


def names(y: Sequence[int]) -> list[str]:
    return [["ant", "bee", "cat"][k] for k in y]


def assert_refused(call: Callable[[], Any], words: Sequence[str]) -> None:
    """Assert that a call raises one short line with these words, in lower case, and nothing that leaks from NumPy."""
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 300
    assert not any(leak in text for leak in ("np.", "dtype('", "array(")), text
    assert not [word for word in words if word not in text.lower()], text


def assert_warned(call: Callable[[], crossent.Score], words: Sequence[str] | None) -> None:
    """Assert that one warning of a score has these words, and that its text shows all of them; None: no warnings."""
    result = call()
    told = [text.lower() for text in result.warnings]
    assert all("\n" not in text and len(text) < 300 for text in told)
    if words is None:
        assert told == []
    else:
        assert any(all(word in text for word in words) for text in told), told
        assert all(text in repr(result) for text in result.warnings)
