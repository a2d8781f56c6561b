r"""Bytes of tokens: the alphabet in which a log spells its tokens, recognised by the text of the log or by the tokens.

Logs write tokens in several ways. Some write the text of a token. Others write the entry of the vocabulary: in a
byte-level tokenizer (GPT-2, Llama 3, Qwen) each character stands for one byte, "Ġ" for a blank and "Ã©" for "é"; in
sentencepiece (Llama 2, Gemma, T5) "▁" stands for a blank, and "<0xC3>" for a byte. Part of a character appears as
"\xc3", as "bytes:\xc3", or as a replacement character, from which the bytes cannot be known.

The bytes of a text are known for sure if the log holds the text: one way of reading must give exactly that. Without a
text the tokens decide, and the score warns that nothing confirms it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

LOST = "\N{REPLACEMENT CHARACTER}"
BLANK = "\N{LOWER ONE EIGHTH BLOCK}"
"""Sentencepiece's character for a blank."""
_ESCAPES = re.compile(r"(?:bytes:)?( ?)((?:\\x[0-9a-fA-F]{2})+)")
_BYTE = re.compile(r"<0x([0-9a-fA-F]{2})>")
_NUMBER = re.compile(r"token_id:\d+")
_CONTROL = re.compile(r"<[|｜].*[|｜]>", re.DOTALL)
_SPECIAL = re.compile(r"<[|｜].*[|｜]>|<(?!0x)[^<>\s]+>|\[[A-Z]+\]", re.DOTALL)


def _byte_level() -> dict[str, int]:
    """Return the byte of each character of GPT-2's alphabet: printable ones stay, others are moved."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + k): byte for k, byte in enumerate(moved)}


_BYTE_LEVEL = _byte_level()
_CUT = re.compile(rb"^[\x80-\xbf]{1,3}|[\xc2-\xf4][\x80-\xbf]{0,2}$")


@dataclass(frozen=True, slots=True)
class SpelledToken:
    """A token as a log writes it: its text and its list of bytes, each None if the log does not have it."""

    text: str | None
    raw: bytes | None = None

    @property
    def encoded(self) -> bytes | None:
        """The text as UTF-8, or the list of bytes of a token without one; None for one that is named by its number."""
        if self.text is None:
            return self.raw
        if _NUMBER.fullmatch(self.text):
            return None
        return self.text.encode("utf-8", "surrogatepass")

    @property
    def control(self) -> bool:
        """Whether it is a control token such as `<|im_end|>`, not text, unless a list contradicts."""
        return self.text is not None and self.raw in (None, self.encoded) and bool(_CONTROL.fullmatch(self.text))

    @property
    def lost(self) -> bool:
        """Whether bytes were lost; a server that has only the text sends the bytes of replacement characters."""
        return self.text is not None and LOST in self.text and self.raw in (None, self.encoded)


Reading = Callable[[SpelledToken], bytes | None]
"""A way of reading a token: its bytes, None if they are unknown or the token is not written so."""


def given(token: SpelledToken) -> bytes | None:
    """Return the list of bytes of a token, else its text."""
    return token.raw if token.raw is not None else escaped(token)


def literal(token: SpelledToken) -> bytes | None:
    """Return the text of a token."""
    return token.encoded


def escaped(token: SpelledToken) -> bytes | None:
    r"""Return the text of a token, or the bytes that it spells: `\xe2\x80`, `bytes:\xe2\x80` or `<0xE2>`.

    Examples
    --------
    >>> escaped(SpelledToken(r"bytes:\xe2\x80")), escaped(SpelledToken("<0x0A>")), escaped(SpelledToken("a"))
    (b'\xe2\x80', b'\n', b'a')
    """
    text = token.text
    if text is not None and (found := _ESCAPES.fullmatch(text)):
        return found[1].encode() + bytes.fromhex(found[2].replace("\\x", ""))
    if text is not None and (found := _BYTE.fullmatch(text)):
        return bytes.fromhex(found[1])
    if text is not None and text.startswith("bytes:") and "\\x" in text:
        parts = re.split(r"\\x([0-9a-fA-F]{2})", text.removeprefix("bytes:"))  # texts and bytes in turn
        return b"".join(
            bytes.fromhex(part) if k % 2 else part.encode("utf-8", "surrogatepass") for k, part in enumerate(parts)
        )
    return token.encoded


def sentencepiece(token: SpelledToken) -> bytes | None:
    r"""Return the bytes of a token of sentencepiece.

    Examples
    --------
    >>> sentencepiece(SpelledToken("▁Good")), sentencepiece(SpelledToken("<0xC3>"))
    (b' Good', b'\xc3')
    """
    if token.text is None or _BYTE.fullmatch(token.text):
        return escaped(token)
    encoded = token.encoded
    return None if encoded is None else encoded.replace(BLANK.encode(), b" ")


def byte_level(token: SpelledToken) -> bytes | None:
    """Return the bytes of a byte-level token; None if it has characters that are not of the alphabet.

    Tokens that were added to a vocabulary, such as runs of blanks and `<|im_end|>`, are written as they are.

    Examples
    --------
    >>> byte_level(SpelledToken("Ġcaf")), byte_level(SpelledToken("Ã©")).decode(), byte_level(SpelledToken("日"))
    (b' caf', 'é', None)
    """
    if token.text is None or token.encoded is None:
        return token.encoded
    if token.text.isspace() or _CONTROL.fullmatch(token.text):
        return token.encoded
    found = [_BYTE_LEVEL.get(character) for character in token.text]
    return None if None in found else bytes(byte for byte in found if byte is not None)


class Measured(NamedTuple):
    """Numbers of bytes of tokens, None where unknown, and of all of them together.

    `confirmed` is whether the text of the log or its lists of bytes confirm the reading; `approximate` whether some
    numbers may be wrong, because bytes were lost or the tokens contradict the text.
    """

    bytes: list[int | None]
    total: int | None
    confirmed: bool = True
    approximate: bool = False

    @classmethod
    def of(cls, parts: Sequence[bytes | None]) -> Measured:
        """Return the numbers of bytes of tokens that were read."""
        sizes = [None if part is None else len(part) for part in parts]
        return cls(sizes, None if None in sizes else sum(size or 0 for size in sizes))


class Gaps(NamedTuple):
    """Bytes of tokens, some of them uncertain: unknown, or with replacement characters in place of some."""

    parts: list[bytes]
    unsure: list[bool]
    context: int

    def size_in(self, target: bytes) -> int | None:
        """Return the number of bytes of the tokens after the context, if all tokens can make up the text; else None.

        Certain parts must be in the text, in this order, the first and the last of them at the ends.
        """
        skipped = 0
        if any(self.unsure[: self.context]):  # a token that begins every text, perhaps: then the rest is the text
            skipped = self.context
            if self.unsure[skipped]:
                return None
        first, *between, last = self._sure(skipped)
        before = sum(map(len, self.parts[skipped : self.context]))
        if first[:1] == b" " and not target.startswith(b" "):  # the one that sentencepiece puts first
            first, before = first[1:], max(0, before - 1)
        at, end = len(first), len(target) - len(last)
        for piece in between:
            at = target.find(piece, at) + len(piece)
            if at < len(piece):
                return None
        if not (target.startswith(first) and target.endswith(last) and at <= end):
            return None
        return len(target) - before

    def _sure(self, begin: int) -> list[bytes]:
        """Return the certain bytes before, between and after the gaps of the tokens from `begin` on."""
        pieces = [b""]
        for part, gap in zip(self.parts[begin:], self.unsure[begin:], strict=True):
            known = part.split(LOST.encode()) if gap else [part]
            pieces[-1] += known[0]
            pieces += known[1:] if len(known) > 1 or not gap else [b""]
        return pieces


@dataclass(slots=True)
class Passage:
    """Tokens of one text, in its order; the first `context` of them are not scored."""

    tokens: list[SpelledToken] = field(default_factory=list[SpelledToken])
    context: int = 0

    def measured(self, text: Any = None, *, whole: bool = True) -> Measured:
        """Return the bytes of the scored tokens.

        Parameters
        ----------
        text
            The text of the passage; an empty one, or anything else, if the log does not have it.
        whole
            Whether the text has nothing before the tokens.
        """
        if not isinstance(text, str) or not text or not self.tokens:
            return self._unconfirmed(self._likely())
        target = text.encode("utf-8", "surrogatepass")
        for reading in self._readings():
            for tokens in (self.tokens, self._without_special()):
                if (found := self._matching([*map(reading, tokens)], tokens, target, whole=whole)) is not None:
                    return found
        return self._contradicted(target)

    def _readings(self) -> list[Reading]:
        told = any(token.raw not in (None, token.encoded) for token in self.tokens)
        return [*([given] if told else []), literal, escaped, byte_level, sentencepiece]

    def _without_special(self) -> list[SpelledToken]:
        """Return the tokens with nothing in place of the special ones, such as `</s>` and `<|im_end|>`."""
        nothing = SpelledToken("")
        return [nothing if token.text and _SPECIAL.fullmatch(token.text) else token for token in self.tokens]

    def _matching(
        self, read: list[bytes | None], tokens: list[SpelledToken], target: bytes, *, whole: bool
    ) -> Measured | None:
        """Return the bytes of the scored tokens if the tokens as they were read make up the text, else None."""
        if any(part is None and token.encoded is not None for part, token in zip(read, tokens, strict=True)):
            return None
        unsure = [part is None or token.lost for part, token in zip(read, tokens, strict=True)]
        parts = [part or b"" for part in read]
        scored = parts[self.context :]
        if any(unsure[self.context :]):
            gaps = Gaps(parts, unsure, self.context)
            total = gaps.size_in(target)
            return None if total is None else Measured.of(read[self.context :])._replace(total=total)
        joined, before = b"".join(scored), b"".join(parts[: self.context])
        begins = whole and not any(unsure[: self.context])
        if joined != target and joined[1:] == target and joined[:1].isspace():  # sentencepiece puts a blank first
            return Measured.of(_without_first_byte(scored))
        is_text = target.strip() in (joined.strip(), (before + joined).strip())
        return Measured.of(scored) if is_text or (not begins and target.endswith(joined)) else None

    def _contradicted(self, target: bytes) -> Measured:
        """Return the bytes of the scored tokens where all tokens together are not the text."""
        readings, likely = self._readings(), self._likely()
        joined = {reading: b"".join(reading(token) or b"" for token in self.tokens) for reading in readings}
        holds = [reading for reading in readings if target and target in joined[reading]]
        best = holds[0] if holds and likely not in holds else likely
        found = self._unconfirmed(best)
        if best is given:
            return found._replace(approximate=len(joined[given]) < len(target))
        return found._replace(
            confirmed=found.confirmed or (best in holds and literal not in holds),
            approximate=found.approximate or not holds,
        )

    def _unconfirmed(self, reading: Reading) -> Measured:
        """Return the bytes of the scored tokens, read in this way, where no text confirms it."""
        scored = self.tokens[self.context :]
        parts = [b"" if token.control and reading is not given else reading(token) for token in scored]
        plain = all(
            part == token.encoded or (token.text or "").startswith("bytes:")
            for part, token in zip(parts, scored, strict=True)
        )
        lost = any(token.lost for token in scored) or (reading is escaped and _is_undecided(self._texts()))
        return Measured.of(parts)._replace(confirmed=plain or reading is given, approximate=lost)

    def _texts(self) -> list[str]:
        return [token.text for token in self.tokens if token.text and not token.control]

    def _likely(self) -> Reading:
        """Return the way of reading that the tokens suggest by themselves."""
        if (readings := self._readings())[0] is given:
            return given
        texts = self._texts()
        if any(" " in text and not text.isspace() for text in texts):  # the other alphabets have no blank
            return escaped
        if _is_byte_level(texts):
            return byte_level
        return readings[-1] if any(BLANK in text for text in texts) else escaped


def _is_byte_level(texts: Sequence[str]) -> bool:
    """Return whether texts are spelled byte by byte: printable UTF-8, some of it blank or beyond ASCII."""
    read = _read_bytes(texts)
    if (text := _printable(read)) is None:
        return bool(read) and sum(text[0] in "ĠĊ" for text in texts) > 1
    return any(not character.isascii() or character.isspace() for character in text)


def _is_undecided(texts: Sequence[str]) -> bool:
    """Return whether texts could be accented letters as well as parts of characters.

    Words of several tokens seldom read as UTF-8 by chance, unless their letters are of Latin Extended-A.
    """
    read = _read_bytes(texts)
    return bool(read) and _printable(read) is not None and (len(texts) == 1 or max("".join(texts)) > "ÿ")


def _read_bytes(texts: Sequence[str]) -> bytes:
    """Return texts beyond ASCII read byte by byte; nothing if they cannot be."""
    joined = "".join(text for text in texts if not text.isspace())
    if joined.isascii() or any(character not in _BYTE_LEVEL for character in joined):
        return b""
    return bytes(_BYTE_LEVEL[character] for character in joined)


def _printable(read: bytes) -> str | None:
    """Return bytes as text without the parts of characters at its ends; None if it is not one that people write."""
    try:
        text = _CUT.sub(b"", read).decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        return None
    return text if all(character.isprintable() or character in "\n\t" for character in text) else None


def _without_first_byte(parts: Sequence[bytes]) -> list[bytes]:
    first = next(k for k, part in enumerate(parts) if part)
    return [part[1:] if k == first else part for k, part in enumerate(parts)]
