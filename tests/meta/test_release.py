"""A release: one version, `python -m crossent`, the content of its files, and a RELEASING.md that is true."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

import crossent
from crossent.kernels import cpu
from tools import release

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RELEASING = (ROOT / "RELEASING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
ABOUT = f"crossent-{crossent.__version__}.dist-info"
ELSEWHERE = "/".join(["", "home", "user", "crossent"]).encode()
CORE = "crossent/_core.cpython-311-x86_64-linux-gnu.so"

Files = dict[str, bytes]
Change = Callable[[Files], object]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python, run where no file of the project lies in the way."""
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, cwd=sys.prefix, capture_output=True, text=True, check=False, timeout=120)


class TestVersion:
    def test_is_written_once(self) -> None:
        assert "version" not in PROJECT["project"]
        assert PROJECT["project"]["dynamic"] == ["version"]
        places = [table["input"] for table in PROJECT["tool"]["dynamic-metadata"] if table["field"] == "version"]
        assert places == ["src/crossent/version.py"]
        assert release.version() == crossent.__version__ == metadata.version("crossent")

    def test_is_what_the_build_reads(self) -> None:
        code = "import scikit_build_core.__main__ as skbuild; skbuild.main()"
        command = [sys.executable, "-c", code, "build", "project-table"]
        table = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
        assert f'"version": "{crossent.__version__}"' in table

    def test_has_a_place_in_the_changelog(self) -> None:
        assert f"\n## [{crossent.__version__}] - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


class TestPythonM:
    def test_version(self) -> None:
        done = python("-m", "crossent", "--version")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"crossent {crossent.__version__}\n", "")

    def test_doctor(self) -> None:
        done = python("-m", "crossent", "doctor")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"crossent {crossent.__version__}\n")

    @pytest.mark.parametrize(
        "absent", [["typer"], ["rich"], ["typer", "rich", "torch", "scipy", "narwhals", "pyarrow"]]
    )
    def test_doctor_without_what_the_command_line_needs(self, absent: list[str]) -> None:
        done = python("-c", without(absent), "doctor")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count(" correct: largest error ") == len(cpu.available_isas())

    @pytest.mark.parametrize("arguments", [["--version"], ["doctor", "--help"], ["demo"], []])
    def test_anything_else_names_what_to_install(self, arguments: list[str]) -> None:
        done = python("-c", without(["typer"]), *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        line = "crossent: the command line needs typer, which is not installed: pip install 'crossent[demo]'\n"
        assert done.stderr == line


def without(absent: list[str]) -> str:
    """`python -m crossent` in a Python that does not have these modules."""
    return f"""
import runpy, sys
sys.modules.update(dict.fromkeys({absent}))
runpy.run_module("crossent", run_name="__main__")
"""


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of an sdist of this checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release, "LOG", folder / "log")
        return release.read_sdist(release.build_sdist(folder))


@pytest.fixture
def wheel(sdist: Files) -> Files:
    """The files of a wheel as it should be, but for the compiled core."""
    package = {name.removeprefix("src/"): text for name, text in sdist.items() if name.startswith("src/crossent/")}
    about = {"METADATA": sdist["PKG-INFO"], "licenses/LICENSE": sdist["LICENSE"]}
    about |= dict.fromkeys(("RECORD", "WHEEL", "entry_points.txt"), b"")
    return package | {f"{ABOUT}/{name}": text for name, text in about.items()} | {CORE: b"\x7fELF\xff"}


def version_of(name: str, version: str) -> Change:
    return lambda files: files.update({name: files[name].replace(b"\nVersion: ", f"\nVersion: {version}".encode())})


class TestContent:
    def test_of_the_sdist(self, sdist: Files) -> None:
        release.check_sdist(sdist)
        sources = [path.relative_to(ROOT).as_posix() for path in (ROOT / "src").rglob("*.py")]
        sources += [path.relative_to(ROOT).as_posix() for path in (ROOT / "cpp").iterdir()]
        assert sorted(set(sources) - sdist.keys()) == []

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda files: files.pop("src/crossent/py.typed"), "lacks src/crossent/py.typed"),
            (lambda files: files.pop("LICENSE"), "lacks LICENSE"),
            (lambda files: files.update({"tests/test_of_it.py": b""}), "has tests/test_of_it.py"),
            (lambda files: files.update({"benchmarks/results/a.jsonl": b""}), "has benchmarks/results/a.jsonl"),
            (lambda files: files.update({"src/" + CORE: b""}), f"has src/{CORE}"),
            (lambda files: files.update({".venv/pyvenv.cfg": b""}), "has .venv/pyvenv.cfg"),
            (lambda files: files.update({"README.md": b"crossent"}), "does not describe itself"),
            (lambda files: files.update({"notes": b"see " + ELSEWHERE}), "path of this machine"),
            (version_of("PKG-INFO", "1"), f"version 1{crossent.__version__}"),
        ],
    )  # fmt: skip
    def test_of_an_sdist_that_is_wrong(self, change: Change, said: str, sdist: Files) -> None:
        files = dict(sdist)
        _ = change(files)
        with pytest.raises(SystemExit, match=rf"^release: the sdist .*{re.escape(said)}"):
            release.check_sdist(files)

    def test_of_the_wheel(self, sdist: Files, wheel: Files) -> None:
        release.check_wheel(wheel, sdist)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda files: files.pop("crossent/py.typed"), "lacks crossent/py.typed"),
            (lambda files: files.pop("crossent/scoring/sums/costs.py"), "lacks crossent/scoring/sums/costs.py"),
            (lambda files: files.pop(CORE), "has 0 compiled cores"),
            (lambda files: files.update({CORE.replace("311", "312"): b""}), "has 2 compiled cores"),
            (lambda files: files.update({"tests/test_of_it.py": b""}), "has tests/test_of_it.py"),
            (lambda files: files.update({"crossent/spec.py": b""}), "crossent/spec.py is not the same"),
            (lambda files: files.update({f"{ABOUT}/licenses/LICENSE": b""}), "license is not the one"),
            (lambda files: files.update({CORE: b"\x7fELF\xff " + ELSEWHERE}), "path of this machine"),
            (version_of(f"{ABOUT}/METADATA", "2"), f"version 2{crossent.__version__}"),
        ],
    )  # fmt: skip
    def test_of_a_wheel_that_is_wrong(self, change: Change, said: str, sdist: Files, wheel: Files) -> None:
        _ = change(wheel)
        with pytest.raises(SystemExit, match=rf"^release: .*{re.escape(said)}"):
            release.check_wheel(wheel, sdist)


def test_the_smoke_test_refuses_the_checkout() -> None:
    # the install of the tests is editable, which is what no wheel is
    done = python(str(ROOT / "tools" / "smoke.py"))
    assert done.returncode == 1
    assert done.stderr.startswith("smoke: crossent is imported from ")


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_releasing_names_targets_that_exist() -> None:
    named = {text.removeprefix("make ") for text in quoted(RELEASING) if text.startswith("make ")}
    assert "release" in named
    assert sorted(name for name in named if not re.search(rf"^{name}:", MAKEFILE, re.MULTILINE)) == []


def test_releasing_names_files_that_exist() -> None:
    named = {text for text in quoted(RELEASING) if re.fullmatch(r"[\w./-]*[./][\w./-]+", text)}
    assert {"pyproject.toml", "tools/smoke.py"} <= named
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_the_wheels_are_tested_by_what_releasing_says() -> None:
    command = PROJECT["tool"]["cibuildwheel"]["test-command"]
    named = re.findall(r"\{project\}/(\S+)", command)
    assert named == ["tools/smoke.py", "tests/conformance"]
    assert [name for name in named if f"`{name}`" not in RELEASING or not (ROOT / name).exists()] == []
