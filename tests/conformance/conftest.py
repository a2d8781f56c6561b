from __future__ import annotations

import pytest

from crossent.kernels import cpu

ISAS = cpu.available_isas()


@pytest.fixture(params=ISAS)
def isa(request):
    """Each instruction set of this build and processor in turn."""
    cpu.use_isa(request.param)
    yield request.param
    cpu.use_isa("")


@pytest.fixture
def each_isa():
    """All of them within one test: an iterator that switches to each."""

    def switching():
        for name in ISAS:
            cpu.use_isa(name)
            yield name

    yield switching
    cpu.use_isa("")
