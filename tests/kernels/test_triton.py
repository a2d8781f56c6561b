"""The reasons not to use Triton, and that asking for them imports no kernel."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from crossent import kernels
from crossent.kernels import triton


@pytest.fixture
def installed(monkeypatch):
    """Pretends that these are the packages of this environment; None is a package that is not there."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    def pretend(*, version="3.9.0", cuda=None, hip=None, gpu=False, missing=()):
        packages = {
            "triton": types.SimpleNamespace(__version__=version),
            "torch": types.SimpleNamespace(
                __version__="2.13.0",
                version=types.SimpleNamespace(cuda=cuda, hip=hip),
                cuda=types.SimpleNamespace(is_available=lambda: gpu),
            ),
        }
        monkeypatch.setattr(triton, "find_spec", lambda name: None if name in missing else object())
        monkeypatch.setattr(triton, "import_module", packages.__getitem__)

    return pretend


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"missing": ("torch",)}, "torch is not installed; the CUDA and ROCm builds of torch bring Triton"),
        ({"missing": ("triton",)}, "triton is not installed"),
        ({"version": "3.5.1"}, "Triton 3.5.1 is older than 3.6; use torch 2.10 or later"),
        ({"version": "2.9"}, "Triton 2.9 is older than 3.6"),
        ({}, "torch 2.13.0 is built without CUDA and ROCm"),
        ({"cuda": "13.0"}, "torch finds no GPU; look at `nvidia-smi`"),
        ({"hip": "7.0"}, "torch finds no GPU"),
    ],
)
def test_what_is_missing_is_named_with_what_to_do(environment, reason, installed):
    installed(**environment)
    found = triton.why_not()
    assert found is not None
    assert reason in found
    with pytest.raises(NotImplementedError) as error:
        _ = kernels.get("triton")
    assert str(error.value) == found


@pytest.mark.parametrize("environment", [{"cuda": "13.0"}, {"hip": "7.0"}, {"version": "3.10.0", "cuda": "13.0"}])
def test_nothing_is_missing_where_there_is_a_gpu(environment, installed):
    installed(gpu=True, **environment)
    assert triton.why_not() is None


def test_the_interpreter_needs_no_gpu(installed, monkeypatch):
    installed()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton.interpreted()
    assert triton.why_not() is None


def test_the_registry_imports_neither_triton_nor_torch():
    code = (
        "import sys; from crossent import kernels; from crossent.kernels import triton;"
        "assert not [name for name in sys.modules if name in ('torch', 'triton') or 'kernels.triton.' in name]"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
