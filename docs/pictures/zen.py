"""A text that every Python carries: the Zen of Python."""

from __future__ import annotations

import contextlib
import io
from collections import Counter

with contextlib.redirect_stdout(io.StringIO()):  # importing it prints it
    import this

TEXT = "".join(this.d.get(letter, letter) for letter in this.s)
LETTERS = sorted(set(TEXT))


def counts(text: str) -> dict[str, int]:
    """Return how often each letter occurs in a text, counted from one, so that none is impossible."""
    found = Counter(text)
    return {letter: 1 + found[letter] for letter in LETTERS}
