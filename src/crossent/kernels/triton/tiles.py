"""Tiles of rows in Triton: where they lie, their scores and their target.

A program works on a tile [R, M, U]: R rows, M lanes of each row, U neighbouring columns of each lane. A lane keeps
statistics of its own, relative to a peak of its own, so that nothing crosses lanes before the row is read.

Where columns are contiguous (WIDE), lanes begin at addresses that are multiples of U elements, so that U columns are
one access whatever the length of the row: `phase` is how far the row begins after such an address, groups of U columns
that lie inside the row are read at once, and those at its two edges one by one. No address outside a row is touched.

Inside, scores have the unit of the logits: x = temperature · s, or x = s under a softcap; s = rate · x.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.language.extra import libdevice

# Flags: which of the optional arrays are there; any array of the same type stands in for an absent one.
HAS_LOSS, HAS_LSE, HAS_ENTROPY, HAS_SQUARE, HAS_WEIGHT, HAS_PROB, HAS_RECORD, HAS_GATHERED = (1 << k for k in range(8))

_WEIGHT, _PROB = tl.constexpr(HAS_WEIGHT), tl.constexpr(HAS_PROB)


class Matrix(NamedTuple):
    """An array of rows and columns in batches: column c of row r of batch b is data[b · batch + r · row + c · col]."""

    data: Any
    batch: int
    row: int
    col: int


class Named(NamedTuple):
    """Classes that an index target names, with their probabilities: number k of row i is label[i · row + k · col]."""

    label: Any
    row: int
    col: int
    prob: Any
    prob_row: int
    prob_col: int


class Classes(NamedTuple):
    """The columns at hand, where they begin among how many classes, which is ignored, and how many a target names."""

    columns: int
    first: int
    number: int
    ignored: int
    picks: int


# Where a tile is ---------------------------------------------------------------------------------------------------


@triton.jit
def place_of(rows, R: tl.constexpr):
    """Return the batch of this program, its rows, and which of them exist."""
    block, blocks = tl.program_id(0), ((rows + R - 1) // R).to(tl.int32)
    row = (block % blocks).to(tl.int64) * R + tl.arange(0, R)
    return (block // blocks).to(tl.int64), row, row < rows


@triton.jit
def origin_of(m, batch, row):
    """Return where each row begins, in elements."""
    return batch * m.batch + row * m.row


@triton.jit
def phase_of(origin, U: tl.constexpr, WIDE: tl.constexpr):
    """Return how far each row begins after a multiple of U elements; 0 if not WIDE."""
    return (origin % (U if WIDE else 1)).to(tl.int32)


@triton.jit
def tile_places(at, phase, columns, M: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr):
    """Return the places of a tile [1, M, U] that begins at `at`, and which of them are columns not at an edge.

    A place is where a column would be if `phase` were 0.
    """
    group = at + (tl.arange(0, M) * U)[None, :, None]
    place = group + tl.arange(0, U)[None, None, :]
    return place, are_inside(group, place, phase, columns, U, WIDE)


@triton.jit
def are_inside(group, place, phase, columns, U: tl.constexpr, WIDE: tl.constexpr):
    """Return which places are columns of the row and not at an edge of it; the same for U neighbours if WIDE."""
    if WIDE:
        return (group >= phase[:, None, None]) & (group + U <= columns + phase[:, None, None])
    else:
        return place < columns + phase[:, None, None]


@triton.jit
def edge_places(phase, columns, U: tl.constexpr):
    """Return the places before the first whole group and after the last as a tile [R, 1, 2U], and which there are."""
    k, head = tl.arange(0, 2 * U)[None, None, :], ((U - phase) % U)[:, None, None]
    column = tl.where(k < U, k, columns - (columns - head) % U + k - U)
    return column + phase[:, None, None], ((k < U) & (k < head)) | ((k >= U) & (column < columns))


@triton.jit
def address(m, origin, phase, place, U: tl.constexpr, WIDE: tl.constexpr):
    """Return the addresses of places of each row."""
    if WIDE:  # a multiple of U, and the distance from there
        return m.data + (tl.multiple_of(origin - phase, U)[:, None, None] + place)
    else:
        return m.data + (origin[:, None, None] + (place - phase[:, None, None]).to(tl.int64) * m.col)


# Scores and targets ------------------------------------------------------------------------------------------------


@triton.jit
def scored(z, unit, cap, CAPPED: tl.constexpr):
    """Return x, and the slope ds/dz."""
    if CAPPED:
        y = z * (unit / cap)
        u = tl.exp(-2.0 * tl.abs(y))
        return cap * libdevice.tanh(y), 4.0 * u / ((1.0 + u) * (1.0 + u)) * unit
    else:
        return z, unit


@triton.jit
def read_scores(
    m, origin, phase, place, live, unit, cap,
    T: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    """Return x, −inf where a column is not live, and the slope."""
    z = tl.load(address(m, origin, phase, place, U, WIDE), mask=live, other=float("-inf")).to(T)
    x, slope = scored(z, unit, cap, CAPPED)
    if CAPPED:
        x = tl.where(live, x, float("-inf"))
    return x, slope


@triton.jit
def _probability(prob):
    return tl.where((prob >= 0) & (prob < float("inf")), prob, float("nan"))


@triton.jit
def read_measure(
    m, origin, phase, place, live, weight, flags, keep, spread,
    T: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr, DENSE: tl.constexpr,
):  # fmt: skip
    """Return the target measure but for the classes that an index target names."""
    q = spread
    if DENSE:
        prob = tl.load(address(m, origin, phase, place, U, WIDE), mask=live, other=0.0)
        q = keep * _probability(prob.to(T)) + spread
    w = tl.load(weight + (place - phase[:, None, None]), mask=live & (flags & _WEIGHT != 0), other=1.0).to(T)
    return tl.where(live, w * q, 0.0)


@triton.jit
def is_ignored(named, classes, number, valid):
    """Return which rows have the ignored class."""
    return valid & (tl.load(named.label + number * named.row, mask=valid, other=0).to(tl.int64) == classes.ignored)


@triton.jit
def named_class(named, classes, number, k, there, weight, flags, keep):
    """Return the column of a class that a target names, whether it is one of these, and its measure in float64.

    A class that does not exist, or a number that is no probability, makes the measure NaN; nothing is read for it.
    """
    label = tl.load(named.label + number * named.row + k * named.col, mask=there, other=0).to(tl.int64)
    exists = (label >= 0) & (label < classes.number)
    here = there & exists & (label >= classes.first) & (label - classes.first < classes.columns)
    column = tl.where(here, label - classes.first, 0)
    given = there & (flags & _PROB != 0)
    prob = tl.load(named.prob + number * named.prob_row + k * named.prob_col, mask=given, other=1.0)
    prob = _probability(prob.to(tl.float64))
    w = tl.load(weight + column, mask=here & (flags & _WEIGHT != 0), other=1.0).to(tl.float64)
    wrong = there & (((label != classes.ignored) & (exists == 0)) | (prob != prob))
    return column, here, tl.where(wrong, float("nan"), tl.where(here, keep * w * prob, 0.0))
