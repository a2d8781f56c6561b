from __future__ import annotations

import warnings

import pytest
import torch


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
