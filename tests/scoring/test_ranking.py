"""Rankings: their pairs are comparisons, their letters are their ties, and no rank is an accident."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest

import crossent
from crossent.errors import InputError
from crossent.scoring.ranking import tied
from tests.scoring.exact import made, near, softmax


def models(n: int = 400, noises: tuple[float, ...] = (0.0, 0.05, 0.6, 1.5), seed: int = 0, **more: object):
    y, z = made(seed, n, 3)
    rng = np.random.default_rng(seed + 100)
    found = {f"m{k}": z + noise * rng.normal(size=z.shape) for k, noise in enumerate(noises)}
    return {name: crossent.score(y, probs=softmax(logits), **more) for name, logits in found.items()}


def test_pairs_are_comparisons_at_a_level_for_all() -> None:
    scores = models()
    found = crossent.rank(scores)
    assert [model.loss for model in found.models] == sorted(score.loss for score in scores.values())
    assert len(found.pairs) == 6
    near(found.pair_level, 1.0 - 0.05 / 6)
    for pair in found.pairs:
        alone = crossent.compare(scores[pair.a], scores[pair.b], ci=found.pair_level)
        assert pair.difference <= 0.0
        near((pair.difference, *pair.ci), (alone.difference, *alone.ci))
        assert pair.p_adjusted == min(1.0, 6 * pair.p_value)
        assert (pair.p_adjusted < 0.05) == (pair.ci[1] < 0.0 or pair.ci[0] > 0.0)
    for model in found.models:
        near((model.loss, *model.ci), (scores[model.name].loss, *scores[model.name].ci))
    near(crossent.rank(scores, ci=0.8).models[0].ci, models(ci=0.8)[found.models[0].name].ci)


def test_ranks_count_the_models_that_are_better_beyond_doubt() -> None:
    found = crossent.rank(models())
    apart = {(pair.a, pair.b) for pair in found.pairs if pair.ci[1] < 0.0}
    for k, model in enumerate(found.models):
        assert model.rank == 1 + sum((other.name, model.name) in apart for other in found.models[:k])
    assert found.models[-1].rank == 4


@pytest.mark.parametrize("seed", range(50))
def test_letters_are_shared_exactly_by_those_that_are_not_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"m{k}" for k in range(rng.integers(2, 9))]
    apart = {pair for pair in combinations(names, 2) if rng.random() < rng.random()}
    letters = tied(names, apart)
    for pair in combinations(names, 2):
        shared = set(letters[pair[0]]) & set(letters[pair[1]])
        assert bool(shared) != (pair in apart)


@pytest.mark.slow
def test_equal_models_are_told_apart_in_few_rankings() -> None:
    """Of 300 rankings of five equal models, at most 5 % and chance may name a pair; plain 95 % intervals name many."""
    named = plain = 0
    for seed in range(300):
        found = crossent.rank(models(150, (0.5,) * 5, seed))
        named += any(pair.p_adjusted < 0.05 for pair in found.pairs)
        plain += any(pair.p_value < 0.05 for pair in found.pairs)
    assert named <= 27  # 15, and three standard errors
    assert plain > 50


def test_text_and_json_say_the_same() -> None:
    found = crossent.rank(models(cluster=np.arange(400) // 4))
    read = json.loads(found.to_json(unit="bits"))
    assert read["unit"] == "bits"
    near(read["models"][0]["loss"], found.models[0].loss / math.log(2))
    near(read["pairs"][0]["ci"], [end / math.log(2) for end in found.pairs[0].ci])
    near(read["pairs"][0]["p_value"], found.pairs[0].p_value)
    assert repr(found).splitlines()[0] == "4 models of 400 rows in 100 clusters, paired"
    assert "99.17 % each, so all of them hold together at 95 %" in repr(found)
    assert "loss, bits" in found.to_text(unit="bits")


def test_mistakes_say_what_to_do() -> None:
    scores = models()
    with pytest.raises(InputError, match="needs two scores or more, got 1"):
        _ = crossent.rank({"m0": scores["m0"]})
    with pytest.raises(InputError, match="only the same rows can be compared"):
        _ = crossent.rank({"m0": scores["m0"], "x": crossent.score([1, 0, 2], probs=softmax(np.eye(3)))})
    with pytest.raises(TypeError, match="x must be a Score"):
        _ = crossent.rank({"m0": scores["m0"], "x": 0.5})  # pyright: ignore[reportArgumentType]
