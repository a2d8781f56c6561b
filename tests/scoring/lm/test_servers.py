"""What SGLang, TGI, llama.cpp's server, Gemini and Ollama return: the tokens, log-probabilities and bytes of each."""

from __future__ import annotations

import json
import math

import pytest

from crossent.scoring.lm import LogError, read, score_tokens

SGLANG = {
    "text": " two",
    "meta_info": {
        "id": "s1", "prompt_tokens": 3, "completion_tokens": 1,
        "input_token_logprobs": [[None, 1, "<s>"], [-1.5, 7, "a"], [-0.5, 8, " b"]],
        "input_top_logprobs": [None, [[-0.25, 9, "x"], [-1.5, 7, "a"]], [[-0.5, 8, " b"]]],
        "output_token_logprobs": [[-0.125, 5, " two"]],
    },
}  # fmt: skip
TGI = {
    "generated_text": " two.",
    "details": {
        "finish_reason": "length", "generated_tokens": 2, "prefill": [],
        "tokens": [
            {"id": 5, "text": " two", "logprob": -0.25, "special": False},
            {"id": 6, "text": ".", "logprob": -1.0, "special": False},
            {"id": 2, "text": "</s>", "logprob": -0.5, "special": True},
        ],
    },
}  # fmt: skip
LLAMA = {
    "content": " é", "stop": True, "index": 0, "tokens_predicted": 2,
    "completion_probabilities": [
        {"id": 3, "token": " ", "bytes": [32], "logprob": -0.5, "top_logprobs": []},
        {"id": 4, "token": "é", "bytes": [195, 169], "logprob": -1.5,
         "top_logprobs": [{"id": 4, "token": "é", "bytes": [195, 169], "logprob": -1.5}]},
    ],
}  # fmt: skip
LLAMA_BEFORE = {
    "content": " yes sir",
    "completion_probabilities": [
        {"content": " yes", "probs": [{"tok_str": " yes", "prob": 0.5}, {"tok_str": " no", "prob": 0.25}]},
        {"content": " sir", "probs": [{"tok_str": ".", "prob": 0.75}, {"tok_str": "!", "prob": 0.125}]},
    ],
}
GEMINI = {
    "responseId": "g1",
    "candidates": [
        {
            "content": {"parts": [{"text": "Hi "}, {"text": "you"}], "role": "model"},
            "avgLogprobs": -0.75,
            "logprobsResult": {
                "topCandidates": [
                    {"candidates": [{"token": "Hi", "tokenId": 1, "logProbability": -0.5}]},
                    {"candidates": [{"token": " you", "tokenId": 2, "logProbability": -1.0}]},
                ],
                "chosenCandidates": [
                    {"token": "Hi", "tokenId": 1, "logProbability": -0.5},
                    {"token": " you", "tokenId": 2, "logProbability": -1.0},
                ],
            },
        }
    ],
}
GEMINI_SDK = {
    "candidates": [
        {
            "content": {"parts": [{"text": "Hi you"}]},
            "logprobs_result": {
                "chosen_candidates": [
                    {"token": "Hi", "token_id": 1, "log_probability": -0.5},
                    {"token": " you", "token_id": 2, "log_probability": -1.0},
                ]
            },
        }
    ]
}
OLLAMA = {
    "model": "m", "created_at": "2026-01-01T00:00:00Z", "response": "Sky!", "done": True,
    "logprobs": [
        {"token": "Sky", "logprob": -0.75, "bytes": [83, 107, 121], "top_logprobs": []},
        {"token": "!", "logprob": -0.25, "bytes": [33]},
    ],
}  # fmt: skip
OLLAMA_CHAT = {
    "model": "m", "message": {"role": "assistant", "content": "Sky!"}, "done": True, "logprobs": OLLAMA["logprobs"],
}  # fmt: skip
CASES = {
    "sglang": (SGLANG, [("a", -1.5, 1), (" b", -0.5, 2)], {"generated"}),
    "tgi": (TGI, [(" two", -0.25, 4), (".", -1.0, 1), ("</s>", -0.5, 0)], {"sampled"}),
    "llama.cpp": (LLAMA, [(" ", -0.5, 1), ("é", -1.5, 2)], {"sampled"}),
    "gemini": (GEMINI, [("Hi", -0.5, 2), (" you", -1.0, 4)], {"sampled"}),
    "ollama": (OLLAMA, [("Sky", -0.75, 3), ("!", -0.25, 1)], {"sampled"}),
}


def documents(tmp_path, *records, name="log.jsonl", **options):
    path = tmp_path / name
    _ = path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return list(read(path, **options))


def tokens(document):
    return [(token.text, token.logprob, token.bytes) for token in document.tokens]


@pytest.mark.parametrize("source", CASES)
@pytest.mark.parametrize("told", [False, True])
def test_a_server_is_told_by_its_keys_or_by_name(tmp_path, source, told):
    record, wanted, notes = CASES[source]
    (document,) = documents(tmp_path, record, **({"format": source} if told else {}))
    assert document.source == source
    assert tokens(document) == wanted
    assert notes <= document.notes


def test_a_prompt_that_tgi_scored_comes_before_its_answer(tmp_path):
    prefill = [{"id": 1, "text": "Hi", "logprob": None}, {"id": 2, "text": " you", "logprob": -2.0}]
    (document,) = documents(tmp_path, {**TGI, "details": {**TGI["details"], "prefill": prefill}})
    assert tokens(document) == [(" you", -2.0, 4)]
    assert "generated" in document.notes


def test_sglang_without_texts_and_without_a_scored_prompt(tmp_path):
    pairs = [[None, 1], [-0.5, 8]]
    (document,) = documents(tmp_path, {"text": "", "meta_info": {"id": "x", "input_token_logprobs": pairs}})
    assert tokens(document) == [("", -0.5, None)]
    answer = {**SGLANG, "meta_info": {**SGLANG["meta_info"], "input_token_logprobs": []}}
    answer["meta_info"].pop("input_top_logprobs")
    (document,) = documents(tmp_path, answer)
    assert tokens(document) == [(" two", -0.125, 4)]


def test_the_older_llama_cpp_has_what_its_samplers_left(tmp_path):
    (document,) = documents(tmp_path, LLAMA_BEFORE)
    yes, sir = document.tokens
    assert (yes.text, yes.logprob, yes.bytes) == (" yes", math.log(0.5), 4)
    assert math.isnan(sir.logprob)
    assert sir.ceiling == pytest.approx(math.log(0.125))
    assert any("of an older llama.cpp server" in warning for warning in score_tokens([document]).warnings)


def test_probabilities_after_sampling_are_refused(tmp_path):
    record = {"content": "a", "completion_probabilities": [{"token": "a", "prob": 1.0, "top_probs": []}]}
    with pytest.raises(LogError, match="ask for post_sampling_probs=false"):
        _ = documents(tmp_path, record)


def test_the_sdk_of_gemini_spells_its_keys_otherwise(tmp_path):
    (document,) = documents(tmp_path, GEMINI_SDK)
    assert tokens(document) == CASES["gemini"][1]
    (line,) = documents(tmp_path, {"key": "q7", "response": GEMINI})
    assert line.id == "q7"
    assert tokens(line) == CASES["gemini"][1]


def test_a_chat_of_ollama_is_an_answer_too(tmp_path):
    (document,) = documents(tmp_path, OLLAMA_CHAT)
    assert tokens(document) == CASES["ollama"][1]


def test_several_answers_in_an_array(tmp_path):
    assert [tokens(d) for d in documents(tmp_path, [TGI, TGI])] == [CASES["tgi"][1]] * 2


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"meta_info": {"output_token_logprobs": [[-1.0]]}}, r"must be \[log-probability, number, text\]"),
        ({"meta_info": []}, "`meta_info` must be an object"),
        ({"generated_text": "", "details": {"tokens": [7]}}, "`an entry of tokens` must be an object, not 7"),
        ({"completion_probabilities": [{"content": "a", "probs": [{"tok_str": "a", "prob": 2}]}]}, "between 0 and 1"),
        ({"candidates": [{"logprobsResult": {"chosenCandidates": 3}}]}, "`chosenCandidates` must be a list"),
        ({"done": True, "logprobs": [{"token": "a"}]}, "must be an object with `token` and `logprob`"),
    ],
)
def test_what_is_broken_is_named(tmp_path, record, said):
    with pytest.raises(LogError, match=said):
        _ = documents(tmp_path, record)
