"""`LanguageModelScore`: the loss of logged log-probabilities per token and per byte, as numbers and as tables."""

from __future__ import annotations

import dataclasses
import html
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from crossent.errors import quoted, shown
from crossent.scoring.parts import Interval, bits, perplexity
from crossent.scoring.show.text import TextRows, TextTable, aligned, html_table, json_value
from crossent.scoring.show.words import NONE, counted, exponential, number, share, span

Denominator = Literal["token", "byte", "question", "document"]
"""The unit by which the loss of a document is divided."""


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
    of the accuracies that the log gives its questions; where it gives none, that of the most probable answer, the first
    of equally probable ones.
    """

    n: int
    loss: float
    ci: Interval
    accuracy: float
    accuracy_ci: Interval
    guess: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LanguageModelScore:
    """Score of logged log-probabilities of a language model: loss per token, bits per byte, and their intervals.

    Losses are in nats. `loss` is per token. If tokens are outside the log it is NaN; then `bounds` holds its lower
    bound and ∞, and `covered_loss` is the loss of the other tokens alone. `bits_per_byte` and `bits_per_byte_bounds`
    are the same in bits per byte of the scored tokens' UTF-8. `tokens` counts the scored tokens, `covered` those with a
    known log-probability; `bytes` is None if unknown. `loss_per_document` and `loss_per_word` are for logs that hold
    totals of documents. Intervals cover with probability `level` and take documents, not tokens, as independent. `facts`
    say how the numbers came about, such as the windows of a model.
    """

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

    def with_facts(self, *facts: str) -> LanguageModelScore:
        """Return the score with more facts."""
        return dataclasses.replace(self, facts=(*self.facts, *facts))

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

    def to_dict(self) -> dict[str, Any]:
        """Return every number by its name, perplexities and coverage included."""
        more = ("coverage", "perplexity", "perplexity_ci", "byte_perplexity", "word_perplexity")
        return {**dataclasses.asdict(self), **{name: getattr(self, name) for name in more}}

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return `to_dict` as JSON, where NaN is null and an infinity the text "inf"."""
        return json.dumps(json_value(self.to_dict()), indent=indent, allow_nan=False)

    def __repr__(self) -> str:
        parts = [_head(self), *self.facts, *aligned(_rows(self))]
        for title, rows in _worst(self):
            parts += ["", title, *aligned(rows)]
        return "\n".join([*parts, *(f"warning: {warning}" for warning in self.warnings)])

    def _repr_html_(self) -> str:
        tables = [
            html_table(_rows(self)),
            *(f"<p>{html.escape(title)}</p>{html_table(rows)}" for title, rows in _worst(self)),
        ]
        notes = "".join(f"<p>warning: {html.escape(warning)}</p>" for warning in self.warnings)
        facts = "".join(f"<p>{html.escape(fact)}</p>" for fact in self.facts)
        return f"<p>{html.escape(_head(self))}</p>{facts}{''.join(tables)}{notes}"


def _head(score: LanguageModelScore) -> str:
    counts = [(score.documents, "document"), (score.tokens, "scored token"), (score.bytes or 0, "byte")]
    said = ", ".join(counted(n, noun) for n, noun in counts if n)
    return f"{said} ({', '.join(score.sources)})"


def _rows(score: LanguageModelScore) -> TextRows:
    """Return the table of the whole score: name, value and interval of each number that the log tells."""
    level = f"{100 * score.level:g} % interval"
    rows: TextRows = [("", "value", level)]

    def row(name: str, value: float, ci: Interval, write: Any = lambda x: number(x, 4)) -> None:
        rows.append((name, write(value), span(write(ci[0]), write(ci[1]))))

    def least(name: str, value: float) -> None:
        if not math.isnan(value):
            rows.append((name, f"≥ {number(value, 4)}", "no upper bound"))

    if score.tokens and score.covered == score.tokens:
        row("loss per token (nats)", score.loss, score.ci)
        row("perplexity", score.loss, score.ci, _perplexity)
    elif score.tokens:
        least("loss per token (nats), bounded", score.bounds[0])
        row("loss of covered tokens only", score.covered_loss, score.covered_ci)
        rows.append(("coverage", share(score.coverage), f"{score.covered:,} of {score.tokens:,} tokens"))
    if not math.isnan(score.bits_per_byte):
        row("bits per byte", score.bits_per_byte, score.bits_per_byte_ci)
    else:
        least("bits per byte, bounded", score.bits_per_byte_bounds[0])
    if not math.isnan(score.loss_per_word):
        row("word perplexity", score.loss_per_word, score.loss_per_word_ci, _perplexity)
    if not score.tokens:
        row("loss per document (nats)", score.loss_per_document, score.loss_per_document_ci)
    if score.choices is not None:
        row("loss over the choices (nats)", score.choices.loss, score.choices.ci)
        rows.append(("loss of guessing", number(score.choices.guess, 4), ""))
        row("accuracy", score.choices.accuracy, score.choices.accuracy_ci)
    return rows


def _perplexity(loss: float) -> str:
    return number(loss) if not math.isfinite(loss) else exponential(loss)


def _worst(score: LanguageModelScore) -> list[TextTable]:
    """Return the tables of the costliest tokens and documents."""
    tables: list[TextTable] = []
    if score.worst_tokens:
        tokens = [(shown(t.document), str(t.position), quoted(t.text), _bound(t)) for t in score.worst_tokens]
        tables.append(TextTable("worst tokens", [("document", "position", "token", "nats"), *tokens]))
    if score.worst_documents:
        head = ("document", f"nats per {score.worst_documents[0].unit}", "tokens", "bytes")
        rows = [(shown(d.document), _bound(d), _size(d.tokens), _size(d.bytes)) for d in score.worst_documents]
        tables.append(TextTable("worst documents", [head, *rows]))
    return tables


def _size(n: int | None) -> str:
    return NONE if n is None else f"{n:,}"


def _bound(entry: TokenLoss | DocumentLoss) -> str:
    return number(entry.loss, 4) if entry.exact else f"≥ {number(entry.loss, 4)}"


def in_bits(ci: Interval) -> Interval:
    """Return an interval of nats in bits."""
    return bits(ci[0]), bits(ci[1])
