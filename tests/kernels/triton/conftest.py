"""The Triton backend, on a GPU (`make test-gpu`) or in Triton's interpreter (`make test-interpreter`).

The interpreter needs a process of its own, because TRITON_INTERPRET=1 is read when Triton is imported. Where there is
neither, nothing here is collected.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from crossent import kernels

if os.environ.get("TRITON_INTERPRET") == "1":
    from tests.kernels.triton import interpreter

    interpreter.install()
    collect_ignore = ["test_on_a_gpu.py"]
elif kernels.why_not("triton") is not None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def device(monkeypatch):
    """The device whose tensors `crossent.torch` hands to the Triton backend: a GPU, or the CPU if interpreted."""
    from crossent.torch.base import backends
    from tests.kernels.triton.calls import DEVICE

    monkeypatch.setitem(backends.BACKENDS, DEVICE.type, "triton")
    return DEVICE


@pytest.fixture(autouse=True)
def quiet():
    """A GPU does not warn of NaN and overflow."""
    with np.errstate(all="ignore"):
        yield
