from __future__ import annotations

import warnings

import pytest


@pytest.fixture
def quiet():
    """Without the warnings of torch's own machinery."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
