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
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from crossent.spec import Scores, Target, class_error, probability_error
from crossent.torch import _plain
from crossent.torch._gemm import multiply, operand, operand_dtype
from crossent.torch._library import backend
from crossent.torch._plain import loss_dtype

DEFAULT_CHUNK_BYTES = 2**27
_TILE_LOGITS = 2**21  # products gain nothing from larger tiles, and rows lose the cache
_TILE_ROWS = 2048
_FEWEST_ROWS = 128  # with fewer rows in a chunk, reading the weight again for each costs more than multiplying twice
_DIRECT_ROWS = 512  # torch's bfloat16 product of so few rows beats a float32 one that has to be rounded
_PRODUCT_CLASSES = 8192  # wider products are slower
_LINE = 16  # numbers; a row of logits that begins on a line, an odd number of lines after the last one, is read faster

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
    classes: int
    target: Target
    scores: Scores
    rows: Tensor | None = None
    """Which rows of the input have a target, in order; None for all. The target is that of these rows."""

    @property
    def size(self) -> int:
        """Number N of rows."""
        return self.input.shape[0] if self.rows is None else self.rows.shape[0]

    @property
    def positions(self) -> int:
        """Number P of logits for each row of the input and each class."""
        return self.weight.shape[0] // self.classes if self.classes else 1

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
        return Target(index, prob, weight, t.smoothing, t.ignore_index, a, self.classes)


def one_sweep_rows(input: Tensor, weight: Tensor, chunk_bytes: int) -> int:
    """Return how many rows a chunk of `one_sweep` has, or 0 if two sweeps over tiles are the better way.

    That is so where fewer than 128 rows fit, and for half-precision operands, whose gradients would have to be held in
    float32 from chunk to chunk; unless there is one chunk only, and its products need not be converted.
    """
    rows, row_logits = input.shape[0], max(1, weight.shape[0])
    if input.dtype in (torch.float32, torch.float64):
        fit = chunk_bytes // (row_logits * input.element_size())
        return 0 if fit < min(rows, _FEWEST_ROWS) else _even(rows, fit, _LINE)
    native = input.dtype == torch.bfloat16 == operand_dtype(input.dtype)
    # beyond the default the fresh memory of one chunk costs more than multiplying twice
    whole = rows * row_logits * 6 <= min(chunk_bytes, DEFAULT_CHUNK_BYTES)
    return max(1, rows) if native and whole else 0


def tile_shape(head: Head, chunk_bytes: int) -> tuple[int, int]:
    """Return how many rows and classes a tile has."""
    size = 8 if head.input.dtype == torch.float64 else 4 if head.input.dtype == torch.float32 else 6
    logits = max(1, min(chunk_bytes // size, _TILE_LOGITS) // head.positions)
    rows = _even(head.size, min(_TILE_ROWS, 2 * math.isqrt(logits)), _LINE)
    return rows, _even(head.classes, max(1, logits // rows), 4 * _LINE)


def _even(whole: int, most: int, multiple: int) -> int:
    """Return the length of equal parts of which none is longer than `most`, a multiple if that is possible."""
    if whole <= most:
        return max(1, whole)
    part = -(-whole // -(-whole // most))
    rounded = -(-part // multiple) * multiple
    return rounded if rounded <= most else part


def _blocks(whole: int, part: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, whole, part):
        yield begin, min(begin + part, whole)


class _Tile:
    """A buffer for logits, and the operands as the products take them."""

    def __init__(self, head: Head, rows: int, columns: int) -> None:
        self.head, self.dtype = head, operand_dtype(head.input.dtype)
        width = columns * head.positions
        padded = width if width < _LINE else (-(-width // _LINE) | 1) * _LINE
        wide = loss_dtype(head.input.dtype)
        self.buffer = _memory((rows, padded), head.input, wide, zeroed=self.dtype == wide)
        # zeroed, because torch's bfloat16 product multiplies what lies between the rows by zero, NaN if it is that
        self.narrow = None if self.dtype == wide else torch.zeros_like(self.buffer, dtype=self.dtype)

    def rows(self, i: int, j: int) -> Tensor:
        rows = self.head.rows
        return operand(self.head.input[i:j] if rows is None else self.head.input[rows[i:j]], self.dtype)

    def classes(self, a: int, b: int) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of classes [a, b)."""
        P, bias = self.head.positions, self.head.bias
        return operand(self.head.weight[a * P : b * P], self.dtype), None if bias is None else bias[a * P : b * P]

    def place(self, n: int, width: int) -> Tensor:
        return self.buffer[:n, :width]

    def factor(self, logits: Tensor) -> Tensor:
        """Return where the gradient of the logits in their place goes, in the dtype that its products take."""
        return logits if self.narrow is None else self.narrow[: logits.shape[0], : logits.shape[1]]

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
    n, v = tile_shape(head, chunk_bytes)
    V, P = head.classes, head.positions
    tile = _Tile(head, 0, 0) if logits is not None else _Tile(head, n, v)
    for i, j in _blocks(head.size, n):
        rows, own = tile.rows(i, j), slice(i * P, j * P)
        part = record.new_empty((5, (j - i) * P))
        for a, b in _blocks(V, v):
            out = tile.place(j - i, (b - a) * P) if logits is None else logits[i:j, a * P : b * P]
            z = tile.shaped(_product(rows, tile.classes(a, b), out))
            results = [x[own] for x in summary] if b == V else (None, None, None)
            backend().row_stats(z, head.target_of(i, j, a, b), head.scores, part, results, extend=a > 0)
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
    n, v = tile_shape(head, chunk_bytes)
    N, V, P = head.size, head.classes, head.positions
    tile = _Tile(head, n, v)
    wide = tile.buffer.dtype
    g_input = head.input.new_zeros(head.input.shape, dtype=wide) if needs[0] else None
    g_bias = head.input.new_zeros(len(head.weight), dtype=wide) if needs[2] else None
    g_weight = sums = None
    if needs[1] and head.weight.dtype == wide:
        g_weight = head.weight.new_zeros(head.weight.shape)
    elif needs[1] and tile.dtype == head.weight.dtype and min(n, _DIRECT_ROWS) >= N > 0:
        g_weight = _empty_like(head.weight)
    elif needs[1]:
        g_weight = _empty_like(head.weight)
        sums = head.weight.new_zeros((v * P, head.weight.shape[1]), dtype=wide)
    for a, b in _blocks(V if any(needs[:3]) else 0, v):
        classes, own = tile.classes(a, b), slice(a * P, b * P)
        g_part = None
        if g_weight is not None:
            g_part = g_weight[own] if sums is None else sums[: (b - a) * P]
        for i, j in _blocks(N, n):
            rows, here = tile.rows(i, j), slice(i * P, j * P)
            out = tile.place(j - i, (b - a) * P)
            g = tile.factor(out)
            z = tile.shaped(_product(rows, classes, out) if logits is None else logits[i:j, own])
            parts = [None if g is None else g[here] for g in cotangents]
            target = head.target_of(i, j, a, b)
            backend().row_grad(z, target, head.scores, record[:, here].contiguous(), parts, tile.shaped(g))
            if g_input is not None:
                multiply(g, classes[0], g_input[i:j], add=a > 0)
            if g_part is not None:
                multiply(g.t(), rows, g_part, add=i > 0)
            if g_bias is not None:
                g_bias[own] += g.sum(0, dtype=wide)
        if g_weight is not None and sums is not None:
            _ = g_weight[own].copy_(sums[: (b - a) * P])
    g_prob = _prob_gradient(head, chunk_bytes, cotangents[0]) if needs[3] and cotangents[0] is not None else None
    return [
        None if g_input is None else _spread(g_input, head.rows).to(head.input.dtype),
        g_weight,
        None if g_bias is None else g_bias.to(head.weight.dtype),
        g_prob,
    ]


def one_sweep(
    head: Head,
    n: int,
    scales: tuple[Tensor, Tensor | None],
    record: Tensor,
    summary: tuple[Tensor, Tensor, Tensor],
    needs: Needs,
) -> list[Tensor | None]:
    """Write record, loss, lse and entropy of all rows and return the gradients of Σ scale₀ · loss + scale₁ · lse²."""
    N, V, P = head.size, head.classes, head.positions
    tile = _Tile(head, n, V)
    weight = tile.classes(0, V)[0]
    g_input = (
        _memory(head.input.shape, head.input, head.input.dtype, zeroed=head.rows is not None) if needs[0] else None
    )
    add = tile.narrow is None or N == 0
    g_weight = _memory(head.weight.shape, head.weight, head.weight.dtype, zeroed=add) if needs[1] else None
    g_bias = head.input.new_zeros(len(head.weight), dtype=tile.buffer.dtype) if needs[2] else None
    for i, j in _blocks(N, n):
        rows, here = tile.rows(i, j), slice(i * P, j * P)
        logits = tile.place(j - i, V * P)
        for a, b in _blocks(V, _PRODUCT_CLASSES):
            _ = _product(rows, tile.classes(a, b), logits[:, a * P : b * P])
        z, g, part = tile.shaped(logits), tile.factor(logits), record.new_empty((5, (j - i) * P))
        scale = tuple(None if x is None else x[here] for x in scales)
        target = head.target_of(i, j, 0, V)
        backend().row_fused(z, target, head.scores, scale, part, tile.shaped(g), [x[here] for x in summary])
        record[:, here] = part
        if g_input is not None:
            multiply(g, weight, g_input[i:j])
        if g_weight is not None:
            multiply(g.t(), rows, g_weight, add=add)
        if g_bias is not None:
            g_bias += g.sum(0, dtype=g_bias.dtype)
    if g_input is not None:
        g_input = _spread(g_input, head.rows)
    return [g_input, g_weight, None if g_bias is None else g_bias.to(head.weight.dtype), None]


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


def _prob_gradient(head: Head, chunk_bytes: int, g_loss: Tensor) -> Tensor:
    N, V, P = head.input.shape[0], head.classes, head.positions
    size = 4 * loss_dtype(head.input.dtype).itemsize  # the logits and what _plain.prob_grad makes of them
    tile = _Tile(head, _even(N, max(1, chunk_bytes // max(1, size * V * P)), 1), V)
    classes = tile.classes(0, V)
    prob: Any = head.target.prob
    grad = torch.empty_like(prob, memory_format=torch.contiguous_format)
    for i, j in _blocks(N, tile.buffer.shape[0]):
        z = tile.shaped(_product(tile.rows(i, j), classes, tile.place(j - i, V * P)))
        here = slice(i, j) if head.target.kind == "dense" else slice(i * P, j * P)
        target = head.target_of(i, j, 0, V)
        grad[here] = _plain.prob_grad(z, target, head.scores, g_loss[i * P : j * P])
    return grad


def check_target(head: Head) -> None:
    """Raise for the first row whose target is no class or no probability, before anything is multiplied."""
    index: Any = head.target.index
    prob: Any = head.target.prob
    V = head.classes
    if index is not None:
        wrong = (index < 0) | (index >= V)
        if head.target.kind == "index":
            wrong &= index != head.target.ignore_index
        if wrong.any():
            place = wrong.nonzero()[0].tolist()
            raise class_error(int(index[tuple(place)]), place[0], index.shape[0], head.target, V)
    if prob is None or not prob.numel():
        return
    P = head.positions if index is None else 1
    for i, j in _blocks(prob.shape[0], max(1, 2**20 // max(1, prob[0].numel()))):
        low, high = torch.aminmax(prob[i:j])
        if not (low >= 0 and high < float("inf")):
            part = prob[i:j] if prob.ndim == 2 else prob[i:j].movedim(1, 2).flatten(0, 1)
            row, column = (~((part >= 0) & (part < float("inf")))).nonzero()[0].tolist()
            raise probability_error(float(part[row, column]), i * P + row, column)
