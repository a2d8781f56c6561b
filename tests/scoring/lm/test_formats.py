"""Readers of server logs: each format gives the tokens that stand in it."""

from __future__ import annotations

import math

import pytest

from crossent.scoring.lm import read
from tests.scoring.lm import records
from tests.scoring.lm.records import scored, seen, written


@pytest.mark.parametrize("number", range(len(records.TOKENS)))
@pytest.mark.parametrize("named", [False, True])
def test_every_format_gives_its_tokens(tmp_path, number, named):
    source, record, expected = records.TOKENS[number]
    documents = list(read(written(tmp_path, record), format=source if named else "auto"))
    assert {d.source for d in documents} == {source}
    assert seen(documents) == [(p, t, "outside" if math.isnan(x) else x, b) for p, t, x, b in expected]


def test_n_answers_of_vllm_repeat_one_prompt(tmp_path):
    choice = records.VLLM["choices"][0]
    score = scored(tmp_path, {"choices": [choice, choice]})
    assert (score.documents, score.tokens) == (1, 2)


def test_what_was_generated_after_a_scored_prompt_does_not_count(tmp_path):
    choice = records.COMPLETION["choices"][0]
    one = {**records.COMPLETION, "usage": {"prompt_tokens": 4, "completion_tokens": 1}}
    assert seen(read(written(tmp_path, one))) == seen(read(written(tmp_path, records.COMPLETION)))[:-1]
    two = {"choices": [choice] * 2, "usage": {"completion_tokens": 2}}
    assert scored(tmp_path, two).tokens == 6
    unclear = scored(tmp_path, {"choices": [choice] * 2, "usage": {"completion_tokens": 3}})
    assert unclear.tokens == 8
    assert any("cannot be told apart" in w for w in unclear.warnings)
    both = {**records.VLLM_CHAT, "choices": records.CHAT["choices"]}
    for row in (one, two, both, records.VLLM):
        said = any("only the prompt is counted" in w for w in scored(tmp_path, row).warnings)
        assert said == (row is not records.VLLM)
