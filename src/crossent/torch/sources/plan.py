"""How a sweep over a source of logits is cut into chunks and tiles: pure functions of what the source costs.

Half-precision logits are float32 (4 bytes each) with a gradient in half (2); others share their memory with it. N rows,
D features, V columns of logits, F operations and B bytes a second.

One sweep over chunks of n rows costs 6 N D V operations, two sweeps over tiles 8 N D V. In one sweep the gradient of a
half-precision weight has to be added up in float32, 4 V D bytes that are read and written for every chunk:
8 V D / B seconds against the 2 n D V / F that a second product of n rows costs. One sweep is faster from
n = 4 F / B rows on: about a thousand on an A100, an H100 (750 Tflop/s, 3 TB/s) or a B200, hence `fewest_rows`.

Where 2 N V ≤ 4 V D, or N ≤ 2 D, the gradients of all logits take no more memory than those float32 sums would: they are
kept (`whole`), and the gradient of the weight is one product, rounded once.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch

from crossent.torch.sources.processor import THIS, Processor

LINE = 16
"""Numbers. A row of logits that begins on a line, an odd number of lines after the last one, is read faster by CPUs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Device:
    """What is fast on a kind of device."""

    is_cpu: bool
    chunk_bytes: int
    """Default memory for logits and their gradients."""
    tile_logits: int | None
    """Products gain nothing from larger tiles, and rows lose the cache; neither does a tile of the weight have more."""
    tile_rows: int
    fewest_rows: int
    """With fewer rows in a chunk, two sweeps are faster than one."""
    direct_rows: int
    """A half-precision product of so few rows beats a float32 one that is rounded."""
    fresh_zeros: bool
    """Whether memory that is zeroed first is faster to write: pages are touched in a better order."""


def cpu_device(processor: Processor) -> Device:
    """Return what is fast on a processor (docs/decisions/0024).

    * A chunk of n rows in one sweep passes the weight and its gradient four times, 16 V D bytes. Without it a second
      product of n rows is 2 n D V operations. A core multiplies and adds two vectors a cycle, 4 operations a lane, and
      moves about 4 bytes a cycle: one sweep is faster from n = 8 lanes on.
    * A tile is written by a product, rewritten by the row functions and read by two products. It gets half of the last
      cache, because operands need the other half. Products are as fast with tiles of 2 MiB as with larger ones. Beyond
      8 MiB a tile gains nothing anywhere, and only takes memory.
    * The other numbers do not depend on the processor: `chunk_bytes` is a promise about memory, `tile_rows` the side of
      a tile, `fresh_zeros` the way in which a system hands out pages; `direct_rows` is for matrix units alone.
    """
    tile_bytes = min(max(processor.cache_bytes // 2, 2**21), 2**23)
    return Device(
        is_cpu=True,
        chunk_bytes=2**27,
        tile_logits=tile_bytes // 4,
        tile_rows=2048,
        fewest_rows=8 * processor.lanes,
        direct_rows=512,
        fresh_zeros=True,
    )


CPU = cpu_device(THIS)
GPU = Device(
    is_cpu=False,
    chunk_bytes=2**29,
    tile_logits=None,
    tile_rows=8192,
    fewest_rows=1024,
    direct_rows=2**31,
    fresh_zeros=False,
)


@dataclasses.dataclass(frozen=True, slots=True)
class SourceCosts:
    """What a source of logits costs: all that a plan depends on."""

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

    @property
    def wide(self) -> bool:
        """Whether logits have the dtype of the operands, so that gradients take the place of logits."""
        return self.dtype in (torch.float32, torch.float64)

    @property
    def narrow(self) -> bool:
        """Whether half-precision operands are multiplied as they are."""
        return not self.wide and self.product_dtype == self.dtype

    @property
    def logit_bytes(self) -> int:
        """Bytes of a logit and its gradient."""
        return self.dtype.itemsize if self.wide else 6


@dataclasses.dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep over chunks of whole rows: how many rows they have, and whether all gradients of logits are kept."""

    rows: int
    whole: bool = False


class TileShape(NamedTuple):
    """How many rows and classes a tile has."""

    rows: int
    classes: int


def default_chunk_bytes(costs: SourceCosts) -> int:
    """Return 128 MiB on CPUs. On GPUs 512 MiB, or the least for one sweep if that is less than a float32 weight.

    On CPUs with matrix units a few rows of a half-precision head get memory for all logits where these take no more
    than half of the weight (`direct`): a fourth product would make the loss slower than torch's.
    """
    device = costs.device
    if device.is_cpu:
        few = costs.narrow and costs.rows <= device.direct_rows and 4 * costs.rows <= costs.features
        return max(device.chunk_bytes, 4 * costs.rows * costs.logits if few else 0)
    least = device.fewest_rows * costs.logits * costs.logit_bytes
    return max(device.chunk_bytes, least if least <= 4 * costs.logits * costs.features else 0)


def one_sweep(costs: SourceCosts, chunk_bytes: int) -> Sweep | None:
    """Return the chunks of one sweep, or None if two sweeps over tiles are the better way.

    Half-precision heads on CPUs go in two sweeps. If all logits fit, the second reads them instead of multiplying
    again. The gradient of the weight is then rounded tile by tile, and never there in float32.
    """
    rows, logits, device = costs.rows, max(1, costs.logits), costs.device
    if costs.wide:
        fit = chunk_bytes // (logits * costs.logit_bytes)
        return None if fit < min(rows, device.fewest_rows) else Sweep(even(rows, fit, LINE))
    if device.is_cpu:
        return None
    whole = 2 * rows * logits <= 4 * logits * costs.features
    fit = chunk_bytes // (logits * (4 if whole else 6))
    return None if fit < min(rows, device.fewest_rows) else Sweep(even(rows, fit, LINE), whole)


def weight_adds_up(costs: SourceCosts, sweep: Sweep) -> bool:
    """Return whether one sweep leaves the gradient of a half-precision weight in float32.

    Where one product on a GPU makes all of it, it is rounded at once: a float32 gradient would be new memory.
    """
    one_product = sweep.whole or sweep.rows >= costs.rows
    return costs.device.is_cpu or costs.product_dtype != costs.dtype or not one_product


def tile_shape(costs: SourceCosts, positions: int, chunk_bytes: int) -> TileShape:
    """Return the shape of a tile of two sweeps, with `positions` logits for each row and class."""
    device = costs.device
    most = chunk_bytes // costs.logit_bytes
    if device.tile_logits is not None:
        most = min(most, device.tile_logits)
    pairs = max(1, most // positions)
    rows = even(costs.rows, min(device.tile_rows, 2 * math.isqrt(pairs)), LINE)
    classes = max(1, pairs // rows)
    if device.tile_logits is not None and costs.dtype != costs.product_dtype:
        # float32 copies of these classes of the weight, and their gradient before it is rounded, stay in cache too
        classes = min(classes, max(4 * LINE, device.tile_logits // max(1, costs.features * positions)))
    return TileShape(rows, even(costs.logits // positions, classes, 4 * LINE))


def direct(costs: SourceCosts) -> bool:
    """Return whether the gradients of logits that were kept are multiplied all at once, by half-precision products.

    So torch makes them for its own losses of logits. With few rows a product is bound by reading the weight.
    """
    return costs.device.is_cpu and costs.narrow and costs.rows <= costs.device.direct_rows


def even(whole: int, most: int, multiple: int) -> int:
    """Return the length of equal parts of which none is longer than `most`, a multiple if that is possible."""
    if whole <= most:
        return max(1, whole)
    part = -(-whole // -(-whole // most))
    rounded = -(-part // multiple) * multiple
    return rounded if rounded <= most else part


def padded(width: int) -> int:
    """Return how far apart rows of logits of this width should be."""
    return width if width < LINE else (-(-width // LINE) | 1) * LINE
