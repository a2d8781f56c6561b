"""A part of a test's grid that holds every pair of its options: what `pytest --pairs` runs of each test.

A test with several `parametrize` marks runs with the product of their values. A fault shows with one value of one
option, or with two options together; it rarely takes three. So `make test` runs cells that hold every pair of values of
every two options, and `make test-all` runs the whole grid. A grid of one or two options is run whole by both.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations
from typing import Any

Cell = tuple[Hashable, ...]
"""One value of each option of a grid."""


def pairs(cell: Cell) -> frozenset[tuple[int, int, Hashable, Hashable]]:
    """Every two options of a cell, each with its value. A cell of one option pairs it with nothing."""
    if len(cell) == 1:
        return frozenset([(0, 0, cell[0], cell[0])])
    return frozenset((i, j, cell[i], cell[j]) for i, j in combinations(range(len(cell)), 2))


def covering(cells: Sequence[Cell]) -> list[int]:
    """Places of cells that hold every pair that any cell holds: each time the cell with most new pairs, the first one.

    The same cells in the same order give the same places in every process.
    """
    held = [pairs(cell) for cell in cells]
    missing = set().union(*held)
    chosen: list[int] = []
    while missing:
        best = max(range(len(cells)), key=lambda place: (len(held[place] & missing), -place))
        chosen.append(best)
        missing -= held[best]
    return sorted(chosen)


def cell_of(item: Any) -> Cell:
    """The values of a test's options: one of each `parametrize` mark, then one of each parametrized fixture.

    A value is known by its identity: every test of a grid is handed the same object.
    """
    params: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    marked = [names(mark.args[0]) for mark in item.iter_markers("parametrize")]
    others = [[name] for name in sorted(set(params).difference(*marked))]
    return tuple(tuple(id(params[name]) for name in option if name in params) for option in (*marked, *others))


def names(argument: str | Sequence[str]) -> list[str]:
    """Names of arguments as `parametrize` takes them: "a, b" or a sequence."""
    listed = argument.split(",") if isinstance(argument, str) else argument
    return [name.strip() for name in listed]


def chosen(items: Iterable[Any]) -> set[Any]:
    """Tests that cover every pair of options of each test function, whatever the order of the tests."""
    grids: dict[str, list[Any]] = {}
    for item in items:
        grids.setdefault(item.nodeid.partition("[")[0], []).append(item)
    found: set[Any] = set()
    for grid in grids.values():
        grid.sort(key=lambda item: item.nodeid)
        cells = [cell_of(item) for item in grid]
        whole = len(grid) == 1 or len(cells[0]) < 3 or len({len(cell) for cell in cells}) > 1
        found.update(grid if whole else (grid[place] for place in covering(cells)))
    return found
