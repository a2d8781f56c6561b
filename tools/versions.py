"""The oldest and the newest versions that pyproject.toml admits, tried with the smoke suite (`make test-versions`).

Every Python that this machine has and pyproject.toml admits gets an environment: the oldest Python with the lower bound
of every requirement, the newest with the newest releases of the registry, those between with the newest releases but
without torch. crossent is built once for Python 3.11 and once for all later ones. What passes is written to
src/crossent/tried.json, which `crossent doctor` reads.

torch's registry has CUDA builds alone for Linux, so the two environments with torch take 6 GB each; the second is made
when the first is gone. One environment: `python -m tools.versions oldest`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "versions"
TRIED = ROOT / "src" / "crossent" / "tried.json"
UV = "uv==0.13.9"
PYTHONS = [(3, minor) for minor in range(11, 20)]
EXTRAS = ("torch", "score")


class Environment(NamedTuple):
    """One environment to try: its name, its Python, and whether versions are the lower bounds."""

    name: str
    python: Path
    oldest: bool
    with_torch: bool


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command and return what it prints; stop with its output if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def uv() -> Path:
    """Return the program uv, installed into a folder of its own."""
    program = WORK / "uv" / "bin" / "uv"
    if not program.exists():
        _ = run(sys.executable, "-m", "venv", WORK / "uv")
        _ = run(WORK / "uv" / "bin" / "python", "-m", "pip", "install", "-qq", UV)
    return program


def candidates() -> list[Path]:
    """Return the interpreters of the search path and of pyenv, whose versions are not all on the path."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    on_path = (shutil.which(f"python{a}.{b}") for a, b in PYTHONS)
    return [*sorted(pyenv.glob("*/bin/python")), *(Path(found) for found in on_path if found)]


def asked(python: Path) -> dict[str, Any]:
    """Return what an interpreter says of itself; nothing if it cannot be started."""
    code = (
        "import json, sys, sysconfig; print(json.dumps({'version': sys.version_info[:3], 'path': sys.executable, "
        "'usable': sys.implementation.name == 'cpython' and sys.version_info.releaselevel == 'final' "
        "and not sysconfig.get_config_var('Py_GIL_DISABLED')}))"
    )
    try:
        done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return {"usable": False}
    return json.loads(done.stdout) if done.returncode == 0 else {"usable": False}


def pythons(answers: Sequence[dict[str, Any]]) -> dict[tuple[int, int], Path]:
    """Return the interpreters to try: for each release that pyproject.toml admits, the newest repair."""
    best: dict[tuple[int, int], tuple[int, Path]] = {}
    for answer in answers:
        if not answer["usable"]:
            continue
        major, minor, patch = answer["version"]
        release = (major, minor)
        if release in PYTHONS and (release not in best or patch > best[release][0]):
            best[release] = patch, Path(answer["path"])
    return {release: path for release, (_, path) in sorted(best.items())}


def requirements(project: dict[str, Any], *, oldest: bool, with_torch: bool) -> list[str]:
    """Return what crossent requires, with two of its extras: at the lower bounds, or as it stands."""
    extras = [extra for extra in EXTRAS if with_torch or extra != "torch"]
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    needs = [need for needs in lists for need in needs]
    return [need.replace(">=", "==") for need in needs] if oldest else needs


def environments(found: dict[tuple[int, int], Path]) -> list[Environment]:
    """Return the environments: the oldest Python, the newest, and those between."""
    if not found:
        sys.exit("no Python that pyproject.toml admits was found")
    releases = sorted(found)
    between = [Environment(f"between-{a}.{b}", found[a, b], False, False) for a, b in releases[1:-1]]
    return [
        Environment("oldest", found[releases[0]], True, True),
        *between,
        Environment("newest", found[releases[-1]], False, True),
    ]


def built(python: Path) -> Path:
    """Return the wheel of this checkout for a Python, built if this commit's is not there."""
    folder = WORK / "wheels" / ("cp311" if "3.11" in run(python, "--version") else "abi3")
    shutil.rmtree(folder, ignore_errors=True)
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    environment = made(WORK / f"build-{folder.name}", python)
    _ = run(
        uv(), "pip", "install", "-q", "--python", environment, "-c", "constraints.txt", "pip", "cmake", "ninja", *build
    )
    pip = [environment, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, ROOT]
    _ = run(*pip)
    [wheel] = folder.glob("*.whl")
    return wheel


def made(folder: Path, python: Path) -> Path:
    """Make an empty environment, and return its Python."""
    shutil.rmtree(folder, ignore_errors=True)
    _ = run(uv(), "venv", "-q", "--python", python, folder)
    return folder / "bin" / "python"


def listed(python: Path) -> dict[str, str]:
    """Return the version of every package in an environment."""
    packages = json.loads(run(uv(), "pip", "list", "--python", python, "--format", "json"))
    return {package["name"]: package["version"] for package in packages}


def tried(environment: Environment, wheel: Path, project: dict[str, Any]) -> dict[str, Any]:
    """Install crossent into a new environment, run the smoke suite there, and return what is to be remembered."""
    folder = WORK / environment.name
    python = made(folder, environment.python)
    needs = requirements(project, oldest=environment.oldest, with_torch=environment.with_torch)
    _ = run(uv(), "pip", "install", "-q", "--python", python, *needs)
    _ = run(uv(), "pip", "install", "-q", "--python", python, "--no-deps", wheel)
    everything = ["--all"] if environment.with_torch else []
    said = run(python, ROOT / "tools" / "smoke.py", *everything, cwd=folder).strip().splitlines()[-1]
    packages = listed(python)
    names = [re.split(r"[=<>]", need)[0] for need in needs]
    system = run(python, "-c", "from crossent import tried; print(tried.system())").strip()
    version = run(python, "-c", "import platform; print(platform.python_version())").strip()
    shutil.rmtree(folder)
    print(f"{environment.name}: Python {version}, {said}", flush=True)
    return {
        "date": today(),
        "commit": commit(),
        "system": system,
        "versions": {"python": version, **{name: packages[name] for name in names}},
    }


def today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def commit() -> str:
    """Return the commit of the checkout, with a mark if files differ from it."""
    name = run("git", "rev-parse", "--short=12", "HEAD").strip()
    changed = run("git", "status", "--porcelain", "--", "src", "cpp", "CMakeLists.txt", "pyproject.toml").splitlines()
    return f"{name}-dirty" if [line for line in changed if not line.endswith(TRIED.name)] else name


def remember(kind: str, new: Sequence[Mapping[str, Any]]) -> None:
    """Write what was tried to the file, in the place of what was tried before of the same kind."""
    whole = json.loads(TRIED.read_text(encoding="utf-8"))
    whole[kind] = new
    _ = TRIED.write_text(f"{json.dumps(whole, indent=1)}\n", encoding="utf-8")


def main(names: Sequence[str]) -> None:
    """Try the named environments, or all of them, and remember what passed if it was all of them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    WORK.mkdir(parents=True, exist_ok=True)
    found = pythons([asked(path) for path in candidates()])
    every = environments(found)
    releases = [f"{a}.{b}" for a, b in found]
    print(f"Pythons on this machine: {', '.join(releases)}; later ones are tried where they are installed", flush=True)
    wheels: dict[bool, Path] = {}
    runs: list[dict[str, Any]] = []
    for environment in every:
        if names and environment.name not in names:
            continue
        is_first = environment.oldest and (3, 11) in found
        if is_first not in wheels:
            wheels[is_first] = built(environment.python)
        runs.append(tried(environment, wheels[is_first], project))
    if names:
        return
    remember("runs", runs)
    print(f"{len(runs)} environments passed; {TRIED.relative_to(ROOT)} says which")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _ = parser.add_argument("environments", nargs="*", help="their names; without one, all are tried")
    main(parser.parse_args().environments)
