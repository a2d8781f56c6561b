"""Scores of logged log-probabilities of a language model: `read` the log, `score_tokens` of its documents."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast, get_args

from crossent.errors import InputError
from crossent.inputs import why_not_readable
from crossent.scoring.lm import formats
from crossent.scoring.lm.document import Document, LogError, LogSource, described
from crossent.scoring.lm.result import LanguageModelScore, in_bits
from crossent.scoring.lm.totals import NO_INTERVAL, UNKNOWN, TokenTotals
from crossent.scoring.parts import bits
from crossent.scoring.show.words import counted, share

Format = Literal["auto"] | LogSource

LONGEST = 2**28  # bytes of a line: a hundred thousand tokens with twenty candidates each


def read(path: str | os.PathLike[str], *, format: Format = "auto") -> Iterator[Document]:
    r"""Read the documents of a log, one at a time.

    The file holds one JSON object per line, or is one JSON value: an object or an array of them.

    ============= ==================================================================================================
    `chat`        chat completions; the answers to one prompt are one document
    `completions` completions; each choice is a document. Of an echoed prompt the first token, a null, is not scored,
                  nor what was generated after it, where the usage tells how much that is
    `responses`   the Responses API
    `vllm`        `prompt_logprobs`, of a server's response or of a dumped `RequestOutput`; not the generated tokens
    `lm-eval`     samples of lm-eval: loglikelihood, loglikelihood_rolling, multiple choice
    `plain`       ``{"logprobs": [−0.1, …], "tokens": ["a", …], "top_logprobs": […], "text": "a…", "id": "x"}``
                  or ``{"target": " a", "top_logprobs": {" b": −0.1, …}}``
    ============= ==================================================================================================

    Lines of the batch API (`custom_id`, `response.body`) are unwrapped. A `plain` object needs `logprobs`, or
    `top_logprobs` alone; its `text` is the text of the scored tokens, and lines with the same `id` are parts of one
    document. Servers write −∞, −100, or −9999 and less, for a token that is not among the most probable ones. Such a
    token is outside the log, and so is a null after the first scored token.

    Tokens may be spelled as in a tokenizer's vocabulary, where Ġ or ▁ stands for a blank and <0xE2> for a byte. The
    text of the log decides, if it has one; else the tokens themselves, and a warning of the score says so.

    Parameters
    ----------
    path
        The file; "-" is standard input.
    format
        One of the names above, or "auto" to tell the format of each object by its keys.

    Yields
    ------
    Document
        One at a time; a failed request is a document without tokens.

    Raises
    ------
    LogError
        If a line cannot be read, with file, line, cause and fix; a ValueError.
    OSError
        If the file cannot be opened.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "log.jsonl"
    ...     _ = path.write_text('{"id": "a", "tokens": ["Hi", "!"], "logprobs": [null, -0.5]}\n')
    ...     [(d.id, d.tokens[0].text, d.tokens[0].logprob) for d in read(path)]
    [('a', '!', -0.5)]
    """
    if format not in ("auto", *get_args(LogSource)):
        raise LogError(
            f"format must be one of auto, {', '.join(get_args(LogSource))}, not {described(format)}", argument="format"
        )
    return _documents(Path(path), None if format == "auto" else format)


def score_tokens(documents: Iterable[Document], *, ci: float = 0.95, worst: int = 10) -> LanguageModelScore:
    r"""Return the loss per token and per byte of logged log-probabilities, with intervals.

    loss = Σ −log q / Σ tokens,   bits per byte = Σ −log q / (log 2 · Σ bytes),   perplexity = e^loss

    Documents are the clusters of Hall's interval, because the tokens of one text depend on each other. A token outside
    the log, which is not among the most probable tokens that were logged, has −log q ≥ −log min(smallest q, 1 − Σ q)
    of these, with no upper bound.

    Parameters
    ----------
    documents
        Documents from `read`, of one file or of several.
    ci
        Level of confidence of the intervals.
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
            "characters, or parts of characters alone, or do not make up the text"
        )
    if size is not None and notes["unconfirmed bytes"]:
        yield (
            f"the tokens of {counted(notes['unconfirmed bytes'], 'document')} are spelled as in a tokenizer's "
            "vocabulary (Ġ or ▁ for a blank, <0xE2> for a byte, <|end|> for no text), and their bytes were counted so; "
            "no text in the log confirms it"
        )
    if notes["first token"]:
        yield (
            f"the first token of {counted(notes['first token'], 'text')} is context, not scored: the tokenizer puts no "
            "BOS before it"
        )
    for note, warning in WARNINGS.items():
        if notes[note]:
            yield f"{counted(notes[note], 'record')} {warning}"


WARNINGS = {
    "sampled": "of text that the model generated itself: their loss is the model's own uncertainty, not the "
    "cross-entropy of a text from elsewhere",
    "generated": "with log-probabilities of generated tokens besides those of the prompt: only the prompt is counted",
    "mixed": "in which the echoed prompt and the generated tokens cannot be told apart, and both count; ask for "
    "max_tokens=0",
    "failed": "of failed requests, left out",
    "empty": "without a scored token, left out",
    "filtered": "of another filter of lm-eval, left out: the same documents again",
    "unknown target": "of multiple choice, left out: the sample does not tell which answer is right",
    "accuracy alone": "of multiple choice with an accuracy of their own, which counts, but without a word on which "
    "answers are right: they have no loss",
}
"""Warnings of the notes of documents, after their number."""


class LogRecord(NamedTuple):
    """A JSON value of a log, and its place in the file."""

    where: str
    value: Any


def _documents(path: Path, source: LogSource | None) -> Iterator[Document]:
    """Yield the documents of a file, those of lm-eval's first filter alone."""
    first: Any = None
    for where, record in _records(path):
        if isinstance(record, dict) and "filter" in record:
            first = record["filter"] if first is None else first
            if record["filter"] != first:
                yield Document(where, "lm-eval", notes=frozenset({"filtered"}))
                continue
        try:
            yield from formats.documents(record, where, source)
        except LogError as error:
            raise LogError(f"{path}, {where}: {error}") from None


def _records(path: Path) -> Iterator[LogRecord]:
    """Yield the records of a file, or of standard input for the path "-"."""
    standard = str(path) == "-"
    if not standard and (reason := why_not_readable(path)):
        raise LogError(f"{path} {reason}")
    with nullcontext(sys.stdin.buffer) if standard else path.open("rb") as file:
        found, number = False, 0
        while line := file.readline(LONGEST + 1):
            number += 1
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            where = f"line {number}"
            if number == 1 and line.startswith(b"\x1f\x8b"):
                raise LogError(f"{path}, {where}: the file is compressed; unpack it with gunzip first")
            try:
                value = _parsed(line)
            except LogError as error:
                if found:
                    raise LogError(f"{path}, {where}: {error}") from None
                value = _whole(path, file, line, error, where)
            found = True
            if isinstance(value, list):
                for k, one in enumerate(cast("list[Any]", value), 1):
                    yield LogRecord(f"{where}, entry {k}", one)
            else:
                yield LogRecord(where, value)
    if not found:
        raise LogError(f"{path} is empty; write one JSON object per line")


def _whole(path: Path, file: BinaryIO, line: bytes, error: LogError, where: str) -> Any:
    """Return the file as one JSON value over several lines; `error` is that of its first line on its own."""
    rest = b"" if len(line) > LONGEST else file.read(LONGEST + 1 - len(line))
    if not rest.strip():
        raise LogError(f"{path}, {where}: {error}") from None
    if len(line) + len(rest) > LONGEST:
        raise LogError(
            f"{path}, {where}: {error}; or the file is one JSON value of more than {LONGEST} bytes"
        ) from None
    try:
        return _parsed(line + rest)
    except LogError as whole:
        # A line that ends in the middle of a value begins one that is spread over lines.
        ends = line.rstrip()[-1:] in b"{[,"
        raise LogError(f"{path}, {'in one JSON value' if ends else where}: {whole if ends else error}") from None


def _parsed(line: bytes) -> Any:
    """Return the JSON value of a line."""
    if len(line) > LONGEST:
        raise LogError(f"longer than {LONGEST} bytes; write one JSON object per line")
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise LogError(f"byte {error.start} is not UTF-8; write the log as UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"character {error.pos}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise LogError(f"not JSON: {error.msg.lower()} at {place}; was the line cut off?") from None
    except ValueError as error:
        raise LogError(f"not JSON that can be read: {error}") from None
    except RecursionError:
        raise LogError("nested too deeply; this is no log of log-probabilities") from None
