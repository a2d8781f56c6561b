"""Adding up documents: their totals, the worst of them, and means with intervals; a few numbers a document stay."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from crossent.scoring.lm.document import Choices, Document
from crossent.scoring.lm.result import ChoiceScore, DocumentLoss, TokenLoss, Unit
from crossent.scoring.parts import Interval
from crossent.scoring.sums.interval import ratio

T = TypeVar("T", TokenLoss, DocumentLoss)

UNITS: tuple[Unit, ...] = ("question", "token", "byte", "document")
COLUMNS = ("loss", "covered_loss", "tokens", "covered", "bytes", "words")
CHOICES = ("loss", "right", "guess")
NO_INTERVAL = (math.nan, math.nan)


class Worst(Generic[T]):
    """Keeps the entries with the largest losses, whatever the order in which they come."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.floor = -math.inf if limit else math.inf
        self.kept: list[T] = []

    def add(self, loss: float, make: Callable[[], T]) -> None:
        """Add an entry if it may be among the worst."""
        if loss >= self.floor and self.limit:
            self.kept.append(make())
            if len(self.kept) >= 4 * self.limit + 64:
                self.floor = self.sorted()[-1].loss

    def sorted(self) -> list[T]:
        """Return the worst, the worst first; equal losses by name and place."""
        self.kept.sort(key=lambda entry: (-entry.loss, entry.document, getattr(entry, "position", 0)))
        del self.kept[self.limit :]
        return self.kept


class Totals:
    """What documents add up to.

    A column holds a number for each cluster: its loss (for tokens outside the log the least that it can be), that of
    the covered tokens alone, and what to divide by. NaN stands for what a log does not tell.
    """

    def __init__(self, worst: int) -> None:
        self.columns = {name: array("d") for name in COLUMNS}
        self.choices = {name: array("d") for name in CHOICES}
        self.clusters: dict[str, int] = {}
        self.sources: set[str] = set()
        self.notes: Counter[str] = Counter()
        self.totals_only = 0
        self.ranked: Counter[Unit] = Counter()
        self.worst_tokens: Worst[TokenLoss] = Worst(worst)
        self.worst_documents: dict[Unit, Worst[DocumentLoss]] = {unit: Worst(worst) for unit in UNITS}

    def add(self, document: Document) -> None:
        """Add a document."""
        self.notes.update(document.notes)
        if document.tokens:
            row = self._of_tokens(document)
        elif document.loglikelihood is not None:
            self.totals_only += 1
            row = (
                -document.loglikelihood,
                -document.loglikelihood,
                math.nan,
                math.nan,
                _float(document.bytes),
                _float(document.words),
            )
        else:
            self.notes["empty"] += not document.notes
            return
        self.sources.add(document.source)
        if document.cluster is None:
            for name, value in zip(COLUMNS, row, strict=True):
                self.columns[name].append(value)
            self._rank(document.id, row, self._choice(document.choices))
            return
        at = self.clusters.setdefault(document.cluster, len(self))
        for name, value in zip(COLUMNS, row, strict=True):
            if at == len(self.columns[name]):
                self.columns[name].append(0.0)
            self.columns[name][at] += value

    def finish(self) -> None:
        """Rank the documents that came in parts."""
        for cluster, at in self.clusters.items():
            self._rank(cluster, tuple(self.columns[name][at] for name in COLUMNS), math.nan)
        self.clusters = {}

    def __len__(self) -> int:
        return len(self.columns["loss"])

    def _of_tokens(self, document: Document) -> tuple[float, ...]:
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
        known = math.fsum(covered)
        loss = math.fsum((*covered, *bounds)) if bounds else known
        return loss, known, float(len(document.tokens)), float(len(covered)), size, _float(document.words)

    def _choice(self, choices: Choices | None) -> float:
        """Add a question and return its loss, NaN if it is none."""
        if choices is None:
            return math.nan
        values = choices.loglikelihoods
        peak = max(values)
        loss = peak - values[choices.target] + math.log(math.fsum(math.exp(x - peak) for x in values))
        self.choices["loss"].append(loss)
        self.choices["right"].append(float(values.index(peak) == choices.target))
        self.choices["guess"].append(math.log(len(values)))
        return loss

    def _rank(self, name: str, row: Sequence[float], choice: float) -> None:
        loss, _, tokens, covered, size, _ = row
        rates: dict[Unit, float] = {
            "question": choice,
            "token": loss / tokens,
            "byte": loss / size if size else math.nan,
            "document": loss,
        }
        for unit, rate in rates.items():
            self.ranked[unit] += not math.isnan(rate)
            if rate >= self.worst_documents[unit].floor:
                exact = math.isnan(tokens) or covered == tokens
                entry = DocumentLoss(name, rate, unit, _count(tokens), _count(size), exact)
                self.worst_documents[unit].add(rate, lambda entry=entry: entry)

    def column(self, name: str) -> Any:
        """Return a column as an array."""
        return np.array(self.columns[name])

    def known(self, name: str) -> int | None:
        """Return the sum of a column, None if the log does not tell it for some document."""
        return _count(math.fsum(self.columns[name]))

    @property
    def exact(self) -> bool:
        """Whether no token is outside of what was logged."""
        return not (self.column("covered") < self.column("tokens")).any()

    def mean(self, loss: str, unit: str | None, level: float) -> tuple[float, Interval]:
        """Return Σ loss / Σ unit over documents, None for the documents themselves, and its interval."""
        return estimate(self.column(loss), np.ones(len(self)) if unit is None else self.column(unit), level)

    def worst_of_documents(self) -> list[DocumentLoss]:
        """Return the worst by the finest unit that all documents have."""
        finest: list[Unit] = [unit for unit in UNITS if self.ranked[unit] == len(self)]
        return self.worst_documents[finest[0]].sorted()

    def score_of_choices(self, level: float) -> ChoiceScore | None:
        """Return what the multiple-choice questions cost, None if there are none."""
        from scipy.stats import binomtest

        loss, right, guess = (np.array(self.choices[name]) for name in CHOICES)
        n = len(loss)
        if n == 0:
            return None
        value, ci = estimate(loss, np.ones(n), level)
        hits = int(right.sum())
        wilson = binomtest(hits, n).proportion_ci(level, method="wilson")
        shares = (float(wilson.low), float(wilson.high))
        return ChoiceScore(n, value, ci, hits / n, shares, math.fsum(guess) / n)


def estimate(numerator: Any, denominator: Any, level: float) -> tuple[float, Interval]:
    """Return Σ a / Σ b of independent documents and Hall's interval; neither depends on their order."""
    order = np.lexsort((numerator, denominator))
    a, b = numerator[order], denominator[order]
    total = math.fsum(b)
    if not total > 0:
        return math.nan, NO_INTERVAL
    value = math.fsum(a) / total
    if len(a) < 2:
        return value, NO_INTERVAL
    with np.errstate(all="ignore"):
        low, high = ratio(a, b).interval(level, 0.0)
    return value, (float(low), float(high))


def _count(x: float) -> int | None:
    return None if math.isnan(x) else int(x)


def _float(n: int | None) -> float:
    return math.nan if n is None else float(n)
