"""What a language model's logged log-probabilities cost: per token, per byte, per document."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast, get_args

from crossent.scoring.lm.document import Document, LogError, Source, shown
from crossent.scoring.lm.formats import documents as documents_of
from crossent.scoring.lm.result import LanguageModelScore, in_bits
from crossent.scoring.lm.totals import NO_INTERVAL, Totals
from crossent.scoring.parts import bits
from crossent.scoring.show.words import counted, share

Format = Literal["auto"] | Source

LONGEST = 2**28  # bytes of a line: a hundred thousand tokens with twenty candidates each
NOTHING = (math.nan, NO_INTERVAL)


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

    Lines of the batch API (`custom_id`, `response.body`) are opened. Of `plain` everything but `logprobs` may be left
    out, and `logprobs` too where there are `top_logprobs`; `text` is what the scored tokens make up, and lines with the
    same `id` are parts of one document. A log-probability of −∞ or of −9999 and less, which servers write for "not
    among the most probable", and a null after the first scored token leave that token outside.

    Parameters
    ----------
    path
        The file.
    format
        One of the names above; "auto" goes by the shape of each object.

    Yields
    ------
    Document
        One at a time. A request that failed is one without tokens.

    Raises
    ------
    LogError
        If a line cannot be read; the message names file, line, cause and fix. It is a ValueError.
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
    if format not in ("auto", *get_args(Source)):
        raise LogError(f"format must be one of auto, {', '.join(get_args(Source))}, not {shown(format)}")
    return _documents(Path(path), None if format == "auto" else format)


def score_tokens(documents: Iterable[Document], *, ci: float = 0.95, worst: int = 10) -> LanguageModelScore:
    r"""Return what the tokens of documents cost, and how sure that is.

    loss = Σ −log p / Σ tokens,   bits per byte = Σ −log p / (log 2 · Σ bytes),   perplexity = e^loss

    Documents are the clusters of Hall's interval: tokens of one text are not independent. For a token outside of the
    logged most probable ones −log p is at least −log min(smallest p, 1 − Σ p) of these and may be anything above.

    Parameters
    ----------
    documents
        What `read` yields, of one file or of several.
    ci
        The probability with which the intervals cover.
    worst
        How many of the worst tokens and documents to keep.

    Returns
    -------
    LanguageModelScore
        Losses in nats per token.

    Raises
    ------
    LogError
        If there is no scored token.

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
        raise ValueError(f"ci must lie between 0 and 1, not {ci}")
    if worst < 0:
        raise ValueError(f"worst must not be negative, not {worst}")
    totals = Totals(worst)
    for document in documents:
        totals.add(document)
    totals.finish()
    if not len(totals):
        failed, empty = totals.notes["failed"], totals.notes["empty"]
        raise LogError(
            f"no scored token in {counted(failed + empty, 'record')}, {failed} of them failed requests; ask the server "
            "for log-probabilities (logprobs=True, prompt_logprobs=0 or lm-eval's --log_samples)"
        )
    return _score(totals, ci)


def _score(totals: Totals, level: float) -> LanguageModelScore:
    tokens, covered, size, words = (totals.known(name) for name in ("tokens", "covered", "bytes", "words"))
    exact = totals.exact
    loss, ci = totals.mean("loss", "tokens", level)
    per_byte, byte_ci = totals.mean("loss", "bytes", level)
    per_word, word_ci = totals.mean("loss", "words", level) if exact else NOTHING
    per_document, document_ci = totals.mean("loss", None, level) if exact else NOTHING
    most = loss if exact else math.inf
    return LanguageModelScore(
        loss=loss if exact else math.nan,
        ci=ci if exact else NO_INTERVAL,
        bounds=(loss, math.nan if math.isnan(loss) else most),
        covered_loss=(of_covered := totals.mean("covered_loss", "covered", level))[0],
        covered_ci=of_covered[1],
        bits_per_byte=bits(per_byte) if exact else math.nan,
        bits_per_byte_ci=in_bits(byte_ci) if exact else NO_INTERVAL,
        bits_per_byte_bounds=(bits(per_byte), bits(per_byte) if exact or math.isnan(per_byte) else math.inf),
        loss_per_word=per_word,
        loss_per_word_ci=word_ci,
        loss_per_document=per_document,
        loss_per_document_ci=document_ci,
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


def _warnings(totals: Totals, tokens: int | None, covered: int | None, size: int | None) -> Iterator[str]:
    notes = totals.notes
    if len(totals) == 1:
        yield "there is one document, and an interval needs two: what varies is the document, not the token"
    if not totals.exact and tokens and covered is not None:
        yield (
            f"{tokens - covered:,} of {counted(tokens, 'token')} ({share(1 - covered / tokens)}) are outside of what "
            "was logged; their loss is bounded from below only, and the loss of the others leaves out the worst"
        )
    if 0 < totals.totals_only < len(totals):
        yield "some documents have tokens and others only totals, so there is no loss per token; score them apart"
    if size is None:
        yield "the log does not hold the text of all tokens, so there are no bits per byte"
    elif notes["inexact bytes"]:
        yield (
            f"bytes are approximate for {counted(notes['inexact bytes'], 'document')}: the tokens hold replacement "
            "characters or do not make up the text"
        )
    for note, said in SAID.items():
        if notes[note]:
            yield f"{counted(notes[note], 'record')} {said}"


SAID = {
    "sampled": "of text that the model wrote itself: what it costs is the model's own uncertainty, not that of a text "
    "that it was given",
    "generated": "with log-probabilities of generated tokens besides those of the prompt: only the prompt is counted",
    "mixed": "in which the echoed prompt and the generated tokens cannot be told apart, and both count; ask for "
    "max_tokens=0",
    "failed": "of failed requests, left out",
    "empty": "without a scored token, left out",
    "filtered": "of another filter of lm-eval, left out: the same documents again",
    "unknown target": "of multiple choice left out: the sample does not tell which answer is right",
}


def _documents(path: Path, source: Source | None) -> Iterator[Document]:
    first: Any = None
    for where, record in _records(path):
        if isinstance(record, dict) and "filter" in record:
            first = record["filter"] if first is None else first
            if record["filter"] != first:
                yield Document(where, "lm-eval", notes=frozenset({"filtered"}))
                continue
        try:
            yield from documents_of(record, where, source)
        except LogError as error:
            raise LogError(f"{path}, {where}: {error}") from None


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield every record and where it is."""
    with path.open("rb") as file:
        found, number = False, 0
        while line := file.readline(LONGEST + 1):
            number += 1
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            where = f"line {number}"
            try:
                value = _parsed(line)
            except LogError as error:
                if found:
                    raise LogError(f"{path}, {where}: {error}") from None
                value = _whole(path, file, line, error, where)
            found = True
            if isinstance(value, list):
                for k, one in enumerate(cast("list[Any]", value), 1):
                    yield f"{where}, entry {k}", one
            else:
                yield where, value
    if not found:
        raise LogError(f"{path} is empty; write one JSON object per line")


def _whole(path: Path, file: BinaryIO, line: bytes, error: LogError, where: str) -> Any:
    """Return the file as one JSON value, which may be spread over lines; `error` says why its first line is none."""
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
    if line.startswith(b"\x1f\x8b"):
        raise LogError("the file is compressed; unpack it with gunzip first")
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
