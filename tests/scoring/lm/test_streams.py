"""Streamed answers give the tokens of the answer at once, whatever is between their chunks."""

from __future__ import annotations

import json

import pytest

from crossent.scoring.lm import read
from tests.scoring.lm.test_servers import LLAMA, OLLAMA, TGI, tokens


def entry(token, logprob):
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def chat(name, token=None, logprob=None, *, index=0, finish=None):
    logprobs = None if token is None else {"content": [entry(token, logprob)]}
    choice = {"index": index, "delta": {"content": token or ""}, "logprobs": logprobs, "finish_reason": finish}
    return {"id": name, "object": "chat.completion.chunk", "choices": [choice]}


def text(name, token, logprob, *, finish=None):
    logprobs = {"tokens": [token], "token_logprobs": [logprob], "top_logprobs": None}
    choice = {"index": 0, "text": token, "logprobs": logprobs, "finish_reason": finish}
    return {"id": name, "object": "text_completion", "choices": [choice], "usage": None}


def usage(name):
    return {"id": name, "object": "chat.completion.chunk", "choices": [], "usage": {"completion_tokens": 2}}


def found(tmp_path, lines):
    path = tmp_path / "log"
    _ = path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return {document.id: tokens(document) for document in read(path)}


WANTED = {"a": [("Hé", -0.5, 3), ("!", -1.0, 1)], "b": [("no", -2.0, 2)]}
CHUNKS = [
    chat("a"), chat("b"), chat("a", "Hé", -0.5), chat("b", "no", -2.0, finish="stop"), usage("b"),
    chat("a", "!", -1.0), chat("a", finish="stop"), usage("a"),
]  # fmt: skip


@pytest.mark.parametrize("events", [False, True])
def test_chats_side_by_side_are_put_together_by_their_id(tmp_path, events):
    lines = [json.dumps(chunk) for chunk in CHUNKS]
    if events:
        lines = [": keep-alive", *(f"data: {line}\n" for line in lines), "event: end", "data: [DONE]"]
    assert found(tmp_path, lines) == WANTED


def test_an_answer_that_was_cut_off_counts_as_far_as_it_goes(tmp_path):
    assert found(tmp_path, [json.dumps(chunk) for chunk in CHUNKS[:3]])["a"] == WANTED["a"][:1]


def test_choices_of_an_answer_stay_apart(tmp_path):
    chunks = [chat("a", "x", -1.0), chat("a", "y", -2.0, index=1), chat("a", "z", -3.0, finish="stop"),
              chat("a", "w", -4.0, index=1, finish="stop")]  # fmt: skip
    assert [t[0] for t in found(tmp_path, map(json.dumps, chunks))["a"]] == ["x", "z", "y", "w"]


def test_completions(tmp_path):
    chunks = [text("c", "Hi", -0.5), text("c", " you", -1.5, finish="length")]
    whole = text("d", "Hi", -0.5, finish="stop")
    assert found(tmp_path, map(json.dumps, [*chunks, whole])) == {
        "c": [("Hi", -0.5, 2), (" you", -1.5, 4)], "d": [("Hi", -0.5, 2)],
    }  # fmt: skip


@pytest.mark.parametrize("logged", [False, True])
def test_events_of_the_responses_api(tmp_path, logged):
    part = {"type": "output_text", "text": "Hi!", "logprobs": [entry("Hi", -0.5), entry("!", -1.0)] if logged else []}
    events = [
        {"type": "response.created", "response": {"id": "r1", "output": []}},
        {"type": "response.output_text.delta", "delta": "Hi", "logprobs": [entry("Hi", -0.5)], "output_index": 0},
        {"type": "response.output_text.delta", "delta": "!", "logprobs": [entry("!", -1.0)], "output_index": 0},
        {"type": "response.output_text.done", "text": "Hi!"},
        {"type": "response.completed", "response": {"id": "r1", "output": [{"content": [part]}]}},
    ]
    lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n" for event in events]
    assert found(tmp_path, lines) == {"r1": [("Hi", -0.5, 2), ("!", -1.0, 1)]}


def test_servers_without_ids(tmp_path):
    ollama = [
        {**OLLAMA, "response": "Sky", "logprobs": OLLAMA["logprobs"][:1], "done": False},
        {**OLLAMA, "response": "!", "logprobs": OLLAMA["logprobs"][1:], "done": False},
        {"model": "m", "response": "", "done": True, "eval_count": 2},
    ]
    llama = [
        {"content": " ", "stop": False, "completion_probabilities": LLAMA["completion_probabilities"][:1]},
        {"content": "é", "stop": False, "completion_probabilities": LLAMA["completion_probabilities"][1:]},
        {"content": "", "stop": True},
    ]
    last = len(TGI["details"]["tokens"]) - 1
    tgi = [
        {"token": token, "generated_text": TGI["generated_text"] if k == last else None, "details": None}
        for k, token in enumerate(TGI["details"]["tokens"])
    ]
    answers = found(tmp_path, map(json.dumps, [*ollama, *ollama, *llama, *tgi]))
    assert [*answers.values()] == [
        [("Sky", -0.75, 3), ("!", -0.25, 1)], [("Sky", -0.75, 3), ("!", -0.25, 1)], [(" ", -0.5, 1), ("é", -1.5, 2)],
        [(" two", -0.25, 4), (".", -1.0, 1), ("</s>", -0.5, 0)],
    ]  # fmt: skip
    assert [*answers] == ["line 1", "line 4", "line 7", "line 10"]
