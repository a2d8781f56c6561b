"""SmolLM2-135M on pages of Python's documentation: the numbers of a plain loop, where its weights have been fetched."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from crossent.torch import logprobs
from tests.scoring.lm.model import smollm2

pytestmark = pytest.mark.slow

BYTES = 1500


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
@pytest.mark.skipif(smollm2.weights() is None, reason="SmolLM2 has not been fetched; examples/finetune_lm.py does")
def test_every_token_costs_what_a_plain_loop_says_in_the_memory_of_a_chunk():
    model = smollm2.weights()
    assert model is not None
    ran, plain = smollm2.command(model, BYTES), smollm2.plainly(model, BYTES)
    own = ran.tokens()
    assert own == pytest.approx(plain, abs=1e-4)  # a token's own rounding: logits near 20 in float32
    assert ran.found["tokens"] == len(plain)
    assert ran.found["loss"] == pytest.approx(math.fsum(plain.values()) / len(plain), abs=1e-6)
    assert ran.peak <= ran.model + smollm2.ROOM


def test_log_probabilities_of_many_classes_are_those_of_float64():
    """torch's own log_softmax of 49,152 logits in float32 may be off by 2e-5: a plain loop must add up in float64."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 49_152, generator=draw) * 5.0
    classes = torch.randint(49_152, (64,), generator=draw)
    rows = torch.arange(64)
    exact = logits.double().log_softmax(-1)[rows, classes]
    own, rival = logprobs(logits, classes).logprob.double(), logits.log_softmax(-1)[rows, classes].double()
    assert (own - exact).mean().abs() < 1e-6
    assert (own - exact).mean().abs() <= max(float((rival - exact).mean().abs()), 1e-7)
