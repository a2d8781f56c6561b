"""Logits to scores in Triton: the temperature, of all rows or of each, and the softcap.

Inside, scores have the unit of the logits: x = temperature · s, or x = s under a softcap; s = rate · x. A row whose own
temperature is out of range has the temperature NaN, and with it every result of the row is NaN.
"""

# No `from __future__ import annotations`: Triton reads the annotation "i64" as the type of an argument.

from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.language.extra import libdevice

from crossent.kernels.triton.lanes import LOG2E
from crossent.spec import LARGEST_SCALE, LEAST_SCALE

# Flags beside those of `tiles`: whether there is a softcap, for kernels that are not compiled for one, and whether each
# row has a temperature, for which none is compiled.
HAS_CAP, HAS_TEMPERATURES = 1 << 10, 1 << 11
_CAP, _TEMPERATURES = tl.constexpr(HAS_CAP), tl.constexpr(HAS_TEMPERATURES)

_LEAST, _LARGEST = tl.constexpr(LEAST_SCALE), tl.constexpr(LARGEST_SCALE)
# tanh y / y − 1 for |y| < _NEAR, coefficients of y², y⁴ and y⁶ from tools/make_coefficients.py
_NEAR, _TANH_3, _TANH_5, _TANH_7 = (tl.constexpr(x) for x in (0.3, -0.3333328613, 0.1332387352, -0.05113267622))


class Temperature(NamedTuple):
    """1 / temperature and temperature of all rows, in float64; those of each row are in `own`, (N, 2), if there are."""

    own: Any
    unit: Any
    of_all: Any
    flags: Any


class Phi(NamedTuple):
    """Logits to x, and x to scores, of each row, (R,): two scores are rate · (x − x') apart, and a score is scale · x.

    All are in the dtype of the computation but `scale` and `temperature`, which are in float64; `cap` is of all rows.
    `capped` is whether there is a softcap, in kernels compiled for one; None if there is.
    """

    unit: Any
    cap: Any
    rate: Any
    scale: Any
    temperature: Any
    capped: Any


@triton.jit(do_not_specialize=["number", "step"], do_not_specialize_on_alignment=["given", "own"])
def own_temperatures(given, own, number: "i64", step: "i64", B: tl.constexpr):
    """Write 1 / temperature and temperature of each row next to each other, NaN where the temperature is out of range.

    A program has B rows. The division is here because in float64 it is a function call.
    """
    row = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    there = row < number
    T = tl.load(given + row * step, mask=there, other=1.0)
    T = tl.where((T >= _LEAST) & (T <= _LARGEST), T, float("nan"))
    tl.store(own + 2 * row, 1.0 / T, mask=there)
    tl.store(own + 2 * row + 1, T, mask=there)


@triton.jit
def phi_of(temperature, cap, number, wanted, T: tl.constexpr, CAPPED: tl.constexpr):
    """Return phi of rows for their temperature and a softcap in float64; rows that are not wanted may have any."""
    at, here = temperature.own + 2 * number, wanted & (temperature.flags & _TEMPERATURES != 0)
    exact = tl.load(at, mask=here, other=temperature.unit)
    of_row = tl.load(at + 1, mask=here, other=temperature.of_all)
    unit = exact.to(T)
    if CAPPED:
        rate, scale = tl.full(unit.shape, opaque_one(cap.to(T)), T), tl.full(unit.shape, 1.0, tl.float64)
        return Phi(unit, cap.to(T), rate, scale, of_row, None)
    else:
        return Phi(unit, cap.to(T), unit, exact, of_row, None)


@triton.jit
def phi_by_flag(temperature, cap, number, wanted, T: tl.constexpr, CAPPED: tl.constexpr):
    """Return phi of rows where a flag selects the softcap that a kernel is compiled for.

    The temperature is that of x: 1 under the softcap.
    """
    phi = phi_of(temperature, cap, number, wanted, T, False)
    if CAPPED:
        capped = temperature.flags & _CAP != 0
        rate = tl.where(capped, opaque_one(phi.cap), phi.rate)
        scale, of_x = tl.where(capped, 1.0, phi.scale), tl.where(capped, 1.0, phi.temperature)
        return Phi(phi.unit, phi.cap, rate, scale, of_x, capped)
    else:
        return phi


@triton.jit
def finite_where(wanted, phi, CAPPED: tl.constexpr):
    """Return phi that turns a tile of −inf into 0 in unwanted rows, for any temperature."""
    unit = tl.where(wanted, phi.unit, 1.0)
    return Phi(unit, phi.cap, phi.rate if CAPPED else unit, phi.scale, phi.temperature, phi.capped)


@triton.jit
def as_column(phi):
    """Return phi as columns [R, 1]."""
    return Phi(
        phi.unit[:, None], phi.cap, phi.rate[:, None], phi.scale[:, None], phi.temperature[:, None], phi.capped
    )  # fmt: skip


@triton.jit
def as_tile(phi):
    """Return phi as tiles [R, 1, 1]."""
    return as_column(as_column(phi))


@triton.jit
def opaque_one(x):
    """Return 1 in the dtype of x, hidden from the compiler's optimizer: with the constant, AMD's spills."""
    return x * 0.0 + 1.0


@triton.jit
def scored(z, phi, live, CAPPED: tl.constexpr):
    """Return x, −inf where it is not live, and the slope ds/dz; without a softcap z is −inf there already.

    tanh y = ±(1 − u) / (1 + u) with u = e^(−2|y|), but near 0, where 1 − u has no digits: there it is y times a
    polynomial of y². Its derivative is 4 u / (1 + u)².
    """
    if CAPPED:
        y = z * (phi.unit / phi.cap)
        size = tl.abs(y)
        u = tl.exp2(size * (-2.0 * LOG2E))
        inverse = inverse_of(1.0 + u)
        slope = ((4.0 * phi.unit) * u) * (inverse * inverse)
        nowhere = tl.where(live, 0.0, float("-inf"))
        if z.dtype == tl.float64:
            x = phi.cap * libdevice.tanh(y) + nowhere
        else:
            square, unit = y * y, phi.unit
            near = z * (unit + square * (unit * _TANH_3 + square * (unit * _TANH_5 + square * (unit * _TANH_7))))
            far = with_sign_of(phi.cap - phi.cap * u, z) * inverse + nowhere
            x = tl.where(size < _NEAR, near, far)
        if phi.capped is None:
            return x, slope
        else:
            return tl.where(phi.capped, x, z), tl.where(phi.capped, slope, phi.unit)
    else:
        return z, phi.unit


@triton.jit
def inverse_of(x):
    """Return 1 / x for 1 ≤ x < 2¹²⁶."""
    if x.dtype == tl.float64:
        return 1.0 / x
    else:
        return libdevice.fast_dividef(1.0, x)  # one instruction, where a division has ten


@triton.jit
def with_sign_of(size, x):
    """Return a number ≥ 0 with the sign of another."""
    if x.dtype == tl.float64:
        return tl.where(x < 0, -size, size)
    else:
        sign = x.to(tl.int32, bitcast=True) & -2147483648
        return (size.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)
