"""The Triton backend, on a GPU (`make test-gpu`) or in Triton's interpreter (`make test-interpreter`).

The interpreter needs a process of its own, because TRITON_INTERPRET=1 is read when Triton is imported. Where there is
neither, only `test_counts` is collected, which needs neither. In the interpreter the programs of each launch run in an
order that the seed draws, and are watched for races (`programs`); tests of the kernels that take few seconds run in all
three orders.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from crossent import kernels

HERE = Path(__file__).parent
IN_EVERY_ORDER = {"test_binary", "test_gradient", "test_record", "test_rows_bias", "test_rows_parts", "test_scaling"}

if os.environ.get("TRITON_INTERPRET") == "1":
    from tests.kernels.triton import interpreter
    from tests.kernels.triton.programs import ORDERS, program_order  # noqa: F401  a fixture

    interpreter.install()
    collect_ignore = ["test_on_a_gpu.py", "test_counts.py"]

    def pytest_generate_tests(metafunc):
        """Run each test of these modules in each order of programs."""
        if metafunc.module.__name__.rpartition(".")[2] in IN_EVERY_ORDER:
            metafunc.parametrize("program_order", ORDERS, indirect=True)

elif kernels.why_not("triton") is not None:
    collect_ignore = [path.name for path in HERE.glob("test_*.py") if path.name != "test_counts.py"]
else:
    collect_ignore = ["test_programs.py", "test_rows_draws.py", "test_counts.py"]


@pytest.fixture
def device(monkeypatch):
    """The device whose tensors `crossent.torch` hands to the Triton backend: a GPU, or the CPU if interpreted."""
    from crossent.torch.base import backends
    from tests.kernels.triton.calls import DEVICE

    monkeypatch.setitem(backends.BACKENDS, DEVICE.type, "triton")
    return DEVICE


@pytest.fixture
def rng(request):
    """Random numbers, others with each seed of pytest-randomly, which pytest prints."""
    return np.random.default_rng(request.config.getoption("randomly_seed", 0) % 2**32)


@pytest.fixture(autouse=True)
def quiet():
    """A GPU does not warn of NaN and overflow."""
    with np.errstate(all="ignore"):
        yield
