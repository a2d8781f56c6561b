"""Arrays of any shape on two axes: element by element the same, whatever their layout."""

from __future__ import annotations

import pytest
import torch

from crossent.kernels.backend import BinaryOperands
from crossent.kernels.triton.binary import HAS_POS_WEIGHT, HAS_WEIGHT
from crossent.kernels.triton.elements import Axis, converted, grids_of, merged_axes


def elements(grid, size, columns):
    """What a kernel reads: element k of an array."""
    return torch.as_strided(grid.data, (size // columns, columns), (grid.row, grid.col)).reshape(-1)


LAYOUTS = {
    "alike": lambda x: (x, x + 1),
    "one transposed": lambda x: (x, (x + 1).transpose(0, -1).contiguous().transpose(0, -1)),
    "one expanded": lambda x: (x, x[:1].expand_as(x)),
    "one apart": lambda x: (x, torch.stack([x, x], -1)[..., 0]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(7,), (3, 5), (1, 5), (3, 1, 5), (2, 3, 5), (3, 2, 1, 4)])
def test_arrays_keep_their_elements(shape, layout):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x, t = LAYOUTS[layout](x)
    w = torch.rand(shape[-1]).expand(shape)
    for operands in (BinaryOperands(x, t), BinaryOperands(x, t, w)):
        grids = grids_of(operands, t)
        for grid, exact in zip(grids.arrays, (*operands, t), strict=True):
            if exact is None:
                assert grid.data is None
            else:
                assert torch.equal(elements(grid, x.numel(), grids.columns), exact.reshape(-1))


def test_axes_merge_where_every_array_lets_them():
    x = torch.empty(2, 3, 5)
    assert merged_axes(x.shape, [x, x]) == [Axis(30, (1, 1))]
    assert merged_axes(x.shape, [x, x[:, :1].expand(2, 3, 5)]) == [Axis(2, (15, 15)), Axis(3, (5, 0)), Axis(5, (1, 1))]
    assert merged_axes((1, 1), [torch.empty(1, 1)]) == [Axis(1, (0,))]


def test_flags_say_which_weights_are_there():
    x = torch.empty(4)
    assert grids_of(BinaryOperands(x, x)).flags == 0
    assert grids_of(BinaryOperands(x, x, x)).flags == HAS_WEIGHT
    assert grids_of(BinaryOperands(x, x, None, x)).flags == HAS_POS_WEIGHT


def test_an_expanded_array_is_converted_before_it_is_expanded():
    x = torch.rand(3, 5).half()
    for given in (x, x.t(), x[:1].expand(4, 5), x[:, :1].expand(3, 7), x[0, 0].expand(2, 3)):
        got = converted(given, torch.float32)
        assert torch.equal(got, given.float())
        assert [step == 0 for step in got.stride()] == [step == 0 for step in given.stride()]
    assert converted(x, torch.float16) is x


@pytest.mark.parametrize(("dtype", "of_target", "want"), [
    (torch.bfloat16, torch.bfloat16, torch.bfloat16),  # nothing is copied of the usual call
    (torch.bfloat16, torch.float16, torch.float32),
    (torch.float32, torch.bfloat16, torch.float32),
    (torch.float64, torch.float32, torch.float64),
])  # fmt: skip
def test_arrays_have_few_dtypes(dtype, of_target, want):
    x, t, w = torch.rand(4).to(dtype), torch.rand(4).to(of_target), torch.rand(4).half()
    of_x, target, weight, _, cotangent = grids_of(BinaryOperands(x, t, w), w).arrays
    assert (of_x.data.dtype, target.data.dtype) == (dtype, want)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert weight.data.dtype == cotangent.data.dtype == wide
