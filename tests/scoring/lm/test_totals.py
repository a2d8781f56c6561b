"""Sums over documents: independent of order and of files, intervals over documents, the worst of them, memory."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from crossent.scoring.lm import read, score_tokens
from crossent.scoring.lm.document import Document, Token
from tests.scoring.lm.records import corpus, scored, written


def test_order_and_files_do_not_matter(tmp_path):
    rows = corpus()
    whole = scored(tmp_path, *rows).to_json()
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(rows))
        parts = [
            written(tmp_path, *(rows[k] for k in part), name=f"{number}.jsonl")
            for number, part in enumerate(np.array_split(order, 4))
        ]
        assert score_tokens(itertools.chain.from_iterable(map(read, parts))).to_json() == whole


def test_lines_with_one_id_are_one_document(tmp_path):
    rows = corpus()
    cut = []
    for row in rows:
        for part in (slice(0, 1), slice(1, None)):
            if row["tokens"][part]:
                cut.append({"id": row["id"], "tokens": row["tokens"][part], "logprobs": row["logprobs"][part]})
    whole, parts = scored(tmp_path, *rows), scored(tmp_path, *cut[::2], *cut[1::2])
    for name in ("loss", "ci", "bits_per_byte", "bits_per_byte_ci", "documents", "bytes"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-13)
    assert [d.document for d in parts.worst_documents] == [d.document for d in whole.worst_documents]


def test_the_interval_is_that_of_documents_not_of_tokens(tmp_path):
    rows = corpus()
    once = scored(tmp_path, *rows)
    twice = scored(tmp_path, *({"id": r["id"], "tokens": r["tokens"] * 2, "logprobs": r["logprobs"] * 2} for r in rows))
    assert twice.ci == pytest.approx(once.ci, rel=1e-13)
    assert twice.bits_per_byte_ci == pytest.approx(once.bits_per_byte_ci, rel=1e-13)
    assert once.ci[0] < once.loss < once.ci[1]
    # Of one-token documents with losses that are not skewed it is Student's.
    losses = [1.0, 2.0, 3.0, 4.0]
    from scipy.stats import t

    plain = scored(tmp_path, *({"logprobs": [-x]} for x in losses), ci=0.9)
    student = t.interval(0.9, 3, loc=2.5, scale=np.std(losses, ddof=1) / 2)
    assert plain.ci == pytest.approx(student, rel=1e-12)


def test_the_worst_are_the_largest_in_any_order(tmp_path):
    rows = corpus(200)
    every = sorted(((-x, r["id"], k) for r in rows for k, x in enumerate(r["logprobs"])), key=lambda e: (-e[0], e[1:]))
    score = scored(tmp_path, *rows, worst=7)
    assert [(t.loss, t.document, t.position) for t in score.worst_tokens] == every[:7]
    means = sorted(((-np.mean(r["logprobs"]), r["id"]) for r in rows), reverse=True)
    assert [d.document for d in score.worst_documents] == [name for _, name in means[:7]]
    assert scored(tmp_path, *rows[::-1], worst=7).to_json() == score.to_json()
    ties = [{"id": f"{k:03}", "tokens": ["a", "b"], "logprobs": [-1.0, -1.0]} for k in range(150)]
    for order in (ties, ties[::-1]):
        tied = scored(tmp_path, *order, worst=2)
        assert [(t.document, t.position) for t in tied.worst_tokens] == [("000", 0), ("000", 1)]
        assert [d.document for d in tied.worst_documents] == ["000", "001"]
    none = scored(tmp_path, *rows, worst=0)
    assert none.worst_tokens == none.worst_documents == ()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_tokens():
    """What adding up keeps is far less than the documents themselves."""

    def stream(n):
        for k in range(n):
            yield Document(str(k), "plain", tuple(Token(i, "a", -1.0 - i % 7, -1.0 - i % 7, 1) for i in range(200)))

    def peak(work):
        tracemalloc.start()
        work()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    _ = score_tokens(stream(2))
    assert peak(lambda: score_tokens(stream(1000))) < peak(lambda: list(stream(1000))) / 20
