"""Rules of the whole project: the cost of its import, the docstrings of public names, its files and requirements."""

import gc
import inspect
import re
import subprocess
import sys
import tomllib
import types
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, get_origin

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("src", "cpp")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".cpp", ".h"}
]


def run(code: str) -> str:
    """Run code in a fresh Python, in a folder without files of the project, and return its output."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=sys.prefix, capture_output=True, text=True, check=True).stdout


def test_importing_crossent_imports_no_framework():
    code = """
import sys
import crossent
crossent.entropy([0.5, 0.5]), crossent.cross_entropy([1, 0], [0.5, 0.5])
print(*{"torch", "triton", "pandas", "matplotlib", "sklearn", "scipy", "rich", "typer"} & set(sys.modules))
"""
    assert run(code).split() == []


def test_importing_crossent_is_lighter_than_importing_numpy():
    code = """
from time import perf_counter
start = perf_counter()
import numpy
middle = perf_counter()
import crossent
crossent.entropy
print(middle - start, perf_counter() - middle)
"""
    times = [[float(seconds) for seconds in run(code).split()] for _ in range(5)]
    numpy, ours = map(min, zip(*times, strict=True))
    assert ours < numpy


def test_each_source_file_is_loaded_once():
    # doctests import the files of src, tests the installed package: were these two modules, isinstance would lie
    alive = [module for module in gc.get_objects() if type(module) is types.ModuleType]
    files = [str(getattr(module, "__file__", None)) for module in alive]
    ours = [file for file in files if Path(file).is_relative_to(ROOT / "src")]
    assert str(ROOT / "src/crossent/__init__.py") in ours
    assert sorted(file for file in set(ours) if ours.count(file) > 1) == []


FACES = ("crossent", "crossent.torch", "crossent.scoring", "crossent.scoring.lm")


def public_names() -> list[Any]:
    pairs = [(home, name) for home in FACES for name in import_module(home).__all__]
    return [pytest.param(home, name, id=f"{home}.{name}") for home, name in pairs]


@pytest.mark.parametrize(("home", "name"), public_names())
def test_public_name_resolves_and_is_documented(home: str, name: str):
    module = import_module(home)
    value = getattr(module, name)
    assert name in dir(module)
    if name == "__version__":
        assert value == metadata.version("crossent")
        return
    if get_origin(value) is not None:  # an alias of types, which has no docstring at run time
        return
    # Python makes a docstring of the signature for a dataclass or NamedTuple without one
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")
    if inspect.isfunction(value):
        sections = re.findall(r"^(\w+)\n-{4,}$", inspect.cleandoc(value.__doc__), re.MULTILINE)
        wanted = ("Parameters", "Yields" if "Yields" in sections else "Returns", "Raises", "Examples")
        assert [name for name in wanted if name not in sections] == []


def test_only_the_cpu_backend_imports_the_compiled_core():
    # import-linter sees Python files alone: it takes this import for one of the package crossent
    touches = re.compile(r"^\s*(from|import) .*\b_core\b", re.MULTILINE)
    found = [path.name for path in SOURCES if path.suffix == ".py" and touches.search(path.read_text(encoding="utf-8"))]
    assert found == ["cpu.py"]


def test_no_file_names_a_path_of_one_machine():
    if not (ROOT / ".git").exists():
        pytest.skip("git alone knows which files belong to the project")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    here = [re.escape(str(path)) for path in (ROOT, Path.home()) if len(path.parts) > 2]
    anywhere = [r"[/]root/", r"[/](var/)?tmp\b", r"[/]var/folders/", r"[/](home|Users)/\w", r"[A-Z]:[\\]+Users\b"]
    absolute = re.compile(rf"(?<![\w.~)}}-])({'|'.join(here + anywhere)})")
    found = {}
    for path in (ROOT / name for name in listed if name):
        if path.is_file() and (match := absolute.search(path.read_text(encoding="utf-8", errors="ignore"))):
            found[str(path.relative_to(ROOT))] = match.group()
    assert found == {}


def pins() -> dict[str, str]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines if line)}


def requirements() -> list[Requirement]:
    """All requirements in pyproject.toml: of the build, of the package and of every extra."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = config["project"]
    lists = [config["build-system"]["requires"], project["dependencies"], *project["optional-dependencies"].values()]
    needs = [Requirement(text) for texts in lists for text in texts]
    return [need for need in needs if need.name != "crossent"]


def test_every_requirement_is_pinned_to_a_version_that_it_admits():
    pinned = pins()
    versions = [(need, pinned.get(canonicalize_name(need.name))) for need in requirements()]
    assert [str(need) for need, version in versions if version is None or Version(version) not in need.specifier] == []


def test_what_the_requirements_require_is_pinned():
    todo, seen = [need.name for need in requirements()], set()
    while todo:
        name = canonicalize_name(todo.pop())
        if name in seen:
            continue
        seen.add(name)
        needs = [Requirement(text) for text in metadata.requires(name) or []]
        if name == "torch":  # its CUDA wheels pin their own companions
            needs = [need for need in needs if "==" not in str(need.specifier)]
        todo += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    assert sorted(seen - pins().keys()) == []
