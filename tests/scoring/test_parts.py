"""The pieces of a score: units, and what follows from the fields."""

from __future__ import annotations

import math

import numpy as np

import crossent
from tests.scoring.exact import model, near


def test_a_perplexity_has_the_ends_of_the_loss():
    y, p, _, _ = model()
    result = crossent.score(y, probs=p)
    near(result.bits, result.loss / math.log(2))
    near(result.bits_ci, np.array(result.ci) / math.log(2))
    near(result.perplexity, math.exp(result.loss))
    near(result.perplexity_ci, np.exp(result.ci))
