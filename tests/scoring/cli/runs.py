"""Predictions in files, and runs of the command on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import crossent
from crossent.scoring.cli.comparing import Columns, compared, models
from crossent.scoring.input.arguments import RowArguments
from crossent.scoring.input.reader import FileOptions
from tests.scoring.written import predictions, run, saved

Y, P = predictions()
NAMES = ("0", "1", "2")
ANIMALS = np.array(["cat", "dog", "emu"])
GROUPS = np.random.default_rng(5)
MORE = {
    "w": GROUPS.random(len(Y)) + 0.5,
    "doc": GROUPS.integers(0, 40, len(Y)),
    "lang": GROUPS.choice(["de", "en", "fr"], len(Y)),
    "split": GROUPS.choice(["test", "train"], len(Y)),
    "name": np.array([f"row-{k}" for k in range(len(Y))]),
}
# y = [1, 0, 2] over these costs 0.69049112401021968491 nats (mpmath), 0.99616813 bits
THREE = {"y": [1, 0, 2], "p_0": [0.2, 0.6, 0.6], "p_1": [0.7, 0.2, 0.1], "p_2": [0.1, 0.2, 0.3]}
NATS = 0.69049112401021968491


def scored(path: Path, capsys: Any, *options: object, probs: str = "p_*") -> Any:
    ran = run(capsys, "score", path, "--label", "y", "--probs", probs, "--json", *options)
    assert (ran.code, ran.err) == (0, "")
    return ran.json()


def table(path: Path, **made: Any) -> Path:
    return saved(path / "t.parquet", made)


def score(y: Any, **options: Any) -> Any:
    return crossent.score(y, probs=P, **options).to_dict()


def compared_files(new: Path, old: Path, probs: str, on: str | None = None) -> Any:
    """Return the comparison of two files with labels in the column y, as the command makes it."""
    found = models([str(new), str(old)], Columns("probs", [probs]))
    return compared(found, RowArguments(id=on), "y", None, FileOptions(), {})
