"""The face of `crossent.scoring`: what help shows, what the package has, and the ways to import an adapter."""

from __future__ import annotations

import importlib
import inspect
import pydoc
import subprocess
import sys
from importlib.util import find_spec

import pytest

import crossent
from crossent import scoring

ADAPTERS = {
    "ray": ["Score", "State", "score"],
    "dask": ["score", "state"],
    "sklearn": ["Scorer", "neg_cross_entropy", "skill"],
    "torchmetrics": ["CrossEntropyScore"],
}


def test_score_is_a_function_and_help_shows_it() -> None:
    assert inspect.isfunction(crossent.score)
    title, _, text = pydoc.plain(pydoc.render_doc(crossent.score)).partition("\n\n")
    assert title == "Python Library Documentation: function score in module crossent.scoring.evaluate"
    assert "".join(text.split()).startswith("score(y:'Any',*,probs:'Any'=None,")  # wrapped by newer versions of Python
    assert "Parameters\n" in text
    assert "PACKAGE CONTENTS" not in text


@pytest.mark.parametrize("name", scoring.__all__)
def test_every_name_of_the_face_is_there_and_is_the_same_everywhere(name: str) -> None:
    value = getattr(scoring, name)
    assert getattr(importlib.import_module(value.__module__), name) is value
    assert name in dir(scoring)
    if name in crossent.__all__:
        assert getattr(crossent, name) is value


def test_a_name_that_is_not_there_is_told_what_is() -> None:
    with pytest.raises(AttributeError, match=r"'crossent.scoring' has no attribute 'scores'; it has .*\bscore\b"):
        _ = scoring.scores


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapters_can_be_imported_in_every_way(adapter: str) -> None:
    """As a name of the package first, which nothing has imported by then."""
    if find_spec(adapter) is None:
        pytest.skip(f"{adapter} is not installed")
    names = ADAPTERS[adapter]
    code = f"""
from crossent.scoring import {adapter} as first
import crossent.scoring.{adapter}
from crossent.scoring.{adapter} import {names[0]} as name
assert first is crossent.scoring.{adapter}
assert first.{names[0]} is name
print(first.__name__, *first.__all__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == [f"crossent.scoring.{adapter}", *names]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_what_an_adapter_exports_is_that_of_its_module(adapter: str) -> None:
    if find_spec(adapter) is None:
        pytest.skip(f"{adapter} is not installed")
    shim = importlib.import_module(f"crossent.scoring.{adapter}")
    home = importlib.import_module(f"crossent.scoring.adapters.{adapter}")
    assert all(getattr(shim, name) is getattr(home, name) for name in ADAPTERS[adapter])
