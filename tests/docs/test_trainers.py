"""What the page on trainers says is held by tests: each statement names some that exist, in the pinned versions."""

from __future__ import annotations

import ast
from importlib import metadata
from pathlib import Path

import pytest

from docs._ext import trainers
from tests.docs.blocks import ROOT

ROWS = trainers.rows()
PAGE = ROOT / "docs" / "guide" / "trainers.md"
SAID = [(row["name"], said) for row in ROWS for said in [*row.get("works", []), *row.get("fails", [])]]
MODULES = ("tests/integrations/test_*.py", "tests/torch/test_lm_head_engines.py", "tests/torch/test_lm_head_trainer.py",
    "tests/torch/test_lm_head_deepspeed.py", "tests/torch/test_lm_head_wrappers.py",
    "tests/torch/test_lm_head_adapters.py", "tests/torch/test_lm_head_quantised.py", "tests/parallel/test_fsdp*.py",
)  # fmt: skip
"""The tests of frameworks around a fused head: each module of them stands behind a statement."""


def functions(path: Path) -> set[str]:
    """The tests of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def missing(test: str, root: Path = ROOT) -> bool:
    """Whether a test, named by file and function, is not there."""
    file, _, name = test.partition("::")
    return not (root / file).is_file() or name not in functions(root / file)


@pytest.mark.parametrize("name", [row["name"] for row in ROWS])
def test_every_statement_names_tests_that_exist(name: str) -> None:
    tests = [test for row, said in SAID for test in said["tests"] if row == name]
    assert all(said["what"] and said["tests"] for row, said in SAID if row == name)
    assert [test for test in tests if missing(test)] == []


def test_a_test_that_is_gone_is_found(tmp_path: Path) -> None:
    _ = (tmp_path / "test_it.py").write_text("def test_one(): ...\n\ndef helper(): ...\n")
    found = [missing(f"test_it.py::{name}", tmp_path) for name in ("test_one", "test_two", "helper")]
    assert found == [False, True, True]
    assert missing("test_gone.py::test_one", tmp_path)


def test_every_framework_has_a_line_and_something_that_works() -> None:
    keys = {"name", "packages", "line", "works", "fails"}
    assert all(row.keys() <= keys and row["name"] and row["line"] and row["works"] for row in ROWS)
    assert len({row["name"] for row in ROWS}) == len(ROWS)


def test_every_module_of_frameworks_stands_behind_a_statement() -> None:
    files = {str(path.relative_to(ROOT)) for pattern in MODULES for path in ROOT.glob(pattern)}
    named = {test.partition("::")[0] for _, said in SAID for test in said["tests"]}
    assert sorted(files - named) == []


def test_the_versions_on_the_page_are_those_in_which_the_tests_run() -> None:
    pinned = trainers.versions()
    packages = {name for row in ROWS for name in row["packages"]}
    assert {"transformers", "trl", "peft", "accelerate", "lightning", "torch"} <= pinned.keys() & packages
    for name in packages & pinned.keys():
        assert metadata.version(name).partition("+")[0] == pinned[name]
    assert packages - pinned.keys() == {"deepspeed"}  # whose tests are left out where it is not installed


def test_the_page_shows_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8").count("```{trainers}\n```") == 1
