"""One valid record of every format, with the tokens that it must give: position, text, log-probability, bytes."""

from __future__ import annotations

import json
import math

import numpy as np

from crossent.scoring.lm import read, score_tokens

NAN = float("nan")


def candidate(logprob, rank, text):
    return {"logprob": logprob, "rank": rank, "decoded_token": text}


def entry(token, logprob, raw=None, top=()):
    return {"token": token, "logprob": logprob, "bytes": raw, "top_logprobs": list(top)}


CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Hé!", "refusal": None},
            "logprobs": {
                "content": [
                    entry("H", -0.25, [72], [entry("H", -0.25, [72]), entry("h", -1.75, [104])]),
                    entry("\\xc3", -0.5, [195]),
                    entry("\\xa9", -2.0, [169]),
                    entry("!", 0.0),
                ],
                "refusal": None,
            },
        },
        {"index": 1, "logprobs": {"content": None, "refusal": [entry("No", -4.0, [78, 111])]}},
    ],
}
CHAT_TOKENS = [
    (0, "H", -0.25, 1),
    (1, "\\xc3", -0.5, 1),
    (2, "\\xa9", -2.0, 1),
    (3, "!", 0.0, 1),
    (4, "No", -4.0, 2),
]

BATCH = {
    "id": "batch_req_1",
    "custom_id": "request-7",
    "response": {"status_code": 200, "request_id": "r", "body": CHAT},
    "error": None,
}

COMPLETION = {
    "id": "cmpl-1",
    "object": "text_completion",
    "choices": [
        {
            "text": "It’s so",
            "index": 0,
            "logprobs": {
                "tokens": ["It", "bytes:\\xe2\\x80", "bytes:\\x99", "s", " so"],
                "token_logprobs": [None, -3.0, -0.125, -0.0625, -9999.0],
                "top_logprobs": [None, {"'": -0.25}, {"bytes:\\x99": -0.125}, {}, {" not": -0.5, " a": -2.0}],
                "text_offset": [0, 2, 2, 2, 3],
            },
        }
    ],
}
COMPLETION_TOKENS = [
    (1, "bytes:\\xe2\\x80", -3.0, 2),
    (2, "bytes:\\x99", -0.125, 1),
    (3, "s", -0.0625, 1),
    (4, " so", NAN, 3),
]

RESPONSES = {
    "id": "resp_1",
    "object": "response",
    "output": [
        {"type": "reasoning", "summary": []},
        {
            "type": "message",
            "content": [{"type": "output_text", "text": "Hi", "logprobs": [entry("Hi", -0.5, [72, 105])]}],
        },
    ],
}

# Beside the most probable token, the prompt's own comes first; in the last position it is the most probable one.
VLLM_POSITIONS = [
    None,
    {"291": candidate(-5.5, 812, " cat"), "5": candidate(-0.75, 1, " dog")},
    {"13": candidate(-0.25, 1, "."), "0": candidate(-2.25, 2, "!")},
]
VLLM = {
    "id": "cmpl-2",
    "choices": [{"index": 0, "text": "", "logprobs": None, "prompt_logprobs": VLLM_POSITIONS}],
}
VLLM_CHAT = {"id": "chatcmpl-2", "choices": [{"message": {"content": "x"}}], "prompt_logprobs": VLLM_POSITIONS}
VLLM_DUMP = {
    "request_id": "0",
    "prompt": "A cat.",
    "prompt_token_ids": [32, 291, 13],
    "prompt_logprobs": [
        None,
        {"5": candidate(-0.75, 1, " dog"), "291": candidate(-5.5, 812, " cat")},
        VLLM_POSITIONS[2],
    ],
    "outputs": [],
}
VLLM_TOKENS = [(1, " cat", -5.5, 4), (2, ".", -0.25, 1)]

GENERIC = {"id": "d", "tokens": ["A", "é", "b"], "logprobs": [None, -1.0, -2.0]}
GENERIC_TOKENS = [(1, "é", -1.0, 2), (2, "b", -2.0, 1)]
TOP_ONLY = {"tokens": [" a", " c"], "top_logprobs": [{" a": -0.5, " b": -1.5}, {" a": -0.5, " b": -1.5}]}
TOP_ONLY_TOKENS = [(0, " a", -0.5, 2), (1, " c", NAN, 2)]
TARGET = {"target": " Rome", "top_logprobs": [{"token": " Paris", "logprob": -0.25}, {"token": " Rome", "logprob": -3}]}


def multiple_choice(values, target, acc, answers=(" no", " yes", " maybe")):
    """Return a sample of a multiple-choice task as lm-eval writes it, numbers as text."""
    return {
        "doc_id": 3,
        "doc": {"question": "?"},
        "target": target,
        "arguments": {f"gen_args_{k}": {"arg_0": "Q?", "arg_1": a} for k, a in enumerate(answers)},
        "resps": [[[str(value), "False"]] for value in values],
        "filtered_resps": [[str(value), "False"] for value in values],
        "filter": "none",
        "metrics": ["acc"],
        "acc": acc,
    }


def rolling(doc_id, loglikelihood, text, size=None, words=None):
    """Return a sample of loglikelihood_rolling."""
    return {
        "doc_id": doc_id,
        "doc": {"page": text},
        "target": text,
        "arguments": {"gen_args_0": {"arg_0": text}},
        "resps": [[str(loglikelihood)]],
        "filtered_resps": [str(loglikelihood)],
        "filter": "none",
        **({} if size is None else {"bits_per_byte": [loglikelihood, size]}),
        **({} if words is None else {"word_perplexity": [loglikelihood, words]}),
    }


LOGLIKELIHOOD = {
    "doc_id": 0,
    "target": " signé",
    "arguments": {"gen_args_0": {"arg_0": "He", "arg_1": " signé"}},
    "resps": [[["-10240.5", "False"]]],
    "filtered_resps": [["-10240.5", "False"]],
    "filter": "none",
}

TOKENS = [
    ("chat", CHAT, CHAT_TOKENS),
    ("chat", BATCH, CHAT_TOKENS),
    ("chat", CHAT["choices"][0], CHAT_TOKENS[:4]),
    ("completions", COMPLETION, COMPLETION_TOKENS),
    ("responses", RESPONSES, [(0, "Hi", -0.5, 2)]),
    ("vllm", VLLM, VLLM_TOKENS),
    ("vllm", VLLM_CHAT, VLLM_TOKENS),
    ("vllm", VLLM_DUMP, VLLM_TOKENS),
    ("plain", GENERIC, GENERIC_TOKENS),
    ("plain", TOP_ONLY, TOP_ONLY_TOKENS),
    ("plain", TARGET, [(0, " Rome", -3.0, 5)]),
    ("plain", {"logprobs": [entry("a", -1.0)]}, [(0, "a", -1.0, 1)]),
]
EVERY = [
    *(record for _, record, _ in TOKENS),
    LOGLIKELIHOOD,
    multiple_choice([-3.0, -1.0, -2.0], "1", 1.0),
    rolling(0, -20.5, "two words", 9, 2),
]


def written(folder, *rows, name="log.jsonl"):
    """Write rows as lines of JSON and return where."""
    path = folder / name
    _ = path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def scored(folder, *rows, **options):
    """Return the score of rows written as lines."""
    return score_tokens(read(written(folder, *rows)), **options)


def corpus(n=40, seed=7):
    draw = np.random.default_rng(seed)
    rows = []
    for k in range(n):
        size = int(draw.integers(1, 60))
        tokens = [str(t) for t in draw.choice(["a", " the", "é", "日本", "🙂", ""], size)]
        rows.append({"id": f"d{k}", "tokens": tokens, "logprobs": list(-draw.gamma(0.5, 4.0, size))})
    return rows


def seen(documents):
    """The tokens as plain tuples, NaN as a word so that tuples compare."""
    return [
        (t.position, t.text, "outside" if math.isnan(t.logprob) else t.logprob, t.bytes)
        for d in documents
        for t in d.tokens
    ]
