"""Arrays at addresses that are no multiples of their element size: read as if they were aligned, never written to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import crossent.torch as F
from crossent.kernels import cpu
from crossent.kernels.backend import BinaryOperands, Cotangents
from crossent.spec import Scores, Target

RANDOM = np.random.default_rng(0)


def odd(array: Any) -> Any:
    """The same numbers and strides at an odd address."""
    array = np.asarray(array)
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert array.itemsize == 1 or not view.flags.aligned
    return view


def odd_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers in a tensor from a buffer at an odd offset."""
    buffer = bytearray(1) + tensor.contiguous().view(torch.uint8).numpy().tobytes()
    found = torch.frombuffer(buffer, dtype=tensor.dtype, offset=1).reshape(tensor.shape)
    assert found.data_ptr() % tensor.element_size()
    return found


def rows(change: Any, V: int, dtype: str, index_dtype: str, kind: str) -> list[Any]:
    """Record and gradient of some rows whose inputs are changed in a way that must not matter."""
    random = np.random.default_rng(V)
    logits = random.standard_normal((9, V)).astype(dtype)
    index, prob = random.integers(0, V, 9).astype(index_dtype), random.random((9, V)).astype(dtype)
    weight = random.random(V).astype(dtype)
    target = Target(index=change(index)) if kind == "index" else Target(prob=change(prob))
    target = Target(index=target.index, prob=target.prob, weight=change(weight), smoothing=0.1)
    record, grad = np.full((5, 9), np.nan), np.full_like(logits, np.nan)
    cpu.row_stats(change(logits), target, Scores(), record)
    g = random.random(9).astype("float32" if dtype == "float16" else dtype)
    cpu.row_grad(change(logits), target, Scores(), change(record), Cotangents(change(g)), grad)
    return [record, grad]


@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("V", [3, 70])
@pytest.mark.parametrize(("dtype", "index_dtype"), [("float32", "int64"), ("float64", "int16"), ("float16", "uint32")])
def test_rows_of_misaligned_inputs_are_those_of_aligned_ones(V: int, dtype: str, index_dtype: str, kind: str) -> None:
    for found, expected in zip(
        rows(odd, V, dtype, index_dtype, kind), rows(np.asarray, V, dtype, index_dtype, kind), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("layout", ["transposed", "backwards", "spread", "expanded", "empty"])
def test_strided_views_of_misaligned_memory_are_read_where_they_are(layout: str) -> None:
    base = RANDOM.standard_normal((8, 6)).astype(np.float32)
    view = {
        "transposed": lambda a: a.T,
        "backwards": lambda a: a[::-1, ::-1],
        "spread": lambda a: a[1::2, ::3],
        "expanded": lambda a: np.broadcast_to(a[2], (5, 6)),
        "empty": lambda a: a[:0],
    }[layout]
    results = []
    for array in (view(odd(base)), view(base)):
        result, place = np.full((5, len(array)), np.nan), np.full(len(array), -1, np.int64)
        cpu.row_summary(array, None, result, place, entropic=True)
        results.append((result[1:], place))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_binary_operands_and_sums() -> None:
    x, t = RANDOM.standard_normal((7, 5)).astype(np.float32), RANDOM.random((7, 5))
    w, g = RANDOM.random((7, 5)).astype(np.float16), RANDOM.random((7, 5)).astype(np.float32)
    found = []
    for change in (odd, np.asarray):
        operands, out = BinaryOperands(change(x), change(t), change(w), change(w)), np.zeros_like(x)
        cpu.binary_grad("logits", operands, change(g), out)
        total = cpu.binary_loss("logits", operands, np.zeros_like(x))
        found.append((out, total, cpu.sums(change(g[:, 0]), change(np.arange(7)), change(w.ravel()[:7]), 3)))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


def test_results_are_not_written_to_misaligned_arrays() -> None:
    logits, target = np.zeros((4, 6), np.float32), Target(index=np.zeros(4, np.int64))
    record = np.zeros((5, 4))
    with pytest.raises(ValueError, match=r"record is not aligned: .* pass a new array"):
        cpu.row_stats(logits, target, Scores(), odd(record))
    cpu.row_stats(logits, target, Scores(), record)
    with pytest.raises(ValueError, match="grad is not aligned"):
        cpu.row_grad(logits, target, Scores(), record, Cotangents(np.ones(4, np.float32)), odd(logits))
    with pytest.raises(ValueError, match="out is not aligned"):
        cpu.binary_grad("logits", BinaryOperands(logits, logits), logits, odd(logits))
    with pytest.raises(ValueError, match="place is not aligned"):
        cpu.row_summary(logits, None, record, odd(np.zeros(4, np.int64)), entropic=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_losses_of_tensors_from_buffers_at_odd_offsets(dtype: torch.dtype) -> None:
    z, y = torch.randn(6, 40, dtype=torch.float32).to(dtype), torch.randint(40, (6,))
    found = []
    for change in (odd_tensor, torch.clone):
        logits = change(z).requires_grad_()
        loss = F.cross_entropy(logits, change(y))
        loss.backward()
        binary = F.binary_cross_entropy_with_logits(change(z), change(z.sigmoid()))
        found.append((loss.detach(), logits.grad, binary))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
