"""Columns of every type of Arrow from pyarrow, pandas and polars, in every argument of `score`."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import crossent
from crossent.errors import InputError
from tests.scoring.arrow_types import ENCODED, EVERY, ONE_VALUE, VALUES

pytestmark = pytest.mark.slow
Y = [0, 1, 0, 1, 1, 0]
LIBRARIES = {
    "array": lambda a: pa.concat_arrays([a] * 3),
    "chunks": lambda a: pa.chunked_array([a] * 3),
    "pandas": lambda a: pd.Series(pd.arrays.ArrowExtensionArray(pa.concat_arrays([a] * 3))),
    "NumPy in pandas": lambda a: pa.concat_arrays([a] * 3).to_pandas(),
    "polars": lambda a: pl.Series(pa.concat_arrays([a] * 3)),
    "Python": lambda a: pa.concat_arrays([a] * 3).to_pylist(),
}
NEVER_IN_POLARS = ("decimal256", "time", "date", "interval", "duration", "far ")  # some of which make polars panic
CASES = [
    (library, name)
    for library in LIBRARIES
    for name in EVERY
    if not (library == "polars" and any(word in name for word in NEVER_IN_POLARS))
    and not (library in {"NumPy in pandas", "Python"} and name in ENCODED)  # which they hold decoded
]


def made(library, name):
    """Return the column as a library has it, None if it has no such columns."""
    with suppress(Exception):
        return LIBRARIES[library](EVERY[name])
    return None


@pytest.mark.parametrize(("library", "name"), CASES)
def test_a_column_in_every_argument(library, name):
    column = made(library, name)
    if column is None:
        assert library not in {"array", "chunks"}
        return
    p, pairs = [0.5] * 6, np.full((6, 2), 0.5)
    as_arrow = library in {"array", "chunks"}
    for argument in ("by", "cluster", "id"):
        found, refused = None, ""
        try:
            found = crossent.score(Y, probs=p, **{argument: column})
        except InputError as error:
            refused = str(error)
        if found is None:
            assert not as_arrow or name not in VALUES, refused
            assert refused
            assert "\n" not in refused
            continue
        assert found.to_json()
        assert str(found)
        if as_arrow:
            assert name in VALUES
            assert argument != "id" or len({row.id for row in found.worst}) == (1 if name in ONE_VALUE else 2)
    calls = [
        lambda: crossent.score(column, probs=p),
        lambda: crossent.score(column, probs=pairs),
        lambda: crossent.score(column, probs=p, ignore=column),
        lambda: crossent.score(column, probs=pairs, classes=column[:2]),
        lambda: crossent.score(Y, probs=column),
        lambda: crossent.score(Y, logits=column),
        lambda: crossent.score(Y, probs=p, weight=column),
        lambda: crossent.score(Y, probs=p, by={"a": column}),
        lambda: crossent.compare(crossent.score(Y, probs=p, id=column), crossent.score(Y, probs=p, id=column)),
    ]
    for call in calls:
        with suppress(InputError):  # anything else fails
            _ = call()


@pytest.mark.parametrize("value", [np.datetime64("2026-01-02"), np.timedelta64(1, "h"), "a", None, b"x", True])
def test_labels_of_one_value_that_is_no_class(value):
    with pytest.raises(InputError):
        _ = crossent.score(pd.Series([value] * 3, dtype=object), probs=[0.5] * 3, ignore=[True])


def test_moments_beyond_python_are_labels():
    far = pd.Series(np.array(["12026-01-02", "-5000-01-01"], "M8[s]"))
    found = crossent.score(far, probs=[[0.5, 0.5], [0.25, 0.75]], classes=far)
    assert abs(found.loss - -np.log([0.5, 0.75]).mean()) < 1e-15
    assert crossent.score(far, probs=[[0.5, 0.5]] * 2, classes=far, ignore=far[:1]).n == 1
