"""Logs of language models as servers write them, for tests that damage them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from typing import Any

TOKENS, VALUES = ["The", " cat", " sat", "."], [-1.5, -0.25, -3.0, -0.125]
ENTRIES = [
    {"token": t, "logprob": x, "bytes": list(t.encode()), "top_logprobs": [{"token": t, "logprob": x}]}
    for t, x in zip(TOKENS, VALUES, strict=True)
]


def of_servers() -> dict[str, Any]:
    """Return a record of each server."""
    triples = [[x, k, t] for k, (t, x) in enumerate(zip(TOKENS, VALUES, strict=True))]
    chosen = [{"token": t, "tokenId": 1, "logProbability": x} for t, x in zip(TOKENS, VALUES, strict=True)]
    return {
        "sglang": {"text": "", "meta_info": {"id": "s", "input_token_logprobs": [[None, 1, "a"], *triples]}},
        "tgi": {
            "generated_text": "The cat sat.",
            "details": {"tokens": [{"id": 1, "text": t, "logprob": x} for x, _, t in triples]},
        },
        "llama.cpp": {"content": "The cat sat.", "completion_probabilities": ENTRIES, "stop": True},
        "gemini": {"candidates": [{"logprobsResult": {"chosenCandidates": chosen}}]},
        "ollama": {"response": "The cat sat.", "done": True, "logprobs": ENTRIES},
    }


def sample(name: str) -> dict[str, Any]:
    """Return a sample of Inspect."""
    choice = {"message": {"content": "The cat sat."}, "logprobs": {"content": ENTRIES}}
    return {"id": name, "epoch": 1, "output": {"choices": [choice]}}


def archive() -> bytes:
    """Return a log of Inspect."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("a", "b", "c"):
            file.writestr(f"samples/{name}_epoch_1.json", json.dumps(sample(name)))
        file.writestr("header.json", json.dumps({"eval": {"task": "t"}}))
    return sink.getvalue()


def stream() -> bytes:
    """Return a streamed answer as server-sent events."""
    choices = [
        {"index": 0, "delta": {"content": one["token"]}, "logprobs": {"content": [one]}, "finish_reason": None}
        for one in ENTRIES
    ]
    events = [{"id": "c", "object": "chat.completion.chunk", "choices": [choice]} for choice in choices]
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode() + b"data: [DONE]\n"


def logs() -> dict[str, bytes]:
    """Return logs by name: of servers, of Inspect, of a stream, compressed."""
    lines = {name: (json.dumps(record) + "\n").encode() * 3 for name, record in of_servers().items()}
    whole = json.dumps({"eval": {"task": "t"}, "samples": [sample("a"), sample("b")]}).encode()
    packed = lines["ollama"] * 9
    return {
        **lines, "inspect": whole, "eval": archive(), "stream": stream(), "gz": gzip.compress(packed),
        "bz2": bz2.compress(packed), "xz": lzma.compress(packed),
    }  # fmt: skip
