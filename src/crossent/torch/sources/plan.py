"""How the linear loss is cut into chunks and tiles: pure functions of shapes, dtypes and the kind of device.

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

import torch
from torch import Tensor

from crossent.torch.sources.products import operand_dtype

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


_CPU = Device(2**27, 2**21, 2048, 128, 512, 8192, True)
_GPU = Device(2**29, None, 8192, 1024, 2**31, 2**31, False)


@dataclasses.dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep over chunks of whole rows: how many rows they have, and whether all gradients of logits are kept."""

    rows: int
    whole: bool = False


def device_of(x: Tensor) -> Device:
    """Return what is fast where a tensor is."""
    return _CPU if x.is_cpu or x.is_meta else _GPU


def default_chunk_bytes(input: Tensor, weight: Tensor) -> int:
    """Return 128 MiB on CPUs. On GPUs 512 MiB, or the least for one sweep if that is less than a float32 weight."""
    device = device_of(input)
    if device is _CPU:
        return device.chunk_bytes
    V, D = weight.shape[0], weight.shape[-1]
    least = device.fewest_rows * V * _logit_bytes(input.dtype)
    return max(device.chunk_bytes, least if least <= 4 * V * D else 0)


def one_sweep(input: Tensor, weight: Tensor, chunk_bytes: int) -> Sweep | None:
    """Return the chunks of one sweep, or None if two sweeps over tiles are the better way."""
    rows, V, D = input.shape[0], max(1, weight.shape[0]), weight.shape[-1]
    device = device_of(input)
    if input.dtype in (torch.float32, torch.float64):
        fit = chunk_bytes // (V * input.element_size())
        return None if fit < min(rows, device.fewest_rows) else Sweep(even(rows, fit, LINE))
    if device is _CPU:
        # sums in float32 cost more than a second product, and beyond the default so does fresh memory for one chunk
        alone = rows * V * 6 <= min(chunk_bytes, device.chunk_bytes)
        native = input.dtype == torch.bfloat16 == operand_dtype(input.dtype)
        return Sweep(max(1, rows)) if native and alone else None
    whole = 2 * rows * V <= 4 * V * D
    fit = chunk_bytes // (V * (4 if whole else 6))
    return None if fit < min(rows, device.fewest_rows) else Sweep(even(rows, fit, LINE), whole)


def tile_shape(input: Tensor, rows: int, classes: int, positions: int, chunk_bytes: int) -> tuple[int, int]:
    """Return how many rows and classes a tile of two sweeps has, with so many logits for each pair of them."""
    device = device_of(input)
    most = chunk_bytes // _logit_bytes(input.dtype)
    if device.tile_logits is not None:
        most = min(most, device.tile_logits)
    logits = max(1, most // positions)
    n = even(rows, min(device.tile_rows, 2 * math.isqrt(logits)), LINE)
    return n, even(classes, max(1, logits // n), 4 * LINE)


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


def _logit_bytes(dtype: torch.dtype) -> int:
    return 8 if dtype == torch.float64 else 4 if dtype == torch.float32 else 6
