"""The examples as modules, for tests that call their functions."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "examples"


@pytest.fixture
def smollm2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The module, with an empty cache and no model installed."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module = import_module("smollm2")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    return module


@pytest.fixture
def lm_report(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module."""
    monkeypatch.syspath_prepend(FOLDER)
    return import_module("lm_report")
