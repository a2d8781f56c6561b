"""Divergences by torch's functions, beside SciPy's relative entropy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from benchmarks.common import divergences

B = divergences.BETA


@pytest.mark.parametrize("kind", divergences.KINDS)
def test_each_kind_is_its_relative_entropy(kind: str):
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 7))
    q, p = softmax(student, 1), softmax(teacher, 1)
    m = B * p + (1 - B) * q
    wanted = {
        "forward": rel_entr(p, q).sum(),
        "reverse": rel_entr(q, p).sum(),
        "js": B * rel_entr(p, m).sum() + (1 - B) * rel_entr(q, m).sum(),
    }[kind]
    found = divergences.in_torch(kind, torch.from_numpy(student), torch.from_numpy(teacher))
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(wanted / 5, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_logarithms_of_half_precision_are_float32(dtype: torch.dtype):
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = divergences.log_probabilities(logits)
    torch.testing.assert_close(found, logits.float().log_softmax(1), rtol=0, atol=0)
