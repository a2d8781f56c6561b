"""The adapters lend arrays truthfully: whole memory goes to a device, and comes back as the device left it."""

from __future__ import annotations

import numpy as np
import pytest

from tests import data
from tests.conformance.adapters import Loan, Memory, Tensors, as_tensor

torch = pytest.importorskip("torch")


def held(layout, shape, dtype=np.float32):
    """An array of this layout inside a larger one."""
    base, view = data.LAYOUTS[layout].empty(shape, dtype, -7)
    view[...] = np.arange(view.size).reshape(shape)
    return base, view


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("rows apart", (3, 4)), ("transposed, apart", (3, 4)), ("classes in the middle, apart", (2, 3, 2))],
)
def test_what_a_device_writes_comes_back_and_nothing_else(layout, shape):
    base, view = held(layout, shape)
    before, loan = base.copy(), Tensors("cpu", copied=True)
    there = loan.reals(view)
    assert torch.equal(there, as_tensor(view.copy()))
    _ = there.fill_(-1.0)
    np.testing.assert_array_equal(base, before)  # it was a copy
    loan.bring_back()
    assert (view == -1).all()
    assert (base == -7).sum() == base.size - view.size


def test_what_a_device_writes_beside_an_array_comes_back_too():
    base, view = held("rows apart", (3, 4))
    loan = Tensors("cpu", copied=True)
    there = loan.reals(view)
    torch.as_strided(there, (1,), (1,), there.storage_offset() - 1)[0] = -5.0
    loan.bring_back()
    assert (base == -5).sum() == 1


def test_views_of_one_array_share_their_memory_there():
    summary, loan = np.zeros((3, 5), np.float32), Tensors("cpu", copied=True)
    for k, row in enumerate(summary):
        _ = loan.reals(row).fill_(k + 1.0)
    loan.bring_back()
    assert summary.tolist() == [[1.0] * 5, [2.0] * 5, [3.0] * 5]


def test_tensors_go_there_and_back_as_arrays_do():
    tensor, loan = torch.zeros(4, 6), Tensors("cpu", copied=True)
    _ = loan.reals(tensor[:, ::2]).fill_(3.0)
    assert (tensor == 0).all()
    loan.bring_back()
    assert (tensor[:, ::2] == 3).all()
    assert (tensor[:, 1::2] == 0).all()


def test_without_a_copy_the_memory_is_the_same():
    _, view = held("rows apart", (3, 4))
    _ = Tensors("cpu", copied=False).reals(view).fill_(-2.0)
    assert (view == -2).all()


@pytest.mark.parametrize("loan", [Loan(), Tensors("cpu", copied=True)], ids=["NumPy", "tensors"])
def test_bits_of_bfloat16_are_numbers_and_classes_are_classes(loan):
    bits = data.encode(np.array([1.5, -2.0]), "bfloat16")
    assert loan.reals(bits).tolist() == [1.5, -2.0]
    assert loan.reals(bits).dtype == torch.bfloat16
    assert loan.integers(bits).tolist() == bits.tolist()
    assert loan.reals(None) is None


def test_arrays_that_are_read_only_or_expanded_are_lent():
    one = np.broadcast_to(np.float32(2.0), (3, 4))
    assert torch.equal(Tensors("cpu", copied=True).reals(one), torch.full((3, 4), 2.0))
    memory = Memory.of(one)
    assert (memory.strides, memory.begin) == ((0, 0), 0)
