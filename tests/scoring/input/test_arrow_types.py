"""Columns of every type that pyarrow has, in every role, in every file that holds them: read right, or one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from crossent.errors import InputError, UsageError
from crossent.scoring.cli.actions import score_file
from crossent.scoring.input.arguments import RowArguments
from crossent.scoring.input.arrow import arguments
from crossent.scoring.input.columns import Columns, columns
from crossent.scoring.state import ScoreState
from tests.scoring.arrow_types import BEYOND, EVERY, FLOATS, IDS, INTEGERS, NESTED, ONE_VALUE, ROWS, VALUES

NUMBERS = {*FLOATS, *INTEGERS, "unregistered"}
"""What holds one number per row, encoded or not."""
LISTS = {name for name in NESTED if name.endswith(("list", "view"))} | {"runs of list", "tensor", "list of decimals"}
"""What holds two numbers per row."""
MADE_BY_OTHERS = {"Type_INTERVAL_MONTHS", "Type_INTERVAL_DAY_TIME"}
"""What pyarrow makes nowhere."""
Y = np.array([0, 1, 0, 1, 1, 0])


def six(name: str) -> Any:
    """Return six rows of a column of two, one after the other."""
    return pa.concat_arrays([EVERY[name]] * (ROWS // 2))


def table(name: str) -> pa.Table:
    return pa.table({"y": Y, "p_0": np.full(ROWS, 0.5), "p_1": np.full(ROWS, 0.5), "x": six(name)})


def written(made: pa.Table, path: Path) -> Path:
    if path.suffix == ".parquet":
        pa.parquet.write_table(made, path, store_schema=path.stem != "plain")
        return path
    with (pa.ipc.new_file if path.stem == "file" else pa.ipc.new_stream)(path, made.schema) as writer:
        writer.write_table(made)
    return path


def scored(path: Path, label: str = "y", ignore: Any = None, **roles: str) -> Any:
    """Return the score of a file, or the one line that refuses it; anything else fails."""
    if not {"probs", "logits", "logprobs"} & set(roles):
        roles["probs"] = "p_*"
    try:
        found = score_file(path, columns(label, RowArguments(**roles)), {"ignore": ignore})
    except UsageError as error:
        said = str(error)
        assert said.isprintable(), said
        assert len(said) < 500
        assert said.startswith(str(path))
        return said
    assert found.to_json()
    assert str(found)
    return found


def test_every_type_of_pyarrow_is_here():
    there = {IDS.get(array.type.id, "an extension type") for array in EVERY.values()}
    assert set(IDS.values()) - there == MADE_BY_OTHERS
    extensions = {
        kind for kind in vars(pa).values() if isinstance(kind, type) and issubclass(kind, pa.BaseExtensionType)
    }
    missing = extensions - {type(array.type) for array in EVERY.values()}
    assert missing == {pa.BaseExtensionType, pa.ExtensionType, pa.UnknownExtensionType}


@pytest.mark.parametrize("file", ["file.parquet", "plain.parquet", "file.arrow", "stream.arrow"])
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.slow
def test_a_column_in_every_role(name, file, tmp_path):
    made = table(name)
    if file.endswith(".parquet") and not in_parquet(name):
        with pytest.raises((pa.ArrowException, OSError)):
            _ = written(made, tmp_path / file)
        return
    path = written(made, tmp_path / file)
    invalid = name in BEYOND and file.endswith(".arrow")
    for role in ("by", "cluster", "id"):
        found = scored(path, **{role: "x"})
        assert isinstance(found, str) == (name not in VALUES or invalid), found
        if not isinstance(found, str):
            assert found.n == ROWS
            check_values(found, role, 1 if name in ONE_VALUE else 2)
    for label, more in (("x", {}), ("x", {"ignore": ["0"]})):
        found = scored(path, label, **more)
        assert isinstance(found, str) or found.loss == pytest.approx(np.log(2), abs=1e-15)
    for role in ("probs", "logprobs", "weight"):
        _ = scored(path, **{role: "x"})
    found = scored(path, logits="x")
    if name.removeprefix("dictionary of ").removeprefix("runs of ") in NUMBERS:
        np.testing.assert_allclose(found.loss, binary_loss(name), rtol=1e-12)
    elif name in LISTS and name != "list of different lengths":
        z = np.array([[0.25, 0.75], [0.75, 0.25]] * 3) if name != "list of decimals" else np.array([[0.25, 0.75]] * 6)
        np.testing.assert_allclose(found.loss, np.mean(np.logaddexp(*z.T) - z[range(ROWS), Y]), rtol=1e-12)
    elif name not in NESTED and not ("duration" in name and file.endswith(".parquet")):  # which makes them integers
        assert isinstance(found, str), found


def in_parquet(name: str) -> bool:
    """Return whether pyarrow writes the type into Parquet."""
    never = ("negative scale", "interval", "far timestamp s", "union", "empty struct", "dictionary of structs")
    views = (
        "dictionary of null",
        "dictionary that holds null",
        "dictionary of string view",
        "dictionary of binary view",
    )
    return not (name.startswith("runs of ") or name in views or any(word in name for word in never))


def check_values(found: Any, role: str, count: int) -> None:
    if role == "by":
        parts = found.by["x"]
        assert [part.n for part in parts] == [ROWS // count] * count
    elif role == "cluster":
        assert found.clusters == count
    else:
        assert len({row.id for row in found.worst}) == count


def binary_loss(name: str) -> float:
    """Return the loss of a column of log-odds, from what Python says that the values are."""
    values = EVERY[name]
    if hasattr(values, "storage"):
        values = values.storage
    z = np.array([float(value) for value in values.to_pylist()] * 3)
    return float(np.mean(np.logaddexp(0, np.where(Y == 1, -z, z))))


@pytest.mark.parametrize("name", [name for name in EVERY if name not in BEYOND])
def test_codes_of_a_batch(name):
    """The same without a file: two values, three rows of each, or a refusal that names the column."""
    batch = pa.record_batch({"y": pa.array(Y), "p": np.full(ROWS, 0.5), "x": six(name)})
    if name in VALUES:
        found = ScoreState(rows=True).update(**arguments(batch, Columns("y", "probs", ["p"], by=["x"]))).finalize()
        check_values(found, "by", 1 if name in ONE_VALUE else 2)
    else:
        with pytest.raises(InputError, match="column 'x' holds"):
            _ = arguments(batch, Columns("y", "probs", ["p"], by=["x"]))


@pytest.mark.parametrize("name", [name for name in EVERY if name in VALUES - set(BEYOND)])
def test_gaps_and_slices_of_a_column(name):
    """Rows without a value are a slice of their own, and rows of a slice of a column are its rows."""
    column = EVERY[name]
    no_gaps = "union" in name or name.startswith("runs") or isinstance(column.type, pa.BaseExtensionType)
    if no_gaps or name in {"dictionary that holds null", "dictionary of null"}:  # pyarrow joins no others
        rows, wanted = pa.concat_arrays([column, column]).slice(1, 2), [2] if name in ONE_VALUE else [1, 1]
    else:
        rows, wanted = pa.concat_arrays([column, pa.nulls(1, column.type), column]).slice(1), [1, 1, 2]
    if name == "dictionary of a value twice":
        wanted = [1, 3]
    elif name in ONE_VALUE:
        wanted = [len(rows)]
    y = np.arange(len(rows)) % 2
    batch = pa.record_batch({"y": y, "p": np.full(len(y), 0.5), "x": rows})
    found = ScoreState().update(**arguments(batch, Columns("y", "probs", ["p"], by=["x"]))).finalize()
    assert sorted(part.n for part in found.by["x"]) == wanted
