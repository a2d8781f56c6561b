from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from crossent.torch.sources import products as of_sources


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
def quiet():
    """Without the warnings of torch's own machinery."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def products(monkeypatch):
    """The products of linear losses, each as the numbers that it multiplies."""
    found = list[int]()
    multiply = of_sources.multiply

    def counting(a: Any, b: Any, to: Any, **how: Any) -> None:
        found.append(a.shape[0] * a.shape[1] * b.shape[1])
        multiply(a, b, to, **how)

    monkeypatch.setattr(of_sources, "multiply", counting)
    return found
