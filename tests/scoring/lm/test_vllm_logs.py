"""Prompts that vLLM scored; every form of them stands in `test_formats`."""

from __future__ import annotations

from crossent.scoring.lm.vllm_logs import vllm
from tests.scoring.lm import records


def test_the_own_token_of_a_position_is_the_first_or_the_one_with_its_number():
    positions = [None, {"5": records.candidate(-2.0, 7, "b"), "9": records.candidate(-0.5, 1, "c")}]
    for more, wanted in (({}, -2.0), ({"prompt_token_ids": [1, 9]}, -0.5)):
        (document,) = vllm({"prompt_logprobs": positions, **more}, "n")
        assert [token.logprob for token in document.tokens] == [wanted]


def test_a_record_without_a_prompt_is_a_document_without_tokens():
    (document,) = vllm({"choices": [{"prompt_logprobs": None}]}, "n")
    assert document.tokens == ()
