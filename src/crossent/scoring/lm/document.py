"""Documents: the tokens of one text with their log-probabilities, in one form for all programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from crossent.errors import InputError
from crossent.scoring.lm.spelling import LOST, Measured, Passage, SpelledToken

JsonObject = Mapping[str, Any]
"""A JSON object of a log."""

LogSource = Literal[
    "chat",
    "completions",
    "responses",
    "vllm",
    "sglang",
    "tgi",
    "llama.cpp",
    "gemini",
    "ollama",
    "inspect",
    "lm-eval",
    "plain",
]
"""Program or format that wrote a record of a log."""

DocumentSource = LogSource | Literal["model"]
"""Origin of a document: a log, or a model that scored the text."""

DocumentNote = Literal[
    "failed",
    "filtered",
    "sampled",
    "generated",
    "mixed",
    "inexact bytes",
    "unconfirmed bytes",
    "unknown target",
    "accuracy alone",
    "first token",
    "after sampling",
    "byte-order mark",
]
"""Remark of a reader about a document, which becomes a warning of the score."""

SENTINEL = -9999.0
"""Servers write this, or less, for a token whose log-probability they did not log."""
FILLER = -100.0
"""Some write exactly this instead."""
ROUNDING = 1e-6
FLOAT32 = 2.0**-23


class LogError(InputError):
    """A log cannot be read or scored; the message names the place, the cause and the fix."""


@dataclass(frozen=True, slots=True)
class Token:
    """One scored token of a document: its position, text and log-probability in nats.

    A token "outside the log" is not among the most probable tokens that the server logged. Its `logprob` is NaN, and
    `ceiling` is the largest value that it can have. `bytes` is the length of the token's UTF-8, None if unknown.
    """

    position: int
    text: str
    logprob: float
    ceiling: float
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Choices:
    """One multiple-choice question: the log-likelihood of each answer in nats, and the indices of the right answers.

    `accuracy` is the logged accuracy of the question, a fraction if several answers are right; None if it is not
    logged. Without right answers the question has no loss.
    """

    loglikelihoods: tuple[float, ...]
    right: tuple[int, ...]
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a log: its scored tokens, or only its total `loglikelihood` in nats if the log has no tokens.

    Documents count as independent, except those with the same `cluster`. `bytes` and `words` are the size of a document
    without tokens; `bytes` also the size of a document whose tokens do not show it. `by` holds keys and values for
    slices.
    """

    id: str
    source: DocumentSource
    tokens: tuple[Token, ...] = ()
    loglikelihood: float | None = None
    bytes: int | None = None
    words: int | None = None
    choices: Choices | None = None
    cluster: str | None = None
    notes: frozenset[DocumentNote] = field(default_factory=frozenset)
    by: tuple[tuple[str, str | None], ...] = ()


def log_probability(value: Any, what: str) -> float:
    """Return a log-probability in nats; NaN for None and for a sentinel: −100, −9999 or less, or −∞.

    `what` names the value in errors.
    """
    if value is None:
        return math.nan
    number = real(value, what)
    if number > ROUNDING:
        raise LogError(f"{what} is {number:g}; are these log-probabilities? They cannot be positive")
    return math.nan if number <= SENTINEL or number == FILLER else min(number, 0.0)


def real(value: Any, what: str) -> float:
    """Return a number that is not NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LogError(f"{what} must be a number, not {described(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    if math.isnan(number):
        raise LogError(f"{what} is NaN; the model's arithmetic failed there, leave this record out or score it again")
    return number


def log_sum(logarithms: Sequence[float]) -> float:
    """Return log Σ e^l; −∞ if every l is −∞."""
    peak = max(logarithms)
    return peak if peak == -math.inf else peak + math.log(math.fsum(math.exp(x - peak) for x in logarithms))


def ceiling(listed: Sequence[float]) -> float:
    """Return an upper bound of the log-probability of a token that is not among the most probable ones listed.

    The bound is log min(smallest q, 1 − Σ q). Servers store the q in float32, so 1 − Σ q is enlarged by the largest
    rounding error that they may have.
    """
    known = [x for x in listed if not math.isnan(x)]
    if not known:
        return 0.0
    total = math.fsum(math.exp(x) for x in known)
    if total > 1.1:
        raise LogError(f"the listed probabilities add up to {total:.4g}; are these log-probabilities?")
    rest = 1.0 - total + FLOAT32 * math.fsum(math.exp(x) * (1.0 - x) for x in known)
    return min(*known, math.log(rest)) if rest > 0 else min(known)


class _Waiting(NamedTuple):
    """A scored token whose number of bytes is not known before its whole passage is."""

    position: int
    text: str
    logprob: float
    ceiling: float


class TokenCollector:
    """The scored tokens of one document, added in the order of the text.

    First positions without a log-probability are context, which the model did not predict; a later position without
    one is a token outside the log. After the tokens of each passage, `close` it with its text.
    """

    def __init__(self) -> None:
        self.scored: list[Token] = []
        self.notes: set[DocumentNote] = set()
        self.total: int | None = 0
        self.position = 0
        self._waiting: list[_Waiting] = []
        self._passage = Passage()

    def add(self, text: str | None, logprob: Any, *, raw: Any = None, top: Any = None) -> None:
        """Add the token at the next position; `top` holds the most probable tokens there, if the log has them."""
        where = f"the log-probability of token {self.position}"
        value = log_probability(logprob, where)
        position, self.position = self.position, self.position + 1
        self._passage.tokens.append(SpelledToken(text, _bytes(raw)))
        limit = value
        if math.isnan(value) and top:
            candidates = TopTokens(top)
            value = limit = candidates.of(text, raw)
            if math.isnan(value):
                limit = ceiling(candidates.listed)
        elif math.isnan(value):
            if logprob is None and not (self.scored or self._waiting):
                self._passage.context += 1
                return
            limit = 0.0
        self._waiting.append(_Waiting(position, "" if text is None else text, value, limit))

    def close(self, text: Any = None, *, whole: bool = True) -> Measured:
        """End a passage: count the bytes of its tokens.

        Parameters
        ----------
        text
            The text of the passage, if the log has it.
        whole
            Whether the text has nothing before the tokens.
        """
        found = self._passage.measured(text, whole=whole)
        self.scored += [Token(*token, size) for token, size in zip(self._waiting, found.bytes, strict=True)]
        self.total = None if self.total is None or found.total is None else self.total + found.total
        if found.total is not None:
            self.notes |= {"inexact bytes"} if found.approximate else set()
            self.notes |= {"unconfirmed bytes"} if not (found.confirmed or found.approximate) else set()
        self._waiting, self._passage = [], Passage()
        return found

    def remove_last(self, tokens: int) -> None:
        """Remove the last scored tokens."""
        first = max(0, len(self.scored) - tokens)
        sizes = [token.bytes for token in self.scored[first:]]
        known = None if None in sizes else sum(size or 0 for size in sizes)
        self.total = None if self.total is None or known is None else max(0, self.total - known)
        del self.scored[first:]

    def document(self, name: str, source: LogSource, *, notes: Sequence[DocumentNote] = ()) -> Document:
        """Return the document of the tokens added so far, with its size if its tokens do not add up to it."""
        sizes = [token.bytes for token in self.scored]
        added = None if None in sizes else sum(size or 0 for size in sizes)
        size = None if self.total == added else self.total
        return Document(name, source, tuple(self.scored), bytes=size, notes=frozenset({*notes, *self.notes}))


def _bytes(raw: Any) -> bytes | None:
    """Return a token's list of bytes, None if the log has none."""
    if raw is None:
        return None
    if not isinstance(raw, list) or not all(type(x) is int and 0 <= x < 256 for x in raw):
        raise LogError(f"a token's `bytes` must be a list of integers below 256, not {described(raw)}")
    return bytes(raw)


class TopToken(NamedTuple):
    """One of the most probable tokens of a position: its text, its bytes if the log has them, its log-probability."""

    text: Any
    bytes: Any
    logprob: float


class TopTokens:
    """The most probable tokens of a position, from a mapping of texts to log-probabilities or a list of objects."""

    def __init__(self, value: Any) -> None:
        what = "a log-probability in `top_logprobs`"
        self.entries: list[TopToken] = []
        if isinstance(value, Mapping):
            self.entries += [TopToken(text, None, log_probability(x, what)) for text, x in value.items()]
        elif isinstance(value, list):
            for entry in value:
                if not isinstance(entry, Mapping) or "logprob" not in entry:
                    raise LogError(
                        f"an entry of `top_logprobs` must have `token` and `logprob`, not {described(entry)}"
                    )
                known = log_probability(entry["logprob"], what)
                self.entries.append(TopToken(entry.get("token"), entry.get("bytes"), known))
        else:
            raise LogError(f"`top_logprobs` must hold objects or lists, not {described(value)}")

    @property
    def listed(self) -> list[float]:
        """The log-probabilities."""
        return [entry.logprob for entry in self.entries]

    def of(self, text: str | None, raw: Any) -> float:
        """Return the log-probability of a token, NaN if it is not listed; a text with lost characters is not."""
        if text is None or (LOST in text and raw is None):
            return math.nan
        for entry in self.entries:
            if entry.text == text and (raw is None or entry.bytes is None or raw == entry.bytes):
                return entry.logprob
        return math.nan


def described(value: Any) -> str:
    """Return a short description of a JSON value for an error, on one line."""
    if isinstance(value, Mapping):
        keys = [repr(str(key)[:30]) for key in list(value)[:8]]
        return f"an object with {', '.join(keys)}{', …' if len(value) > 8 else ''}" if keys else "an empty object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "null"
    text = repr(value[:40] if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:60] + "…"
