"""The house keeps its rules: tests by their names, short files, no circle of imports, folders that explain themselves.

Each rule is tried on the project, and on a small project that breaks it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.meta import house

ROOT = Path(__file__).parents[2]
SHIMS = ("dask", "ray", "sklearn", "torchmetrics")
ELSEWHERE = dict.fromkeys(
    [f"crossent.scoring.{library}" for library in ("dask", "ray", "sklearn", "torchmetrics")],
    "tests/scoring/test_scoring.py",  # they pass on the names of scoring/adapters; that test imports each in every way
)
"""Modules whose tests have another name, each with a reason."""


def test_every_module_has_a_test_that_is_found_by_its_name() -> None:
    assert house.untested(ROOT, ELSEWHERE) == []


def test_modules_that_are_tested_elsewhere_are_there_and_so_are_their_tests() -> None:
    assert house.stale(ROOT, ELSEWHERE) == []


def test_no_file_is_longer_than_a_page() -> None:
    assert house.long_files(ROOT) == []


def test_few_modules_have_a_leading_underscore() -> None:
    assert len(house.private(ROOT)) <= house.PRIVATE


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert house.circle(ROOT) == []


def test_no_argument_is_known_by_its_place() -> None:
    assert house.phrases(ROOT) == []


def test_every_folder_says_who_lives_there() -> None:
    assert house.unexplained(ROOT) == []


# Each rule can be broken

TWELVE = "\n".join(f"Line {k}." for k in range(12))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project that keeps all rules."""
    files = {
        "src/crossent/__init__.py": '"""A package.\n\nTwo modules.\n"""\n',
        "src/crossent/stats.py": "from crossent.room import rows\n",
        "src/crossent/room/__init__.py": '"""A room.\n\nOne module.\n"""\n',
        "src/crossent/room/rows.py": "import os\n",
        "tests/test_stats_of_rows.py": "",
        "tests/room/test_rows.py": "",
        "cpp/rows.h": "// rows\n",
    }
    for name, text in files.items():
        write(tmp_path, name, text)
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    _ = path.write_text(text, encoding="utf-8")


def test_a_project_that_keeps_the_rules_breaks_none(project: Path) -> None:
    assert house.untested(project, {}) == house.stale(project, {}) == house.long_files(project) == []
    assert house.private(project) == house.circle(project) == house.phrases(project) == house.unexplained(project) == []


def test_a_module_without_a_test_is_seen(project: Path) -> None:
    write(project, "src/crossent/room/row.py", "")  # tests/room/test_rows.py is another module's
    assert house.untested(project, {}) == ["crossent.room.row: no tests/room/test_row.py"]
    assert house.untested(project, {"crossent.room.row": "tests/test_stats_of_rows.py"}) == []


def test_an_entry_of_the_table_that_names_nothing_is_seen(project: Path) -> None:
    assert house.stale(project, {"crossent.gone": "tests/room/test_rows.py"}) == [
        "crossent.gone: tests/room/test_rows.py"
    ]
    assert house.stale(project, {"crossent.stats": "tests/gone.py"}) == ["crossent.stats: tests/gone.py"]


@pytest.mark.parametrize("name", ["src/crossent/long.py", "src/crossent/room/long.pyi", "cpp/long.cpp"])
def test_a_long_file_is_seen(project: Path, name: str) -> None:
    write(project, name, "\n" * 400)
    assert house.long_files(project) == []
    write(project, name, "\n" * 401)
    assert house.long_files(project) == [f"{name}: 401 lines"]


def test_modules_and_folders_with_an_underscore_are_seen(project: Path) -> None:
    write(project, "src/crossent/_one.py", "")
    write(project, "src/crossent/room/_two/__init__.py", "")
    assert house.private(project) == ["src/crossent/_one.py", "src/crossent/room/_two"]


@pytest.mark.parametrize(
    "text",
    [
        "import crossent.stats\n",
        "from crossent import stats\n",
        "from crossent.stats import Record\n",
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from crossent.stats import Record\n",
        "def late():\n    from crossent.stats import Record\n",
        "from ..stats import Record\n",
        "from .. import stats\n",
    ],
)
def test_a_circle_is_seen_wherever_its_imports_stand(project: Path, text: str) -> None:
    write(project, "src/crossent/room/rows.py", text)
    found = house.circle(project)
    assert found[0] == found[-1]
    assert set(found) == {"crossent.stats", "crossent.room.rows"}


def test_a_circle_through_the_face_of_a_folder_is_seen(project: Path) -> None:
    write(
        project, "src/crossent/room/__init__.py", '"""A room.\n\nIts face.\n"""\nfrom crossent.room.rows import row\n'
    )
    write(project, "src/crossent/room/rows.py", "from . import face\n")
    assert set(house.circle(project)) == {"crossent.room", "crossent.room.rows"}


@pytest.mark.parametrize("text", ["_TENSORS = (0, 1)", "_ARGUMENTS = 18", "x = options[6:14]"])
def test_places_of_arguments_are_seen(project: Path, text: str) -> None:
    write(project, "src/crossent/room/rows.py", f"import os\n\n{text}\n")
    assert house.phrases(project) == [f"src/crossent/room/rows.py:3: {p}" for p in house.GONE if p in text]
    assert len(house.phrases(project)) == 1


@pytest.mark.parametrize("text", ["", "A room.", TWELVE], ids=["none", "one line", "twelve lines"])
def test_a_folder_that_says_nothing_or_too_much_is_seen(project: Path, text: str) -> None:
    write(project, "src/crossent/room/__init__.py", f'"""{text}\n"""\n' if text else "")
    assert house.unexplained(project) == [f"src/crossent/room/__init__.py: {len(text.splitlines())} lines"]
    (project / "src/crossent/room/__init__.py").unlink()
    assert house.unexplained(project) == ["src/crossent/room/__init__.py: 0 lines"]
