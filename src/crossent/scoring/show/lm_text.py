"""A score of a language model as text: aligned tables for terminals, plain HTML for notebooks."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from crossent.errors import quoted, shown
from crossent.scoring.lm_values import DocumentLoss, LanguageModelSlice, LanguageModelValues, TokenLoss
from crossent.scoring.parts import Interval
from crossent.scoring.show.text import BITS, NATS, LossUnit, TextRows, TextTable, aligned, html_table
from crossent.scoring.show.words import NONE, counted, exponential, number, share, span

MOST = 40
"""Slices that a table lists; of more, those with the largest losses."""


def text(score: LanguageModelValues, *, in_bits: bool = False) -> str:
    """Return a score as aligned tables for a terminal."""
    unit = BITS if in_bits else NATS
    parts = [heading(score), *score.facts, *aligned(headline(score, unit))]
    for title, rows in tables(score, unit):
        parts += ["", title, *aligned(rows)]
    return "\n".join([*parts, *(f"warning: {warning}" for warning in score.warnings)])


def notebook_html(score: LanguageModelValues) -> str:
    """Return a score as plain HTML tables for a notebook."""
    found = [
        html_table(headline(score)),
        *(f"<p>{html.escape(title)}</p>{html_table(rows)}" for title, rows in tables(score)),
    ]
    facts = "".join(f"<p>{html.escape(fact)}</p>" for fact in score.facts)
    notes = "".join(f"<p>warning: {html.escape(warning)}</p>" for warning in score.warnings)
    return f"<p>{html.escape(heading(score))}</p>{facts}{''.join(found)}{notes}"


def heading(score: LanguageModelValues) -> str:
    """Return one line with the number of documents, tokens and bytes, and the kind of log."""
    counts = [(score.documents, "document"), (score.tokens, "scored token"), (score.bytes or 0, "byte")]
    said = ", ".join(counted(n, noun) for n, noun in counts if n)
    if score.sources == ("model",):
        return f"{said}, scored by a model"
    return f"{said}, read as format {' and '.join(score.sources)}"


def headline(score: LanguageModelValues, unit: LossUnit = NATS) -> TextRows:
    """Return the table of the whole score: name, value and interval of each number in the log."""
    level = f"{100 * score.level:g} % interval"
    rows: TextRows = [("", "value", level)]

    def loss(x: float) -> str:
        return number(unit.of(x), 4)

    def row(name: str, value: float, ci: Interval, write: Any = lambda x: number(x, 4)) -> None:
        rows.append((name, write(value), span(write(ci[0]), write(ci[1]))))

    def least(name: str, value: float, write: Any = lambda x: number(x, 4)) -> None:
        if not math.isnan(value):
            rows.append((name, f"≥ {write(value)}", "no upper bound"))

    if score.tokens and score.covered == score.tokens:
        row(f"loss per token ({unit.name})", score.loss, score.ci, loss)
        row("perplexity", score.loss, score.ci, _perplexity)
    elif score.tokens:
        least(f"loss per token ({unit.name}), bounded", score.bounds[0], loss)
        row("loss of covered tokens only", score.covered_loss, score.covered_ci, loss)
        rows.append(("coverage", share(score.coverage), f"{score.covered:,} of {score.tokens:,} tokens"))
    if not math.isnan(score.bits_per_byte):
        row("bits per byte", score.bits_per_byte, score.bits_per_byte_ci)
    else:
        least("bits per byte, bounded", score.bits_per_byte_bounds[0])
    if not math.isnan(score.loss_per_word):
        row("word perplexity", score.loss_per_word, score.loss_per_word_ci, _perplexity)
    if not score.tokens:
        row(f"loss per document ({unit.name})", score.loss_per_document, score.loss_per_document_ci, loss)
    if score.choices is not None:
        row(f"loss over the choices ({unit.name})", score.choices.loss, score.choices.ci, loss)
        rows.append(("loss of guessing", loss(score.choices.guess), ""))
        row("accuracy", score.choices.accuracy, score.choices.accuracy_ci)
    return rows


def tables(score: LanguageModelValues, unit: LossUnit = NATS) -> list[TextTable]:
    """Return the tables of slices, and of the costliest tokens and documents."""
    found = [slice_table(name, parts, unit) for name, parts in score.by.items()]
    if score.worst_tokens:
        rows = [(shown(t.document), str(t.position), quoted(t.text), _bound(t, unit)) for t in score.worst_tokens]
        found.append(TextTable("worst tokens", [("document", "position", "token", unit.name), *rows]))
    if score.worst_documents:
        head = ("document", f"{unit.name} per {score.worst_documents[0].unit}", "tokens", "bytes")
        rows = [(shown(d.document), _bound(d, unit), _size(d.tokens), _size(d.bytes)) for d in score.worst_documents]
        found.append(TextTable("worst documents", [head, *rows]))
    return found


def slice_table(name: str, parts: Sequence[LanguageModelSlice], unit: LossUnit = NATS) -> TextTable:
    """Return the table of a slice key, without the columns that stay empty."""
    listed, title = list(parts), f"by {shown(name)}"
    if len(parts) > MOST:
        listed = sorted(parts, key=lambda part: -_rank(part))[:MOST]
        title = f"{title}: the {MOST} of {len(parts)} with the largest loss"
    columns: list[list[str]] = [
        [shown(name), *(NONE if part.value is None else shown(part.value) for part in listed)],
        ["documents", *(f"{part.documents:,}" for part in listed)],
    ]

    def numbers(head: str, values: Sequence[float], ends: Sequence[Interval], write: Any) -> None:
        if not all(map(math.isnan, values)):
            columns.append([head, *(write(value) for value in values)])
            columns.append(["interval", *(span(write(low), write(high)) for low, high in ends)])

    def loss(x: float) -> str:
        return number(unit.of(x), 4)

    numbers(f"{unit.name} per token", [part.loss for part in listed], [part.ci for part in listed], loss)
    numbers(
        "bits per byte", [part.bits_per_byte for part in listed], [part.bits_per_byte_ci for part in listed],
        lambda x: number(x, 4),
    )  # fmt: skip
    choices = [part.choices for part in listed]
    none = (math.nan, math.nan)
    numbers(
        "over the choices", [c.loss if c else math.nan for c in choices], [c.ci if c else none for c in choices], loss
    )
    numbers(
        "accuracy", [c.accuracy if c else math.nan for c in choices], [c.accuracy_ci if c else none for c in choices],
        lambda x: number(x, 4),
    )  # fmt: skip
    return TextTable(title, list(zip(*columns, strict=True)))


def _rank(part: LanguageModelSlice) -> float:
    """Return the loss by which slices are ordered, the first known one."""
    losses = (part.loss, part.bits_per_byte, part.choices.loss if part.choices else math.nan)
    return next((loss for loss in losses if not math.isnan(loss)), -math.inf)


def _perplexity(loss: float) -> str:
    return number(loss) if not math.isfinite(loss) else exponential(loss)


def _size(n: int | None) -> str:
    return NONE if n is None else f"{n:,}"


def _bound(entry: TokenLoss | DocumentLoss, unit: LossUnit) -> str:
    loss = number(unit.of(entry.loss), 4)
    return loss if entry.exact else f"≥ {loss}"
