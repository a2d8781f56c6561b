"""Arrays of any shape on two axes: element by element the same, whatever their layout."""

from __future__ import annotations

import pytest
import torch

from crossent.kernels.backend import BinaryOperands
from crossent.kernels.triton.elements import Axis, grids_of, merged_axes


def elements(grids, size):
    """What a kernel reads: element k of each array."""
    rows = size // grids.columns
    return [
        torch.as_strided(grid.data, (rows, grids.columns), (grid.row, grid.col)).reshape(-1) for grid in grids.arrays
    ]


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
        want = [x, t, *([torch.ones(shape) if a is None else a for a in operands[2:]] if grids.weighted else [x, x]), t]
        for got, exact in zip(elements(grids, x.numel()), want, strict=True):
            assert torch.equal(got, exact.reshape(-1))


def test_axes_merge_where_every_array_lets_them():
    x = torch.empty(2, 3, 5)
    assert merged_axes(x.shape, [x, x]) == [Axis(30, (1, 1))]
    assert merged_axes(x.shape, [x, x[:, :1].expand(2, 3, 5)]) == [Axis(2, (15, 15)), Axis(3, (5, 0)), Axis(5, (1, 1))]
    assert merged_axes((1, 1), [torch.empty(1, 1)]) == [Axis(1, (0,))]


def test_weights_are_there_if_one_of_them_is():
    x = torch.empty(4)
    assert not grids_of(BinaryOperands(x, x)).weighted
    assert grids_of(BinaryOperands(x, x, None, x)).weighted
