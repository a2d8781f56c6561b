"""The fixture `backend`: every registered backend, on each of its instruction sets.

A backend that cannot be used here is skipped with its reason. Triton runs on a GPU, or with TRITON_INTERPRET=1 in its
interpreter (`make test-interpreter`), which needs a process of its own because Triton reads the variable when imported.
"""

from __future__ import annotations

import os
import pathlib

import pytest

from crossent import kernels
from crossent.kernels import cpu
from tests.conformance.adapters import adapters

if os.environ.get("TRITON_INTERPRET") == "1":
    from tests.kernels.triton import interpreter
    from tests.kernels.triton.programs import program_order  # noqa: F401  a fixture

    interpreter.install()

HERE = pathlib.Path(__file__).parent
ADAPTERS = adapters()
REASONS = {name: kernels.why_not(name) for name in ADAPTERS}
ISAS = cpu.available_isas()


def pytest_generate_tests(metafunc):
    """Give `backend` each instruction set of each backend, or each backend once where the test takes `each_isa`."""
    if "backend" in metafunc.fixturenames:
        whole = "each_isa" in metafunc.fixturenames
        pairs = [(name, isa) for name, adapter in ADAPTERS.items() for isa in (("",) if whole else adapter.isas)]
        metafunc.parametrize("backend", pairs, ids=["-".join(filter(None, pair)) for pair in pairs], indirect=True)


def pytest_collection_modifyitems(config, items):
    """Take away what a backend does not take: dtypes that its arrays cannot have, and most of all if it is slow."""
    kept, tests = set(items), {}
    for item in items:
        arguments = item.callspec.params if item.path.parent == HERE and hasattr(item, "callspec") else {}
        if "backend" in arguments:
            adapter = ADAPTERS[arguments["backend"][0]]
            if not adapter.takes(arguments):
                kept.discard(item)
            elif adapter.slow and "length" not in arguments:
                tests.setdefault((adapter.name, item.originalname), []).append(item)
    for (adapter, name), alike in tests.items():
        alike.sort(key=lambda item: item.nodeid)
        kept -= set(alike) - set(ADAPTERS[adapter].some(alike, name))
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


@pytest.fixture
def backend(request):
    """An adapter of each registered backend (tests/conformance/adapters.py): its functions take NumPy arrays."""
    name, isa = request.param
    if REASONS[name] is not None:
        pytest.skip(f"{name}: {REASONS[name]}")
    ADAPTERS[name].use_isa(isa)
    yield ADAPTERS[name]
    ADAPTERS[name].use_isa("")


@pytest.fixture
def each_isa(backend):
    """All instruction sets of the backend within one test: an iterator that switches to each."""
    return backend.each_isa


@pytest.fixture(params=ISAS)
def isa(request):
    """Each instruction set of this build and processor in turn, for tests of the core alone."""
    cpu.use_isa(request.param)
    yield request.param
    cpu.use_isa("")
