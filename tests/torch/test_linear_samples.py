"""linear_cross_entropy and its module on the samples that torch tests its own with."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from tests.torch import plain

pytestmark = pytest.mark.slow

with warnings.catch_warnings():  # torch's testing package imports deprecated things
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

if not hasattr(torch.nn, "LinearCrossEntropyLoss"):
    pytest.skip("this torch has no linear cross-entropy of its own", allow_module_level=True)

NAME, MODULE = "nn.functional.linear_cross_entropy", torch.nn.LinearCrossEntropyLoss
theirs = nnf.linear_cross_entropy
dtypes = pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)


@pytest.fixture(autouse=True)
def seeded_python():
    random.seed(0)


def positional(function):
    return lambda x, w, t, b=None, **options: function(x, w, t, linear_bias=b, **options)


@dtypes
@pytest.mark.parametrize("op", [op for op in op_db if op.name == NAME], ids=lambda op: op.variant_test_name or "plain")
def test_operator_samples(op, dtype):
    seen = 0
    for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
        kwargs = {k: v for k, v in sample.kwargs.items() if k != "options"}
        args = (sample.input, *sample.args, kwargs.pop("linear_bias", None))
        kwargs |= {"chunk_bytes": (None, 1, 64)[seen % 3]}

        def rival(*args, chunk_bytes, **options):
            return positional(theirs)(*args, **options)

        plain.compare(positional(F.linear_cross_entropy), rival, rival, dtype, args, kwargs)
        seen += 1
    assert seen >= 20


def test_operator_error_samples():
    op, seen = next(op for op in op_db if op.name == NAME), 0
    for error in op.error_inputs_func(op, "cpu"):
        sample = error.sample_input
        with pytest.raises((ValueError, TypeError, IndexError)):
            _ = F.linear_cross_entropy(sample.input, *sample.args, **sample.kwargs)
        seen += 1
    assert seen >= 5


def constructions(dtype):
    """What torch constructs its module with and calls it on, each once."""
    info = next(m for m in module_db if m.module_cls is MODULE)
    for sample in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=True):
        made = sample.constructor_input
        if made.kwargs["options"] is None:
            yield made.args, {k: v for k, v in made.kwargs.items() if k != "options"}, sample.forward_input.args


@dtypes
def test_module_samples(dtype):
    seen = 0
    for args, kwargs, inputs in constructions(dtype):
        right, made = MODULE(*args, **kwargs), F.LinearCrossEntropyLoss(*args, **kwargs)
        assert made.state_dict().keys() == right.state_dict().keys()
        _ = made.load_state_dict(right.state_dict())
        exact = MODULE(*args, **kwargs).double()
        _ = exact.load_state_dict(right.state_dict())

        def run(module, dtype, inputs=inputs):
            x, t = (plain.cast(i, dtype) for i in inputs)
            loss = module(x, t)
            leaves = [x, *module.parameters()]
            return loss, torch.autograd.grad(loss, leaves, plain.cotangent_like(loss).to(loss.dtype))

        (got, grads), (other, others) = run(made, dtype), run(right, dtype)
        want, wants = run(exact, torch.float64)
        plain.agree("loss", got, want, other, plain.FLOOR[got.dtype])
        for g, h, o in zip(grads, wants, others, strict=True):
            assert g.dtype == dtype
            plain.agree("gradient", g, h, o, plain.FLOOR[dtype])
        seen += 1
    assert seen >= 20


def test_module_error_samples():
    info, seen = next(m for m in module_db if m.module_cls is MODULE), 0
    for sample in info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=True, training=True
    ):
        module, call = sample.module_error_input.constructor_input, sample.module_error_input.forward_input
        with pytest.raises((ValueError, TypeError, IndexError)):
            F.LinearCrossEntropyLoss(*module.args, **module.kwargs)(*call.args, **call.kwargs)
        seen += 1
    assert seen >= 4
