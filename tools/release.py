"""The rehearsal of a release (`make release`): an sdist, the wheel built from it, and both tried without the checkout.

The wheel is built by the tools of the environment that this runs in, which constraints.txt pins. What the commands
print goes into build/release.log; the exit code is 1, with one line that says what, at the first thing that is wrong.
"""

import email
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from time import perf_counter
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
LOG = ROOT / "build" / "release.log"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

NEEDED = {
    "CHANGELOG.md", "CMakeLists.txt", "LICENSE", "PKG-INFO", "README.md", "constraints.txt", "cpp/bind.cpp",
    "pyproject.toml", "src/crossent/__main__.py", "src/crossent/_core.pyi", "src/crossent/py.typed",
}  # fmt: skip
"""Files without which an sdist is none; that the rest is whole is proven by the wheel that is built from it."""
FOREIGN = re.compile(r"(tests|docs|benchmarks/results|build|dist|demo-output|\.(git|github|ci|venv|\w+_cache))/")
BUILT = {".a", ".dylib", ".o", ".pyc", ".pyd", ".so"}
_HERE = [re.escape(str(path)) for path in (ROOT, Path.home()) if len(path.parts) > 2]
_ANYWHERE = [r"[/]root/", r"[/](var/)?tmp/", r"[/]var/folders/", r"[/](home|Users)/\w", r"[A-Z]:[\\]+Users\b"]
MACHINE = re.compile(rf"(?<![\w.~)}}-])({'|'.join(_HERE + _ANYWHERE)})")

Files = Mapping[str, bytes]


def fail(message: str) -> NoReturn:
    sys.exit(f"release: {message}")


def version() -> str:
    """Return the version where it is written, without an import of what stands in the checkout."""
    text = (ROOT / "src/crossent/version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return found[1] if found else ""


def unfit() -> list[str]:
    """Return why what the checkout holds may be rehearsed, but not published."""
    reasons, command = [], ["git", "status", "--porcelain"]
    status = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if status.returncode:
        reasons.append("this is no checkout of git")
    elif changed := len(status.stdout.splitlines()):
        reasons.append(f"{changed} file{'s differ' if changed > 1 else ' differs'} from the last commit")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## \[{re.escape(version())}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        reasons.append(f"CHANGELOG.md has no date for {version()}")
    return reasons


def run(what: str, *command: str | Path, cwd: Path) -> str:
    """Run a command without the variables that would lead it back to the checkout, and return what it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CROSSENT_", "PYTHON"))}
    kept.pop("VIRTUAL_ENV", None)
    done = subprocess.run(
        command, cwd=cwd, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("a", encoding="utf-8") as log:
        _ = log.write(f"$ {shlex.join(map(str, command))}\n{done.stdout}\n")
    if done.returncode:
        fail(f"{what} failed with exit code {done.returncode}; the end of {LOG.relative_to(ROOT)} says why")
    return done.stdout


def build_sdist(folder: Path) -> Path:
    """Build the sdist by the hook that every build frontend calls."""
    hook = f"from scikit_build_core.build import build_sdist; build_sdist({str(folder)!r})"
    _ = run("building the sdist", sys.executable, "-c", hook, cwd=ROOT)
    return folder / f"crossent-{version()}.tar.gz"


def build_wheel(sdist: Path, folder: Path) -> Path:
    """Build the wheel from the sdist, which pip unpacks in a folder of its own."""
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--disable-pip-version-check"]
    _ = run("building the wheel", *pip, "--wheel-dir", folder, sdist, cwd=folder)
    wheels = list(folder.glob(f"crossent-{version()}-*.whl"))
    if len(wheels) != 1:
        fail(f"{len(wheels)} wheels were built where one was expected")
    return wheels[0]


def read_sdist(path: Path) -> dict[str, bytes]:
    """Return the files of an sdist, without the folder that all of them are in."""
    top = f"crossent-{version()}/"
    with tarfile.open(path) as archive:
        members = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        if odd := [name for name, file in members.items() if file is None or not name.startswith(top)]:
            fail(f"the sdist has {odd[0]}, which is no file in {top}")
        return {name.removeprefix(top): file.read() for name, file in members.items() if file is not None}


def read_wheel(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def check_sdist(files: Files) -> None:
    """Fail unless the sdist has what it needs, nothing else than sources, and this version."""
    if lacking := NEEDED - files.keys():
        fail(f"the sdist lacks {', '.join(sorted(lacking))}")
    for name in sorted(files):
        if FOREIGN.match(name) or PurePosixPath(name).suffix in BUILT:
            fail(f"the sdist has {name}, which does not belong there")
    check_metadata("the sdist", files["PKG-INFO"], files["README.md"])
    check_paths("the sdist", files)


def check_wheel(files: Files, sdist: Files) -> None:
    """Fail unless the wheel is the package of the sdist, byte for byte, one compiled core and the metadata."""
    about = f"crossent-{version()}.dist-info"
    cores = [name for name in files if re.fullmatch(r"crossent/_core\.[\w.-]*(so|pyd)", name)]
    if len(cores) != 1:
        fail(f"the wheel has {len(cores)} compiled cores where one was expected")
    package = {name.removeprefix("src/"): text for name, text in sdist.items() if name.startswith("src/crossent/")}
    own = {f"{about}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}
    if differing := files.keys() ^ (package.keys() | own | {*cores}):
        name = min(differing)
        fail(f"the wheel {'has' if name in files else 'lacks'} {name}")
    if changed := [name for name, text in package.items() if files[name] != text]:
        fail(f"{changed[0]} is not the same in the wheel as in the sdist")
    if files[f"{about}/licenses/LICENSE"] != sdist["LICENSE"]:
        fail("the wheel's license is not the one of the sdist")
    check_metadata("the wheel", files[f"{about}/METADATA"], sdist["README.md"])
    check_paths("the wheel", files)


def check_metadata(where: str, text: bytes, readme: bytes) -> None:
    about = email.message_from_bytes(text)
    if about["Version"] != version():
        fail(f"{where} calls itself version {about['Version']}, and src/crossent/version.py says {version()}")
    if about["License-Expression"] != PROJECT["project"]["license"]:
        fail(f"{where} has the license {about['License-Expression']}")
    payload = about.get_payload(decode=True)
    if not isinstance(payload, bytes) or payload.strip() != readme.strip():
        fail(f"{where} does not describe itself by README.md")


def check_paths(where: str, files: Files) -> None:
    """Fail if a file, compiled or not, names a path of the machine that it was made on."""
    for name, text in files.items():
        if found := MACHINE.search(text.decode(errors="ignore")):
            fail(f"{where} names a path of this machine: {found[0]} in {name}")


def environment(folder: Path, *requirements: str | Path) -> Path:
    """Make an environment of these requirements alone, in the versions of constraints.txt, and return its programs."""
    venv.create(folder, symlinks=True, with_pip=True)
    programs = folder / "bin"
    pip = [programs / "python", "-m", "pip", "install", "--no-compile", "--no-input", "--disable-pip-version-check"]
    _ = run("an installation", *pip, "-c", ROOT / "constraints.txt", *requirements, cwd=folder)
    return programs


def try_alone(wheel: Path, folder: Path) -> None:
    """Try the wheel where NumPy is all that it finds."""
    programs = environment(folder / "alone", wheel)
    listing = "from importlib import metadata; print(*(d.name.lower() for d in metadata.distributions()))"
    found = {*run("a listing", programs / "python", "-c", listing, cwd=folder).split()}
    if found - {"pip", "setuptools"} != {"crossent", "numpy"}:
        fail(f"the wheel alone brought {', '.join(sorted(found))}")
    _ = run("crossent doctor", programs / "python", "-W", "error", "-m", "crossent", "doctor", cwd=folder)
    _ = run("the smoke test", programs / "python", "-W", "error", ROOT / "tools/smoke.py", cwd=folder)


def try_as_cibuildwheel(wheel: Path, folder: Path) -> None:
    """Try the wheel as cibuildwheel will try each: with its test requirements, by its command."""
    config = PROJECT["tool"]["cibuildwheel"]
    programs = environment(folder / "tested", wheel, *config["test-requires"])
    command = config["test-command"].replace("{project}", shlex.quote(str(ROOT)))
    path = f"PATH={shlex.quote(str(programs))}:$PATH"
    _ = run("cibuildwheel's test", "sh", "-c", f"export {path}; {command}", cwd=folder)


def try_extras(wheel: Path, folder: Path) -> None:
    """Try the three forms and the command line, with the packages that they need."""
    programs = environment(folder / "extras", f"{wheel}[score,torch]")
    _ = run("pip check", programs / "python", "-m", "pip", "check", cwd=folder)
    command = programs / "crossent"
    said = run("crossent --version", command, "--version", cwd=folder)
    if said != f"crossent {version()}\n":
        fail(f"crossent --version says {said!r}")
    rows = "animal,p_cat,p_dog,p_bird\ncat,0.7,0.2,0.1\ncat,0.1,0.3,0.6\n"
    _ = (folder / "animals.csv").write_text(rows, encoding="utf-8")
    options = ["--label", "animal", "--probs", "p_*", "--json"]
    found = json.loads(run("crossent score", command, "score", "animals.csv", *options, cwd=folder))["loss"]
    if not math.isclose(found, -math.log(0.7 * 0.1) / 2, rel_tol=1e-12):
        fail(f"crossent score finds {found} where the loss is {-math.log(0.7 * 0.1) / 2}")
    _ = run("the smoke test", programs / "python", "-W", "error", ROOT / "tools/smoke.py", "--all", cwd=folder)


def main() -> None:
    start = perf_counter()

    def done(name: str, what: str) -> None:
        nonlocal start
        now = perf_counter()
        print(f"{name:<7}  {now - start:4.0f} s  {what}", flush=True)
        start = now

    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    LOG.unlink(missing_ok=True)

    sdist = build_sdist(DIST)
    sources = read_sdist(sdist)
    check_sdist(sources)
    done("sdist", f"{sdist.relative_to(ROOT)}: {len(sources)} files, {sdist.stat().st_size / 1e6:.1f} MB")

    wheel = build_wheel(sdist, DIST)
    files = read_wheel(wheel)
    check_wheel(files, sources)
    done("wheel", f"{wheel.relative_to(ROOT)}: {len(files)} files, {wheel.stat().st_size / 1e6:.1f} MB, from the sdist")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        try_alone(wheel, folder)
        done("alone", "with NumPy only: python -m crossent doctor, smoke test")
        try_as_cibuildwheel(wheel, folder)
        done("tested", f"as cibuildwheel will: {PROJECT['tool']['cibuildwheel']['test-command']}")
        try_extras(wheel, folder)
        done("extras", "with score and torch: crossent --version, crossent score, the three worked examples")

    reasons = unfit()
    print(f"ready{', but not to be published: ' * bool(reasons)}{'; '.join(reasons)}")


if __name__ == "__main__":
    main()
