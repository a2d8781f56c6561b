"""Scores of every kind, as `crossent.score` makes them."""

from __future__ import annotations

import numpy as np

import crossent
from tests.scoring.exact import made


def scored(**more):
    y, z = made(0, 200, 3)
    return crossent.score(y, logits=z, by={"half": np.arange(200) % 2}, **more)


SCORES = {
    "plain": scored,
    "clustered": lambda: scored(cluster=np.arange(200) // 5),
    "infinite": lambda: crossent.score([1, 0, 1], probs=[0.0, 0.5, 1.0]),
    "one class": lambda: crossent.score([1, 1], probs=[0.5, 0.25]),
    "one row": lambda: crossent.score([1], probs=[0.5]),
    "names": lambda: crossent.score(
        np.array(["a", "b"]), probs=[0.5, 0.25], classes=list(np.array(["a", "b"])), id=np.array(["x", "y"])
    ),
    "numpy values": lambda: crossent.score(
        np.array([0, 1], np.int16),
        probs=np.float32([0.5, 0.25]),
        by=np.array([1.5, 2.5]),
        id=np.array([3, 4]),
        zero=np.float32(1e-3),
    ),
    "dates": lambda: crossent.score(
        [0, 1], probs=[0.5, 0.25], by=np.array(["2026-01-01", "2026-01-02"], "datetime64[D]")
    ),
    "booleans": lambda: crossent.score([False, True], probs=[0.5, 0.25], by=[True, None]),
}
