"""Numbers, shares and advice as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossent.scoring.parts import Temperature
from crossent.scoring.show import words


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (
            Temperature(1.8, 0.412, 0.377, 9, True),
            "Over-confident: dividing the logits by T = 1.80 would cut the loss from 0.412 to 0.377 (8.5 %).",
        ),
        (
            Temperature(0.5, 0.412, 0.377, 9, True),
            "Under-confident: dividing the logits by T = 0.50 would cut the loss from 0.412 to 0.377 (8.5 %).",
        ),
        (
            Temperature(1.01, 0.4, 0.3999, 9, False),
            "A temperature would not help: the best, T = 1.01, would change the loss by 0.025 %.",
        ),
        (
            Temperature(math.nan, math.inf, math.inf, 9, False),
            "No temperature can be advised, because the loss is infinite.",
        ),
    ],
)
def test_advice(temperature: Temperature, expected: str) -> None:
    assert words.advice(temperature).replace("\xa0", " ") == expected


@given(st.floats(-1e300, 1e300), st.integers(0, 8))
def test_numbers_read_back(x: float, places: int) -> None:
    text = words.number(x, places).replace(",", "").replace("−", "-")
    digits, _, exponent = text.partition("\xa0×\xa010")
    exponent = exponent.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    read = float(f"{digits}e{exponent}" if exponent else digits)
    bound = 0.005 * 10.0 ** int(exponent) if exponent else 0.5 * 10.0**-places
    assert read == x or abs(read - x) <= bound * (1 + 1e-9)
