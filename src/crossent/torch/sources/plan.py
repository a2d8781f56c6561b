"""How a sweep over a source of logits is cut into chunks and tiles: pure functions of the costs of a source.

Half-precision logits are float32 (4 bytes each) with a gradient in half (2); others share their memory with it. N rows,
D features, V columns of logits, F operations and B bytes a second.

One sweep over chunks of n rows costs 6 N D V operations, two sweeps over tiles 8 N D V. On GPUs (docs/decisions/0026)
the memory for logits, their gradients and float32 sums is `chunk_bytes` + 4 V D bytes at most, and sweeps of
half-precision operands keep gradients of logits until one product takes them:

* N ≤ 2 D: those of all rows, 2 N V bytes in place of 4 V D of sums. The gradient of the weight is rounded once. (That
  of a small weight is float32 all the same.)
* Otherwise those of K rows, 4 n V + 2 K V bytes. Each product then reads and writes 4 V D bytes of float32 sums:
  8 N D V / K bytes in all, against the 2 N D V operations of two sweeps. This is faster from K = 4 F / B rows on.
* Or those of all rows for some of the classes, instead of sums. The logits of the other classes (`rest`) are multiplied
  again, a share of the 2 N D V operations, and the gradient of the weight is rounded once.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch

from crossent.torch.sources.processor import THIS, Processor

CHUNK_KERNELS, PRODUCT_KERNELS = 5, 11
"""Kernels that a GPU runs for a chunk of rows, and for both products of gradients: large ones and small ones."""

LINE = 16
"""Numbers. A row of logits that begins on a line, an odd number of lines after the last one, is read faster by CPUs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Device:
    """Properties of a kind of device."""

    is_cpu: bool
    chunk_bytes: int
    """Default memory for logits and their gradients."""
    tile_logits: int | None
    """Products gain nothing from larger tiles, and rows lose the cache; neither does a tile of the weight have more."""
    tile_rows: int
    row_multiple: int
    """Chunks have a multiple of so many rows, so that the tiles of their products are full."""
    fewest_rows: int
    """With fewer rows of float32 operands in a chunk, two sweeps are faster than one."""
    operations_per_byte: int
    """F / B: operations of a half-precision product in the time in which memory moves a byte."""
    start_bytes: int
    """Bytes that memory moves in the time to start a kernel after another one."""
    small_weight: int
    """A half-precision weight of at most this many numbers has a gradient in float32: its product has few output tiles,
    libraries split the sum of each, and may add the parts in the dtype of the result."""
    direct_rows: int
    """A half-precision product of at most this many rows beats a rounded float32 one."""
    fresh_zeros: bool
    """Whether memory that is zeroed first is faster to write: pages are touched in a better order."""


def cpu_device(processor: Processor) -> Device:
    """Return the properties of a processor (docs/decisions/0024).

    * A chunk of n rows in one sweep passes the weight and its gradient four times, 16 V D bytes. Without it a second
      product of n rows is 2 n D V operations. A core multiplies and adds two vectors a cycle, 4 operations a lane, and
      moves about 4 bytes a cycle: one sweep is faster from n = 8 lanes on.
    * A tile is written by a product, rewritten by the row functions and read by two products. It gets half of the last
      cache, because operands need the other half. Products are as fast with tiles of 2 MiB as with larger ones. Beyond
      8 MiB a tile gains nothing anywhere, and only takes memory.
    * The other numbers do not depend on the processor: `chunk_bytes` is a promise about memory, `tile_rows` the side of
      a tile, `fresh_zeros` the way in which a system hands out pages; `direct_rows` is for matrix units alone, and
      `operations_per_byte` and `start_bytes` for plans that CPUs never have.
    """
    tile_bytes = min(max(processor.cache_bytes // 2, 2**21), 2**23)
    return Device(
        is_cpu=True,
        chunk_bytes=2**27,
        tile_logits=tile_bytes // 4,
        tile_rows=2048,
        row_multiple=LINE,
        fewest_rows=8 * processor.lanes,
        operations_per_byte=0,
        start_bytes=0,
        small_weight=0,
        direct_rows=512,
        fresh_zeros=True,
    )


CPU = cpu_device(THIS)
GPU = Device(
    is_cpu=False,
    chunk_bytes=2**29,
    tile_logits=None,
    tile_rows=8192,
    row_multiple=128,
    fewest_rows=512,
    operations_per_byte=180,  # of an H200; 150 on an A100 or MI300X, 250 on an H100 or B200
    start_bytes=13 * 10**6,  # 3 µs at 4.3 TB/s
    small_weight=2**22,  # 128 tiles of 128 × 256, one for each multiprocessor
    direct_rows=2**31,
    fresh_zeros=False,
)


@dataclasses.dataclass(frozen=True, slots=True)
class SourceCosts:
    """Costs of a source of logits: all that a plan depends on."""

    rows: int
    """Number N of rows."""
    logits: int
    """Number V of logits in a row, over all positions."""
    features: int
    """Number D of multiplications behind a logit."""
    dtype: torch.dtype
    """Of the operands, and of the gradients of logits that are multiplied with them."""
    product_dtype: torch.dtype
    """In which operands are multiplied."""
    device: Device
    made: bool = False
    """Whether the weight is made some classes at a time, wherever they are multiplied."""

    @property
    def wide(self) -> bool:
        """Whether logits have the dtype of the operands, so that gradients take the place of logits."""
        return self.dtype in (torch.float32, torch.float64)

    @property
    def narrow(self) -> bool:
        """Whether half-precision operands are multiplied directly."""
        return not self.wide and self.product_dtype == self.dtype

    @property
    def rounds_weight(self) -> bool:
        """Whether one product on a GPU may round the gradient of the weight at once."""
        return not self.device.is_cpu and self.narrow and self.logits * self.features > self.device.small_weight

    @property
    def bytes_beside(self) -> int:
        """Bytes per class that gradients of logits may take beyond `chunk_bytes` if there are no sums."""
        return 4 * self.features if self.rounds_weight else 0

    @property
    def logit_bytes(self) -> int:
        """Bytes of a logit and its gradient."""
        return self.dtype.itemsize if self.wide else 6

    def copied_classes(self, positions: int) -> int | None:
        """Of how many classes there may be a copy of the weight in the dtype of products; None for any number.

        The copy, and the gradient before it is rounded, stay in cache. On GPUs only a weight that is made is copied in
        parts, which are as large as small weights.
        """
        tile_logits = self.device.tile_logits or (self.device.small_weight if self.made else None)
        if tile_logits is None or not (self.made or self.dtype != self.product_dtype):
            return None
        return max(4 * LINE, tile_logits // max(1, self.features * positions))


class Rest(NamedTuple):
    """The last logits of all rows, which are multiplied again after the sweep, and how many columns at once."""

    logits: int
    at_once: int


@dataclasses.dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep over chunks of whole rows: how many rows they have, and how many rows one product takes."""

    rows: int
    kept: int = 0
    """Half-precision gradients of logits are kept for so many rows, a multiple of a chunk's or all, and multiplied at
    once; 0 if each chunk has products of its own."""
    rest: Rest | None = None
    """Classes whose gradients are not kept."""


class TileShape(NamedTuple):
    """How many rows and classes a tile has."""

    rows: int
    classes: int


def default_chunk_bytes(costs: SourceCosts) -> int:
    """Return 512 MiB on GPUs and 128 MiB on CPUs.

    On CPUs with matrix units a few rows of a half-precision head get memory for all logits where these take no more
    than half of the weight (`direct`): a fourth product would make the loss slower than torch's.
    """
    device = costs.device
    few = direct(costs) and 4 * costs.rows <= costs.features
    return max(device.chunk_bytes, 4 * costs.rows * costs.logits if few else 0)


def one_sweep(costs: SourceCosts, chunk_bytes: int) -> Sweep | None:
    """Return the chunks of one sweep, or None if two sweeps over tiles are the better way.

    Half-precision heads on CPUs go in two sweeps. If all logits fit, the second reads them instead of multiplying
    again. The gradient of the weight is then rounded tile by tile, and never there in float32.
    """
    rows, device = costs.rows, costs.device
    class_bytes = chunk_bytes // max(1, costs.logits)
    if costs.wide:
        fit = class_bytes // costs.logit_bytes
        return None if fit < min(rows, device.fewest_rows) else Sweep(even(rows, fit, device.row_multiple))
    if device.is_cpu:
        return None
    if not costs.narrow:
        fit = class_bytes // costs.logit_bytes
        return None if fit < min(rows, device.fewest_rows) else Sweep(even(rows, fit, device.row_multiple))
    if 2 * rows <= costs.bytes_beside:
        fit = class_bytes // 4
        return None if fit < min(rows, device.row_multiple) else Sweep(even(rows, fit, device.row_multiple), rows)
    return Sweep(max(1, rows), rows) if costs.logit_bytes * rows <= class_bytes else _fastest(costs, chunk_bytes)


class _Choice(NamedTuple):
    """A sweep, and its time beyond three products as if they were made at once: in bytes for each class."""

    time: int
    sweep: Sweep


def _fastest(costs: SourceCosts, chunk_bytes: int) -> Sweep | None:
    """Return the fastest sweep of a half-precision head on a GPU, None if two sweeps are faster.

    Times are counted in the bytes that memory moves meanwhile, for each class. Two sweeps make one product more.
    """
    step = costs.device.row_multiple
    tiles = -(-costs.rows * costs.logits * costs.logit_bytes // chunk_bytes)
    least, best = _product(costs) + _starts(costs, tiles * (2 * CHUNK_KERNELS + PRODUCT_KERNELS)), None
    class_bytes = chunk_bytes // costs.logits
    for chunk in range(step, 8 * step + 1, step):
        if chunk > min(costs.rows, class_bytes // 4):
            break
        for choice in (_keeping_rows(costs, class_bytes, chunk), _keeping_classes(costs, class_bytes, chunk)):
            if choice is not None and choice.time <= least:
                least, best = choice
    return best


def _product(costs: SourceCosts) -> int:
    return 2 * costs.rows * costs.features // costs.device.operations_per_byte


def _starts(costs: SourceCosts, kernels: int) -> int:
    """Return the time to start this many kernels."""
    return kernels * costs.device.start_bytes // costs.logits


def _of_chunks(costs: SourceCosts, chunk: int) -> int:
    """Return how much longer chunks of logits take to read the weight and to write logits than to be multiplied."""
    moved = 2 * costs.features * costs.rows // chunk + 4 * costs.rows
    return max(0, moved - _product(costs)) + _starts(costs, CHUNK_KERNELS * -(-costs.rows // chunk))


def _keeping_rows(costs: SourceCosts, class_bytes: int, chunk: int) -> _Choice | None:
    """Keep the gradients of a few chunks; each product of theirs reads and writes float32 sums."""
    rows, D = costs.rows, costs.features
    number = (class_bytes - 4 * chunk) // (2 * chunk)
    if number < 1:
        return None
    groups = -(-rows // (number * chunk))
    rounded = groups == 1 and costs.rounds_weight
    sums = 0 if rounded else 4 * D * (2 * groups - 1) + 6 * D  # written, then read and written; rounded at the end
    kept = rows if groups == 1 else chunk * -(-rows // (groups * chunk))
    return _Choice(_of_chunks(costs, chunk) + sums + _starts(costs, PRODUCT_KERNELS * groups), Sweep(chunk, kept))


def _keeping_classes(costs: SourceCosts, class_bytes: int, chunk: int) -> _Choice | None:
    """Keep the gradients of all rows for some classes, and make the logits of the others twice."""
    rows, D, V, step = costs.rows, costs.features, costs.logits, costs.device.row_multiple
    kept = (class_bytes + costs.bytes_beside - 4 * chunk) * V // (2 * rows) // step * step
    at_once = class_bytes * V // (costs.logit_bytes * rows) // step * step
    if kept >= V:
        return _Choice(_of_chunks(costs, chunk) + _starts(costs, PRODUCT_KERNELS), Sweep(chunk, rows))
    if kept <= 0 or at_once < step or not costs.rounds_weight:
        return None
    rest = Rest(V - kept, min(at_once, V - kept))
    tiles = -(-rest.logits // rest.at_once)
    sums = 8 * rows * D * tiles // V  # of the gradient of the input
    starts = _starts(costs, PRODUCT_KERNELS + (CHUNK_KERNELS + PRODUCT_KERNELS) * tiles)
    time = _of_chunks(costs, chunk) + _product(costs) * rest.logits // V + sums + starts
    return _Choice(time, Sweep(chunk, rows, rest))


def weight_adds_up(costs: SourceCosts, sweep: Sweep) -> bool:
    """Return whether one sweep leaves the gradient of a half-precision weight in float32.

    Where one product on a GPU makes all of it, it is rounded at once: a float32 gradient would be new memory.
    """
    one_product = max(sweep.kept, sweep.rows) >= costs.rows  # for each class
    return not (one_product and costs.rounds_weight)


def tile_shape(costs: SourceCosts, positions: int, chunk_bytes: int) -> TileShape:
    """Return the shape of a tile of two sweeps, with `positions` logits for each row and class."""
    device = costs.device
    most = chunk_bytes // costs.logit_bytes
    if device.tile_logits is not None:
        most = min(most, device.tile_logits)
    pairs = max(1, most // positions)
    rows = even(costs.rows, min(device.tile_rows, 2 * math.isqrt(pairs)), device.row_multiple)
    classes = max(1, pairs // rows)
    classes = min(classes, costs.copied_classes(positions) or classes)
    return TileShape(rows, even(costs.logits // positions, classes, max(4 * LINE, device.row_multiple)))


def pair_rows(student: SourceCosts, teacher: SourceCosts, chunk_bytes: int, *, spare: bool) -> int:
    """Return how many whole rows of two heads' logits there are at a time; with `spare` a second tile of the student's.

    It is one row at least.
    """
    row_bytes = student.logits * student.logit_bytes * (1 + spare) + teacher.logits * teacher.logit_bytes
    most = max(1, chunk_bytes // max(1, row_bytes))
    return even(student.rows, most, student.device.row_multiple)


def pair_sweep(student: SourceCosts, teacher: SourceCosts, rows: int, *, teacher_learns: bool) -> bool:
    """Return whether chunks of so many whole rows of two heads are large enough for one sweep.

    As in `one_sweep`, gradients of half-precision weights on CPUs are better finished tile by tile; on GPUs each
    product of a chunk reads and writes float32 sums.
    """
    for costs, learns in ((student, True), (teacher, teacher_learns)):
        device = costs.device
        if costs.wide or not learns:
            fewest = device.fewest_rows
        elif device.is_cpu:
            return False
        else:
            fewest = max(device.fewest_rows, 4 * device.operations_per_byte)
        if rows < min(costs.rows, fewest):
            return False
    return True


def direct(costs: SourceCosts) -> bool:
    """Return whether the gradients of logits that were kept are multiplied all at once, by half-precision products.

    So torch makes them for its own losses of logits. With few rows a product is bound by reading the weight.
    """
    return costs.device.is_cpu and costs.narrow and costs.rows <= costs.device.direct_rows


def even(whole: int, most: int, multiple: int) -> int:
    """Return the length of equal parts, each at most `most` and a multiple if possible."""
    if whole <= most:
        return max(1, whole)
    part = -(-whole // -(-whole // most))
    rounded = -(-part // multiple) * multiple
    return rounded if rounded <= most else part


def padded(width: int) -> int:
    """Return how far apart rows of logits of this width should be."""
    return width if width < LINE else (-(-width // LINE) | 1) * LINE
