"""The rows that the tools predict, and the loss of their files, which mpmath computes from the numbers as written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mpmath
import numpy as np

ANIMALS = ["cat", "dog", "owl"]
HERE = Path(__file__).parent
FILES = HERE / "files"
TRAIN, ROWS = 60, 24

random = np.random.default_rng(23)
X = np.round(random.standard_normal((TRAIN + ROWS, 4)), 3)
SCORES = np.stack([X[:, 0], X[:, 1], -X[:, 0] + 0.3 * X[:, 2]], axis=1)
THREE = (SCORES + random.gumbel(size=SCORES.shape)).argmax(axis=1)
TWO = (X[:, 0] + 0.5 * X[:, 1] + random.logistic(size=len(X)) > 0.4).astype(int)
TRAIN_X, TEST_X = X[:TRAIN], X[TRAIN:]
TRAIN_3, TEST_3 = THREE[:TRAIN], THREE[TRAIN:]
TRAIN_2, TEST_2 = TWO[:TRAIN], TWO[TRAIN:]
WORDS = [ANIMALS[k] for k in TEST_3]
TRAIN_WORDS = [ANIMALS[k] for k in TRAIN_3]
YES = ["yes" if k else "no" for k in TEST_2]
IDS = [f"r{k:02d}" for k in range(ROWS)]


@dataclass(frozen=True)
class Case:
    """A file, how one asks for its score, and what the answer must be."""

    file: str
    options: tuple[str, ...] = ()
    loss: float | None = None
    rows: int = ROWS
    said: str = ""
    """Word that the line `read as …` has; empty where nothing needs recognition."""
    refused: str = ""
    """What the refusal says, as a regular expression."""


Maker = Callable[[Path], Case]
MAKERS: dict[str, tuple[str, Maker]] = {}


def tool(name: str) -> Callable[[Maker], Maker]:
    """Register a function that writes one file as tool `name` writes it."""

    def registered(maker: Maker) -> Maker:
        assert maker.__name__ not in MAKERS, maker.__name__
        MAKERS[maker.__name__] = (name, maker)
        return maker

    return registered


def mean_loss(probabilities: Iterable[Any]) -> float:
    """Mean of -log p of the true classes."""
    with mpmath.workdps(50):
        costs = [-mpmath.log(mpmath.mpf(float(p))) for p in probabilities]
        return float(mpmath.fsum(costs) / len(costs))


def of_rows(true: Sequence[int], rows: Iterable[Sequence[Any]]) -> float:
    """Loss of one probability a class."""
    return mean_loss(row[k] for k, row in zip(true, rows, strict=True))


def of_records(true: Sequence[Any], rows: Iterable[dict[Any, Any]]) -> float:
    """Loss of probabilities by name of class."""
    return mean_loss(row[k] for k, row in zip(true, rows, strict=True))


def of_positive(true: Sequence[Any], probabilities: Iterable[Any]) -> float:
    """Loss of the probability of the positive class."""
    with mpmath.workdps(50):
        pairs = list(zip(true, probabilities, strict=True))
        costs = [-mpmath.log(mpmath.mpf(float(p)) if y else 1 - mpmath.mpf(float(p))) for y, p in pairs]
        return float(mpmath.fsum(costs) / len(costs))


def of_logits(true: Sequence[int], rows: Iterable[Sequence[Any]]) -> float:
    """Loss of one logit a class."""
    with mpmath.workdps(50):
        costs = []
        for k, row in zip(true, rows, strict=True):
            scores = [mpmath.mpf(float(z)) for z in row]
            costs.append(mpmath.log(mpmath.fsum(mpmath.exp(z) for z in scores)) - scores[k])
        return float(mpmath.fsum(costs) / len(costs))


def of_margin(true: Sequence[Any], margins: Iterable[Any]) -> float:
    """Loss of one logit of the positive class."""
    return of_logits([int(y) for y in true], [[0.0, z] for z in margins])


def of_logprobs(true: Sequence[int], rows: Iterable[Sequence[Any]]) -> float:
    """Loss of one log-probability a class."""
    with mpmath.workdps(50):
        costs = [-mpmath.mpf(float(row[k])) for k, row in zip(true, rows, strict=True)]
        return float(mpmath.fsum(costs) / len(costs))


def text_rows(text: str, delimiter: str = ",", decimal: str = ".") -> list[dict[str, str]]:
    """Rows of a csv file by name of column, with decimal points."""
    rows = csv.DictReader(text.splitlines(), delimiter=delimiter)
    return [{k: (v or "").replace(decimal, ".") if k else "" for k, v in row.items()} for row in rows]


def of_text(
    text: str, label: str, columns: Sequence[str], classes: Sequence[Any], *, delimiter: str = ",", decimal: str = "."
) -> float:
    """Loss of a csv file with one column of probabilities a class."""
    rows = text_rows(text, delimiter, decimal)
    names = dict(zip(map(str, classes), columns, strict=True))
    return mean_loss(row[names[row[label]]] for row in rows)


def dumped(at: Path, value: Any) -> Path:
    """Write JSON."""
    at.write_text(json.dumps(value) + "\n", encoding="utf-8")
    return at


def lines(at: Path, records: Iterable[Any]) -> Path:
    """Write one JSON value a line."""
    at.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return at


def softmax(z: Any) -> Any:
    """Probabilities of logits (N, C)."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def forest() -> Any:
    """Probabilities (N, C) of a forest of scikit-learn, for tools that only carry numbers."""
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(60, min_samples_leaf=4, random_state=0).fit(TRAIN_X, TRAIN_3)
    return model.predict_proba(TEST_X)


def forest_of_two() -> Any:
    """Probabilities (N,) of the positive class."""
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(60, min_samples_leaf=4, random_state=0).fit(TRAIN_X, TRAIN_2)
    return model.predict_proba(TEST_X)[:, 1]
