"""SmolLM2-135M on pages of Python's documentation: the numbers of a plain loop, where its weights have been fetched."""

from __future__ import annotations

import math
import os
import pydoc_data.topics
from pathlib import Path

import pytest

from crossent.scoring.lm import score_model
from crossent.scoring.lm.model.loading import load
from tests.scoring.lm.model.tiny import plain_loop

pytestmark = pytest.mark.slow

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crossent" / "smollm2"
WINDOW, STRIDE = 128, 96
BYTES = int(os.environ.get("CROSSENT_TEXT_BYTES", "1500"))
"""Bytes of text to score."""


def texts() -> dict[str, str]:
    """Return the first topics, `BYTES` in all."""
    found: dict[str, str] = {}
    left = BYTES
    for name, text in sorted(pydoc_data.topics.topics.items()):
        part = text.encode()[: min(left, max(BYTES // 3, 1))].decode(errors="ignore")
        left -= len(part.encode())
        if part:
            found[name] = part
    return found


def test_the_loss_is_that_of_a_plain_loop():
    weights = next(iter(sorted(CACHE.glob("*.gguf"))), None)
    if weights is None:
        pytest.skip("SmolLM2 has not been fetched; python examples/finetune_lm.py fetches it")
    found = load(weights)
    score = score_model(*found, texts(), window=WINDOW, stride=STRIDE)
    values = [x for text in texts().values() for x in plain_loop(*found, text, WINDOW, STRIDE).values()]
    assert score.tokens == len(values)
    assert score.loss == pytest.approx(-math.fsum(values) / len(values), abs=1e-6)
    assert score.bytes is not None
    first = [found.tokenizer.decode(found.tokenizer(text).input_ids[:1]) for text in texts().values()]
    assert score.bytes == sum(len(text.encode()) for text in texts().values()) - sum(map(len, first))
