"""Documents: the tokens of one text with their log-probabilities, in one form whatever program logged them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from crossent.errors import InputError

JsonObject = Mapping[str, Any]
"""A JSON object of a log."""

LogSource = Literal["chat", "completions", "responses", "vllm", "lm-eval", "plain"]
"""Program or format that wrote a record of a log."""

DocumentNote = Literal["failed", "filtered", "sampled", "generated", "mixed", "inexact bytes", "unknown target"]
"""Remark of a reader about a document, which becomes a warning of the score."""

SENTINEL = -9999.0
"""Servers write this, or less, for a token whose log-probability they did not log."""
ROUNDING = 1e-6
FLOAT32 = 2.0**-23
LOST = "\N{REPLACEMENT CHARACTER}"


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
    """One multiple-choice question: the log-likelihood of each answer in nats, and the index of the right answer."""

    loglikelihoods: tuple[float, ...]
    target: int


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a log: its scored tokens, or only its total `loglikelihood` in nats if the log has no tokens.

    Documents count as independent, except those with the same `cluster`. `bytes` and `words` are the size of a
    document without tokens.
    """

    id: str
    source: LogSource
    tokens: tuple[Token, ...] = ()
    loglikelihood: float | None = None
    bytes: int | None = None
    words: int | None = None
    choices: Choices | None = None
    cluster: str | None = None
    notes: frozenset[DocumentNote] = field(default_factory=frozenset)


def log_probability(value: Any, what: str) -> float:
    """Return a log-probability in nats; NaN for None and for a sentinel, which is −9999 or less, or −∞.

    `what` names the value in errors.
    """
    if value is None:
        return math.nan
    number = real(value, what)
    if number > ROUNDING:
        raise LogError(f"{what} is {number:g}; are these log-probabilities? They cannot be positive")
    return math.nan if number <= SENTINEL else min(number, 0.0)


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


class ByteLength(NamedTuple):
    """Number of bytes of a token's UTF-8, None if unknown, and whether the number is exact."""

    bytes: int | None
    exact: bool


def byte_length(text: str | None, raw: Any = None) -> ByteLength:
    r"""Return the number of bytes of a token, from its list of bytes `raw` if the log has one, else from its text.

    Older completions write a fragment of a character as "bytes:\xe2\x80", "token_id:42" names a token without its
    text, and a replacement character stands for bytes that were lost.
    """
    if text is not None and re.fullmatch(r"token_id:\d+", text):
        return ByteLength(None, exact=False)
    encoded = None if text is None else text.encode("utf-8", "surrogatepass")
    if raw is not None:
        if not isinstance(raw, list) or not all(type(x) is int and 0 <= x < 256 for x in raw):
            raise LogError(f"a token's `bytes` must be a list of integers below 256, not {described(raw)}")
        # A server that has only the decoded text sends the bytes of its replacement characters.
        return ByteLength(len(raw), exact=not (text is not None and LOST in text and bytes(raw) == encoded))
    if text is None or encoded is None:
        return ByteLength(None, exact=False)
    if text.startswith("bytes:"):
        rest, escapes = re.subn(r"\\x[0-9a-fA-F]{2}", "", text[len("bytes:") :])
        if escapes:
            return ByteLength(escapes + len(rest.encode("utf-8", "surrogatepass")), exact=True)
    return ByteLength(len(encoded), exact=LOST not in text)


class TokenCollector:
    """The scored tokens of one document, added in the order of the text.

    First positions without a log-probability are context, which the model did not predict; a later position without
    one is a token outside the log.
    """

    def __init__(self) -> None:
        self.scored: list[Token] = []
        self.inexact = False
        self.position = 0

    def add(self, text: str | None, logprob: Any, *, raw: Any = None, top: Any = None) -> None:
        """Add the token at the next position; `top` holds the most probable tokens there, if the log has them."""
        where = f"the log-probability of token {self.position}"
        value = log_probability(logprob, where)
        position, self.position = self.position, self.position + 1
        limit = value
        if math.isnan(value) and top:
            candidates = TopTokens(top)
            value = limit = candidates.of(text, raw)
            if math.isnan(value):
                limit = ceiling(candidates.listed)
        elif math.isnan(value):
            if logprob is None and not self.scored:
                return
            limit = 0.0
        size = byte_length(text, raw)
        self.inexact |= not size.exact and size.bytes is not None
        self.scored.append(Token(position, "" if text is None else text, value, limit, size.bytes))

    def document(self, name: str, source: LogSource, *, notes: Sequence[DocumentNote] = ()) -> Document:
        """Return the document of the tokens added so far."""
        every: set[DocumentNote] = {*notes}
        if self.inexact:
            every.add("inexact bytes")
        return Document(name, source, tuple(self.scored), notes=frozenset(every))

    def check_against(self, text: Any) -> None:
        """Note inexact bytes unless the text of the document ends with the texts of its tokens."""
        if not isinstance(text, str) or any(token.text.startswith("bytes:") for token in self.scored):
            return
        if not text.endswith("".join(token.text for token in self.scored)):
            self.inexact = True


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
