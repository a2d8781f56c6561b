"""A finished run of the demonstration, and a fit of each of its tasks."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from crossent import demo
from crossent.demo import data, train
from tests.demo.runs import EPOCHS, SEED, nothing


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One run of the whole demonstration: what it printed and the files it wrote."""
    out = tmp_path_factory.mktemp("demo") / "made" / "here"
    printed = io.StringIO()
    paths = demo.run(out, seed=SEED, epochs=EPOCHS, console=Console(file=printed, width=100))
    return SimpleNamespace(out=out, printed=printed.getvalue(), paths=paths)


@pytest.fixture(scope="session", params=[data.digits, data.breast_cancer])
def fit(request: pytest.FixtureRequest) -> train.Fit:
    """A fit of each task, trained apart from the run of `finished`."""
    return train.fit(request.param(SEED), epochs=EPOCHS, seed=SEED, on_epoch=nothing)
