"""Windows: which tokens of a text a call of the model reads, and which of them it scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from crossent.errors import InputError
from crossent.numbers import whole

DEFAULT = 1024
"""Tokens of a window, unless the caller or a shorter model says otherwise."""


class Window(NamedTuple):
    """One call of the model on the tokens x of a text: it reads x[begin : end − 1] and scores x[first : end]."""

    begin: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """Windows of `window` tokens, `prefix` of them the same in all; each after the first scores `stride` tokens.

    Every token is scored once. One beyond the first window has at least `context` tokens of its text before it.
    """

    window: int
    stride: int
    prefix: int

    @classmethod
    def of(cls, window: Any, stride: Any, *, prefix: int, positions: int | None) -> WindowPlan:
        """Return the plan of a call.

        Parameters
        ----------
        window, stride
            Arguments of `score_model`; None for the defaults.
        prefix
            Number of tokens that the tokenizer puts before a text.
        positions
            Largest number of tokens that the model reads; None if unknown.

        Raises
        ------
        InputError
            If a number is out of its range.
        """
        most = positions if positions is not None else DEFAULT
        size = min(DEFAULT, most) if window is None else whole("window", window, " of tokens")
        if size < prefix + 1:
            raise InputError(f"window must be {prefix + 1} or more, not {size}", argument="window")
        if positions is not None and size > positions:
            raise InputError(
                f"window must be at most {positions}, the number of positions of the model, not {size}",
                argument="window",
            )
        step = max(1, size // 2 if size // 2 <= size - prefix else size - prefix)
        step = step if stride is None else whole("stride", stride, " of tokens")
        if not 1 <= step <= size - prefix:
            beside = f" less the {prefix} that begin each window" if prefix else ""
            raise InputError(
                f"stride must lie between 1 and the window{beside}, {size - prefix}, not {step}", argument="stride"
            )
        return cls(size, step, prefix)

    @property
    def context(self) -> int:
        """Least number of tokens of a text before a token that a window other than the first scores."""
        return self.window - self.prefix - self.stride + 1

    def windows(self, tokens: int) -> Iterator[Window]:
        """Yield the windows of a text; without a prefix its first token is context, which nothing scores.

        Examples
        --------
        >>> list(WindowPlan(4, 2, 0).windows(8))
        [Window(begin=0, first=1, end=5), Window(begin=2, first=5, end=7), Window(begin=3, first=7, end=8)]
        """
        room = self.window - self.prefix
        first = 0 if self.prefix else 1
        end = min(tokens, room + 1)
        while first < end:
            yield Window(max(0, end - 1 - room), first, end)
            first, end = end, min(tokens, end + self.stride)
