"""Install crossent with one extra into .venv, and do nothing where nothing that an install depends on has changed.

The install is editable: tests, doctests and the command run the sources in `src`, of which no installed copy can go
stale, and only the compiled core lives in the environment. It is built without isolation, by the build tools that
constraints.txt pins: an isolated build would fetch unpinned ones at every install, and by giving them a new path each
time would compile the whole core again.

uv installs where it is on PATH, and pip, which takes longer, where it is not. uv looks for packages where pip would.
"""

import ast
import hashlib
import os
import shutil
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


FOR_UV = {
    "index-url": "--index-url",
    "extra-index-url": "--extra-index-url",
    "find-links": "--find-links",
    "constraint": "--constraints",
    "trusted-host": "--allow-insecure-host",
}
"""Settings of pip that say where packages come from and which versions, with the options of uv that say the same."""


def pip_settings(listed: str) -> dict[str, str]:
    """Settings that `pip config list` prints, by name: the environment's before those of files, `install`'s first."""
    settings: dict[str, str] = {}
    lines = [line.partition("=") for line in listed.splitlines() if "=" in line]
    for section in ("global.", "install.", ":env:."):
        found = [(key, text) for key, _, text in lines if key.startswith(section)]
        settings |= {key.removeprefix(section): str(ast.literal_eval(text)) for key, text in found}
    return settings


def uv_options(settings: dict[str, str]) -> list[str]:
    """Options that make uv look for packages where pip does, and take the best of all indexes as pip does."""
    each = [(option, value) for name, option in FOR_UV.items() for value in settings.get(name, "").split()]
    never = ["--no-index"] if settings.get("no-index", "").lower() in {"1", "true", "yes", "on"} else []
    return ["--index-strategy", "unsafe-best-match", *never, *(word for pair in each for word in pair)]


def installer() -> tuple[str, list[str], dict[str, str]]:
    """Name of the installer, its command and its environment: quiet but for errors, and without writing bytecode.

    Bytecode is left to the first use of each module, which halves the time of pip; uv writes none by default.
    """
    environment = dict(os.environ)
    uv = shutil.which("uv")
    if uv is None:
        options = ["-qq", "--no-compile", "--no-input", "--disable-pip-version-check"]
        return "pip", [str(PYTHON), "-m", "pip", "install", *options], environment
    listed = subprocess.run([PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    settings = pip_settings(listed)
    if "cert" in settings:
        environment.setdefault("SSL_CERT_FILE", settings["cert"])
    return "uv", [uv, "pip", "install", "--quiet", "--python", str(PYTHON), *uv_options(settings)], environment


def install(*arguments: str) -> None:
    """Install packages at the versions of constraints.txt, or end the program."""
    name, command, environment = installer()
    command = [*command, "-c", "constraints.txt", *arguments]
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
        sys.exit(f"crossent could not be installed: what {name} says above is the reason")


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
    install(*build, "cmake", "ninja")
    install("--no-build-isolation", "--editable", f".[{extra}]")
    stamp.write_text(fresh[0])


if __name__ == "__main__":
    main(sys.argv[1])
