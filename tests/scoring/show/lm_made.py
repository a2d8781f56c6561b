"""Scores of language models for the tests of their reports."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from crossent.scoring.lm import Choices, Document, Token, score_tokens

HOSTILE = '<script>alert("x")</script> & \u202e "quoted" ' + "long " * 60


def tokens(losses: Any, *, begin: int = 1, outside: int = 0) -> tuple[Token, ...]:
    found = [Token(begin + k, f" w{k}", -float(x), -float(x), 3) for k, x in enumerate(losses)]
    return tuple(Token(t.position, t.text, math.nan, -3.0, t.bytes) if k < outside else t for k, t in enumerate(found))


def plain() -> Any:
    random = np.random.default_rng(1)
    documents = []
    for k in range(60):
        n = int(random.integers(5, 600))
        losses = random.exponential(2.5 * (1 + 3 / (1 + np.arange(n))))
        documents.append(Document(f"page {k}", "plain", tokens(losses), by=(("lang", ["de", "en", "fr"][k % 3]),)))
    return score_tokens(documents).with_facts("windows of 512 tokens; each after the first scores 256")


def bounded() -> Any:
    return score_tokens([Document(f"d{k}", "chat", tokens([1.0, 2.0, 0.0], outside=k)) for k in range(3)])


def questions() -> Any:
    return score_tokens(
        Document(
            f"doc {k}", "lm-eval", loglikelihood=-1.0 - k, bytes=9, by=(("task", f"t{k % 2}"),),
            choices=Choices((-1.0 - k, -2.0), (0,), float(k < 2)),
        )
        for k in range(6)
    )  # fmt: skip


def hostile() -> Any:
    token = Token(0, HOSTILE, -2.0, -2.0, None)
    return score_tokens([Document(HOSTILE + str(k), "plain", (token,), by=((HOSTILE, HOSTILE),)) for k in range(2)])


def infinite() -> Any:
    return score_tokens([Document(f"d{k}", "plain", tokens([math.inf, 0.0, 1.0])) for k in range(2)])


def one() -> Any:
    return score_tokens([Document("only", "plain", tokens([0.5]))])


MADE = {f.__name__: f for f in (plain, bounded, questions, hostile, infinite, one)}
