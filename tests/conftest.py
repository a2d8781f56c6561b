"""What tests in several folders share."""

from __future__ import annotations

import os
import pathlib
import re
from importlib.util import find_spec

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes that test side by side have one thread each: threads of OpenMP spin after their work, and would take the
    # processors from the other tests. Tests about threads ask torch for theirs; the core's own threads do not spin.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if find_spec("hypothesis") is not None:
    from hypothesis import settings

    settings.register_profile("machines that others use too", deadline=None)
    settings.register_profile("brief", deadline=None, max_examples=25)
    settings.load_profile("machines that others use too")

HERE = pathlib.Path(__file__).parent
SLOW = re.compile(r"^pytestmark = (\[\s*)?pytest\.mark\.slow\b", re.MULTILINE)


def pytest_addoption(parser):
    """Know `--brief`, and the limit in pyproject.toml where its plugin is missing, as on a machine with a GPU."""
    parser.addoption(
        "--brief",
        action="store_true",
        help="every pair of options of each test, fewer examples of laws, and no long tests",
    )
    if find_spec("pytest_timeout") is None:
        parser.addini("timeout", "seconds that a test may take; nobody counts them without pytest-timeout")


def pytest_configure(config):
    """With `--brief`, laws that set no number of their own are tried with a quarter of the examples."""
    if config.option.brief and find_spec("hypothesis") is not None:
        settings.load_profile("brief")


def pytest_ignore_collect(collection_path, config):
    """Import no more than is tested: no module that only supports tests, and for `make test-fast` no slow module."""
    path = collection_path
    if path.suffix != ".py" or not path.is_relative_to(HERE):
        return None
    if not path.name.startswith("test_"):
        return True
    return (config.option.markexpr == "not slow" and bool(SLOW.search(path.read_text(encoding="utf-8")))) or None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """With `--brief`, take away what tests.covering does not choose, after folders took away what they cannot run."""
    if config.option.brief:
        from tests.covering import chosen, long_tests

        part = bool(config.option.keyword) or config.option.markexpr not in ("", "not alone")
        kept = chosen(items, long_tests(), part=part)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]


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
