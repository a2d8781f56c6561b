"""Options of the commands as arguments of a state."""

from __future__ import annotations

import pytest

from crossent.errors import UsageError
from crossent.scoring.cli.options import state_options


def test_classes_with_commas_and_blanks() -> None:
    found = state_options('a, "b, c" ,d', None, normalize=False, zero="inf", ci=0.95, worst=10)
    assert found["classes"] == ["a", "b, c", "d"]


@pytest.mark.parametrize(("zero", "charged"), [("inf", "inf"), ("1e-6", 1e-6)])
def test_zero_is_a_number_or_inf(zero: str, charged: object) -> None:
    assert state_options(None, [], normalize=True, zero=zero, ci=0.9, worst=0) == {
        "classes": None, "ignore": None, "normalize": True, "zero": charged, "ci": 0.9, "worst": 0,
    }  # fmt: skip


def test_what_is_no_probability_is_said() -> None:
    with pytest.raises(UsageError, match="--zero must be a probability or inf, got 'small'"):
        _ = state_options(None, None, normalize=False, zero="small", ci=0.95, worst=10)
