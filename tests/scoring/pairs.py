"""Two models of the same rows, to be compared, and four rows to spoil."""

from __future__ import annotations

import numpy as np

import crossent
from tests.scoring.exact import made, softmax


def pair(n=300, classes=3, seed=0, noise=0.4):
    """Labels, and the probabilities of two models, the second a noisy copy of the first."""
    y, z = made(seed, n, classes)
    rng = np.random.default_rng(seed + 100)
    return y, softmax(z), softmax(z + rng.normal(size=z.shape) * noise)


Y = [1, 0, 1, 0]


P = [0.9, 0.2, 0.7, 0.4]


def scored(y=Y, probs=P, **more):
    return crossent.score(y, probs=probs, **more)
