"""Tokens of a document: tokens outside the log and their bounds, and how many bytes a token has."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from crossent.scoring.lm import score_tokens
from tests.scoring.lm import records
from tests.scoring.lm.records import scored


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 10**6))
def test_the_bound_holds_for_a_token_outside_the_top(vocabulary, k, seed):
    """Against whole distributions whose top k is all that is logged, in float32 as servers do."""
    k = min(k, vocabulary - 1)
    z = np.random.default_rng(seed).normal(0, 3, vocabulary)
    logprobs = log_softmax(z)
    order = np.argsort(-logprobs)
    top = {f"t{v}": float(np.float32(logprobs[v])) for v in order[:k]}
    outside = int(order[k + seed % (vocabulary - k)])
    from crossent.scoring.lm.formats import documents

    made = list(documents({"tokens": [f"t{outside}"], "top_logprobs": [top]}, "x", None))
    score = score_tokens(made)
    assert score.bounds[0] <= -logprobs[outside]
    assert score.bounds[1] == math.inf
    assert math.isnan(score.loss)
    assert (score.covered, score.coverage) == (0, 0.0)
    # And no looser than the exact bound by more than the roundings of k logarithms hide.
    with mp.workdps(30):
        p = [mp.exp(x) for x in top.values()]
        rest = 1 - mp.fsum(p) + mp.mpf(2) ** -23 * mp.fsum(q * (1 - mp.log(q)) for q in p)
        exact = -mp.log(min(*p, rest)) if rest > 0 else -mp.log(min(p))
        assert abs(score.bounds[0] - exact) <= 1e-8 * (1 + abs(exact))


@pytest.mark.parametrize("missing", [-100, -100.0, -9999.0, -9999.5, -1e300, -math.inf, None])
def test_a_sentinel_is_outside_and_never_averaged(tmp_path, missing):
    top = {" a": math.log(0.5), " b": math.log(0.375)}
    row = {"tokens": ["x", "y", "z"], "logprobs": [-1.0, missing, -2.0], "top_logprobs": [{}, top, None]}
    score = scored(tmp_path, row, {"tokens": ["q"], "logprobs": [-3.0]})
    assert (score.tokens, score.covered, score.covered_loss) == (4, 3, 2.0)
    assert score.bounds[0] == pytest.approx((6 - math.log(0.125)) / 4, rel=1e-6)
    assert score.bounds[1] == score.bits_per_byte_bounds[1] == math.inf
    assert math.isnan(score.loss)
    assert math.isnan(score.bits_per_byte)
    assert score.covered_ci[0] < 2.0 < score.covered_ci[1]
    assert score.warnings[0].startswith("1 of 4 tokens (25.0\N{NO-BREAK SPACE}%)")
    assert [t.exact for t in score.worst_tokens] == [True, False, True, True]


@pytest.mark.parametrize("filler", [-100.0, -9999.0, -1e4, -math.inf, None])
def test_a_filler_among_the_most_probable_tokens_sets_no_bound(tmp_path, filler):
    """OpenAI fills up its lists; the bound is that of the real entries."""
    top = {" a": math.log(0.5), " b": math.log(0.375), "x": filler, "y": filler}
    score = scored(tmp_path, {"tokens": ["z"], "logprobs": [-9999.0], "top_logprobs": [top]})
    assert score.bounds[0] == pytest.approx(-math.log(0.125), rel=1e-6)
    listed = scored(tmp_path, {"tokens": ["x"], "logprobs": [None], "top_logprobs": [top]})
    assert listed.bounds[0] == pytest.approx(-math.log(0.125), rel=1e-6)


LOST = "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    "row",
    [
        {"choices": [{"logprobs": {"tokens": ["n", LOST, LOST], "token_logprobs": [-1] * 3}}]},
        # A decoded token without its blank, and a server that sends the bytes of a replacement character.
        {
            "prompt": "a cat",
            "prompt_logprobs": [None, {"1": records.candidate(-1, 1, "a")}, {"2": records.candidate(-1, 1, "cat")}],
        },
        {"choices": [{"text": "a cat", "logprobs": {"tokens": ["a", "cat"], "token_logprobs": [-1, -1]}}]},
        {"choices": [{"message": {"content": "a cat"}, "logprobs": {"content": [{"token": "acat", "logprob": -1}]}}]},
        {"logprobs": [{"token": LOST, "logprob": -1, "bytes": list(LOST.encode())}]},
    ],
)
def test_bytes_that_are_only_known_roughly(tmp_path, row):
    score = scored(tmp_path, row, records.COMPLETION)
    assert any("approximate for 1 document" in w for w in score.warnings)
    assert score.bytes is not None


def test_bytes_that_are_not_known(tmp_path):
    ids = {"choices": [{"logprobs": {"tokens": ["token_id:42"], "token_logprobs": [-1.0]}}]}
    for row in (ids, {"logprobs": [-1.0]}, {"prompt_logprobs": [None, {"2": -1.0}]}):
        score = scored(tmp_path, row, records.GENERIC)
        assert score.bytes is None
        assert math.isnan(score.bits_per_byte)
        assert any("no bits per byte" in w for w in score.warnings)
    assert scored(tmp_path, {"logprobs": [-1.0, -2.0], "text": "né!"}).bytes == 4
    assert not any("bytes" in w for w in scored(tmp_path, records.CHAT, records.COMPLETION, records.VLLM_DUMP).warnings)


def test_a_token_is_found_among_the_top_by_its_bytes(tmp_path):
    def row(raw, token=LOST):
        top = [{"token": LOST, "bytes": [226], "logprob": -0.5}, {"token": "x", "bytes": None, "logprob": -9999.0}]
        return {"token": token, "bytes": raw, "top_logprobs": top}

    assert scored(tmp_path, row([226])).loss == 0.5
    for outside in (row([195]), row(None), row(None, "x")):
        score = scored(tmp_path, outside)
        assert score.covered == 0
        assert score.bounds[0] == pytest.approx(-math.log1p(-math.exp(-0.5)), rel=1e-6)


def test_a_later_null_is_outside_without_any_bound(tmp_path):
    score = scored(tmp_path, {"logprobs": [None, None, -1.0, None, -2.0]})
    assert (score.tokens, score.covered, score.covered_loss, score.bounds) == (3, 2, 1.5, (1.0, math.inf))
