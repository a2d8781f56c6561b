"""Tokens of a text by a tokenizer of Hugging Face, and the bytes of the text in each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crossent.errors import InputError
from crossent.scoring.lm.spelling import Reading, SpelledToken, byte_level, literal, sentencepiece

_PROBE = "a"


@dataclass(frozen=True, slots=True)
class EncodedText:
    """Tokens of a text without the tokenizer's prefix, and the bytes of each, which add up to the text.

    `skipped` counts the bytes at the beginning of the text that are a prefix spelled out, such as "<s>". `exact` is
    whether the bytes of the first token are certain; the total always is.
    """

    ids: list[int]
    parts: list[bytes]
    skipped: int
    exact: bool


class Encoder:
    """A tokenizer, and the tokens that it puts before a text: a BOS, as a rule, or nothing.

    Raises
    ------
    InputError
        If the tokenizer does not put a text between fixed tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        within: list[int] = list(tokenizer(_PROBE).input_ids)
        alone: list[int] = list(tokenizer(_PROBE, add_special_tokens=False).input_ids)
        starts = range(len(within) - len(alone) + 1)
        at = next((k for k in starts if within[k : k + len(alone)] == alone), None) if alone else None
        if at is None:
            raise InputError(
                f"the tokenizer, a {type(tokenizer).__name__}, changes the tokens of a text when it adds special ones; "
                "score the texts with another tokenizer class, or log their log-probabilities and pass the log"
            )
        self.prefix: list[int] = within[:at]

    def encode(self, text: str) -> EncodedText:
        """Return the tokens of a text; a prefix that the text spells out already is not put before it again."""
        fast = bool(getattr(self.tokenizer, "is_fast", False))
        found = self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False, **_offsets(wanted=fast))
        ids: list[int] = list(found.input_ids)
        if not ids:
            return EncodedText([], [], 0, exact=True)
        spelled = self.tokenizer.convert_ids_to_tokens(ids)
        parts, exact = _read(spelled, text), True
        if parts is None:
            parts, exact = self._measured(text, ids, found["offset_mapping"] if fast else None), False
        begun = len(self.prefix) if self.prefix and ids[: len(self.prefix)] == self.prefix else 0
        skipped = sum(map(len, parts[:begun]))
        return EncodedText(ids[begun:], parts[begun:], skipped, exact=exact)

    def _measured(self, text: str, ids: Sequence[int], offsets: Any) -> list[bytes]:
        """Return the bytes of the tokens by their offsets, else by decoding each; together they are the text."""
        if offsets is None:
            pieces = [len(self.tokenizer.decode([token]).encode("utf-8", "replace")) for token in ids]
            whole, ends, at = text.encode("utf-8", "surrogatepass"), [], 0
            for size in pieces:
                at = min(len(whole), at + size)
                ends.append(at)
            return _cut(whole, ends)
        found: list[bytes] = []
        at = 0
        for k, (_, stop) in enumerate(offsets):  # a token that has no character of its own, as part of one, gets none
            end = len(text) if k == len(ids) - 1 else max(at, int(stop))
            found.append(text[at:end].encode("utf-8", "surrogatepass"))
            at = end
        return found


def _cut(whole: bytes, ends: list[int]) -> list[bytes]:
    """Return the pieces of a text that end at these places, the last at its end."""
    ends[-1] = len(whole)
    return [whole[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


def _offsets(*, wanted: bool) -> dict[str, bool]:
    return {"return_offsets_mapping": True} if wanted else {}


def _characters(token: SpelledToken) -> bytes | None:
    """Return the bytes of a token whose characters are bytes, as ByT5 spells them."""
    try:
        return None if token.text is None else token.text.encode("latin-1")
    except UnicodeEncodeError:
        return None


def _read(tokens: Sequence[str | None], text: str) -> list[bytes] | None:
    """Return the bytes of tokens that are spelled in one of the known alphabets and make up the text, else None."""
    target = text.encode("utf-8", "surrogatepass")
    readings: tuple[Reading, ...] = (byte_level, sentencepiece, literal, _characters)
    for reading in readings:
        parts: list[bytes] = []
        for token in tokens:
            part = reading(SpelledToken(token))
            if part is None:
                break
            parts.append(part)
        if len(parts) < len(tokens):
            continue
        joined = b"".join(parts)
        if joined == target:
            return parts
        if joined[:1] == b" " and joined[1:] == target:  # a blank that the tokenizer puts before a text
            first = next(k for k, part in enumerate(parts) if part)
            return [part[1:] if k == first else part for k, part in enumerate(parts)]
    return None
