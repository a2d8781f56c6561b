"""Losses of logged log-probabilities against exact arithmetic, other libraries and laws."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest

from crossent.scoring.lm import read, score_tokens
from tests.scoring.lm import records
from tests.scoring.lm.records import corpus, scored, seen, written

EPS = np.finfo(float).eps


def test_one_json_value_and_an_array_read_like_lines(tmp_path):
    rows = [records.CHAT, records.COMPLETION, records.VLLM]
    lines = seen(read(written(tmp_path, *rows)))
    path = tmp_path / "one.json"
    for text in (json.dumps(rows), json.dumps(rows, indent=2), "\ufeff" + json.dumps(rows), f"\n{json.dumps(rows)}\n"):
        _ = path.write_text(text, encoding="utf-8")
        assert seen(read(path)) == lines
    _ = path.write_text(json.dumps(records.CHAT, indent=1), encoding="utf-8")
    assert seen(read(path)) == seen(read(written(tmp_path, records.CHAT)))


def test_documents_are_named_and_counted(tmp_path):
    batch = {"choices": [dict(records.COMPLETION["choices"][0]) for _ in range(2)]}
    failed = {"custom_id": "r9", "response": {"status_code": 400, "body": {"error": {"message": "no"}}}, "error": None}
    expired = {"custom_id": "r10", "response": None, "error": {"code": "batch_expired"}}
    silent = {"id": "quiet", "choices": [{"message": {"content": "x"}, "logprobs": None}]}
    score = scored(tmp_path, records.BATCH, records.CHAT, batch, failed, expired, silent)
    assert score.documents == 4
    assert {d.document for d in score.worst_documents} == {
        "request-7",
        "chatcmpl-1",
        "line 3, choice 0",
        "line 3, choice 1",
    }
    assert any("2 records of failed requests" in w for w in score.warnings)
    assert any("1 record without a scored token" in w for w in score.warnings)


def test_a_uniform_model_costs_the_logarithm_of_its_vocabulary(tmp_path):
    rows = [{"logprobs": [-math.log(50257)] * n} for n in (1, 7, 1000)]
    score = scored(tmp_path, *rows)
    with mp.workdps(30):
        assert abs(score.loss - mp.mpf("10.824905119702080107")) <= EPS * 11
        assert abs(score.perplexity - 50257) <= 50257 * 11 * 2 * EPS
    assert score.ci == (score.loss, score.loss)
    assert score.tokens == score.covered == 1008


def test_loss_and_bits_per_byte_are_exact_sums(tmp_path):
    rows = corpus()
    score = scored(tmp_path, *rows)
    loss = -sum(Fraction(x) for row in rows for x in row["logprobs"])
    tokens = sum(len(row["tokens"]) for row in rows)
    size = sum(len("".join(row["tokens"]).encode()) for row in rows)
    assert (score.tokens, score.bytes, score.documents) == (tokens, size, 40)
    # One rounding for each document's sum, the total and the division.
    assert score.loss == pytest.approx(float(loss / tokens), rel=3 * EPS)
    with mp.workdps(40):
        bits = mp.mpf(loss.numerator) / loss.denominator / mp.log(2) / size
        assert abs(score.bits_per_byte - bits) <= 5 * EPS * bits
        assert abs(score.byte_perplexity - mp.power(2, bits)) <= 20 * EPS * mp.power(2, bits)


def test_a_single_document_has_no_interval_and_says_so(tmp_path):
    score = scored(tmp_path, records.GENERIC)
    assert math.isnan(score.ci[0])
    assert math.isnan(score.bits_per_byte_ci[1])
    assert any("one document" in w for w in score.warnings)
    assert "no interval" in repr(score)


@pytest.mark.parametrize(("options", "said"), [({"ci": 1.0}, "ci"), ({"worst": -1}, "worst")])
def test_options_are_checked(options, said):
    with pytest.raises(ValueError, match=said):
        _ = score_tokens([], **options)
