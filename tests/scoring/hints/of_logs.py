"""Hints of `crossent lm`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from crossent.scoring.lm import records as room
from tests.scoring.hints.table import Bench, Hinted

LOGPROBS = [-0.5, -1.25, -3.0, -0.125]
RIGHT = float(-np.mean(LOGPROBS))
WORDS = ["a", " b", " c", " d"]
PLAIN = {"logprobs": LOGPROBS, "tokens": WORDS}
LINE = json.dumps(PLAIN) + "\n"
ENTRIES = [{"token": w, "logprob": x, "bytes": list(w.encode())} for w, x in zip(WORDS, LOGPROBS, strict=True)]


def chat(content: Any, place: str = "message", logprobs: bool = True) -> dict[str, Any]:
    held = {"logprobs": {"content": content}} if logprobs else {"logprobs": None}
    return {"id": "c1", "choices": [{place: {"content": "".join(WORDS)}, **held}]}


def prompt(swapped: bool, **more: Any) -> dict[str, Any]:
    """A prompt of vLLM of a first token and those of `LOGPROBS`, with another token beside each."""
    rows: list[Any] = [None]
    for k, (word, logprob) in enumerate(zip(WORDS, LOGPROBS, strict=True), 11):
        own = {str(k): {"logprob": logprob, "rank": 7, "decoded_token": word}}
        other = {"3": {"logprob": -0.4, "rank": 1, "decoded_token": " x"}}
        rows.append({**other, **own} if swapped else {**own, **other})
    return {"prompt_logprobs": rows, **more}


def sample(kind: str, **more: Any) -> dict[str, Any]:
    """A sample of lm-eval."""
    return {
        "doc_id": 0, "doc": {}, "target": "t", "filter": "none", "resps": [[[str(sum(LOGPROBS)), "False"]]],
        "filtered_resps": [[str(sum(LOGPROBS)), "False"]],
        "arguments": {"gen_args_0": {"arg_0": "q", "arg_1": {"until": []} if kind == "generate" else " t"}}, **more,
    }  # fmt: skip


def held(bench: Bench, data: Any) -> list[object]:
    """Return the call of the command for a log with these lines."""
    path = bench.path / "log.jsonl"
    if isinstance(data, list):
        data = "".join(json.dumps(row) + "\n" for row in data)
    _ = path.write_bytes(data.encode() if isinstance(data, str) else data)
    return ["lm", path]


def hinted(words: str, wrong: Any, right: Any, number: float = RIGHT, key: str = "loss") -> Hinted:
    """Return the entry of a log that is refused, and of the log that follows the hint."""

    def followed(bench: Bench) -> float:
        ran = bench.run(*held(bench, right), "--json")
        assert (ran.code, ran.err) == (0, "")
        return float(json.loads(ran.out)[key])

    return Hinted(lambda bench: bench.said(*held(bench, wrong)), words, followed, number)


def mixed(bench: Bench) -> str:
    ran = bench.run(*held(bench, [PLAIN, sample("loglikelihood")]))
    assert ran.code == 0
    return ran.out


LOGS = {
    "UTF-16": hinted("write the log as UTF-8", "\n".join([LINE.strip(), "é"]).encode("latin-1"), LINE),
    "an empty log": hinted("is empty; write one JSON object per line", "\n \n", LINE),
    "no objects": hinted("not an object; write one JSON object per line", "[-1.0, -2.0]\n", LINE),
    "a long line": hinted(
        f"longer than {room.LONGEST} bytes; write one JSON object per line", LINE.strip() + " " * room.LONGEST, LINE
    ),
    "no log-probabilities": hinted(
        "ask the server for log-probabilities (logprobs=True, prompt_logprobs=0 or lm-eval's --log_samples)",
        [chat(None, logprobs=False)],
        [chat(ENTRIES)],
    ),
    "nothing known": hinted(
        "Ask the server for log-probabilities, or pass --format", [{"text": "a"}], [{"text": "a b c d", **PLAIN}]
    ),
    "sorted keys": hinted(
        "something has sorted its keys; log `prompt_token_ids` too",
        [prompt(True)],
        [prompt(True, prompt_token_ids=[10, 11, 12, 13, 14])],
    ),
    "generated samples": hinted(
        "log a task of another output_type",
        [sample("generate")],
        [sample("loglikelihood")],
        -sum(LOGPROBS),
        "loss_per_document",
    ),
    "tokens and totals": Hinted(
        mixed,
        "some documents have tokens and others only totals, so there is no loss per token; score them separately",
        hinted("", "", [PLAIN]).followed,
        RIGHT,
    ),
}  # fmt: skip
"""Every hint of `crossent lm`, by a name."""
