"""Arrays of every type that NumPy has, in every role, of npz and npy files: read right, or one line."""

from __future__ import annotations

import numpy as np
import pytest

import crossent
from crossent.errors import UsageError
from crossent.scoring.cli.actions import score_file
from crossent.scoring.input.arguments import RowArguments
from crossent.scoring.input.columns import columns

Y = np.array([0, 1, 0, 1, 1, 0])
TEXTS = {"S", "U"}
CODES = sorted({np.dtype(kind).char for kind in np.sctypeDict.values()} | {"M", "m"})
UNITS = ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as")
ARRAYS = {
    **{code: np.array([0, 1, 0, 1, 1, 0]).astype(code + ("3" if code in TEXTS else "")) for code in CODES
       if code not in "MmVOT"},
    **{f"{code}8[{unit}]": Y.astype(f"{code}8[{unit}]") for code in "Mm" for unit in UNITS},
    "far M8[D]": np.array([-(2**62), 2**62] * 3).astype("M8[D]"),
    "far M8[Y]": np.array([-(2**40), 2**40] * 3).astype("M8[Y]"),
    "void": np.zeros(6, "V3"),
    "swapped i8": Y.astype(">i8"), "swapped f4": Y.astype(">f4"), "swapped U": Y.astype(">U3"),
    "swapped M8": Y.astype(">M8[s]"),
}  # fmt: skip
REFUSED = {"F", "D", "G", "void"}


def saved(path, array):
    made = {"y": Y, "p": np.full(6, 0.5), "x": array}
    if path.suffix == ".npz":
        np.savez(path, **made)
    else:
        fields = np.zeros(6, [(name, part.dtype, part.shape[1:]) for name, part in made.items()])
        for name, part in made.items():
            fields[name] = part
        np.save(path, fields)
    return path


def scored(path, label="y", **roles):
    """Return the score of a file, or the one line that refuses it; anything else fails."""
    if not {"probs", "logits"} & set(roles):
        roles["probs"] = "p"
    try:
        return score_file(path, columns(label, RowArguments(**roles)), {})
    except UsageError as error:
        said = str(error)
    assert said.isprintable()
    assert "'x'" in said or "label" in said
    return said


@pytest.mark.parametrize("file", ["a.npz", "a.npy"])
@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_in_every_role(name, file, tmp_path):
    array = ARRAYS[name]
    for shape in ((6,), (6, 1)):
        path = saved(tmp_path / file, array.reshape(shape))
        for role in ("by", "cluster", "id"):
            found = scored(path, **{role: "x"})
            assert isinstance(found, str) == (name in REFUSED), found
        if name not in REFUSED:
            assert [part.n for part in scored(path, by="x").by["x"]] == [3, 3]
        found = scored(path, logits="x")
        if array.dtype.kind in "biuf":
            z = array.astype(float)
            assert abs(found.loss - np.mean(np.logaddexp(0, np.where(Y == 1, -z, z)))) < 1e-15
            assert scored(path, "x").n == 6
            assert scored(path, weight="x").n == 3
        else:
            assert isinstance(found, str)
            assert isinstance(scored(path, weight="x"), str)


@pytest.mark.parametrize("code", ["i8", "f8", "U3", "S3", "?"])
def test_rows_of_several_values_are_no_labels(code, tmp_path):
    path = saved(tmp_path / "a.npz", np.eye(3)[[0, 1, 2, 0, 1, 2]].astype(int).astype(code))
    assert ("one-hot" in scored(path, "x")) == (code in {"i8", "f8", "?"})
    for role in ("by", "cluster", "id"):
        assert "one value per row" in scored(path, **{role: "x"})
    assert ("one weight per row" in scored(path, weight="x")) == (code in {"i8", "f8", "?"})


def test_an_array_without_columns(tmp_path):
    path = saved(tmp_path / "a.npz", np.zeros((6, 0)))
    for role in ("by", "logits", "weight"):
        assert isinstance(scored(path, **{role: "x"}), str)


def test_labels_in_a_column_are_those_in_a_row(tmp_path):
    """`np.savez(labels=y[:, None], …)`, as keras writes them."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 50)
    y = rng.integers(0, 4, 50)
    np.savez(tmp_path / "a.npz", y=y[:, None], p=p, w=rng.random(50)[:, None], g=(y % 2)[:, None].astype("U1"))
    found = score_file(tmp_path / "a.npz", columns("y", RowArguments(probs="p", weight="w", by=["g"])), {})
    w = np.random.default_rng(0)
    _ = w.dirichlet(np.ones(4), 50), w.integers(0, 4, 50)
    wanted = crossent.score(y, probs=p, weight=w.random(50), by={"g": y % 2})
    assert found.loss == wanted.loss
    assert [part.loss for part in found.by["g"]] == [part.loss for part in wanted.by["g"]]
