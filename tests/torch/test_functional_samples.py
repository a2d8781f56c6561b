"""The samples that torch tests its own operators and modules with: value and gradients, in every dtype."""

from __future__ import annotations

import random
import warnings

import pytest
import torch

import crossent.torch
from tests.torch import plain

pytestmark = pytest.mark.slow

with warnings.catch_warnings():  # torch's testing package imports deprecated things
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

NAMES = ("cross_entropy", "binary_cross_entropy_with_logits", "binary_cross_entropy")
OPS = {name: next(op for op in op_db if op.name == f"nn.functional.{name}") for name in NAMES}
MODULES = {
    name: next(m for m in module_db if m.module_cls is getattr(torch.nn, name))
    for name in ("CrossEntropyLoss", "BCEWithLogitsLoss")
}


@pytest.fixture(autouse=True)
def seeded_python():
    random.seed(0)


@pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_operator_samples(name, dtype):
    ours, theirs = getattr(crossent.torch, name), getattr(torch.nn.functional, name)
    seen = 0
    for _ in range(3):  # they are random
        for sample in OPS[name].sample_inputs("cpu", dtype, requires_grad=True):
            args = (sample.input, *sample.args)
            if name == "binary_cross_entropy" and ((sample.input == 0) | (sample.input == 1)).any():
                continue  # torch clips there, we do not; see test_functional_binary
            plain.compare(ours, theirs, theirs, dtype, args, dict(sample.kwargs))
            seen += 1
    assert seen >= 30


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_module_samples(name, dtype):
    info = MODULES[name]
    for sample in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=True):
        made = [
            getattr(home, name)(*sample.constructor_input.args, **sample.constructor_input.kwargs)
            for home in (crossent.torch, torch.nn)
        ]
        ours, theirs = (m.to(dtype) for m in made)
        exact = getattr(torch.nn, name)(*sample.constructor_input.args, **sample.constructor_input.kwargs).double()
        plain.compare(ours, theirs, exact, dtype, sample.forward_input.args, sample.forward_input.kwargs)
        if sample.reference_fn is not None and dtype == torch.float64:
            inputs = [x.detach() for x in sample.forward_input.args]
            plain.agree(sample.desc, ours(*inputs), sample.reference_fn(theirs, *inputs), None, 1e-10)


@pytest.mark.parametrize("name", [name for name, info in MODULES.items() if info.module_error_inputs_func is not None])
def test_module_error_samples(name):
    info = MODULES[name]
    seen = 0
    for sample in info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=True, training=True
    ):
        module, call = sample.module_error_input.constructor_input, sample.module_error_input.forward_input
        assert sample.error_on == ModuleErrorEnum.FORWARD_ERROR
        with pytest.raises((ValueError, TypeError, IndexError)):  # options that are wrong raise in the constructor
            _ = getattr(crossent.torch, name)(*module.args, **module.kwargs)(*call.args, **call.kwargs)
        seen += 1
    assert seen > 0
