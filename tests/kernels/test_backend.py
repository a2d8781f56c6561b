"""The contract of a backend against every registered one, parameter by parameter; the registry; the adapters."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from crossent import kernels
from crossent.kernels import cpu
from crossent.kernels.backend import Backend, RowOutputs
from tests.conformance.adapters import ADAPTERS

FUNCTIONS = [name for name, value in vars(Backend).items() if inspect.isfunction(value) and not name.startswith("_")]


@pytest.mark.parametrize("name", kernels.names())
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_backend_has_every_function_of_the_contract(name, function):
    wanted = inspect.signature(getattr(Backend, function))
    found = inspect.signature(getattr(import_module(f"crossent.kernels.{name}"), function))
    _, *parameters = wanted.parameters.values()  # without self
    assert [(p.name, p.kind, p.default) for p in found.parameters.values()] == [
        (p.name, p.kind, p.default) for p in parameters
    ]
    for p, mine in zip(parameters, found.parameters.values(), strict=True):
        assert mine.annotation in (p.annotation, "Any"), p.name
    # a sum on the CPU is a float
    assert found.return_annotation in (
        wanted.return_annotation,
        "float" if wanted.return_annotation == "Scalar" else None,
    )


def test_the_contract_names_what_torch_calls():
    assert set(FUNCTIONS) == {
        "why_not", "row_stats", "row_loss", "row_grad", "row_fused", "pair_stats", "pair_grad", "binary_loss",
        "binary_grad",
    }  # fmt: skip


def test_the_conformance_tests_have_an_adapter_for_every_backend():
    assert set(ADAPTERS) == set(kernels.names())


def test_outputs_that_are_not_wanted_are_none():
    loss = object()
    assert RowOutputs(loss) == (loss, None, None)


def test_the_registry_knows_which_backend_adds_a_bias():
    assert kernels.adds_bias("triton")
    assert not kernels.adds_bias("cpu")


def test_the_registry_knows_why_not():
    assert "cpu" in kernels.names()
    assert kernels.why_not("cpu") is None
    assert kernels.get("cpu") is cpu
    reason = kernels.why_not("abacus")
    assert "abacus" in reason
    assert "cpu" in reason
    with pytest.raises(NotImplementedError, match="abacus"):
        _ = kernels.get("abacus")
