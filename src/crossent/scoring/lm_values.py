"""The frozen pieces of a score of a language model, which its texts, pictures and pages read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from crossent.scoring.parts import Bar, Interval, perplexity

Denominator = Literal["token", "byte", "question", "document"]
"""The unit of the loss of a document."""


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """One of the costliest tokens; its loss in nats is a lower bound unless `exact`."""

    document: str
    position: int
    text: str
    loss: float
    exact: bool


@dataclass(frozen=True, slots=True)
class DocumentLoss:
    """One of the costliest documents: its loss in nats per `unit`, a lower bound unless `exact`, and its size."""

    document: str
    loss: float
    unit: Denominator
    tokens: int | None
    bytes: int | None
    exact: bool


@dataclass(frozen=True, slots=True)
class ChoiceScore:
    """Score of multiple-choice questions: log Σ e^l − log Σ_right e^l, with l the log-likelihoods of the answers.

    Losses are in nats, per question. `guess` is the loss of equal probabilities for all answers. `accuracy` is the mean
    of the accuracies in the log; if it has none, the accuracy of the most probable answer, the first of equally
    probable ones.
    """

    n: int
    loss: float
    ci: Interval
    accuracy: float
    accuracy_ci: Interval
    guess: float


@dataclass(frozen=True, slots=True)
class LanguageModelSlice:
    """The documents with one value of a key: their losses in nats per token, bits per byte, and choices.

    Numbers are NaN if the log lacks them; losses also if tokens are outside the log.
    """

    value: str | None
    documents: int
    tokens: int
    loss: float
    ci: Interval
    bits_per_byte: float
    bits_per_byte_ci: Interval
    choices: ChoiceScore | None = None


@dataclass(frozen=True, slots=True)
class PositionLoss:
    """The tokens at the positions [first, last] of their documents: their number, and their loss in nats per token.

    The loss is a lower bound unless `exact`.
    """

    first: int
    last: int
    tokens: int
    loss: float
    exact: bool


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LanguageModelValues:
    """Numbers, parts and warnings of a score; `LanguageModelScore` describes the fields."""

    loss: float
    ci: Interval
    bounds: Interval
    covered_loss: float
    covered_ci: Interval
    bits_per_byte: float
    bits_per_byte_ci: Interval
    bits_per_byte_bounds: Interval
    loss_per_word: float
    loss_per_word_ci: Interval
    loss_per_document: float
    loss_per_document_ci: Interval
    choices: ChoiceScore | None
    documents: int
    tokens: int
    covered: int
    bytes: int | None
    words: int | None
    level: float
    sources: tuple[str, ...]
    worst_tokens: tuple[TokenLoss, ...]
    worst_documents: tuple[DocumentLoss, ...]
    warnings: tuple[str, ...]
    facts: tuple[str, ...] = ()
    by: Mapping[str, tuple[LanguageModelSlice, ...]] = field(
        default_factory=dict[str, tuple["LanguageModelSlice", ...]]
    )
    positions: tuple[PositionLoss, ...] = ()
    histogram: tuple[Bar, ...] = ()
    document_histogram: tuple[Bar, ...] = ()

    @property
    def coverage(self) -> float:
        """Fraction of the scored tokens whose log-probability is known; NaN for a log without tokens."""
        return self.covered / self.tokens if self.tokens else math.nan

    @property
    def perplexity(self) -> float:
        """e^loss, the number of equally probable tokens that would have the same loss."""
        return perplexity(self.loss)

    @property
    def perplexity_ci(self) -> Interval:
        """The interval of the perplexity."""
        return perplexity(self.ci[0]), perplexity(self.ci[1])

    @property
    def byte_perplexity(self) -> float:
        """2 to the bits per byte."""
        return perplexity(self.bits_per_byte * math.log(2))

    @property
    def word_perplexity(self) -> float:
        """The perplexity per word, as in lm-eval."""
        return perplexity(self.loss_per_word)
