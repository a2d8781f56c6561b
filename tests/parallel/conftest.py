"""Losses on several ranks, each in a process of its own."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from tests.parallel.ranks import Ranks

if not dist.is_available():
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """Runs a function on several ranks: ranks.run(n, function, *args)."""
    pool = Ranks(str(tmp_path_factory.mktemp("ranks")))
    yield pool
    pool.stop()
