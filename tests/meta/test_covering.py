"""`pytest --brief` runs every pair of options of each test, and tests/long.toml names what it leaves out."""

from __future__ import annotations

import ast
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from tests import covering as covering_module
from tools.covering import Cell, covering

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


@pytest.mark.parametrize("cells", GRIDS.values(), ids=GRIDS)
def test_every_value_is_chosen_where_one_option_counts(cells: list[Cell]) -> None:
    values = [{cell[option] for cell in cells} for option in range(len(cells[0]))]
    few = [cells[place] for place in covering(cells, together=1)]
    assert [{cell[option] for cell in few} for option in range(len(cells[0]))] == values
    assert len(few) <= sum(map(len, values))


def test_far_fewer_cells_are_chosen_than_there_are() -> None:
    # nine hold all pairs of two options of three values; six options take a few more
    assert 9 <= len(covering(GRIDS["a product of many"])) < 30


def test_the_choice_is_the_same_each_time() -> None:
    cells = GRIDS["a product of many"]
    assert covering(cells) == covering(list(cells))


GRID = """
import pytest

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
    run = pytester.runpytest_subprocess("--brief", "-p", "no:randomly", "-p", "no:cacheprovider", "-s")
    said = [line.partition("cell ")[2] for line in run.outlines if "cell " in line]
    cells = [tuple(part.strip() for part in line.rsplit(" ", 3)) for line in said]
    every = [
        (str(ab), c, str(d), place) for ab, c, d, place in product([(1, 2), (1, 3), (4, 5)], "xyz", [True, False], "pq")
    ]
    assert len(cells) < len(every) == 36
    assert two_by_two(list(cells)) == two_by_two(list(every))
    run.assert_outcomes(passed=len(cells) + 25 + 1, deselected=36 - len(cells))


BACKENDS = """
import pytest

@pytest.fixture(params=["here", "not here"])
def backend(request):
    if request.param == "not here":
        pytest.skip("no such machine")
    return request.param

@pytest.mark.parametrize("a", range(3))
@pytest.mark.parametrize("b", range(3))
def test_backend(a, b, backend):
    pass
"""


def test_a_backend_that_is_there_runs_every_pair_whatever_another_one_skips(pytester: pytest.Pytester) -> None:
    _ = pytester.makepyfile(test_backends=BACKENDS)
    with_options(pytester)
    pytester.runpytest_subprocess("--brief", "-p", "no:cacheprovider").assert_outcomes(passed=9, skipped=9)


def test_without_the_option_the_whole_grid_runs(pytester: pytest.Pytester) -> None:
    _ = pytester.makepyfile(test_grid=GRID)
    with_options(pytester)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=36 + 25 + 1)


LONG = """
each-value = ["test_grid.py::test_two_options"]
[instead]
"test_grid.py::test_plain" = ["test_grid.py::test_two_options"]
"""


def test_long_tests_run_each_value_or_not_at_all(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    _ = pytester.makepyfile(test_grid=GRID)
    with_options(pytester)
    _ = (pytester.mkdir("tests") / "long.toml").write_text(LONG, encoding="utf-8")
    monkeypatch.setattr(covering_module, "ROOT", pytester.path)
    run = pytester.runpytest_inprocess(
        "--brief", "-p", "no:randomly", "-p", "no:cacheprovider", "-k", "not test_grid or two or plain"
    )
    run.assert_outcomes(passed=5, deselected=36 + 20 + 1)


class Item:
    """A test as pytest collects it, without options."""

    def __init__(self, nodeid: str) -> None:
        self.nodeid = nodeid

    def iter_markers(self, name: str) -> list[Any]:
        return []


def test_named_cells_are_all_that_runs_of_their_grid_and_one_that_is_gone_is_an_error() -> None:
    grid = [Item(f"test_grid.py::test_grid[{cell}]") for cell in ("a-1", "a-2", "b-1", "b-2")]
    long: dict[str, Any] = {"each-value": [], "instead": {}, "cells": {"test_grid.py::test_grid": ["a-2", "b-1"]}}
    assert covering_module.chosen(grid, long) == {grid[1], grid[2]}
    assert covering_module.chosen(grid[:1], long) == set()
    long["cells"]["test_grid.py::test_grid"] = ["a-2", "c-1"]
    with pytest.raises(ValueError, match=r"test_grid.py::test_grid has no cell 'c-1'"):
        _ = covering_module.chosen(grid, long)


def test_a_cell_may_be_left_out_of_its_grid() -> None:
    grid = [Item(f"test_grid.py::test_grid[{cell}]") for cell in ("a-1", "a-2", "b-1", "b-2")]
    long: dict[str, Any] = {
        "each-value": [],
        "cells": {},
        "instead": {"test_grid.py::test_grid[a-2]": ["test_grid.py"]},
    }
    assert covering_module.chosen(grid, long) == {grid[0], grid[2], grid[3]}
    assert covering_module.chosen(grid[1:2], long) == set()
    long["instead"]["test_grid.py::test_grid[c-1]"] = ["test_grid.py"]
    with pytest.raises(ValueError, match=r"test_grid.py::test_grid has no cell 'c-1'"):
        _ = covering_module.chosen(grid, long)


LAWS = """
from hypothesis import given, settings
from hypothesis.strategies import integers

counted = {"plain": 0, "of its own": 0}

@given(integers())
def test_plain(n):
    counted["plain"] += 1

@settings(max_examples=40)
@given(integers())
def test_with_a_number_of_its_own(n):
    counted["of its own"] += 1

def test_written():
    print("counted", *counted.values())
"""


def test_laws_are_tried_with_a_quarter_of_the_examples(pytester: pytest.Pytester) -> None:
    _ = pytester.makepyfile(test_laws=LAWS)
    with_options(pytester)
    for options, plain in (["--brief"], 25), ([], 100):
        run = pytester.runpytest_subprocess(*options, "-p", "no:randomly", "-p", "no:cacheprovider", "-s")
        [said] = [line.partition("counted ")[2] for line in run.outlines if "counted " in line]
        assert [int(n) for n in said.split()] == [plain, 40]


def with_options(pytester: pytest.Pytester) -> None:
    """Give the small project the options of this one."""
    _ = pytester.makeconftest((ROOT / "tests/conftest.py").read_text(encoding="utf-8"))
    pytester.makepyprojecttoml(f'[tool.pytest.ini_options]\npythonpath = ["{ROOT}"]\n')


# tests/long.toml

NAMED = {name: table for table, names in covering_module.long_tests().items() for name in names}


def is_there(name: str) -> bool:
    """Whether a file has a test function, in a class where the name has one."""
    path, *inside = name.partition("[")[0].split("::")
    if not (ROOT / path).is_file():
        return False
    found: list[ast.stmt] = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    for part in inside:
        kinds = (ast.FunctionDef, ast.ClassDef)
        nodes = [node for node in found if isinstance(node, kinds) and node.name == part]
        if not nodes:
            return False
        found = nodes[0].body
    return True


def test_every_long_test_is_there() -> None:
    assert [name for name in NAMED if not is_there(name)] == []


def test_a_test_that_is_not_there_is_seen() -> None:
    assert is_there("tests/meta/test_covering.py::test_every_long_test_is_there")
    assert not is_there("tests/meta/test_covering.py::test_nothing")
    assert not is_there("tests/meta/test_nothing.py::test_every_long_test_is_there")


def test_every_test_that_only_test_all_runs_names_tests_that_make_test_runs_instead() -> None:
    long = covering_module.long_tests()
    assert long.keys() == {"each-value", "cells", "instead"}
    for name, others in long["instead"].items():
        assert others, name
        for other in others:
            path = other.partition("::")[0]
            assert (ROOT / path).exists(), other
            assert is_there(other) or "::" not in other, other
            assert other not in long["instead"], other


def test_mutants_are_never_left_out_and_backends_conform_for_every_pair() -> None:
    assert [name for name in NAMED if "mutant" in name or name.startswith("tests/conformance/")] == []
