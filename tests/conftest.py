"""What tests in several folders share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """Runs a function on several ranks, each in a process of its own: ranks.run(n, function, *args)."""
    from tests.parallel.ranks import Ranks

    pool = Ranks(str(tmp_path_factory.mktemp("ranks")))
    yield pool
    pool.stop()
