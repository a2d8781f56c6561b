"""Sums over the documents of a log: a few numbers a document, the costliest of them, and means with intervals."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from crossent.errors import quoted
from crossent.scoring.lm.document import Choices, Document, LogError, log_sum
from crossent.scoring.lm.shape import TokenShape
from crossent.scoring.lm_values import ChoiceScore, Denominator, DocumentLoss, TokenLoss
from crossent.scoring.parts import Bar, Interval
from crossent.scoring.sums.interval import ratio

T = TypeVar("T", TokenLoss, DocumentLoss)

DENOMINATORS: tuple[Denominator, ...] = ("question", "token", "byte", "document")
NO_INTERVAL = (math.nan, math.nan)
MOST_VALUES = 1000
"""Largest number of values of a slice key."""


_BARS = 24


class DocumentSums(NamedTuple):
    """Sums over the tokens of one document, or over all documents of one cluster; NaN for values that the log lacks.

    `loss` is in nats and takes the smallest possible loss of a token outside the log; `covered_loss` leaves such
    tokens out. `tokens`, `covered`, `bytes` and `words` are numbers to divide by.
    """

    loss: float
    covered_loss: float
    tokens: float
    covered: float
    bytes: float
    words: float


class ChoiceSums(NamedTuple):
    """One multiple-choice question: its loss and the loss of guessing in nats, NaN if unknown, and its accuracy."""

    loss: float
    guess: float
    accuracy: float


class Estimate(NamedTuple):
    """A mean and the ends of its interval."""

    value: float
    ci: Interval


UNKNOWN = Estimate(math.nan, NO_INTERVAL)


class Costliest(Generic[T]):
    """The entries with the largest losses, for any order of additions."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.floor = -math.inf if limit else math.inf
        self.kept: list[T] = []

    def add(self, loss: float, make: Callable[[], T]) -> None:
        """Add the entry that `make` returns, if it may be among the worst."""
        if loss >= self.floor and self.limit:
            self.kept.append(make())
            if len(self.kept) >= 4 * self.limit + 64:
                self.floor = self.sorted()[-1].loss

    def sorted(self) -> list[T]:
        """Return the entries, largest loss first; equal losses in the order of document and position."""
        self.kept.sort(key=lambda entry: (-entry.loss, entry.document, getattr(entry, "position", 0)))
        del self.kept[self.limit :]
        return self.kept


class TokenTotals:
    """Sums over all documents of a log, one entry for each document or cluster of documents.

    Parameters
    ----------
    worst
        Number of the costliest tokens and documents to keep.
    whole
        Whether these are all documents: then they are also kept by value of each key, and tokens by position and loss.
    """

    def __init__(self, worst: int, *, whole: bool = True) -> None:
        self.shape = TokenShape() if whole else None
        self.slices: dict[str, dict[str | None, TokenTotals]] = {}
        self.columns = {name: array("d") for name in DocumentSums._fields}
        self.choices = {name: array("d") for name in ChoiceSums._fields}
        self.clusters: dict[str, int] = {}
        self.sources: set[str] = set()
        self.notes: Counter[str] = Counter()
        self.totals_only = 0
        self.ranked: Counter[Denominator] = Counter()
        self.worst_tokens: Costliest[TokenLoss] = Costliest(worst)
        self.worst_documents: dict[Denominator, Costliest[DocumentLoss]] = {
            unit: Costliest(worst) for unit in DENOMINATORS
        }

    def add(self, document: Document) -> None:
        """Add a document."""
        if self.shape is not None:
            for key, value in document.by:
                self._slice(key, value).add(document)
        self.notes.update(document.notes)
        if document.tokens:
            sums = self._sums_of_tokens(document)
        elif document.loglikelihood is not None:
            self.totals_only += 1
            loss, size, words = -document.loglikelihood, _float(document.bytes), _float(document.words)
            sums = DocumentSums(loss, loss, tokens=math.nan, covered=math.nan, bytes=size, words=words)
        else:
            _ = self._choice(document.choices)
            self.notes["empty"] += not document.notes
            return
        self.sources.add(document.source)
        if document.cluster is None:
            for column, value in zip(self.columns.values(), sums, strict=True):
                column.append(value)
            self._rank(document.id, sums, self._choice(document.choices))
            return
        at = self.clusters.setdefault(document.cluster, len(self))
        for column, value in zip(self.columns.values(), sums, strict=True):
            if at == len(column):
                column.append(0.0)
            column[at] += value

    def _slice(self, key: str, value: str | None) -> TokenTotals:
        """Return the sums of the documents that share a value."""
        parts = self.slices.setdefault(key, {})
        if value not in parts and len(parts) == MOST_VALUES:
            raise LogError(f"{quoted(key)} has more than {MOST_VALUES} values; name a key with fewer", argument="by")
        return parts.setdefault(value, TokenTotals(0, whole=False))

    def finish(self) -> None:
        """Rank the clusters, once all their documents have been added."""
        for cluster, at in self.clusters.items():
            self._rank(cluster, DocumentSums(*(column[at] for column in self.columns.values())), math.nan)
        self.clusters = {}

    def __len__(self) -> int:
        return len(self.columns["loss"])

    def _sums_of_tokens(self, document: Document) -> DocumentSums:
        """Return the sums over the tokens of a document, and keep its costliest tokens."""
        covered, bounds, size = [], [], 0.0
        for token in document.tokens:
            outside = math.isnan(token.logprob)
            loss = -token.ceiling if outside else -token.logprob
            (bounds if outside else covered).append(loss)
            size += math.nan if token.bytes is None else token.bytes
            if loss >= self.worst_tokens.floor:
                entry = TokenLoss(document.id, token.position, token.text, loss + 0.0, not outside)
                self.worst_tokens.add(loss, lambda entry=entry: entry)
        if document.bytes is not None:
            size = float(document.bytes)
        if self.shape is not None:
            self.shape.add(document.tokens)
        known = math.fsum(covered)
        return DocumentSums(
            loss=math.fsum((*covered, *bounds)) if bounds else known,
            covered_loss=known,
            tokens=float(len(document.tokens)),
            covered=float(len(covered)),
            bytes=size,
            words=_float(document.words),
        )

    def _choice(self, choices: Choices | None) -> float:
        """Add a multiple-choice question and return its loss in nats, NaN for None."""
        if choices is None:
            return math.nan
        values, right = choices.loglikelihoods, choices.right
        loss = guess = math.nan
        if right:
            loss = log_sum(values) - log_sum([values[k] for k in right])
            guess = math.log(len(values) / len(right))
        predicted = values.index(max(values))
        accuracy = float(predicted in right) if choices.accuracy is None else choices.accuracy
        for column, value in zip(self.choices.values(), ChoiceSums(loss, guess, accuracy), strict=True):
            column.append(value)
        return loss

    def _rank(self, name: str, sums: DocumentSums, choice: float) -> None:
        """Keep a document if it is among the costliest by some denominator."""
        rates: dict[Denominator, float] = {
            "question": choice,
            "token": sums.loss / sums.tokens,
            "byte": sums.loss / sums.bytes if sums.bytes else math.nan,
            "document": sums.loss,
        }
        for unit, rate in rates.items():
            self.ranked[unit] += not math.isnan(rate)
            if rate >= self.worst_documents[unit].floor:
                exact = math.isnan(sums.tokens) or sums.covered == sums.tokens
                entry = DocumentLoss(name, rate, unit, _count(sums.tokens), _count(sums.bytes), exact)
                self.worst_documents[unit].add(rate, lambda entry=entry: entry)

    def column(self, name: str) -> Any:
        """Return a column as an array."""
        return np.array(self.columns[name])

    def known(self, name: str) -> int | None:
        """Return the sum of a column, None if it is unknown for some document."""
        return _count(math.fsum(self.columns[name]))

    @property
    def exact(self) -> bool:
        """Whether the log-probability of every token is known."""
        return not (self.column("covered") < self.column("tokens")).any()

    def mean(self, loss: str, divisor: str | None, level: float) -> Estimate:
        """Return Σ loss / Σ divisor of two columns with its interval; a divisor of None counts documents."""
        return estimate(self.column(loss), np.ones(len(self)) if divisor is None else self.column(divisor), level)

    def histogram(self) -> tuple[Bar, ...]:
        """Return the numbers of documents by their loss per token in nats; nothing where it is unknown for some."""
        rate = self.column("loss") / self.column("tokens")
        if len(rate) < 2 or not np.isfinite(rate).all():
            return ()
        counts, edges = np.histogram(rate, bins=_BARS)
        return tuple(Bar(float(a), float(b), float(n)) for a, b, n in zip(edges, edges[1:], counts, strict=False))

    def worst_of_documents(self) -> list[DocumentLoss]:
        """Return the documents with the largest losses per unit, the smallest unit that all documents have."""
        finest: list[Denominator] = [unit for unit in DENOMINATORS if self.ranked[unit] == len(self)]
        return self.worst_documents[finest[0]].sorted()

    def score_of_choices(self, level: float) -> ChoiceScore | None:
        """Return the score of the multiple-choice questions, None if there are none."""
        loss, guess, accuracy = (np.array(column) for column in self.choices.values())
        n = len(loss)
        if n == 0:
            return None
        known = ~np.isnan(loss)
        mean = estimate(loss[known], np.ones(known.sum()), level)
        guessing = math.fsum(guess[known]) / known.sum() if known.any() else math.nan
        found = _accuracy(accuracy, level)
        return ChoiceScore(n, mean.value, mean.ci, found.value, found.ci, guessing)


def _accuracy(accuracy: Any, level: float) -> Estimate:
    """Return the mean accuracy: with Wilson's interval if all are 0 or 1, with Hall's if some are fractions."""
    from scipy.stats import binomtest

    n = len(accuracy)
    if np.isin(accuracy, (0.0, 1.0)).all():
        hits = int(accuracy.sum())
        wilson = binomtest(hits, n).proportion_ci(level, method="wilson")
        return Estimate(hits / n, (float(wilson.low), float(wilson.high)))
    mean = estimate(accuracy, np.ones(n), level)
    return Estimate(mean.value, (mean.ci[0], min(mean.ci[1], 1.0)))


def estimate(numerator: Any, denominator: Any, level: float) -> Estimate:
    """Return Σ a / Σ b of independent documents with Hall's interval; the order of documents changes nothing."""
    order = np.lexsort((numerator, denominator))
    a, b = numerator[order], denominator[order]
    total = math.fsum(b)
    if not total > 0:
        return UNKNOWN
    value = math.fsum(a) / total
    if len(a) < 2:
        return Estimate(value, NO_INTERVAL)
    with np.errstate(all="ignore"):
        low, high = ratio(a, b).interval(level, 0.0)
    return Estimate(value, (float(low), float(high)))


def _count(x: float) -> int | None:
    return None if math.isnan(x) else int(x)


def _float(n: int | None) -> float:
    return math.nan if n is None else float(n)
