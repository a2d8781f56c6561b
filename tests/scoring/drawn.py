"""Rows drawn by hypothesis, with all that `score` takes, and comparisons of the scores made of them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from scipy.special import log_softmax

import crossent
from crossent import ScoreState
from tests.scoring.exact import SPREADS, flat, made, softmax

EXAMPLES = settings(max_examples=40, deadline=None)


@dataclasses.dataclass
class Data:
    """Rows, as keyword arguments of `score` that are arrays; `y` among them."""

    columns: dict[str, Any]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.columns["y"])

    def take(self, rows: Any) -> Data:
        return Data({k: v[rows] for k, v in self.columns.items()}, self.options)

    def but(self, **columns: Any) -> Data:
        merged = {**self.columns, **columns}
        return Data({k: v for k, v in merged.items() if v is not None}, self.options)

    def add(self, state: ScoreState) -> ScoreState:
        columns = dict(self.columns)
        return state.update(columns.pop("y"), **columns)

    def state(self) -> ScoreState:
        return self.add(ScoreState(**self.options))

    def score(self) -> crossent.Score:
        columns = dict(self.columns)
        return crossent.score(columns.pop("y"), **columns, **self.options)


@st.composite
def data(draw: st.DrawFn, least: int = 2, kinds: tuple[str, ...] = ("probs", "logits", "logprobs", "column")) -> Data:
    n, classes = draw(st.integers(least, 50)), draw(st.integers(2, 5))
    kind, seed = draw(st.sampled_from(kinds)), draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    y, z = made(seed, n, 2 if kind == "column" else classes)
    values = {"probs": softmax(z), "logits": z, "logprobs": log_softmax(z, axis=1), "column": softmax(z)[:, 1]}[kind]
    columns = {"y": y, "probs" if kind == "column" else kind: values, "id": np.arange(n) * 7 + 1000}
    if draw(st.booleans()):
        columns["weight"] = rng.gamma(1.0, size=n) + 0.01
    if draw(st.booleans()):
        columns["cluster"] = rng.integers(0, max(2, n // 3), size=n)
    if draw(st.booleans()):
        columns["by"] = rng.choice(["a", "b", "c"], size=n)
    if kind in ("probs", "column") and draw(st.integers(0, 4)) == 0:  # a truth that was said to be impossible
        place = rng.integers(n)
        if kind == "column":
            values[place], y[place] = 0.0, 1
        else:
            values[place], y[place] = np.eye(classes)[0], 1
    return Data(columns, {"worst": draw(st.integers(0, 12)), "ci": draw(st.sampled_from([0.5, 0.95, 0.99]))})


def numbers(score: crossent.Score, *without: str) -> dict[str, Any]:
    """The numbers of a score by path, without those whose last name is given."""
    return {k: v for k, v in flat(score.to_dict()).items() if not any(f".{name}" in k for name in without)}


def assert_close(a: dict[str, Any], b: dict[str, Any], rel: float = 1e-13) -> None:
    assert a.keys() == b.keys()
    for path, value in a.items():
        if isinstance(value, float) and isinstance(b[path], float):
            bound = 1e-9 if path.split(".")[-1].split("[")[0] in SPREADS else rel
            assert math.isclose(value, b[path], rel_tol=bound, abs_tol=bound), (path, value, b[path])
        else:
            assert value == b[path], (path, value, b[path])
