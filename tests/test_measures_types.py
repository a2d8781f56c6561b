"""What the measures take for numbers, and tensors that they refuse by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import crossent


def test_base_and_axis_are_numbers_of_every_sort():
    for base in (np.float32(2), np.array(2), np.int64(2)):
        assert crossent.entropy([0.5, 0.5], base=base) == 1.0
    for axis in (np.int64(0), np.array(-1)):
        assert crossent.entropy([0.5, 0.5], base=2, axis=axis) == 1.0
    for wrong in ("2", [2], 2j, True):
        with pytest.raises(TypeError, match=r"^base must be a number, got "):
            _ = crossent.entropy([0.5, 0.5], base=wrong)
    for wrong in ("0", 0.0, None, [0]):
        with pytest.raises(TypeError, match=r"^axis must be a whole number, got "):
            _ = crossent.entropy([0.5, 0.5], axis=wrong)


@pytest.mark.parametrize("measure", ["entropy", "cross_entropy", "kl_divergence", "js_divergence", "perplexity"])
def test_tensors_of_other_layouts_are_refused_by_name(measure):
    p = torch.full((2, 4), 0.25)
    two = () if measure == "entropy" else (p,)
    with pytest.raises(TypeError, match=r"^p is a sparse_coo tensor, and must be strided; use p\.to_dense\(\)"):
        _ = getattr(crossent, measure)(p.to_sparse(), *two)
    if two:
        with pytest.raises(TypeError, match=r"^q is a mkldnn tensor"):
            _ = getattr(crossent, measure)(p, p.to_mkldnn())
