"""What OpenAI's interfaces return; every format with all its fields stands in `test_formats`."""

from __future__ import annotations

import pytest

from crossent.scoring.lm import LogError
from crossent.scoring.lm.openai_logs import chat, completions, responses
from tests.scoring.lm import records


def test_an_answer_with_several_choices_is_one_document():
    (document,) = chat(records.CHAT, "n")
    assert document.id == "n"
    assert "sampled" in document.notes


def test_each_choice_of_a_completion_is_a_document():
    choice = {"text": "ab", "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0]}}
    found = list(completions({"choices": [choice, choice]}, "n"))
    assert [document.id for document in found] == ["n, choice 0", "n, choice 1"]
    assert [token.logprob for token in found[0].tokens] == [-1.0, -2.0]


def test_parts_of_a_response_are_one_document():
    part = {"text": "ab", "logprobs": [{"token": "ab", "logprob": -0.5}]}
    (document,) = responses({"output": [{"content": [part]}, {"content": [part]}]}, "n")
    assert [token.bytes for token in document.tokens] == [2, 2]


def test_a_chunk_alone_is_no_answer() -> None:
    with pytest.raises(LogError, match="log whole answers, or join the chunks by their id"):
        _ = list(chat({"id": "c", "choices": [{"delta": {"content": "a"}}]}, "line 1"))
