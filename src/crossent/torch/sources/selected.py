"""Selected classes: the log-probabilities of K classes of each row, as functions of a tile and of the rows' record.

A reader takes the K logits of a row from each tile, never rows of a weight. The log-probability of a class with score s
is (s − peak) − log total, from the record. The gradient of K of them with cotangents g_k is

    phi'(z_v) · (q_v (a + b log q_v) + Σ_{k: class_k = v} g_k)
    a = g_lse − Σ g_k − g_entropy · entropy,   b = −g_entropy

The row functions write q (a + b log q) for all classes. `write_gradient` then rewrites the entries of the K classes, in
float64 from the record, so that a confident class keeps its digits: 1 − q is −expm1(log q).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossent.spec import NO_CLASS, Scores
from crossent.stats import RowStats
from crossent.torch.sources.source import Span


def check_classes(classes: Tensor, number: int) -> None:
    """Raise for the first of the classes (N, K) that is none; an entry of `NO_CLASS` is left out.

    Raises
    ------
    IndexError
        With the class, its row and its place in the row.
    """
    wrong = ((classes < 0) | (classes >= number)) & (classes != NO_CLASS)
    if wrong.any():
        row, entry = wrong.nonzero()[0].tolist()
        value = int(classes[row, entry])
        raise IndexError(
            f"class {value} (row {row} of {len(classes)}, entry {entry}) is not one of the {number} classes "
            f"[0, {number - 1}]; use ignore_index={value} to leave such entries out"
        )


class Columns(NamedTuple):
    """The columns of a tile that hold selected classes, (n, K), and which of these lie in the tile at all."""

    at: Tensor
    """0 where the class lies elsewhere."""
    here: Tensor


def columns_of(classes: Tensor, held: Span) -> Columns:
    """Return where classes lie in a tile that holds the classes of a span."""
    here = (classes >= held.begin) & (classes < held.end)
    return Columns(torch.where(here, classes - held.begin, 0), here)


def logits_at(tile: Tensor, columns: Columns, bias: Tensor | None = None) -> Tensor:
    """Return the logits of selected classes in float64, (n, K), and 0 for classes that lie elsewhere."""
    z = tile.gather(1, columns.at)
    if bias is not None:
        z = z + bias[columns.at]
    return z.double().masked_fill(~columns.here, 0.0)


class Scored(NamedTuple):
    """Scores s = phi(z) and slopes phi'(z) of logits, in float64."""

    score: Tensor
    slope: Tensor


def scored(z: Tensor, scores: Scores) -> Scored:
    """Return scores and slopes of logits (n, K) or (n, K, P) in float64."""
    own: Any = scores.row_temperature
    if own is None:
        factor = torch.full_like(z, 1 / scores.temperature)
    else:
        factor = own.to(z.dtype).reciprocal().reshape(z.shape[:1] + z.shape[2:]).unsqueeze(1).expand_as(z)
    if scores.softcap is None:
        return Scored(z * factor, factor)
    inner = z * (factor / scores.softcap)
    small = (-2 * inner.abs()).exp()
    return Scored(scores.softcap * inner.tanh(), factor * 4 * small / (1 + small).square())


def log_probabilities(z: Tensor, scores: Scores, record: Tensor, classes: Tensor, number: int) -> Tensor:
    """Return the log-probabilities of selected classes from their logits (n, K) and the record, in float64.

    An entry that is left out has 0; a class that does not exist has NaN, because no error can be raised there.
    """
    stats = RowStats(*record)
    below = (scored(z, scores).score - stats.peak[:, None]).clamp(max=0.0)  # a capped peak is rounded to float32
    return _where_there_is_one(below - stats.total.log()[:, None], classes, number)


def _where_there_is_one(x: Tensor, classes: Tensor, number: int) -> Tensor:
    exists = (classes >= 0) & (classes < number)
    return torch.where(exists, x, torch.where(classes == NO_CLASS, 0.0, torch.nan).to(x.dtype))


class SelectedCotangents(NamedTuple):
    """Cotangents of the log-probabilities of selected classes, in float64."""

    of_class: Tensor
    """Σ of the cotangents of all entries of the same class, at each entry, (N, K)."""
    total: Tensor
    """Σ over all entries of a row, (N,)."""
    counts: Tensor
    """1 for rows that have a cotangent other than 0, else 0, (N,)."""


def cotangents_of(g: Tensor, classes: Tensor, number: int) -> SelectedCotangents:
    """Return the cotangents of entries (N, K) as the gradient takes them.

    An entry that is left out has none. One of a class that does not exist is NaN, unless it is 0.
    """
    g = torch.where(g == 0, 0.0, _where_there_is_one(g.double(), classes, number))
    ordered, order = classes.sort(1)
    begins = ordered[:, 1:] != ordered[:, :-1]
    group = torch.nn.functional.pad(begins.long().cumsum(1), (1, 0))[:, : g.shape[1]]
    sums = torch.zeros_like(g).scatter_add(1, group, g.gather(1, order))
    of_class = torch.empty_like(g).scatter_(1, order, sums.gather(1, group))
    return SelectedCotangents(of_class, g.sum(1), (g != 0).any(1).to(g.dtype))


class RowCotangents(NamedTuple):
    """Cotangents (N,) of lse and entropy of rows; None is zero."""

    lse: Tensor | None
    entropy: Tensor | None

    def beside(self, selected: SelectedCotangents, like: Tensor) -> RowCotangents:
        """Return the cotangents for the row functions, in a dtype: −Σ g_k is one of the lse."""
        lse = -selected.total if self.lse is None else self.lse - selected.total
        return self._replace(lse=lse.to(like.dtype))

    def at(self, rows: slice) -> RowCotangents:
        """Return the cotangents of some rows."""
        return RowCotangents(*(None if g is None else g[rows] for g in self))


class SelectedRows(NamedTuple):
    """Some rows: their record (5, n), the cotangents of their lse and entropy, and those of selected classes."""

    record: Tensor
    cotangents: RowCotangents
    selected: SelectedCotangents


def write_gradient(gradient: Tensor, z: Tensor, columns: Columns, scores: Scores, rows: SelectedRows) -> None:
    """Rewrite the entries of selected classes in the gradient (n, v) of a tile.

    The other entries come from the row functions, for the cotangents of `RowCotangents.beside`.
    """
    if z.shape[1] == 0:
        return
    record, (g_lse, g_entropy), (of_class, total, counts) = rows
    stats = RowStats(*record)
    score, slope = scored(z, scores)
    logq = (score - stats.peak[:, None]).clamp(max=0.0) - stats.total.log()[:, None]
    q = logq.exp()
    value = -of_class * logq.expm1() - q * (total[:, None] - of_class)
    lives = counts != 0
    if g_lse is not None:
        value, lives = value + q * g_lse.double()[:, None], lives | (g_lse != 0)
    if g_entropy is not None:
        surprise = logq.masked_fill(q == 0, 0.0) + stats.entropy[:, None]
        value = value - torch.where(g_entropy[:, None] == 0, 0.0, g_entropy.double()[:, None] * q * surprise)
        lives = lives | (g_entropy != 0)
    value = torch.where(lives[:, None], slope * value, 0.0).to(gradient.dtype)
    # entries outside write a value that is written anyway: no synchronization with a device
    at, here = columns
    first = here.to(torch.int8).argmax(1, keepdim=True)
    spare = torch.where(here.any(1, keepdim=True), value.gather(1, first), gradient[:, :1])
    _ = gradient.scatter_(1, torch.where(here, at, at.gather(1, first)), torch.where(here, value, spare))
