"""tools/install.py hands pip's settings to uv."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("tools_install", ROOT / "tools/install.py")
assert SPEC is not None
assert SPEC.loader is not None
install = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(install)

LISTED = r"""
:env:.find-links='wheels'
:env:.default-timeout='180'
global.cert='certificates.crt'
global.find-links='other wheels'
global.extra-index-url='https://one.example/simple\nhttps://two.example/simple'
global.index-url='https://zero.example/simple'
install.index-url='https://first.example/simple'
"""


def test_the_environment_comes_before_files_and_the_command_before_all_commands() -> None:
    assert install.pip_settings(LISTED) == {
        "find-links": "wheels",
        "default-timeout": "180",
        "cert": "certificates.crt",
        "extra-index-url": "https://one.example/simple\nhttps://two.example/simple",
        "index-url": "https://first.example/simple",
    }


def test_uv_looks_where_pip_does() -> None:
    assert install.uv_options(install.pip_settings(LISTED)) == [
        "--index-strategy", "unsafe-best-match",
        "--index-url", "https://first.example/simple",
        "--extra-index-url", "https://one.example/simple",
        "--extra-index-url", "https://two.example/simple",
        "--find-links", "wheels",
    ]  # fmt: skip
    assert install.uv_options({"no-index": "true"})[-1] == "--no-index"
    assert install.uv_options({"no-index": "false"}) == install.uv_options({})


def test_what_pip_prints_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    indexes = "extra-index-url =\n    https://one.example/it's\n    https://two.example\n"
    text = f"[global]\n{indexes}[install]\nfind-links = a b\n"
    _ = (tmp_path / "pip.conf").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    settings = install.pip_settings(listed)
    assert settings["extra-index-url"].split() == ["https://one.example/it's", "https://two.example"]
    assert settings["find-links"].split() == ["a", "b"]


def test_without_uv_pip_installs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    name, command, _ = install.installer()
    assert name == "pip"
    assert command[1:4] == ["-m", "pip", "install"]


def test_with_uv_it_installs_into_the_same_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    _ = uv.write_text("#!/bin/sh\n", encoding="utf-8")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(install, "PYTHON", Path(sys.executable))
    name, command, _ = install.installer()
    assert name == "uv"
    assert command[:3] == [str(uv), "pip", "install"]
    assert command[command.index("--python") + 1] == sys.executable
