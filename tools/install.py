"""Install crossent with one extra into .venv, and do nothing where nothing that an install depends on has changed.

The install is editable: tests, doctests and the command run the sources in `src`, of which no installed copy can go
stale, and only the compiled core lives in the environment. It is built without isolation, by the build tools that
constraints.txt pins: an isolated build would fetch unpinned ones at every install, and by giving them a new path each
time would compile the whole core again.
"""

import hashlib
import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"


def usable() -> bool:
    """Whether .venv is there and the Python that it was made from still is, with pip."""
    command = [PYTHON, "-c", "import pip"]
    return PYTHON.exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0


def fingerprint() -> str:
    """Digest of what an install depends on: the contents of its inputs, but of Python sources only the names."""
    core = [path for path in (ROOT / "cpp").rglob("*") if path.is_file()]
    sources = (ROOT / "src").rglob("*.py")
    names = ("pyproject.toml", "constraints.txt", "CMakeLists.txt", "src/crossent/version.py")  # the last: the version
    files = [*(ROOT / name for name in names), Path(__file__), *core]
    digest = hashlib.sha256(f"{ROOT} {os.environ.get('CXX', '')}".encode())
    for path in sorted([*files, *sources]):
        digest.update(b"\0" + bytes(path.relative_to(ROOT)) + b"\0")
        if path in files:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def pip(*arguments: str) -> None:
    """Run pip, quiet but for errors; bytecode is left to the first use of each module, which halves the time."""
    command = [PYTHON, "-m", "pip", "install", "-qq", "--no-compile", "--no-input", "--disable-pip-version-check"]
    if subprocess.run([*command, "-c", "constraints.txt", *arguments], cwd=ROOT, check=False).returncode:
        sys.exit("crossent could not be installed: what pip says above is the reason")


def main(extra: str) -> None:
    """Bring .venv up to date with this checkout."""
    stamp = VENV / "crossent.stamp"
    fresh = [f"{having} {fingerprint()}" for having in (extra, "dev")]  # dev holds every other extra
    if usable() and stamp.exists() and stamp.read_text() in fresh:
        return
    print(
        f"== install crossent[{extra}] into .venv (at first a minute or two, longer where torch is downloaded)",
        flush=True,
    )
    stamp.unlink(missing_ok=True)
    if not usable():
        venv.create(VENV, clear=True, symlinks=True, with_pip=True)
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    pip(*build, "cmake", "ninja")
    pip("--no-build-isolation", "--editable", f".[{extra}]")
    stamp.write_text(fresh[0])


if __name__ == "__main__":
    main(sys.argv[1])
