"""Small helpers for tensors: dtypes of losses, autocast, and derivatives by views."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

from crossent.stats import FIELDS, RowStats
from crossent.torch.base import values
from crossent.torch.base.values import RowResults
from tests.torch import plain


def test_real_dtypes_are_those_wider_than_a_byte_and_integers_those_of_whole_bytes():
    every = {x for x in vars(torch).values() if isinstance(x, torch.dtype)}
    assert {x for x in every if x.is_floating_point and x.itemsize > 1} == values.REAL
    assert {getattr(torch, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)} == values.INTEGER


@pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
def test_losses_are_as_wide_as_the_logits_and_float32_at_least(dtype):
    wide = torch.promote_types(dtype, torch.float32)
    assert values.loss_dtype(dtype) == wide
    loss, record = values.new_record(6, torch.empty(2, 5, 3, dtype=dtype, device="meta"))
    assert (loss.shape, loss.dtype, loss.device.type) == ((6,), wide, "meta")
    assert (record.shape, record.dtype) == ((len(FIELDS), 6), torch.float64)


def test_the_outputs_of_rows_are_their_first_three_vectors():
    loss, lse, entropy = torch.randn(3, 4)
    outputs = RowResults(loss, lse, entropy, torch.randn(5, 4)).outputs
    assert outputs.loss is loss
    assert outputs.lse is lse
    assert outputs.entropy is entropy
    assert outputs._fields == RowResults._fields[:3]
    assert all(isinstance(getattr(RowStats, name), property) for name in outputs._fields)


def test_without_autocast():
    x = torch.randn(3, 3)
    assert values.has_autocast(x)
    assert not values.has_autocast(x.to("meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with values.without_autocast(x):
            assert (x @ x).dtype == torch.float32
        with values.without_autocast(x.to("meta")):
            assert (x @ x).dtype == torch.bfloat16


def test_tensors_and_numbers_are_no_dtensors():
    class Tagged(torch.Tensor):
        pass

    for x in (torch.ones(2), torch.nn.Parameter(torch.ones(2)), torch.ones(2).as_subclass(Tagged), None, 1.0):
        assert not values.is_dtensor(x)


# Derivatives by views


def test_derivatives_by_views_are_partial():
    # b is made of a; the partial derivative of a · b by a is b
    a = torch.randn(4, dtype=torch.float64, requires_grad=True)
    b = a * a
    x, y, none = values.aliases(a, b, None)
    assert none is None
    out = (x * y).sum()
    g = torch.tensor(2.0, dtype=torch.float64)
    by_a, by_b, by_none = values.derivatives(out, (x, y, none), g, again=False)
    torch.testing.assert_close(by_a, 2 * b)
    torch.testing.assert_close(by_b, 2 * a)
    assert by_none is None
    (whole,) = torch.autograd.grad((a * b).sum(), a)
    torch.testing.assert_close(whole, 3 * a * a)


def test_derivatives_by_views_can_be_differentiated():
    a = torch.randn(4, dtype=torch.float64, requires_grad=True)
    (x,) = values.aliases(a)
    (first,) = values.derivatives(torch.exp(x).sum(), (x,), torch.ones((), dtype=torch.float64), again=True)
    (second,) = torch.autograd.grad(first.sum(), a)
    torch.testing.assert_close(second, a.exp())
    (x,) = values.aliases(a)
    (once,) = values.derivatives(torch.exp(x).sum(), (x,), torch.ones((), dtype=torch.float64), again=False)
    assert not once.requires_grad


def test_the_first_view_has_a_gradient_in_any_case():
    a, b = torch.randn(3), torch.randn(3)
    x, y = values.aliases(a, b)
    assert x.requires_grad
    assert not y.requires_grad
    assert not a.requires_grad
    by_x, by_y = values.derivatives(nnf.mse_loss(x, y, reduction="sum"), (x, y), torch.ones(()), again=False)
    torch.testing.assert_close(by_x, 2 * (a - b))
    assert by_y is None


def test_an_input_that_does_not_matter_has_no_derivative():
    a, b = (torch.randn(3, requires_grad=True) for _ in range(2))
    x, y = values.aliases(a, b)
    assert values.derivatives(x.sum(), (x, y), torch.ones(()), again=False)[1] is None
