"""The largest logit of each row and its first class, in one tile and over several."""

from __future__ import annotations

import pytest
import torch

from crossent.torch.sources.most_probable import no_peaks, peaks_of
from tests.torch import plain


@pytest.mark.parametrize("dtype", plain.DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (3, 5001), (2, 9, 4)])
def test_peaks_are_those_of_torch(dtype, shape):
    z = torch.randn(shape).to(dtype)
    for logits in (z, z.flip(1), z.repeat_interleave(2, 0)[::2], z.transpose(0, 1).contiguous().transpose(0, 1)):
        value, at = logits.max(1)
        found = peaks_of(logits)
        assert torch.equal(found.at, at.reshape(-1))
        assert torch.equal(found.value, value.reshape(-1).double())


@pytest.mark.parametrize("rows", [1, 5, 300])
def test_a_bias_is_added_first(rows):
    z, bias = torch.randn(rows, 400).bfloat16(), 3 * torch.randn(400)
    found = peaks_of(z, bias)
    assert torch.equal(found.at, (z.float() + bias).argmax(1))
    assert torch.equal(found.value, (z.float() + bias).amax(1).double())


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_tiles_one_after_the_other(cut):
    z = torch.randint(5, (6, 30)).double()  # with many equal ones
    z[3] = -torch.inf
    peaks = no_peaks(6, 100, z)
    for begin in range(0, 30, cut):
        for rows in (slice(0, 2), slice(2, 6)):
            peaks.update(rows, peaks_of(z[rows, begin : begin + cut]), 100 + begin)
    assert torch.equal(peaks.at, z.argmax(1) + 100)
    assert torch.equal(peaks.value, z.amax(1))
    assert peaks.over(()) is peaks


def test_no_logits_have_no_peaks():
    assert peaks_of(torch.randn(0, 5)).at.shape == (0,)
    found = peaks_of(torch.randn(3, 0))
    assert found.value.tolist() == [-torch.inf] * 3
