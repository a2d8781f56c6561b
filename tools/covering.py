"""Few members of a set that hold all that any member holds: values of options, or pairs of values."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from collections.abc import Set as AbstractSet
from itertools import combinations

Cell = tuple[Hashable, ...]
"""One value of each option of a grid."""


def held(cell: Cell, together: int) -> set[tuple[tuple[int, Hashable], ...]]:
    """Every `together` options of a cell, each with its value; all options, where there are fewer."""
    return set(combinations(enumerate(cell), min(together, len(cell))))


def covering(cells: Sequence[Cell], together: int = 2) -> list[int]:
    """Places of cells that hold all that any cell holds."""
    return fewest([held(cell, together) for cell in cells])


def fewest(holds: Sequence[AbstractSet[Hashable]]) -> list[int]:
    """Places of sets whose union is that of all: each time the set with most that is new, the first one.

    The same sets in the same order give the same places in every process.
    """
    missing: set[Hashable] = set().union(*holds)
    chosen: list[int] = []
    while missing:
        best = max(range(len(holds)), key=lambda place: (len(holds[place] & missing), -place))
        chosen.append(best)
        missing -= holds[best]
    return sorted(chosen)
