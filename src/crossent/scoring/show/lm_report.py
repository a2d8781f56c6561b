"""The report of a language model: one HTML page without scripts and without anything to load from the network."""

from __future__ import annotations

import html
import math
from pathlib import Path
from string import Template

from crossent.errors import quoted
from crossent.html import Markup, clipped, figure, safe, stylesheet, table, template
from crossent.outputs import write_whole
from crossent.scoring.lm_values import LanguageModelValues
from crossent.scoring.parts import Interval, bits
from crossent.scoring.show import lm_pictures, words
from crossent.scoring.show.lm_text import headline, slice_table
from crossent.scoring.show.words import counted, number, share, span
from crossent.version import __version__


def render(score: LanguageModelValues, *, title: str, source: str = "") -> str:
    """Return the report as a page of HTML; equal scores give equal text.

    Parameters
    ----------
    score
        The score.
    title
        Heading of the page. Title, source and what comes from logs are text and may hold any character.
    source
        Origin of the numbers, such as the name of a file.

    Returns
    -------
    str
        An HTML document with its style and pictures inside.
    """
    return Template(template("crossent.scoring.show", "lm_report.html")).substitute(
        name=html.escape(clipped(title)),
        style=stylesheet(),
        title=safe(title),
        facts=_facts(score, source),
        level=f"{100 * score.level:g}&nbsp;%",
        warnings=_warnings(score),
        cards="\n".join(_cards(score)),
        slices=_slices(score),
        pictures=_pictures(score),
        tokens=_tokens(score),
        documents=_documents(score),
        numbers=_numbers(score),
        footer=Markup(
            f"Made by crossent {__version__}. Intervals are Hall’s (1992), corrected for skewness; accuracies of 0 and "
            "1 have Wilson’s (1927). Documents are taken as independent."
        ),
    )


def write(score: LanguageModelValues, path: str | Path, *, title: str, source: str = "") -> Path:
    """Write the report to a file, as UTF-8, and return its path."""
    path = Path(path)
    write_whole(path, render(score, title=title, source=source))
    return path


def _facts(score: LanguageModelValues, source: str) -> str:
    counts = [(score.documents, "document"), (score.tokens, "scored token"), (score.bytes or 0, "byte")]
    facts = [counted(n, noun) for n, noun in counts if n] + [", ".join(score.sources), *score.facts]
    spans = [f"<span>{html.escape(fact)}</span>" if len(fact) < 40 else html.escape(fact) for fact in facts if fact]
    return " · ".join([*spans, f"from {safe(source)}"] if source else spans)


def _warnings(score: LanguageModelValues) -> str:
    if not score.warnings:
        return ""
    items = "\n".join(f"<li>{html.escape(clipped(text, 2000))}</li>" for text in score.warnings)
    return (
        f'<section class="notice" aria-label="Warnings"><h2>{counted(len(score.warnings), "warning")}</h2>'
        f"<ul>\n{items}\n</ul></section>"
    )


def _cards(score: LanguageModelValues) -> list[str]:
    """Return the cards at the top: the available ones of loss, bits per byte, perplexity, coverage and accuracy."""
    cards: list[str] = []
    exact = score.tokens > 0 and score.covered == score.tokens
    if exact:
        in_bits = f"In bits <b>{number(bits(score.loss), 4)}</b>."
        cards.append(_card("Loss per token", f"{number(score.loss, 4)} <small>nats</small>", score, score.ci, in_bits))
        ends = words.span(*map(words.exponential, score.ci))
        among = "The uncertainty of a choice between this many equally probable tokens."
        cards.append(_box("Perplexity", words.exponential(score.loss), f"{_between(score, ends)} {among}"))
    elif score.tokens:
        beside = (
            f"The tokens in the log cost <b>{number(score.covered_loss, 4)}</b>; the others count with their lower "
            "bound."
        )
        cards.append(_box("Loss per token", f"≥ {number(score.bounds[0], 4)} <small>nats</small>", beside))
        inside = f"{score.covered:,} of {score.tokens:,} tokens have a log-probability."
        cards.append(_box("Coverage", share(score.coverage), inside))
    if not math.isnan(score.bits_per_byte):
        what = f"Over {counted(score.bytes or 0, 'byte')} of text: comparable between tokenizers."
        cards.append(_card("Bits per byte", number(score.bits_per_byte, 4), score, score.bits_per_byte_ci, what))
    if not score.tokens and not math.isnan(score.loss_per_document):
        cards.append(
            _card("Loss per document", f"{number(score.loss_per_document, 4)} <small>nats</small>", score,
                  score.loss_per_document_ci, "The log holds totals of documents, not tokens.")
        )  # fmt: skip
    if score.choices is not None:
        guess = f"Guessing costs <b>{number(score.choices.guess, 4)}</b>."
        loss = f"{number(score.choices.loss, 4)} <small>nats</small>"
        cards.append(_card("Loss over the choices", loss, score, score.choices.ci, guess))
        asked = f"Of {counted(score.choices.n, 'question')}."
        cards.append(_card("Accuracy", number(score.choices.accuracy, 4), score, score.choices.accuracy_ci, asked))
    most = [document.document for document in score.worst_documents[:1]]
    if most and len(cards) < 4:
        worst = score.worst_documents[0]
        of = f"The costliest is {safe(worst.document)}, with <b>{number(worst.loss, 4)}</b> nats per {worst.unit}."
        cards.append(_box("Documents", f"{score.documents:,}", of))
    return cards[:4]


def _card(heading: str, value: str, score: LanguageModelValues, ci: Interval, text: str) -> str:
    ends = span(number(ci[0], 4), number(ci[1], 4))
    return _box(heading, value, f"{_between(score, ends)} {text}")


def _between(score: LanguageModelValues, ends: str) -> str:
    return "No interval." if ends == "no interval" else f"{100 * score.level:g}&nbsp;% interval <b>{ends}</b>."


def _box(heading: str, value: str, text: str) -> str:
    return f'<div class="card"><h3>{heading}</h3><div class="figure">{value}</div><p>{text}</p></div>'


def _slices(score: LanguageModelValues) -> str:
    """Return the tables of slices."""
    found: list[str] = []
    for name, parts in score.by.items():
        title, rows = slice_table(name, parts)
        cells = [(safe(row[0]), *row[1:]) for row in rows[1:]]
        found.append(table([clipped(cell, 60) for cell in rows[0]], cells, caption=title))
    return "" if not found else "<h2>Where does it cost most?</h2>\n" + "\n".join(found)


def _pictures(score: LanguageModelValues) -> str:
    """Return the section of pictures: losses by place, of tokens and of documents."""
    drawn: list[str] = []
    if len(score.positions) > 1:
        note = (
            ""
            if all(part.exact for part in score.positions)
            else "<p>Tokens outside the log count with their bounds.</p>"
        )
        drawn.append(figure("Loss per token by position", lm_pictures.positions(score.positions), note))
    if any(bar.weight for bar in score.histogram):
        drawn.append(figure("Share of the tokens by loss", lm_pictures.losses(score)))
    if any(bar.weight for bar in score.document_histogram):
        drawn.append(figure("Documents by loss", lm_pictures.documents(score.document_histogram, score.loss)))
    if not drawn:
        return ""
    return (
        "<h2>How is the loss spread?</h2>\n<p>The first tokens of a document have little context and cost more. The "
        "loss is a mean, and a few costly tokens can outweigh many cheap ones.</p>\n"
        f'<div class="pair">{"".join(drawn)}</div>'
    )


def _tokens(score: LanguageModelValues) -> str:
    if not score.worst_tokens:
        return ""
    rows = [
        (safe(t.document), f"{t.position:,}", Markup(f"<code>{html.escape(clipped(quoted(t.text), 80))}</code>"),
         _least(t.loss, t.exact), f"{math.exp(-t.loss):.2g}")
        for t in score.worst_tokens
    ]  # fmt: skip
    return "<h2>The costliest tokens</h2>\n" + table(
        ("document", "position", "token", "loss, nats", "which got"), rows,
        caption=f"The costliest {counted(len(rows), 'token')}, costliest first", texts=(2,),
    )  # fmt: skip


def _documents(score: LanguageModelValues) -> str:
    if not score.worst_documents:
        return ""
    unit = score.worst_documents[0].unit
    rows = [(safe(d.document), _least(d.loss, d.exact), _size(d.tokens), _size(d.bytes)) for d in score.worst_documents]
    return "<h2>The costliest documents</h2>\n" + table(
        ("document", f"nats per {unit}", "tokens", "bytes"), rows,
        caption=f"The costliest {counted(len(rows), 'document')}, costliest first",
    )  # fmt: skip


def _least(loss: float, exact: bool) -> str:
    return f"{'' if exact else '≥ '}{number(loss, 4)}"


def _size(n: int | None) -> str:
    return words.NONE if n is None else f"{n:,}"


def _numbers(score: LanguageModelValues) -> str:
    head, *rows = headline(score)
    return table(head, rows, caption="The numbers of this report")
