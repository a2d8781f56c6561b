"""Which backend a device has, and what is said where there is none."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import crossent.torch as F
from crossent import kernels
from crossent.torch.base.backends import why_no_backend

HAS_GPU = torch.cuda.is_available()


@pytest.mark.skipif(HAS_GPU, reason="there is one")
def test_without_a_gpu_the_reason_says_so():
    reason = kernels.why_not("triton")
    assert reason is not None
    assert any(words in reason for words in ("not installed", "without CUDA", "no GPU"))
    with pytest.raises(NotImplementedError, match=r"CUDA|GPU|installed"):
        kernels.get("triton")


@pytest.mark.skipif(HAS_GPU, reason="there is one")
def test_tensors_on_a_gpu_that_is_not_there_are_refused_with_the_reason():
    with FakeTensorMode():
        logits = torch.empty(4, 3, device="cuda")
        with pytest.raises(NotImplementedError, match=r"cuda:0 here: .*input\.cpu\(\)"):
            _ = F.cross_entropy(logits, torch.zeros(4, dtype=torch.int64, device="cuda"))


def test_other_devices_have_no_backend():
    assert why_no_backend("mps") == "there is none for devices of type 'mps'"
    assert why_no_backend("cpu") is None


@pytest.mark.slow
def test_importing_the_losses_imports_no_triton(tmp_path):
    code = (
        "import sys, crossent.torch, crossent.kernels.triton; assert 'crossent.kernels.triton.rows' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
