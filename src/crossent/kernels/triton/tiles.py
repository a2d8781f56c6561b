"""Tiles of rows in Triton: where they lie, their logits and their target.

A program works on a tile [R, M, U]: R rows, M lanes of each row, U neighbouring columns of each lane. A lane keeps
statistics of its own, relative to a peak of its own, so that nothing crosses lanes before the row is read.

Where columns are contiguous (WIDE), lanes begin at addresses that are multiples of U elements, so that U columns are
one access for rows of any length: `phase` is how far the row begins after such an address, groups of U columns that lie
inside the row are read at once, and those at its two edges one by one. No address outside a row is touched.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from crossent.kernels.triton.scores import as_tile, scored

# Flags: which of the optional arrays are there; any array of the same type stands in for an absent one.
HAS_LOSS, HAS_LSE, HAS_ENTROPY, HAS_SQUARE, HAS_WEIGHT, HAS_RECORD, HAS_GATHERED = (1 << k for k in range(7))
# And for parts of rows, besides their sums, and whether sums of losses are needed.
HAS_MEASURE, HAS_TILT, HAS_SUMS = (1 << k for k in range(7, 10))
_WEIGHT = tl.constexpr(HAS_WEIGHT)


# Arguments of the kernels come one by one, because Triton compiles a kernel again for every number in a tuple that is 1
# or a multiple of 16, and for every array in one that is aligned, even with do_not_specialize. Kernels make the
# tuples below of them.

NUMBERS = [
    "z_batch", "z_row", "z_col", "p_batch", "p_row", "p_col", "columns", "first", "number", "ignored", "picks",
    "rows", "all_rows", "batch_step", "row_step", "loss_step", "lse_step", "entropy_step", "square_step",
    "to_batch", "to_row", "to_col", "flags", "span", "record_step",
]  # fmt: skip
"""Names of numbers that no kernel is specialised for."""


class Strides(NamedTuple):
    """Where an array has its numbers: column c of row r of batch b is b · batch + r · row + c · col elements on."""

    batch: int
    row: int
    col: int


class Rows(NamedTuple):
    """The rows: how many a batch has and how many there are, how far apart batches and rows are in arrays (N,)."""

    number: int
    all: int
    batch: int
    step: int


class Classes(NamedTuple):
    """The columns at hand: how many, the class of the first, the number of all classes, which class is ignored.

    `picks` is how many classes a target names for each row.
    """

    columns: int
    first: int
    number: int
    ignored: int
    picks: int


class Matrix(NamedTuple):
    """An array of rows and columns in batches."""

    data: Any
    batch: Any
    row: Any
    col: Any


class Logits(NamedTuple):
    """The logits as a matrix, and the bias (V,) that is added where they are read, None if there is none.

    `grouped` is whether rows begin at multiples of U elements, so that U numbers of the bias are one access too.
    """

    data: Any
    batch: Any
    row: Any
    col: Any
    bias: Any
    grouped: Any


class Named(NamedTuple):
    """The classes that a target names, and their probabilities: those of a row, and of rows, are next to each other."""

    label: Any
    prob: Any


class Measure(NamedTuple):
    """The target measure p_v = weight_v (keep · base_v + spread): its arrays, which of them are there, its numbers."""

    prob: Any
    named: Any
    classes: Any
    weight: Any
    flags: Any
    keep: Any
    spread: Any


class Block(NamedTuple):
    """The rows of a program, vectors (R,): where they lie, which exist, are ignored, or are wanted (neither).

    `number` counts rows in arrays (N,), `row` those of a batch; `origin` and `prob_origin` are where a row begins in
    the logits and in a dense target, in elements.
    """

    batch: Any
    row: Any
    number: Any
    exists: Any
    ignored: Any
    wanted: Any
    origin: Any
    prob_origin: Any
    phase: Any


@triton.jit
def block_of(
    logits, measure, rows, R: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr, DENSE: tl.constexpr,
    BATCHED: tl.constexpr,
):  # fmt: skip
    """Return the rows of this program."""
    batch, row, number, exists = place_of(rows, R, BATCHED)
    origin = origin_of(logits, batch, row)
    ignored = nowhere(exists) if DENSE else is_ignored(measure.named, measure.classes, number, exists)
    prob_origin = origin_of(measure.prob, batch, row) if DENSE else origin
    phase = phase_of(origin, U, WIDE)
    wanted = exists & (ignored == 0)
    return Block(batch, row, number, exists, ignored, wanted, origin, prob_origin, phase)


@triton.jit
def nowhere(mask):
    """Return a mask of this shape that is false everywhere."""
    return mask & (mask == 0)


# Where a tile is


@triton.jit
def place_of(rows, R: tl.constexpr, BATCHED: tl.constexpr):
    """Return the batch of this program, its rows, their numbers in arrays (N,), and which of them exist.

    Unless BATCHED there is one batch.
    """
    block = tl.program_id(0)
    batch = block.to(tl.int64) * 0
    if BATCHED and rows.number < rows.all:  # a division that most calls do without
        blocks = ((rows.number + R - 1) // R).to(tl.int32)
        batch = (block // blocks).to(tl.int64)
        block = block % blocks
    row = block.to(tl.int64) * R + tl.arange(0, R)
    number = row
    if BATCHED:
        number = batch * rows.batch + row * rows.step
    return batch, row, number, row < rows.number


@triton.jit
def origin_of(m, batch, row):
    """Return where each row begins, in elements."""
    return batch * m.batch + row * m.row


@triton.jit
def phase_of(origin, U: tl.constexpr, WIDE: tl.constexpr):
    """Return how far each row begins after a multiple of U elements; 0 if not WIDE."""
    return (origin & (U - 1 if WIDE else 0)).to(tl.int32)  # no division, however long the number


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
def edge_places(first, phase, columns, M: tl.constexpr, U: tl.constexpr):
    """Return the 2 U places before the first whole group and after the last, from `first` on, and which there are.

    They lie one in a lane, [R, M, 1].
    """
    k, head = first + tl.arange(0, M)[None, :, None], ((U - phase) & (U - 1))[:, None, None]
    column = tl.where(k < U, k, columns - ((columns - head) & (U - 1)) + k - U)
    return column + phase[:, None, None], ((k < U) & (k < head)) | ((k >= U) & (k < 2 * U) & (column < columns))


@triton.jit
def address(m, origin, phase, place, U: tl.constexpr, WIDE: tl.constexpr):
    """Return the addresses of places of each row."""
    if WIDE:  # a multiple of U, and the distance from there
        return m.data + (tl.multiple_of(origin - phase, U)[:, None, None] + place)
    else:
        return m.data + (origin[:, None, None] + (place - phase[:, None, None]).to(tl.int64) * m.col)


# Scores and target of a tile


@triton.jit
def read_tile(
    logits, phi, measure, block, place, live, T: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr,
    CAPPED: tl.constexpr, MEASURED: tl.constexpr, DENSE: tl.constexpr,
):  # fmt: skip
    """Return x, ds/dz and the target measure p at places of each row; x = −inf and p = 0 where a place is not live.

    p leaves out the classes that an index target names; unless MEASURED there is nothing else, and p is not to be used.
    """
    z = read_logits(logits, block.origin, block.phase, place, live, T, U, WIDE)
    x, slope = scored(z, as_tile(phi), live, CAPPED)
    if MEASURED:
        return x, slope, read_measure(measure, block, place, live, T, U, WIDE, DENSE)
    else:
        return x, slope, x


@triton.jit
def read_logits(logits, origin, phase, place, live, T: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr):
    """Return the logits at places of each row with their bias, −inf where a place is not live."""
    z = tl.load(address(logits, origin, phase, place, U, WIDE), mask=live, other=float("-inf")).to(T)
    if WIDE and logits.grouped:  # two returns would be compiled to narrow loads
        z = biased(z, logits, place, live)
    else:
        z = biased(z, logits, place - phase[:, None, None], live)
    return z


@triton.jit
def biased(z, logits, column, here):
    """Return logits z with the bias of their columns added."""
    if logits.bias is None:
        return z
    else:
        return z + tl.load(logits.bias + column, mask=here, other=0.0).to(z.dtype)


@triton.jit
def _probability(prob):
    """Return the probability, NaN if it is none."""
    return tl.where((prob >= 0) & (prob < float("inf")), prob, float("nan"))


@triton.jit
def read_measure(
    measure, block, place, live, T: tl.constexpr, U: tl.constexpr, WIDE: tl.constexpr, DENSE: tl.constexpr
):
    """Return the target measure without the classes that an index target names."""
    p, there = measure.spread.to(T), live & (measure.flags & _WEIGHT != 0)
    if DENSE:
        where = address(measure.prob, block.prob_origin, block.phase, place, U, WIDE)
        prob = tl.load(where, mask=live, other=0.0)
        p = measure.keep.to(T) * _probability(prob.to(T)) + p
    else:  # where nothing is spread, a weight may be infinite
        there = there & (measure.spread != 0)
    w = tl.load(measure.weight + (place - block.phase[:, None, None]), mask=there, other=1.0).to(T)
    return tl.where(live, w * p, 0.0)


# The classes that an index target names


@triton.jit
def is_ignored(named, classes, number, exists):
    """Return which rows have the ignored class."""
    there = exists & (classes.picks == 1)
    return there & (tl.load(named.label + number, mask=there, other=0).to(tl.int64) == classes.ignored)


@triton.jit
def named_class(measure, number, k, there, K: tl.constexpr):
    """Return the column of a class that a target names, whether it is one of these, and its measure in float64.

    A class that does not exist, unless its probability is 0, or a number that is not a probability, makes the measure
    NaN; nothing is read for it.
    """
    named, classes = measure.named, measure.classes
    at = number * (1 if K == 1 else classes.picks) + k
    label = tl.load(named.label + at, mask=there, other=0).to(tl.int64)
    local = label - classes.first
    if K == 1:  # one comparison for two: without a sign, a negative number is beyond all classes
        exists = label.to(tl.uint64) < classes.number.to(tl.uint64)
        here = there & exists & (local.to(tl.uint64) < classes.columns.to(tl.uint64))
    else:  # which spills registers here
        exists = (label >= 0) & (label < classes.number)
        here = there & exists & (local >= 0) & (local < classes.columns)
    column = tl.where(here, local, 0)
    p, wrong = measure.keep * weight_at(measure, column, here), there & (label != classes.ignored) & (exists == 0)
    if K != 1:
        prob = tl.load(named.prob + at, mask=there, other=1.0)
        prob = _probability(prob.to(tl.float64))
        wrong = (wrong & (prob != 0)) | (there & (prob != prob))
        p *= prob
    return column, here, tl.where(wrong, float("nan"), tl.where(here, p, 0.0))


@triton.jit
def weight_at(measure, column, here):
    """Return the class weight of columns in float64, 1 where there is none."""
    return tl.load(measure.weight + column, mask=here & (measure.flags & _WEIGHT != 0), other=1.0).to(tl.float64)


@triton.jit
def row_weight(measure, number, wanted, K: tl.constexpr):
    """Return the weights of rows in a mean, in float64: the class weight of the target class, or 1."""
    weight = tl.where(wanted, 1.0, 0.0).to(tl.float64)
    if K == 1:
        column, here, _ = named_class(measure, number, 0, wanted, K)
        weight = tl.where(here, weight_at(measure, column, here), weight)
    return weight
