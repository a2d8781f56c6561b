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

LINE = 16
"""Numbers. A row of logits that begins on a line, an odd number of lines after the last one, is read faster by CPUs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Device:
    """What is fast on a kind of device."""

    chunk_bytes: int
    """Default memory for logits and their gradients."""
    tile_logits: int | None
    """Products gain nothing from larger tiles, and rows lose the cache."""
    tile_rows: int
    fewest_rows: int
    """With fewer rows in a chunk, two sweeps are faster than one."""
    direct_rows: int
    """A half-precision product of so few rows beats a float32 one that is rounded."""
    product_classes: int
    """Wider products are slower."""
    fresh_zeros: bool
    """Whether memory that is zeroed first is faster to write: pages are touched in a better order."""


CPU = Device(2**27, 2**21, 2048, 128, 512, 8192, True)
GPU = Device(2**29, None, 8192, 1024, 2**31, 2**31, False)


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
    """Return 128 MiB on CPUs. On GPUs 512 MiB, or the least for one sweep if that is less than a float32 weight."""
    device = costs.device
    if device is CPU:
        return device.chunk_bytes
    least = device.fewest_rows * costs.logits * costs.logit_bytes
    return max(device.chunk_bytes, least if least <= 4 * costs.logits * costs.features else 0)


def one_sweep(costs: SourceCosts, chunk_bytes: int) -> Sweep | None:
    """Return the chunks of one sweep, or None if two sweeps over tiles are the better way."""
    rows, logits, device = costs.rows, max(1, costs.logits), costs.device
    if costs.wide:
        fit = chunk_bytes // (logits * costs.logit_bytes)
        return None if fit < min(rows, device.fewest_rows) else Sweep(even(rows, fit, LINE))
    if device is CPU:
        # sums in float32 cost more than a second product, and beyond the default so does fresh memory for one chunk
        alone = rows * logits * 6 <= min(chunk_bytes, device.chunk_bytes)
        native = costs.dtype == torch.bfloat16 == costs.product_dtype
        return Sweep(max(1, rows)) if native and alone else None
    whole = 2 * rows * logits <= 4 * logits * costs.features
    fit = chunk_bytes // (logits * (4 if whole else 6))
    return None if fit < min(rows, device.fewest_rows) else Sweep(even(rows, fit, LINE), whole)


def weight_adds_up(costs: SourceCosts, sweep: Sweep) -> bool:
    """Return whether one sweep leaves the gradient of a half-precision weight in float32.

    Where one product on a GPU makes all of it, it is rounded at once: a float32 gradient would be new memory.
    """
    one_product = sweep.whole or sweep.rows >= costs.rows
    return costs.device is CPU or costs.product_dtype != costs.dtype or not one_product


def tile_shape(costs: SourceCosts, positions: int, chunk_bytes: int) -> TileShape:
    """Return the shape of a tile of two sweeps, with `positions` logits for each row and class."""
    device = costs.device
    most = chunk_bytes // costs.logit_bytes
    if device.tile_logits is not None:
        most = min(most, device.tile_logits)
    pairs = max(1, most // positions)
    rows = even(costs.rows, min(device.tile_rows, 2 * math.isqrt(pairs)), LINE)
    return TileShape(rows, even(costs.logits // positions, max(1, pairs // rows), 4 * LINE))


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
