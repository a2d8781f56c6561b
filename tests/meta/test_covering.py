"""`pytest --pairs` runs every pair of options of each test."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path

import pytest

from tests.covering import Cell, covering

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parents[2]
GRIDS = {
    "a product": list(product("abc", range(4), "xy", [None, 0.5])),
    "a product of many": list(product(*[range(3)] * 6)),
    "a product with holes": [
        cell for cell in product("abc", range(4), "xy") if cell[:2] != ("a", 0) and cell[1:] != (3, "x")
    ],
    "one option": [("a",), ("b",), ("c",)],
    "one cell": [(1, 2, 3)],
}


def two_by_two(cells: list[Cell]) -> set[tuple[object, ...]]:
    """Every pair of options with its values, found the other way round: option by option, not cell by cell."""
    places = range(len(cells[0]))
    return {(i, j, cell[i], cell[j]) for i, j in combinations(places, 2) for cell in cells} | {
        (i, cell[i]) for i in places for cell in cells
    }


@pytest.mark.parametrize("cells", GRIDS.values(), ids=GRIDS)
def test_every_value_and_every_pair_of_values_is_chosen(cells: list[Cell]) -> None:
    assert two_by_two([cells[place] for place in covering(cells)]) == two_by_two(cells)


def test_far_fewer_cells_are_chosen_than_there_are() -> None:
    # nine hold all pairs of two options of three values; six options take a few more
    assert 9 <= len(covering(GRIDS["a product of many"])) < 30


def test_the_choice_is_the_same_each_time() -> None:
    cells = GRIDS["a product of many"]
    assert covering(cells) == covering(list(cells))


GRID = """
import pytest

SEEN = []

@pytest.fixture(params=["p", "q"])
def place(request):
    return request.param

@pytest.mark.parametrize(("a", "b"), [(1, 2), (1, 3), (4, 5)])
@pytest.mark.parametrize("c", ["x", "y", "z"])
@pytest.mark.parametrize("d", [True, False])
def test_grid(a, b, c, d, place):
    print("cell", (a, b), c, d, place)

@pytest.mark.parametrize("a", range(5))
@pytest.mark.parametrize("b", range(5))
def test_two_options(a, b):
    pass

def test_plain():
    pass
"""


def test_pytest_runs_the_pairs_of_marks_and_fixtures_and_whole_grids_of_two(pytester: pytest.Pytester) -> None:
    _ = pytester.makepyfile(test_grid=GRID)
    with_options(pytester)
    run = pytester.runpytest_subprocess("--pairs", "-p", "no:randomly", "-p", "no:cacheprovider", "-s")
    said = [line.partition("cell ")[2] for line in run.outlines if "cell " in line]
    cells = [tuple(part.strip() for part in line.rsplit(" ", 3)) for line in said]
    every = [
        (str(ab), c, str(d), place) for ab, c, d, place in product([(1, 2), (1, 3), (4, 5)], "xyz", [True, False], "pq")
    ]
    assert len(cells) < len(every) == 36
    assert two_by_two(list(cells)) == two_by_two(list(every))
    run.assert_outcomes(passed=len(cells) + 25 + 1, deselected=36 - len(cells))


def test_without_the_option_the_whole_grid_runs(pytester: pytest.Pytester) -> None:
    _ = pytester.makepyfile(test_grid=GRID)
    with_options(pytester)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=36 + 25 + 1)


def with_options(pytester: pytest.Pytester) -> None:
    """Give the small project the options of this one."""
    _ = pytester.makeconftest((ROOT / "tests/conftest.py").read_text(encoding="utf-8"))
    pytester.makepyprojecttoml(f'[tool.pytest.ini_options]\npythonpath = ["{ROOT}"]\n')
