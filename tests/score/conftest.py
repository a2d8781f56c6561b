"""Ranks for scores that several processes make together."""

from __future__ import annotations

import pytest

from tests.parallel.ranks import Ranks


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """Runs a function on several ranks: ranks.run(n, function, *args)."""
    pool = Ranks(str(tmp_path_factory.mktemp("ranks")))
    yield pool
    pool.stop()
