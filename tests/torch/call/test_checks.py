"""Checks of single arguments: what passes, and what the errors say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from crossent.torch.call import checks
from tests.torch import plain

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
def test_inputs_of_real_dtypes_pass(dtype):
    checks.check_input(torch.zeros(2, dtype=dtype))
    checks.check_input(torch.zeros(2, dtype=dtype, device="meta"))


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ([1.0], TypeError, ["input must be a tensor", "list", "torch.as_tensor"]),
        (torch.zeros(2).long(), TypeError, ["torch.int64", "input.float()"]),
        (torch.zeros(2, dtype=torch.complex64), TypeError, ["torch.complex64"]),
        (torch.zeros(2).bool(), TypeError, ["torch.bool"]),
    ],
)
def test_inputs_that_do_not(wrong, error, words):
    with pytest.raises(error) as caught:
        checks.check_input(wrong)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_inputs_on_a_device_without_a_backend():
    with FakeTensorMode(), pytest.raises(NotImplementedError, match=r"cuda:0 here: .*use input\.cpu\(\)"):
        checks.check_input(torch.empty(2, device="cuda"))


def test_companions_are_tensors_on_the_device_of_the_input():
    checks.check_companion("weight", torch.ones(2), CPU)
    with pytest.raises(TypeError, match="weight must be a tensor, got list"):
        checks.check_companion("weight", [1.0], CPU)
    with pytest.raises(ValueError, match=r"weight is on meta, input on cpu; use weight\.to\(input\.device\)"):
        checks.check_companion("weight", torch.ones(2, device="meta"), CPU)


def test_constants_are_in_a_dtype_that_kernels_read():
    for dtype in plain.DTYPES:
        weight = torch.ones(2, dtype=dtype)
        assert checks.in_kernel_dtype(weight, torch.float32) is weight
    for dtype in (torch.int64, torch.uint64, torch.bool, torch.float8_e4m3fn):
        weight = torch.tensor([1.0, 0.0]).to(dtype)
        assert torch.equal(checks.in_kernel_dtype(weight, torch.float16), torch.tensor([1.0, 0.0]))
        assert checks.in_kernel_dtype(weight, torch.float64).dtype == torch.float64
    assert checks.in_kernel_dtype(None, torch.float32) is None


@pytest.mark.filterwarnings("ignore:.*quantized tensor")
def test_constants_have_no_gradient():
    checks.check_constant("weight", None)
    for dtype in (torch.float16, torch.int64, torch.uint64, torch.bool, torch.float8_e4m3fn):
        checks.check_constant("weight", torch.ones(2).to(dtype))
    for wrong in (torch.ones(2) + 0j, torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)):
        with pytest.raises(TypeError, match=rf"weight must be real, got {wrong.dtype}; use weight\.float\(\)"):
            checks.check_constant("weight", wrong)
    with pytest.raises(ValueError, match=r"weight is a constant .* weight\.detach\(\)"):
        checks.check_constant("weight", torch.ones(2, requires_grad=True))


@pytest.mark.parametrize(
    ("smoothing", "z_loss", "word"),
    [
        (-0.1, 0.0, "label_smoothing"), (1.1, 0.0, "label_smoothing"), (float("nan"), 0.0, "label_smoothing"),
        (0.0, -1.0, "z_loss"), (0.0, float("inf"), "z_loss"), (0.0, float("nan"), "z_loss"),
    ],
)  # fmt: skip
def test_smoothing_and_z_loss_in_their_ranges(smoothing, z_loss, word):
    for good in itertools.product((0.0, 0.5, 1.0), (0.0, 1e-4, 3.0)):
        checks.check_numbers(*good)
    with pytest.raises(ValueError, match=word):
        checks.check_numbers(smoothing, z_loss)


def test_weights_of_classes():
    checks.check_weight(torch.ones(5), 5)
    with pytest.raises(ValueError, match=r"each of the 5 classes, got shape \(4,\)"):
        checks.check_weight(torch.ones(4), 5)
    with pytest.raises(ValueError, match=r"got shape \(5, 1\)"):
        checks.check_weight(torch.ones(5, 1), 5)
    with pytest.raises(TypeError, match="complex64"):
        checks.check_weight(torch.ones(5) + 0j, 5)


def test_ignored_classes_are_whole_numbers():
    for good in (-100, 0, 3, np.int16(3), torch.tensor(3)):
        assert type(checks.ignore_index_of(good)) is int
        assert checks.ignore_index_of(good) == good
    for wrong in (True, 1.0, "1", None):
        with pytest.raises(TypeError, match="ignore_index must be a whole number, got"):
            _ = checks.ignore_index_of(wrong)


def test_chunks_have_bytes():
    assert checks.chunk_bytes_of(1) == checks.chunk_bytes_of(np.int64(1)) == 1
    assert checks.chunk_bytes_of(None) is None
    for wrong in (True, 0.5, "1"):
        with pytest.raises(TypeError, match="whole number of bytes"):
            _ = checks.chunk_bytes_of(wrong)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"positive, got {wrong}; None is the default"):
            _ = checks.chunk_bytes_of(wrong)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (3,), (3, 4), (1, 4), (3, 1), (2, 3, 4), (1, 3, 4), (4, 3), (0,)])
@pytest.mark.parametrize("to", [(3, 4), (4,), (), (1, 1), (0, 4)])
def test_what_broadcasts_is_what_torch_expands(shape, to):
    try:
        _ = torch.empty(shape).expand(to)
    except RuntimeError:
        expands = False
    else:
        expands = True
    assert checks.broadcasts(torch.Size(shape), torch.Size(to)) == expands
