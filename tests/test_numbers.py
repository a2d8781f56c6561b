"""Numbers of every sort become ints and floats, and what is no number is refused by name."""

from __future__ import annotations

import operator
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from crossent.numbers import real, shown, switch, whole

INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
TORCH_INTEGERS = [
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
]


class Seven:
    def __index__(self):
        return 7

    def __repr__(self):
        return "Seven()"


WHOLE = [
    7,
    Seven(),
    *(kind(7) for kind in INTEGERS),
    *(np.array(7, kind) for kind in INTEGERS),
    *(torch.tensor(7, dtype=dtype) for dtype in TORCH_INTEGERS),
    torch.tensor([7]),
    torch.nn.Parameter(torch.tensor(7), False),
]
REAL = [
    0.25,
    Fraction(1, 4),
    Decimal("0.25"),
    *(kind(0.25) for kind in (np.float16, np.float32, np.float64, np.longdouble)),
    np.array(0.25),
    np.array(Fraction(1, 4), dtype=object),
    torch.tensor(0.25),
    torch.tensor(0.25).bfloat16(),
    torch.nn.Parameter(torch.tensor(0.25), False),
]
NO_NUMBERS = [
    "7",
    b"7",
    None,
    [7],
    (7,),
    {7},
    7j,
    np.complex64(7),
    np.array([7, 7]),
    np.array("7"),
    np.datetime64(7, "ns"),
    np.timedelta64(7, "ns"),
    np.ma.masked,
    torch.tensor([7, 7]),
    torch.tensor(7, device="meta"),
    torch.tensor(7j),
    torch.tensor([7.0]).to_mkldnn(),
    torch.tensor([7]).to_sparse(),
    int,
    np.array([], int),
    torch.tensor([]),
]


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_whole_numbers_are_what_has_an_index(value):
    found = whole("ignore_index", value)
    assert type(found) is int
    assert found == operator.index(value) == 7


@pytest.mark.parametrize(
    "value",
    [True, np.True_, torch.tensor(True), np.array(True), 7.0, np.float64(7), torch.tensor(7.0), Decimal(7)],
    ids=repr,
)
def test_booleans_and_real_numbers_are_not_whole(value):
    with pytest.raises(TypeError, match=r"^ignore_index must be a whole number of bytes, got "):
        _ = whole("ignore_index", value, " of bytes")


def test_whole_numbers_have_64_bits():
    for edge in (-(2**63), 2**63 - 1):
        assert whole("ignore_index", edge) == edge
    for beyond in (-(2**63) - 1, 2**63, 10**400, np.uint64(2**63), torch.tensor(2**63, dtype=torch.uint64)):
        with pytest.raises(ValueError, match=r"^ignore_index must be a number of 64 bits"):
            _ = whole("ignore_index", beyond)


@pytest.mark.parametrize("value", REAL, ids=repr)
def test_real_numbers_are_what_has_a_float(value):
    found = real("temperature", value)
    assert type(found) is float
    assert found == 0.25


@pytest.mark.parametrize("value", [x for x in WHOLE if getattr(x, "shape", ()) == ()], ids=repr)
def test_whole_numbers_are_real(value):
    assert real("temperature", value) == 7.0


def test_true_is_no_strength_and_false_is_none():
    for false in (False, np.False_, torch.tensor(False)):
        assert real("z_loss", false) == 0.0
    for true in (True, np.True_, torch.tensor(True)):
        with pytest.raises(TypeError, match=r"^z_loss must be a number, got "):
            _ = real("z_loss", true)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number_is_refused_by_name(value):
    with pytest.raises(TypeError, match=r"^ignore_index must be a whole number, got "):
        _ = whole("ignore_index", value)
    with pytest.raises(TypeError, match=r"^temperature must be a number, got "):
        _ = real("temperature", value)


def test_real_numbers_have_no_gradient_and_an_end():
    with pytest.raises(ValueError, match=r"temperature is a constant .* float\(temperature\)"):
        _ = real("temperature", torch.ones((), requires_grad=True))
    with pytest.raises(ValueError, match="temperature must be a finite number, got 1000"):
        _ = real("temperature", 10**400)


def test_switches_are_true_or_false():
    for good in (True, False, 1, 0, np.True_, np.array(False), torch.tensor(True)):
        assert switch("reduce", good) is bool(good)
    for wrong in ("mean", None, 0.5, torch.tensor(0.5), np.array([True, False])):
        with pytest.raises(TypeError, match=r"^reduce must be True or False, got "):
            _ = switch("reduce", wrong)


def test_values_are_shown_short():
    assert shown(np.zeros((2, 3))) == "ndarray of shape (2, 3) and dtype float64"
    assert shown(torch.zeros(2)) == "Tensor of shape (2,) and dtype torch.float32"
    assert shown("a" * 100_000) == "'" + "a" * 58 + "…"
