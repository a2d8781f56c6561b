"""What tests in several folders share."""

from __future__ import annotations

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes that test side by side have one thread each: threads of OpenMP spin after their work, and would take the
    # processors from the other tests. Tests about threads ask torch for theirs; the core's own threads do not spin.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """Runs a function on several ranks, each in a process of its own: ranks.run(n, function, *args)."""
    from tests.parallel.ranks import Ranks

    pool = Ranks(str(tmp_path_factory.mktemp("ranks")))
    yield pool
    pool.stop()


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium (tests/browser.py)."""
    from tests.browser import MISSING, Browser, find

    if os.environ.get("CROSSENT_NO_BROWSER") == "1":
        pytest.skip("CROSSENT_NO_BROWSER=1 asks to go without a browser; without the variable its absence fails")
    path = find()
    if path is None:
        pytest.fail(MISSING)
    with Browser(path) as running:
        yield running
