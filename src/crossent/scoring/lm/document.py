"""What a log of log-probabilities is read into: documents of tokens, or totals, whatever wrote them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Source = Literal["chat", "completions", "responses", "vllm", "lm-eval", "plain"]

# What a document's reader has to say to whoever adds it up.
Note = Literal["failed", "filtered", "sampled", "generated", "mixed", "inexact bytes", "unknown target"]

SENTINEL = -9999.0
ROUNDING = 1e-6
FLOAT32 = 2.0**-23
LOST = "\N{REPLACEMENT CHARACTER}"


class LogError(ValueError):
    """A log that cannot be read or scored; the message says where, why and what to do."""


@dataclass(frozen=True, slots=True)
class Token:
    """One scored position of a document.

    `logprob` is NaN for a token that the log leaves outside: no more is known than that it is at most `ceiling`.
    `bytes` is the length of the token's UTF-8, None if the log does not tell.
    """

    position: int
    text: str
    logprob: float
    ceiling: float
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Choices:
    """One multiple-choice question: the log-likelihood of each answer, and the index of the right one."""

    loglikelihoods: tuple[float, ...]
    target: int


@dataclass(frozen=True, slots=True)
class Document:
    """What one document cost: its tokens, or only its `loglikelihood` where the log has nothing finer.

    Documents are taken to be independent, except those that share a `cluster`. `bytes` and `words` are those of a
    document without tokens.
    """

    id: str
    source: Source
    tokens: tuple[Token, ...] = ()
    loglikelihood: float | None = None
    bytes: int | None = None
    words: int | None = None
    choices: Choices | None = None
    cluster: str | None = None
    notes: frozenset[Note] = field(default_factory=frozenset)


def log_probability(value: Any, what: str) -> float:
    """Return a log-probability; NaN for None and for a sentinel, which is −∞ or anything up to −9999."""
    if value is None:
        return math.nan
    number = real(value, what)
    if number > ROUNDING:
        raise LogError(f"{what} is {number:g}; are these log-probabilities? They cannot be positive")
    return math.nan if number <= SENTINEL else min(number, 0.0)


def real(value: Any, what: str) -> float:
    """Return a number that is not NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LogError(f"{what} must be a number, not {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    if math.isnan(number):
        raise LogError(f"{what} is NaN; the model's arithmetic failed there, leave this record out or score it again")
    return number


def ceiling(listed: Sequence[float]) -> float:
    """Return how large the log-probability of a token outside a list of the most probable ones can be.

    It is log min(smallest p, 1 − Σ p). The p are taken as stored in float32, and the rest as larger by what that
    rounding hides, so that the bound holds.
    """
    known = [x for x in listed if not math.isnan(x)]
    if not known:
        return 0.0
    total = math.fsum(math.exp(x) for x in known)
    if total > 1.1:
        raise LogError(f"the listed probabilities add up to {total:.4g}; are these log-probabilities?")
    rest = 1.0 - total + FLOAT32 * math.fsum(math.exp(x) * (1.0 - x) for x in known)
    return min(*known, math.log(rest)) if rest > 0 else min(known)


def byte_length(text: str | None, raw: Any = None) -> tuple[int | None, bool]:
    r"""Return how many bytes a token has, None if the log does not tell, and whether that is exact.

    They are counted in `raw` where there is one, else in the text: "bytes:\xe2\x80" is how older completions write a
    fragment of a character, "token_id:42" names a token without its text, and a replacement character stands for
    bytes that were lost.
    """
    if text is not None and re.fullmatch(r"token_id:\d+", text):
        return None, False
    encoded = None if text is None else text.encode("utf-8", "surrogatepass")
    if raw is not None:
        if not isinstance(raw, list) or not all(type(x) is int and 0 <= x < 256 for x in raw):
            raise LogError(f"a token's `bytes` must be a list of integers below 256, not {shown(raw)}")
        # A server that has only the decoded text sends the bytes of its replacement characters.
        return len(raw), not (text is not None and LOST in text and bytes(raw) == encoded)
    if text is None or encoded is None:
        return None, False
    if text.startswith("bytes:"):
        rest, escapes = re.subn(r"\\x[0-9a-fA-F]{2}", "", text[len("bytes:") :])
        if escapes:
            return escapes + len(rest.encode("utf-8", "surrogatepass")), True
    return len(encoded), LOST not in text


class Tokens:
    """Collects the scored positions of one document.

    The first positions without a log-probability are context, which nothing predicts; a later one is outside.
    """

    def __init__(self) -> None:
        self.scored: list[Token] = []
        self.inexact = False
        self.position = 0

    def add(self, text: str | None, logprob: Any, *, raw: Any = None, top: Any = None) -> None:
        """Add the next position; `top` holds the most probable tokens there, if the log has them."""
        where = f"the log-probability of token {self.position}"
        value = log_probability(logprob, where)
        position, self.position = self.position, self.position + 1
        limit = value
        if math.isnan(value) and top:
            candidates = Top(top)
            value = limit = candidates.of(text, raw)
            if math.isnan(value):
                limit = ceiling(candidates.listed)
        elif math.isnan(value):
            if logprob is None and not self.scored:
                return
            limit = 0.0
        size, exact = byte_length(text, raw)
        self.inexact |= not exact and size is not None
        self.scored.append(Token(position, "" if text is None else text, value, limit, size))

    def document(self, name: str, source: Source, *, notes: Sequence[Note] = ()) -> Document:
        """Return what was collected."""
        every: set[Note] = {*notes}
        if self.inexact:
            every.add("inexact bytes")
        return Document(name, source, tuple(self.scored), notes=frozenset(every))

    def covers(self, text: Any) -> None:
        """Check the tokens against the text that they should make up: it must end with them, if all can be read."""
        if not isinstance(text, str) or any(token.text.startswith("bytes:") for token in self.scored):
            return
        if not text.endswith("".join(token.text for token in self.scored)):
            self.inexact = True


class Top:
    """The most probable tokens of a position: a mapping of texts to log-probabilities, or a list of entries."""

    def __init__(self, value: Any) -> None:
        self.entries: list[tuple[Any, Any, float]] = []
        if isinstance(value, Mapping):
            for text, logprob in value.items():
                self.entries.append((text, None, log_probability(logprob, "a log-probability in `top_logprobs`")))
        elif isinstance(value, list):
            for entry in value:
                if not isinstance(entry, Mapping) or "logprob" not in entry:
                    raise LogError(f"an entry of `top_logprobs` must have `token` and `logprob`, not {shown(entry)}")
                known = log_probability(entry["logprob"], "a log-probability in `top_logprobs`")
                self.entries.append((entry.get("token"), entry.get("bytes"), known))
        else:
            raise LogError(f"`top_logprobs` must hold objects or lists, not {shown(value)}")

    @property
    def listed(self) -> list[float]:
        """The log-probabilities."""
        return [logprob for _, _, logprob in self.entries]

    def of(self, text: str | None, raw: Any) -> float:
        """Return the log-probability of a token, NaN if it is not there; lost characters match nothing."""
        if text is None or (LOST in text and raw is None):
            return math.nan
        for token, its, logprob in self.entries:
            if token == text and (raw is None or its is None or raw == its):
                return logprob
        return math.nan


def shown(value: Any) -> str:
    """Return a value for a message, on one line and not too long."""
    if isinstance(value, Mapping):
        keys = [repr(str(key)[:30]) for key in list(value)[:8]]
        return f"an object with {', '.join(keys)}{', …' if len(value) > 8 else ''}" if keys else "an empty object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "null"
    text = repr(value[:40] if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:60] + "…"
