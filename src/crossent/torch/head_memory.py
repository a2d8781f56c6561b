"""The memory that a training step takes for a head: with all logits, as torch's own loss has them, and with crossent.

It counts the logits of N rows and V classes, tensors derived from them, and the gradients of the head and of its D
inputs; the parameters and the rest of the model are not. All numbers are for the mean of a loss, at the phase of the
step with the most memory. e is the size of a number in the dtype of the operands, w that of the loss: 8 for float64,
else 4.

torch's loss of logits, where the caller holds the model's output until the backward is over:

* forward: logits e N V, their copy in float32 (if e < 4) w N V, log-probabilities w N V;
* backward of the loss: logits e N V, log-probabilities and two gradients 3 w N V;
* backward of the head: logits and their gradient 2 e N V, gradients e N D and e V D.

Under autocast a copy of the weight, e V D, stays from forward to backward, and its gradient becomes one in the dtype of
the weight. A tanh of the logits (softcap) keeps its result, e N V more until the backward of the loss is over. A weight
that the embedding shares gets two gradients, which are there at the end together with their sum, 3 e V D. With crossent
the sum takes the memory of the first, 2 e V D.

The loss of crossent follows its plan (`sources.plan`), which depends only on shapes and dtypes.
"""

from __future__ import annotations

import dataclasses

import torch

from crossent.torch.sources.plan import (
    CPU,
    GPU,
    Device,
    SourceCosts,
    TileShape,
    default_chunk_bytes,
    direct,
    one_sweep,
    padded,
    tile_shape,
    weight_adds_up,
)
from crossent.torch.sources.products import operand_dtype


@dataclasses.dataclass(frozen=True, slots=True)
class HeadMemory:
    """Bytes that a training step takes for its head, when most of them are there at once."""

    logits_bytes: int
    """Logits, in the dtype in which the head makes them: all of them, or those of a chunk or a tile."""
    copies_bytes: int
    """Copies in another dtype and log-probabilities; with crossent, copies of operands for the products."""
    logit_gradients_bytes: int
    """Gradients of logits."""
    head_gradients_bytes: int
    """Gradients of the head's input, weight and bias, with their float32 sums."""

    @property
    def peak_bytes(self) -> int:
        """All of it."""
        return self.logits_bytes + self.copies_bytes + self.logit_gradients_bytes + self.head_gradients_bytes


@dataclasses.dataclass(frozen=True, slots=True)
class HeadStep:
    """A training step as far as its head is concerned."""

    rows: int
    """Number N of rows, batch · length."""
    classes: int
    """Number V of classes."""
    features: int
    """Number D of features."""
    dtype: torch.dtype
    """Of the head's operands."""
    on_gpu: bool = False
    trains: bool = True
    """Whether the weight gets a gradient."""
    tied: bool = False
    """Whether the embedding shares the weight, and adds a gradient of its own."""
    bias: bool = False
    """Whether there is a bias with a gradient."""
    capped: bool = False
    """Whether a tanh is taken of the logits."""
    weight_dtype: torch.dtype | None = None
    """Of the weight, where autocast makes a copy of it in the dtype of the operands; None: it needs none."""

    @property
    def wide(self) -> int:
        """Bytes w of a number of the loss."""
        return max(4, self.dtype.itemsize)

    @property
    def costs(self) -> SourceCosts:
        """Inputs of the plan; an absent GPU is taken to multiply half precision directly."""
        device: Device = GPU if self.on_gpu else CPU
        if self.on_gpu and not torch.cuda.is_available():
            product = self.dtype
        else:
            product = operand_dtype(self.dtype, torch.device("cuda" if self.on_gpu else "cpu"))
        return SourceCosts(self.rows, self.classes, self.features, self.dtype, product, device)

    @property
    def cast_bytes(self) -> int:
        """Bytes of the copy of the weight that autocast makes."""
        return 0 if self.weight_dtype is None else self.dtype.itemsize * self.classes * self.features

    def operand_gradients(self, input_size: int, weight_size: int) -> int:
        """Return the bytes of the gradients of the operands, from the bytes per number of input and weight."""
        of_weight = weight_size * self.classes * self.features if self.trains else 0
        of_bias = weight_size * self.classes if self.bias else 0
        return input_size * self.rows * self.features + of_weight + of_bias


def with_logits(step: HeadStep) -> HeadMemory:
    """Return the memory of a step whose logits are all made, and whose loss is torch's `cross_entropy` of them.

    Examples
    --------
    >>> of_llama = HeadStep(rows=8192, classes=128256, features=4096, dtype=torch.bfloat16)
    >>> round(with_logits(of_llama).peak_bytes / 2**30, 1)  # logits 2, log-probabilities 4, two gradients 4 + 4 bytes
    13.7
    """
    e, w, numbers = step.dtype.itemsize, step.wide, step.rows * step.classes
    capped = e * numbers if step.capped else 0
    upcast = 0 if e == w else w * numbers
    logits = e * numbers + capped
    cast = step.cast_bytes
    return _largest(
        HeadMemory(logits, cast + upcast + w * numbers, 0, 0),
        HeadMemory(logits, cast + w * numbers, 2 * w * numbers, 0),
        HeadMemory(e * numbers, cast, e * numbers, step.operand_gradients(e, e)),
        _at_the_end(step, HeadMemory(e * numbers, 0, 0, 0), of_tied=3),
    )


def with_crossent(step: HeadStep) -> HeadMemory:
    """Return the memory of a step with `linear_cross_entropy`, which lazy logits use too.

    Examples
    --------
    >>> of_llama = HeadStep(rows=8192, classes=128256, features=4096, dtype=torch.float32)
    >>> found = with_crossent(of_llama)
    >>> round(found.logits_bytes / 2**20), found.copies_bytes  # a chunk; its gradient takes its place
    (125, 0)
    """
    chunk_bytes = default_chunk_bytes(step.costs)
    swept = _in_one_sweep(step, chunk_bytes) or _in_two_sweeps(step, chunk_bytes)
    cast = step.cast_bytes  # which lazy logits hold until the end
    with_cast = (dataclasses.replace(phase, copies_bytes=phase.copies_bytes + cast) for phase in swept)
    return _largest(*with_cast, _at_the_end(step, HeadMemory(0, cast, 0, 0), of_tied=2))


def _in_one_sweep(step: HeadStep, chunk_bytes: int) -> list[HeadMemory] | None:
    """Return the phases of one sweep over chunks of whole rows, None where the plan has two."""
    costs, e, w = step.costs, step.dtype.itemsize, step.wide
    sweep = one_sweep(costs, chunk_bytes)
    if sweep is None:
        return None
    rows = min(sweep.rows, step.rows)
    chunk = rows * padded(step.classes)
    adds_up = weight_adds_up(costs, sweep)
    sums = step.operand_gradients(w, w if adds_up else e)
    last = step.operand_gradients(e, e) if e < w else 0  # sums are rounded once the chunks are gone
    if costs.product_dtype != step.dtype or e == w:  # gradients take the place of the logits
        copies = 0 if e == w else w * (step.classes * step.features + rows * step.features)
        return [HeadMemory(w * chunk, copies, 0, sums), HeadMemory(0, 0, 0, sums + last)]
    kept = max(rows, min(sweep.kept, step.rows))
    if sweep.rest is None:
        return [HeadMemory(w * chunk, 0, e * kept * step.classes, sums), HeadMemory(0, 0, 0, sums + last)]
    first = e * kept * (step.classes - sweep.rest.logits)
    tile = step.rows * sweep.rest.at_once
    return [
        HeadMemory(w * chunk, 0, first, 0),
        HeadMemory(0, 0, first, sums),
        HeadMemory(w * tile, 0, e * tile, sums),
        HeadMemory(0, 0, 0, sums + last),
    ]


def _in_two_sweeps(step: HeadStep, chunk_bytes: int) -> list[HeadMemory]:
    """Return the phases of a sweep for the statistics and of one for the gradients, tile by tile."""
    costs, e, w, p = step.costs, step.dtype.itemsize, step.wide, step.costs.product_dtype.itemsize
    shape, every = tile_shape(costs, 1, chunk_bytes), w * step.rows * step.classes
    kept = every if every <= chunk_bytes else 0
    backward = TileShape(max(1, step.rows), max(1, step.classes)) if kept and direct(costs) else shape
    one_product = p == e and min(backward.rows, costs.device.direct_rows) >= step.rows

    def copied(tile: TileShape) -> int:
        classes = min(tile.classes, costs.copied_classes(1) or tile.classes)
        return 0 if p == e else p * (tile.rows + classes) * step.features

    def tile_bytes(tile: TileShape, size: int) -> int:
        return size * tile.rows * padded(tile.classes)

    in_place = p == w
    logits = kept or tile_bytes(shape, w)
    gradients = tile_bytes(backward, w) if in_place and kept else 0 if in_place else tile_bytes(backward, e)
    of_tile = w * backward.classes * step.features if step.trains and e < w and not one_product else 0
    found = step.operand_gradients(w, e) + of_tile
    rounded = step.operand_gradients(e, 0) if e < w else 0
    return [
        HeadMemory(logits, copied(shape), 0, 0),
        HeadMemory(logits, copied(backward), gradients, found),
        HeadMemory(logits, copied(backward), gradients, found - of_tile + rounded),
    ]


def _at_the_end(step: HeadStep, held: HeadMemory, of_tied: int) -> HeadMemory:
    """Return the phase in which the weight gets its gradient: from a copy's, and from the embedding's if they share.

    `of_tied` is how many gradients are there then.
    """
    e, numbers = step.dtype.itemsize, step.classes * step.features if step.trains else 0
    of_weight = e if step.weight_dtype is None else step.weight_dtype.itemsize
    cast = 0 if step.weight_dtype is None else (e + of_weight) * numbers
    return dataclasses.replace(
        held, head_gradients_bytes=max(cast, (of_tied if step.tied else 1) * of_weight * numbers)
    )


def _largest(*phases: HeadMemory) -> HeadMemory:
    return max(phases, key=lambda phase: phase.peak_bytes)
