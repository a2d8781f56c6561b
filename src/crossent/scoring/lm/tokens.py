"""Scores of logged log-probabilities of a language model: `score_tokens` of the documents of a log."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal

from crossent.errors import InputError
from crossent.scoring.lm.document import Document, DocumentNote, LogError
from crossent.scoring.lm.result import LanguageModelScore, in_bits
from crossent.scoring.lm.totals import NO_INTERVAL, UNKNOWN, TokenTotals
from crossent.scoring.lm_values import LanguageModelSlice
from crossent.scoring.parts import bits
from crossent.scoring.show.words import counted, share


def score_tokens(documents: Iterable[Document], *, ci: float = 0.95, worst: int = 10) -> LanguageModelScore:
    r"""Return the loss per token and per byte of logged log-probabilities, with intervals.

    loss = Σ −log q / Σ tokens,   bits per byte = Σ −log q / (log 2 · Σ bytes),   perplexity = e^loss

    Documents are the clusters of Hall's interval, because the tokens of one text depend on each other. A token outside
    the log is not among the logged most probable tokens. It has −log q ≥ −log min(smallest q, 1 − Σ q) over these, with
    no upper bound.

    Parameters
    ----------
    documents
        Documents from `read`, of one file or of several.
    ci
        Confidence level of the intervals.
    worst
        Number of the costliest tokens and documents to keep.

    Returns
    -------
    LanguageModelScore
        Losses in nats per token.

    Raises
    ------
    LogError
        If there is no scored token.
    InputError
        If `ci` or `worst` is out of range; both errors are ValueErrors.

    Examples
    --------
    >>> from crossent.scoring.lm.document import Document, Token
    >>> a = Document("a", "plain", (Token(1, "!", -0.5, -0.5, 1), Token(2, " Hi", -1.5, -1.5, 3)))
    >>> b = Document("b", "plain", (Token(1, "yes", -0.25, -0.25, 3),))
    >>> score = score_tokens([a, b])
    >>> score.loss, round(score.bits_per_byte, 4), score.worst_tokens[0].text
    (0.75, 0.4637, ' Hi')
    """
    if not 0.0 < ci < 1.0:
        raise InputError(f"ci must lie between 0 and 1, not {ci}", argument="ci")
    if worst < 0:
        raise InputError(f"worst must not be negative, not {worst}", argument="worst")
    totals = TokenTotals(worst)
    for document in documents:
        totals.add(document)
    totals.finish()
    if not len(totals) and not totals.choices["accuracy"]:
        failed, empty = totals.notes["failed"], totals.notes["empty"]
        raise LogError(
            f"no scored token in {counted(failed + empty, 'record')}, {failed} of them failed requests; ask the server "
            "for log-probabilities (logprobs=True, prompt_logprobs=0 or lm-eval's --log_samples)"
        )
    return _score(totals, ci)


def _score(totals: TokenTotals, level: float) -> LanguageModelScore:
    """Return the score of the documents that were added up."""
    tokens, covered, size, words = (totals.known(name) for name in ("tokens", "covered", "bytes", "words"))
    exact = totals.exact
    per_token, per_byte = totals.mean("loss", "tokens", level), totals.mean("loss", "bytes", level)
    covered_only = totals.mean("covered_loss", "covered", level)
    per_word = totals.mean("loss", "words", level) if exact else UNKNOWN
    per_document = totals.mean("loss", None, level) if exact else UNKNOWN
    byte_bits = bits(per_byte.value)
    return LanguageModelScore(
        loss=per_token.value if exact else math.nan,
        ci=per_token.ci if exact else NO_INTERVAL,
        bounds=(per_token.value, per_token.value if exact or math.isnan(per_token.value) else math.inf),
        covered_loss=covered_only.value,
        covered_ci=covered_only.ci,
        bits_per_byte=byte_bits if exact else math.nan,
        bits_per_byte_ci=in_bits(per_byte.ci) if exact else NO_INTERVAL,
        bits_per_byte_bounds=(byte_bits, byte_bits if exact or math.isnan(byte_bits) else math.inf),
        loss_per_word=per_word.value,
        loss_per_word_ci=per_word.ci,
        loss_per_document=per_document.value,
        loss_per_document_ci=per_document.ci,
        choices=totals.score_of_choices(level),
        documents=len(totals),
        tokens=tokens or 0,
        covered=covered or 0,
        bytes=size,
        words=words,
        level=level,
        sources=tuple(sorted(totals.sources)),
        worst_tokens=tuple(totals.worst_tokens.sorted()),
        worst_documents=tuple(totals.worst_of_documents()),
        warnings=tuple(_warnings(totals, tokens, covered, size)),
        by={key: tuple(_slices(parts, level)) for key, parts in totals.slices.items()},
        positions=totals.shape.positions() if totals.shape else (),
        histogram=totals.shape.histogram() if totals.shape else (),
        document_histogram=totals.histogram() if exact else (),
    )


def _slices(parts: dict[str | None, TokenTotals], level: float) -> Iterator[LanguageModelSlice]:
    """Yield the numbers of the documents of each value, in order of first appearance."""
    for value, totals in parts.items():
        totals.finish()
        exact = totals.exact
        per_token = totals.mean("loss", "tokens", level) if exact and len(totals) else UNKNOWN
        per_byte = totals.mean("loss", "bytes", level) if exact and len(totals) else UNKNOWN
        yield LanguageModelSlice(
            value=value,
            documents=len(totals) or len(totals.choices["accuracy"]),
            tokens=totals.known("tokens") or 0,
            loss=per_token.value,
            ci=per_token.ci,
            bits_per_byte=bits(per_byte.value),
            bits_per_byte_ci=in_bits(per_byte.ci),
            choices=totals.score_of_choices(level),
        )


def _warnings(totals: TokenTotals, tokens: int | None, covered: int | None, size: int | None) -> Iterator[str]:
    """Yield the warnings of a score."""
    notes = totals.notes
    if len(totals) == 1:
        yield "there is one document, and an interval needs two: documents are independent, their tokens are not"
    if not totals.exact and tokens and covered is not None:
        yield (
            f"{tokens - covered:,} of {counted(tokens, 'token')} ({share(1 - covered / tokens)}) are outside the log; "
            "their loss has only a lower bound, and the loss of the covered tokens leaves the costliest out"
        )
    if 0 < totals.totals_only < len(totals):
        yield "some documents have tokens and others only totals, so there is no loss per token; score them separately"
    if size is None and totals.totals_only == len(totals):
        yield "some documents have no text of their own, or several right answers, so there are no bits per byte"
    elif size is None:
        yield "the log does not hold the text of all tokens, so there are no bits per byte"
    elif notes["inexact bytes"]:
        yield (
            f"bytes are approximate for {counted(notes['inexact bytes'], 'document')}: the tokens hold replacement "
            "characters, or parts of characters, or do not add up to the text"
        )
    if size is not None and notes["unconfirmed bytes"]:
        yield (
            f"the tokens of {counted(notes['unconfirmed bytes'], 'document')} are spelled as in a tokenizer's "
            "vocabulary (Ġ or ▁ for a blank, <0xE2> for a byte, <|end|> for no text), and their bytes are counted from "
            "that spelling; no text in the log confirms it"
        )
    if notes["first token"]:
        yield (
            f"the first token of {counted(notes['first token'], 'text')} is context, not scored: the tokenizer puts no "
            "BOS before it"
        )
    for note, warning in WARNINGS.items():
        if notes[note]:
            yield f"{counted(notes[note], 'record')} {warning}"


WARNINGS: dict[DocumentNote | Literal["empty"], str] = {
    "sampled": "of text that the model generated itself: their loss is the model's own uncertainty, not the "
    "cross-entropy of a text from elsewhere",
    "generated": "with log-probabilities of generated tokens besides those of the prompt: only the prompt is counted",
    "mixed": "in which the echoed prompt and the generated tokens cannot be told apart, and both count; ask for "
    "max_tokens=0",
    "failed": "of failed requests, left out",
    "empty": "without a scored token, left out",
    "filtered": "of another filter of lm-eval, left out: the same documents again",
    "unknown target": "of multiple choice, left out: the sample does not name the right answer",
    "after sampling": "of an older llama.cpp server, which logs probabilities after its samplers",
    "byte-order mark": "of a text that begins with a byte-order mark, which is left out: it is not scored or counted",
    "accuracy "
    "alone": "of multiple choice with an accuracy, which counts, but without the right answers: they have no loss",
}
"""Warnings of the notes of documents, after their number."""
