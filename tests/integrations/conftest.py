from __future__ import annotations

import dataclasses
import os

import pytest

from crossent.torch.sources import linear
from tests.torch.conftest import one_thread, seeded

__all__ = ["little_memory", "one_thread", "seeded"]

os.environ["HF_HUB_OFFLINE"] = os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"


@pytest.fixture
def little_memory(monkeypatch):
    """Losses make eight rows of logits at a time where the caller asks for nothing: by default all that fit exist."""

    def of(classes: int) -> None:
        monkeypatch.setattr(linear, "CPU", dataclasses.replace(linear.CPU, chunk_bytes=4 * 8 * classes))

    return of
