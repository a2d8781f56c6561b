"""What tests in several folders share."""

from __future__ import annotations

import os

import pytest


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
