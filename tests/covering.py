"""What `pytest --brief` runs of each test: cells of its grid that hold every pair of its options, and no long tests.

A test with several `parametrize` marks runs with the product of their values. A fault shows with one value of one
option, or with two options together; it rarely takes three. So `make test` runs cells that hold every pair of values of
every two options, and `make test-all` runs the whole grid. A grid of one or two options is run whole by both.

`tests/long.toml` names tests that take many seconds of a processor. Of these, `make test` runs cells that hold every
value of every option; or the cells that the file names; or nothing, where the file says which other tests it runs
instead. Laws that hypothesis tries on examples have a quarter of them (tests/conftest.py), unless they set a number.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tools.covering import Cell, covering

ROOT = Path(__file__).parents[1]


def cell_of(item: Any, together: int = 2) -> Cell:
    """The values of a test's options: one of each `parametrize` mark, then one of each parametrized fixture.

    Of a mark that names several arguments, the arguments are one option where pairs of options are wanted, and an
    option each where values are. A value is known by its identity: every test of a grid is handed the same object.
    """
    params: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    marked = [names(mark.args[0]) for mark in item.iter_markers("parametrize")]
    if together == 1:
        marked = [[name] for option in marked for name in option]
    others = [[name] for name in sorted(set(params).difference(*marked))]
    return tuple(tuple(id(params[name]) for name in option if name in params) for option in (*marked, *others))


def names(argument: str | Sequence[str]) -> list[str]:
    """Names of arguments as `parametrize` takes them: "a, b" or a sequence."""
    listed = argument.split(",") if isinstance(argument, str) else argument
    return [name.strip() for name in listed]


def function_of(item: Any) -> str:
    """The test function of a test, as pytest and tests/long.toml write it."""
    return item.nodeid.partition("[")[0]


def long_tests() -> dict[str, Any]:
    """The test functions that tests/long.toml names: a list, and mappings to cells and to what is run instead."""
    return tomllib.loads((ROOT / "tests/long.toml").read_text(encoding="utf-8"))


APART = ("backend",)
"""Options of which each value has a grid of its own: tests of a backend that this machine lacks are skipped."""


def chosen(items: Iterable[Any], long: dict[str, Any], *, part: bool = False) -> set[Any]:
    """What is run of all tests, in any order; with `part` some were taken away before, and cells may be missing."""
    grids: dict[tuple[str, ...], list[Any]] = {}
    whole_names = {*long.get("cells", {}), *(name.partition("[")[0] for name in long["instead"])}
    for item in items:
        if function_of(item) in whole_names:
            grids.setdefault((function_of(item),), []).append(item)
            continue
        params = item.callspec.params if hasattr(item, "callspec") else {}
        apart = (str(params[name]) for name in APART if name in params)
        grids.setdefault((function_of(item), *apart), []).append(item)
    found: set[Any] = set()
    for (name, *_), every in grids.items():
        if name in long["instead"]:
            continue
        grid = sorted(every, key=lambda item: item.nodeid)
        if name in long.get("cells", {}):
            found.update(named(grid, long["cells"][name], part=part))
            continue
        out = named(grid, [of[len(name) + 1 : -1] for of in long["instead"] if of.startswith(f"{name}[")], part=part)
        grid = [item for item in grid if item not in out]
        if not grid:
            continue
        together = 1 if name in long["each-value"] else 2
        cells = [cell_of(item, together) for item in grid]
        whole = len(grid) == 1 or len(cells[0]) <= together or len({len(cell) for cell in cells}) > 1
        found.update(grid if whole else (grid[place] for place in covering(cells, together)))
    return found


def named(grid: Sequence[Any], cells: Sequence[str], *, part: bool) -> list[Any]:
    """The tests of a grid with these cells, as pytest writes them in brackets; a cell that is gone is an error.

    A grid of which only a part was collected, since somebody asked for one cell of it, has no cell to miss.
    """
    of = {item.nodeid.partition("[")[2].removesuffix("]"): item for item in grid}
    missing = [cell for cell in cells if cell not in of]
    if missing and len(of) > 1 and not part:
        raise ValueError(f"tests/long.toml: {function_of(grid[0])} has no cell {missing[0]!r}")
    return [of[cell] for cell in cells if cell in of]
