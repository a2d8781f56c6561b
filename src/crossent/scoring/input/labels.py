"""Values as codes: small integers from 0, with the values they code."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from crossent.errors import quoted


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """Values as `codes` (N,) int64 into the list `values`."""

    codes: Any
    values: Sequence[Hashable]

    def __len__(self) -> int:
        return len(self.codes)


def listing(values: Sequence[Any]) -> str:
    """Return a list for an error text, shortened in the middle."""
    shown = [quoted(value) for value in values]
    return "[" + ", ".join(shown if len(shown) <= 6 else [*shown[:3], "…", shown[-1]]) + "]"
