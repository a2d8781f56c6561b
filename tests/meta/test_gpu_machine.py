"""`make test-gpu` and `make prove-gpu` where there are torch, Triton, NumPy, pytest, tools of the build, no more."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
THERE = ("torch", "triton", "numpy", "pytest", "nanobind", "cmake", "ninja", "crossent")
"""What a machine with a GPU has, with what these need: mpmath among them, of which sympy and so torch is made."""

WITHOUT = """
import importlib.abc, importlib.util, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in MISSING else find_spec(name, *rest)
MISSING = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Missing())
"""

COLLECT = """
import pytest
import crossent.kernels.triton as backend

backend.why_not = lambda: None  # as if there were a GPU
sys.exit(pytest.main(["--collect-only", *sys.argv[1:]]))
"""


PROVE = """
from benchmarks.gpu.prove import conductor, stages, tables, truth

for stage in stages.STAGES:
    importlib.import_module(f"benchmarks.gpu.prove.{stage.name}")
truth.of_this_checkout()
from tests import data, oracle

print(tables.text([]).count(tables.NOT_MEASURED))
"""


def closure(names: tuple[str, ...]) -> set[str]:
    """Packages, and all that they require here."""
    found, new = set[str](), list(names)
    while new:
        name = new.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        try:
            needs = [Requirement(line) for line in (requires(name) or []) if name != "crossent"]
        except PackageNotFoundError:
            continue
        new += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def missing_modules() -> set[str]:
    """Top-level modules that are installed here and not there."""
    there = closure(THERE)
    owners = packages_distributions().items()
    return {module for module, names in owners if not there & {x.lower().replace("_", "-") for x in names}}


def test_the_check_knows_what_is_missing_there() -> None:
    missing = missing_modules()
    assert {"hypothesis", "expecttest", "scipy", "pytest_randomly", "pytest_timeout", "xdist"} <= missing
    assert not missing & {"torch", "triton", "numpy", "pytest", "_pytest", "sympy", "crossent"}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="there is no Triton for this system")
def test_the_tests_are_collected_without_what_a_gpu_machine_lacks() -> None:
    (line,) = re.findall(r"on_gpu\.sh -m pytest (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    arguments = [x.strip('"') for x in re.findall(r'"[^"]*"|\S+', line)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "TRITON_"))}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    found = without_what_is_missing(COLLECT, arguments, environment)
    assert found.returncode == 0, found.stdout[-5000:] + found.stderr[-2000:]
    for module in sorted((ROOT / "tests/kernels/triton").glob("test_*.py")):
        if module.name not in {"test_programs.py", "test_rows_draws.py", "test_counts.py"}:  # which want no GPU
            assert module.name in found.stdout


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="there is no Triton for this system")
def test_the_proof_needs_nothing_that_a_gpu_machine_lacks() -> None:
    found = without_what_is_missing(PROVE, [], dict(os.environ))
    assert found.returncode == 0, found.stderr[-2000:]
    assert int(found.stdout) > 100


def without_what_is_missing(
    code: str, arguments: list[str], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own that does not find what is missing there."""
    missing = missing_modules() - {"benchmarks", "tests"}  # of other packages; this checkout has its own
    command = [sys.executable, "-c", WITHOUT + code, ",".join(sorted(missing)), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
