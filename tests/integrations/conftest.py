from __future__ import annotations

import dataclasses
import os

import pytest
import torch

from crossent.torch.sources import linear

os.environ["HF_HUB_OFFLINE"] = os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The calls of these tests are small, and threads that spin between them cost more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded():
    _ = torch.manual_seed(0)


@pytest.fixture
def little_memory(monkeypatch):
    """Losses make eight rows of logits at a time where the caller asks for nothing: by default all that fit exist."""

    def of(classes: int) -> None:
        monkeypatch.setattr(linear, "CPU", dataclasses.replace(linear.CPU, chunk_bytes=4 * 8 * classes))

    return of
