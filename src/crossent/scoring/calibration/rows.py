"""Rows for a fit: batches that can be read again and again, as pieces of logits with labels, weights and folds."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossent.scoring.input.batch import Batch
from crossent.scoring.sums.row_sums import Numbering

PIECE = 1 << 19
"""Logits of a piece, about: a few MB, which stay in cache while they are used."""
SAMPLE = 1 << 19
"""Logits of a sample, about, which are enough for a good beginning."""
_GOLDEN = 0.6180339887498949
"""Multiples of the golden ratio, without their whole part, are spread evenly, and along any period of the rows too."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """n rows that count: logits (n, V), labels (n,), weights (n,) or None for 1 each, numbers and clusters (n,)."""

    logits: Any
    label: Any
    weight: Any | None
    number: Any
    cluster: Any | None

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: Any) -> Piece:
        """Return the chosen rows."""
        parts = (self.logits, self.label, self.weight, self.number, self.cluster)
        return Piece(*(None if part is None else part[rows] for part in parts))

    def total(self, x: Any) -> float:
        """Return Σ w x."""
        return float(x.sum() if self.weight is None else self.weight @ x)

    @property
    def mass(self) -> float:
        """Σ w."""
        return float(len(self)) if self.weight is None else float(self.weight.sum())

    def fold(self, folds: int) -> Any:
        """Return the fold of each row, (n,): rows of one cluster share theirs, others are spread evenly."""
        return fold_of(self.number if self.cluster is None else self.cluster, folds)


class Rows:
    """Rows of batches that `read` yields again at each call; with `left_out`, without the rows of that fold."""

    def __init__(self, read: Callable[[], Iterable[Batch]], *, folds: int = 0, left_out: int | None = None) -> None:
        self._read, self._folds, self._left_out = read, folds, left_out

    def without(self, fold: int, folds: int) -> Rows:
        """Return the rows of all folds but one."""
        return Rows(self._read, folds=folds, left_out=fold)

    def batches(self) -> Iterator[Batch]:
        """Yield the batches once more, with their columns in the order of the first one's."""
        classes: tuple[Hashable, ...] | None = None
        for batch in self._read():
            classes = batch.classes if classes is None else classes
            yield batch.in_order_of(classes)

    def __iter__(self) -> Iterator[Piece]:
        first, clusters = 0, Numbering()
        for batch in self.batches():
            cluster = None if batch.cluster is None else clusters.of(batch.cluster)
            for piece in pieces(batch, first, cluster):
                kept = piece if self._left_out is None else piece.take(piece.fold(self._folds) != self._left_out)
                if len(kept):
                    yield kept
            first += len(batch)


def pieces(batch: Batch, first: int = 0, cluster: Any | None = None) -> Iterator[Piece]:
    """Yield the rows of a batch that have a class and a positive weight; rows are numbered from `first`."""
    step = max(1, PIECE // len(batch.classes))
    for begin in range(0, len(batch), step):
        here = slice(begin, min(begin + step, len(batch)))
        label = batch.label[here]
        weight = None if batch.weight is None else batch.weight[here]
        piece = Piece(
            logits_of(batch, here),
            np.ascontiguousarray(label, np.int64),
            weight,
            np.arange(first + here.start, first + here.stop),
            None if cluster is None else cluster[here],
        )
        counts = label >= 0 if weight is None else (label >= 0) & (weight > 0)
        yield piece if counts.all() else piece.take(counts)


def logits_of(batch: Batch, rows: slice) -> Any:
    """Return the logits of some rows, (n, V), contiguous: float32 if they are stored so, else float64.

    Of one number per row they are 0 and the log-odds of the second class.
    """
    values = batch.values[rows]
    if hasattr(values, "detach"):
        values = (values if str(values.dtype) == "torch.float64" else values.float()).numpy()
    elif values.dtype != np.float64 and not (values.dtype == np.float32 and batch.kind != "probs"):
        values = values.astype(np.float32 if values.dtype == np.float16 and batch.kind != "probs" else np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        if batch.binary:
            return _of_one_number(values.astype(np.float64), batch.kind)
        if batch.kind == "probs":
            values = np.log(np.maximum(values, 0.0, dtype=np.float64))  # rounding is all that can be below 0
        return np.ascontiguousarray(values)


def _of_one_number(values: Any, kind: str) -> Any:
    """Return [0, log-odds]; infinite odds are [−∞, 0], the probabilities 0 and 1."""
    if kind == "probs":
        values = np.clip(values, 0.0, 1.0)
        values = np.log(values) - np.log1p(-values)
    elif kind == "logprobs":
        log_q = np.minimum(values, 0.0)
        values = log_q - np.where(log_q < -math.log(2.0), np.log1p(-np.exp(log_q)), np.log(-np.expm1(log_q)))
    certain = values == np.inf
    return np.stack([np.where(certain, -np.inf, 0.0), np.where(certain, 0.0, values)], axis=1)


def fold_of(number: Any, folds: int) -> Any:
    """Return the fold of each number, (n,): of consecutive numbers each of `folds` gets as many, give or take two.

    Examples
    --------
    >>> fold_of(np.arange(10), 5).tolist()
    [0, 3, 1, 4, 2, 0, 3, 1, 4, 2]
    """
    return (np.modf(np.asarray(number, np.float64) * _GOLDEN)[0] * folds).astype(np.int64)


class Sample:
    """Rows sampled evenly from all batches, about `SAMPLE` logits, for batches of any size."""

    def __init__(self) -> None:
        self.kept: list[Piece] = []
        self._every, self._size = 1, 0

    def add(self, piece: Piece) -> None:
        """Add rows, and keep some of them."""
        self._keep(piece)
        while self._size > 2 * SAMPLE and self._size > piece.logits.shape[1]:
            self._every *= 2
            kept, self.kept, self._size = self.kept, [], 0
            for each in kept:
                self._keep(each)

    def whole(self) -> list[Piece]:
        """Return the rows that are kept, as one piece."""
        parts = zip(*((each.logits, each.label, each.weight, each.number) for each in self.kept), strict=True)
        return [Piece(*(None if part[0] is None else np.concatenate(part) for part in parts), cluster=None)]

    def _keep(self, piece: Piece) -> None:
        some = piece if self._every == 1 else piece.take(piece.number % self._every == 0)
        if len(some):
            self.kept.append(some)
            self._size += some.logits.size
