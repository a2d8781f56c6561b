"""The chunk driver: logits = input @ weightᵀ + bias of which only a tile exists at a time, and two ways through them.

Rows are those of the input, and columns are classes; with K-dimensional weights each pair of them has `positions`
logits. Everything here is a function of arrays and shapes alone; autograd and operators are `_linear`'s.

* `one_sweep`: whole rows, as many as fit; statistics and gradient of a row while it is in cache. 6 N D V operations.
* `statistics`, then `gradients`: tiles of many rows and a few thousand classes, multiplied twice. 8 N D V operations,
  but each product is as fast as it can be, the gradient of the weight is finished tile by tile and rounded once, and
  any cotangent will do.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from crossent.kernels.checks import check_target
from crossent.spec import Scores, Target
from crossent.torch.base.libtorch import backend
from crossent.torch.operators import plain as _plain
from crossent.torch.operators.plain import loss_dtype
from crossent.torch.ranks.collectives import InputGradient, add_up
from crossent.torch.ranks.shards import NO_SHARDS, Shards
from crossent.torch.sources.plan import Sweep, device_of, even, padded, tile_shape
from crossent.torch.sources.products import multiply, operand, operand_dtype

_TILE_ROWS = 2048  # of a copy

Needs = tuple[bool, bool, bool, bool]
"""Which of input, weight, bias and target probabilities want a gradient."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A linear layer, its target and the scores: what has to be known to make a tile of logits and to judge it.

    Shapes: input (N, D), weight (V · P, D), bias (V · P,); the target is one of N · P rows, as the kernels take it.
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    target: Target
    scores: Scores
    rows: Tensor | None = None
    """Which rows of the input have a target, in order; None for all. The target is that of these rows."""
    valid: Tensor | None = None
    """Which rows of the input have a target, where that many are multiplied in any case; None for all."""
    positions: int = 1
    """Number P of logits for each row of the input and each class."""
    shards: Shards = NO_SHARDS

    @property
    def size(self) -> int:
        """Number N of rows."""
        return self.input.shape[0] if self.rows is None else self.rows.shape[0]

    @property
    def classes(self) -> int:
        """Number V of classes at hand."""
        return self.weight.shape[0] // max(1, self.positions)

    def tile_shape(self, chunk_bytes: int) -> tuple[int, int]:
        """Return how many rows and classes a tile of two sweeps has."""
        return tile_shape(self.input, self.size, self.classes, self.positions, chunk_bytes)

    def of_rows(self, rows: Tensor) -> Head:
        """Return the head of some rows of the input; its target must be class indices."""
        index: Any = self.target.index
        picked = index.view(-1, self.positions)[rows].view(-1)
        return dataclasses.replace(self, rows=rows, target=dataclasses.replace(self.target, index=picked))

    def target_of(self, i: int, j: int, a: int, b: int) -> Target:
        """Return the target of rows [i, j) as classes [a, b) see it."""
        t: Any = self.target
        P = self.positions
        index = None if t.index is None else t.index[i * P : j * P]
        prob = t.prob
        if prob is not None:
            prob = prob[i:j, a:b] if t.index is None else prob[i * P : j * P]
        weight = None if t.weight is None else t.weight[a:b]
        classes = t.num_classes or self.classes
        return Target(index, prob, weight, t.smoothing, t.ignore_index, t.first_class + a, classes)


def _blocks(whole: int, part: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, whole, part):
        yield begin, min(begin + part, whole)


class _Tile:
    """A buffer for logits, and the operands as the products take them."""

    def __init__(self, head: Head, rows: int, columns: int) -> None:
        self.head, self.dtype = head, operand_dtype(head.input.dtype, head.input.device)
        shape, wide = (rows, padded(columns * head.positions)), loss_dtype(head.input.dtype)
        self.in_place = self.dtype == wide
        """Whether gradients of logits take the place of the logits."""
        self.buffer = _memory(shape, head.input, wide, zeroed=self.in_place and device_of(head.input).fresh_zeros)
        self._factors: Tensor | None = None

    def rows(self, i: int, j: int) -> Tensor:
        head = self.head
        rows = head.input[i:j] if head.rows is None else head.input[head.rows[i:j]]
        if head.valid is not None:  # what a row without a target holds is multiplied by zero, and NaN would stay NaN
            rows = torch.where(head.valid[i:j, None], rows, 0.0)
        return operand(rows, self.dtype)

    def classes(self, a: int, b: int) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of classes [a, b)."""
        P, bias = self.head.positions, self.head.bias
        return operand(self.head.weight[a * P : b * P], self.dtype), None if bias is None else bias[a * P : b * P]

    def place(self, n: int, width: int) -> Tensor:
        return self.buffer[:n, :width]

    def factor(self, logits: Tensor) -> Tensor:
        """Return where the gradient of the logits in their place goes, in the dtype that its products take."""
        if self.in_place:
            return logits
        if self._factors is None:
            self._factors = self.factors(self.buffer.shape[0])
        return self._factors[: logits.shape[0], : logits.shape[1]]

    def factors(self, rows: int) -> Tensor:
        """Return memory for gradients of so many rows of logits beside the logits."""
        # zeroed, because torch's bfloat16 product on CPUs multiplies what lies between the rows by zero, maybe NaN
        return _memory((rows, self.buffer.shape[1]), self.buffer, self.dtype, zeroed=self.buffer.is_cpu)

    def shaped(self, logits: Tensor) -> Tensor:
        """Return a matrix of logits in the form of the kernels."""
        P = self.head.positions
        return logits if P == 1 else logits.unflatten(1, (-1, P))


def _product(rows: Tensor, classes: tuple[Tensor, Tensor | None], out: Tensor) -> Tensor:
    weight, bias = classes
    if bias is not None:
        _ = out.copy_(bias)
    multiply(rows, weight.t(), out, add=bias is not None)
    return out


def statistics(
    head: Head, chunk_bytes: int, record: Tensor, summary: tuple[Tensor, Tensor, Tensor], logits: Tensor | None
) -> None:
    """Write record (5, N · P), loss, lse and entropy of all rows, and the logits if they are wanted."""
    n, v = head.tile_shape(chunk_bytes)
    V, P = head.classes, head.positions
    if V == 0:  # of a shard that has none
        record[0], record[1:] = -torch.inf, 0.0
        return
    tile = _Tile(head, 0, 0) if logits is not None else _Tile(head, n, v)
    for i, j in _blocks(head.size, n):
        rows, own = tile.rows(i, j), slice(i * P, j * P)
        part = record.new_empty((5, (j - i) * P))
        for a, b in _blocks(V, v):
            out = tile.place(j - i, (b - a) * P) if logits is None else logits[i:j, a * P : b * P]
            z = tile.shaped(_product(rows, tile.classes(a, b), out))
            results = [x[own] for x in summary] if b == V else (None, None, None)
            backend(head.input).row_stats(z, head.target_of(i, j, a, b), head.scores, part, results, extend=a > 0)
        record[:, own] = part


def gradients(
    head: Head,
    chunk_bytes: int,
    record: Tensor,
    cotangents: tuple[Tensor | None, ...],
    needs: Needs,
    logits: Tensor | None,
) -> list[Tensor | None]:
    """Return the gradients of input, weight, bias and target probabilities from the record of the rows.

    Products of all tiles of a row, and of all rows of a tile, add up in float32 (float64) and are rounded once.
    """
    n, v = head.tile_shape(chunk_bytes)
    N, V, P = head.size, head.classes, head.positions
    tile = _Tile(head, n, v)
    wide, shards = tile.buffer.dtype, head.shards
    g_input = InputGradient(head.input, wide, shards) if needs[0] else None
    g_bias = head.input.new_zeros(len(head.weight), dtype=wide) if needs[2] else None
    g_weight = sums = None
    if needs[1] and (head.weight.dtype == wide or shards.row_groups):
        g_weight = head.weight.new_zeros(head.weight.shape, dtype=wide)
    elif needs[1] and tile.dtype == head.weight.dtype and min(n, device_of(head.input).direct_rows) >= N > 0:
        g_weight = _empty_like(head.weight)
    elif needs[1]:
        g_weight = _empty_like(head.weight)
        sums = head.weight.new_zeros((v * P, head.weight.shape[1]), dtype=wide)
    for a, b in _blocks(V if any(needs[:3]) else 0, v):
        classes, own = tile.classes(a, b), slice(a * P, b * P)
        g_part = g_weight if g_weight is None else g_weight[own] if sums is None else sums[: (b - a) * P]
        for i, j in _blocks(N, n):
            rows, here = tile.rows(i, j), slice(i * P, j * P)
            out = tile.place(j - i, (b - a) * P)
            g = tile.factor(out)
            z = tile.shaped(_product(rows, classes, out) if logits is None else logits[i:j, own])
            parts = [None if g is None else g[here] for g in cotangents]
            target = head.target_of(i, j, a, b)
            backend(head.input).row_grad(z, target, head.scores, record[:, here].contiguous(), parts, tile.shaped(g))
            if g_input is not None:
                multiply(g, classes[0], g_input.part[i:j], add=a > 0)
                g_input.finished(i, j, last=b == V)
            if g_part is not None:
                multiply(g.t(), rows, g_part, add=i > 0)
            if g_bias is not None:
                g_bias[own] += g.sum(0, dtype=wide)
        if g_weight is not None and sums is not None:
            _ = g_weight[own].copy_(sums[: (b - a) * P])
    found = [None if g_input is None else _summed(g_input, head, n), g_weight, g_bias]
    add_up(found[1:], shards.row_groups)
    g_prob = None
    if needs[3] and cotangents[0] is not None:
        g_prob = _prob_gradient(head, chunk_bytes, record, cotangents[0])
    return [*(None if x is None else x.to(head.weight.dtype) for x in found), g_prob]


def _summed(gradient: InputGradient, head: Head, n: int) -> Tensor:
    if head.classes == 0:  # other ranks have classes, and begin to add up after n rows each
        for i, j in _blocks(head.size, n):
            gradient.finished(i, j)
    return gradient.sum(lambda part: _spread(part, head.rows))


def one_sweep(
    head: Head,
    sweep: Sweep,
    scales: tuple[Tensor, Tensor | None],
    record: Tensor,
    summary: tuple[Tensor, Tensor, Tensor],
    needs: Needs,
) -> list[Tensor | None]:
    """Write record, loss, lse and entropy of all rows and return the gradients of Σ scale₀ · loss + scale₁ · lse²."""
    N, V, P, n = head.size, head.classes, head.positions, sweep.rows
    tile = _Tile(head, min(n, N), V)
    weight = tile.classes(0, V)[0]
    native, wide = tile.dtype == head.weight.dtype, tile.buffer.dtype
    whole = sweep.whole and native and n < N
    zeroed = N == 0 or (tile.in_place and device_of(head.input).fresh_zeros)
    g_input = g_weight = None
    if needs[0]:
        dtype = head.input.dtype if native else wide
        g_input = _memory(head.input.shape, head.input, dtype, zeroed=head.rows is not None or N == 0)
    if needs[1]:  # float32 sums of a gradient in half precision, unless one product makes all of it
        dtype = head.weight.dtype if native and (tile.in_place or whole or n >= N) else wide
        g_weight = _memory(head.weight.shape, head.weight, dtype, zeroed=zeroed)
    g_bias = head.input.new_zeros(len(head.weight), dtype=wide) if needs[2] else None
    kept = tile.factors(N)[:, : V * P] if whole else None
    for i, j in _blocks(N, n):
        rows, here = tile.rows(i, j), slice(i * P, j * P)
        logits = tile.place(j - i, V * P)
        for a, b in _blocks(V, device_of(head.input).product_classes):
            _ = _product(rows, tile.classes(a, b), logits[:, a * P : b * P])
        g = tile.factor(logits) if kept is None else kept[i:j]
        z, part = tile.shaped(logits), record.new_empty((5, (j - i) * P))
        scale = tuple(None if x is None else x[here] for x in scales)
        target = head.target_of(i, j, 0, V)
        results = [x[here] for x in summary]
        backend(head.input).row_fused(z, target, head.scores, scale, part, tile.shaped(g), results)
        record[:, here] = part
        if g_bias is not None:
            g_bias += g.sum(0, dtype=g_bias.dtype)
        if kept is None:
            _add_products(g, weight, rows, g_input, g_weight, (i, j), fresh=i == 0 and not zeroed)
    if kept is not None:
        _add_products(kept, weight, tile.rows(0, N), g_input, g_weight, (0, N), fresh=True)
    if g_input is not None:
        g_input = _spread(g_input, head.rows).to(head.input.dtype)
    return [
        g_input,
        None if g_weight is None else g_weight.to(head.weight.dtype),
        None if g_bias is None else g_bias.to(head.weight.dtype),
        None,
    ]


def _add_products(
    g: Tensor, weight: Tensor, rows: Tensor, g_input: Tensor | None, g_weight: Tensor | None,
    at: tuple[int, int], *, fresh: bool,
) -> None:  # fmt: skip
    """Write the gradient of some rows of the input, and add to that of the weight, unless it is fresh memory."""
    if g_input is not None:
        multiply(g, weight, g_input[slice(*at)])
    if g_weight is not None:
        multiply(g.t(), rows, g_weight, add=not fresh)


def _spread(grad: Tensor, rows: Tensor | None) -> Tensor:
    """Move the first rows of a gradient in place to the rows that they belong to, which are in order, and return it."""
    if rows is None:
        return grad
    for i, j in reversed(list(_blocks(rows.shape[0], _TILE_ROWS))):
        part = grad[i:j].clone()
        grad[i:j] = 0
        grad[rows[i:j]] = part
    return grad


def _memory(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype, *, zeroed: bool) -> Tensor:
    """Return memory for a product; pages first touched by a float32 product cost twice what they cost when zeroed."""
    return like.new_zeros(shape, dtype=dtype) if zeroed else like.new_empty(shape, dtype=dtype)


def _empty_like(matrix: Tensor) -> Tensor:
    return torch.empty_like(matrix, memory_format=torch.contiguous_format)


def _prob_gradient(head: Head, chunk_bytes: int, record: Tensor, g_loss: Tensor) -> Tensor:
    N, V, P, groups = head.input.shape[0], head.classes, head.positions, head.shards.groups
    size = 4 * loss_dtype(head.input.dtype).itemsize  # the logits and what _plain.prob_grad makes of them
    tile = _Tile(head, even(N, max(1, chunk_bytes // max(1, size * V * P)), 1), V)
    classes = tile.classes(0, V)
    prob: Any = head.target.prob
    grad = torch.empty_like(prob, memory_format=torch.contiguous_format)
    for i, j in _blocks(N, tile.buffer.shape[0]):
        z = tile.shaped(_product(tile.rows(i, j), classes, tile.place(j - i, V * P)))
        here = slice(i, j) if head.target.kind == "dense" else slice(i * P, j * P)
        target, own = head.target_of(i, j, 0, V), slice(i * P, j * P)
        total = (record[0, own].to(z.dtype), record[1, own].log().to(z.dtype)) if groups else None
        grad[here] = _plain.prob_grad(z, target, head.scores, g_loss[own], total)
    if head.target.kind == "topk":
        add_up((grad,), groups)
    return grad


def check_head(head: Head) -> None:
    """Raise for the first row whose target is no class or no probability, before anything is multiplied.

    On a GPU that is to wait for it, and is done with CROSSENT_VALIDATE=1 only.
    """
    if head.input.is_cpu or os.environ.get("CROSSENT_VALIDATE") == "1":
        check_target(head.target, (head.size, head.classes, head.positions))
