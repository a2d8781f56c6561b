"""The memory of a head by arithmetic, against what torch's profiler counts in steps of small models."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

import crossent.torch as F
from crossent.torch.head_memory import HeadStep, with_crossent, with_logits
from crossent.torch.sources.plan import GPU, one_sweep
from tests.torch.sources.peaks import peak
from tests.torch.test_linear_products import peak_of

NEAR = 0.15
"""Share of the peak that the arithmetic may be off by: it leaves out the trunk and small vectors."""


class Small(nn.Module):
    """An embedding, one operation and a head: nearly all memory is the head's."""

    def __init__(self, step: HeadStep) -> None:
        super().__init__()
        dtype = step.weight_dtype or step.dtype
        self.embedding = nn.Embedding(step.classes if step.tied else 64, step.features, dtype=dtype)
        self.head = nn.Linear(step.features, step.classes, bias=step.bias, dtype=dtype)
        if step.tied:
            self.head.weight = self.embedding.weight
        _ = self.head.requires_grad_(step.trains)
        self.capped = step.capped

    def forward(self, ids, labels):
        logits = self.head(self.embedding(ids).sin())
        if self.capped:
            logits = logits / 5.0
            logits = torch.tanh(logits)
            logits = logits * 5.0
        return self.loss(logits, labels), logits

    def loss(self, logits, labels):
        """As transformers computes it: in float32 at least, of a name that goes out of scope."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return nnf.cross_entropy(logits, labels)


def measured(step: HeadStep, *, fused: bool) -> int:
    model = Small(step)
    _ = F.fuse_lm_head(model.head) if fused else None
    ids, labels = torch.randint(64, (step.rows,)), torch.randint(step.classes, (step.rows,))

    def run() -> None:
        with torch.autocast("cpu", step.dtype, enabled=step.weight_dtype is not None):
            loss, logits = model(ids, labels)
        loss.backward()
        del logits  # held until here

    run()  # threads and caches
    model.zero_grad(set_to_none=True)
    return peak_of(run)


FLOAT, HALF, DOUBLE = torch.float32, torch.bfloat16, torch.float64
STEPS = {
    "float32": HeadStep(256, 16_000, 64, FLOAT),
    "float32, more than one chunk": HeadStep(4096, 16_000, 32, FLOAT),
    "float32, the weight matters": HeadStep(64, 16_000, 512, FLOAT),
    "float32, a bias and a softcap": HeadStep(256, 16_000, 64, FLOAT, bias=True, capped=True),
    "float32, frozen": HeadStep(256, 16_000, 64, FLOAT, trains=False),
    "float32, tied": HeadStep(64, 16_000, 512, FLOAT, tied=True),
    "bfloat16": HeadStep(256, 16_000, 64, HALF),
    "bfloat16, tiles": HeadStep(4096, 16_000, 32, HALF),
    "bfloat16, the weight matters": HeadStep(64, 16_000, 512, HALF),
    "bfloat16, a bias and a softcap": HeadStep(256, 16_000, 64, HALF, bias=True, capped=True),
    "bfloat16, frozen": HeadStep(256, 16_000, 64, HALF, trains=False),
    "bfloat16, tied": HeadStep(64, 16_000, 512, HALF, tied=True),
    "autocast": HeadStep(256, 16_000, 64, HALF, weight_dtype=FLOAT),
    "autocast, the weight matters": HeadStep(32, 16_000, 512, HALF, weight_dtype=FLOAT),
    "autocast, many rows": HeadStep(2048, 16_000, 32, HALF, weight_dtype=FLOAT),
    "float64": HeadStep(128, 16_000, 64, DOUBLE),
}
every_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)


@pytest.mark.slow
@every_step
def test_a_step_with_all_logits_takes_what_is_said(step):
    assert with_logits(step).peak_bytes == pytest.approx(measured(step, fused=False), rel=NEAR)


@pytest.mark.slow
@every_step
def test_a_fused_step_takes_what_is_said(step):
    assert with_crossent(step).peak_bytes == pytest.approx(measured(step, fused=True), rel=NEAR)


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize("rows", [100, 1024, 8192, 65_536])
@pytest.mark.parametrize(("classes", "features"), [(32_000, 4096), (128_256, 4096), (256_000, 2304), (50_257, 768)])
def test_on_gpus_it_is_the_peak_of_the_plan_with_gradients(dtype, rows, classes, features):
    """Logits, their gradients and sums as the tests of the plan count them, and gradients in the dtype beside them."""
    step = HeadStep(rows, classes, features, dtype, on_gpu=True)
    found = with_crossent(step)
    gradients = dtype.itemsize * features * (classes + rows)
    assert found.peak_bytes >= gradients
    promised = GPU.chunk_bytes + 4 * features * (classes + 2 * rows)
    assert found.peak_bytes <= 1.03 * promised + gradients
    if dtype == HALF:
        planned = peak(rows, features, classes, one_sweep(step.costs, GPU.chunk_bytes))
        assert found.peak_bytes >= 0.99 * planned


def test_the_parts_are_those_of_the_largest_phase():
    n = 8192 * 128_256
    found = with_logits(HeadStep(8192, 128_256, 4096, HALF))
    assert (found.logits_bytes, found.copies_bytes, found.logit_gradients_bytes) == (2 * n, 4 * n, 8 * n)
    assert found.peak_bytes == sum(dataclasses.astuple(found))


def test_memory_of_crossent_grows_with_its_chunk_and_no_further():
    sizes = [with_crossent(HeadStep(rows, 128_256, 1024, FLOAT)) for rows in (2048, 8192, 32_768)]
    assert max(size.logits_bytes for size in sizes) <= 2**27 * 1.01
    all_of_them = [with_logits(HeadStep(rows, 128_256, 1024, FLOAT)).peak_bytes for rows in (2048, 8192, 32_768)]
    assert all_of_them[2] == 4 * all_of_them[1]
