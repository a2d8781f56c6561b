"""What follows from the numbers of a score of a language model."""

from __future__ import annotations

import math

import pytest

from crossent.scoring.lm import Document, Token, score_tokens


def score(*losses: float):
    return score_tokens([Document("a", "plain", tuple(Token(k, "ab", -x, -x, 2) for k, x in enumerate(losses)))])


def test_perplexities_are_exponentials_of_losses():
    found = score(1.0, 2.0)
    assert found.perplexity == pytest.approx(math.exp(1.5))
    assert found.byte_perplexity == pytest.approx(2**found.bits_per_byte)
    assert found.bits_per_byte == pytest.approx(1.5 / 2 / math.log(2))
    assert found.coverage == 1.0


def test_a_unit_changes_losses_and_nothing_else():
    nats, bits = (score(1.0, 2.0).to_dict(unit=unit) for unit in ("nats", "bits"))
    assert bits["loss"] == pytest.approx(nats["loss"] / math.log(2))
    assert bits["positions"][0]["loss"] == pytest.approx(nats["positions"][0]["loss"] / math.log(2))
    assert bits["worst_tokens"][0]["loss"] == pytest.approx(nats["worst_tokens"][0]["loss"] / math.log(2))
    same = ("bits_per_byte", "perplexity", "tokens", "documents", "coverage", "level")
    assert all(bits[name] == nats[name] for name in same)
    with pytest.raises(ValueError, match="unit must be nats or bits"):
        _ = score(1.0).to_dict(unit="shannons")
