"""The comparison of two logs is that of the sums of their documents, and what cannot be paired is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import crossent
from crossent.errors import InputError
from crossent.scoring.lm import Choices, Document, LogError, Token, compare_logs
from tests.scoring.lm.records import written

RANDOM = np.random.default_rng(0)


def document(name, losses, texts=None, **more):
    words = texts or ["ab"] * len(losses)
    tokens = tuple(
        Token(k, word, -loss, -loss, len(word.encode()))
        for k, (word, loss) in enumerate(zip(words, losses, strict=True))
    )
    return Document(name, "plain", tokens, **more)


def logs(n=40):
    """Return two logs of the same documents, of which b costs more."""
    sizes = RANDOM.integers(1, 30, n)
    a = [RANDOM.exponential(2.0, size) for size in sizes]
    b = [losses + RANDOM.normal(0.3, 0.5, len(losses)) ** 2 for losses in a]
    return [[document(f"d{k}", losses) for k, losses in enumerate(side)] for side in (a, b)]


def losses(log):
    return np.array([-sum(token.logprob for token in d.tokens) for d in log])


def test_the_difference_is_that_of_the_sums():
    a, b = logs()
    found = compare_logs(a, b)
    tokens = sum(len(d.tokens) for d in a)
    gap = losses(a) - losses(b)
    assert found.per_token.difference == pytest.approx(gap.sum() / tokens, rel=1e-12)
    assert found.per_byte.difference == pytest.approx(gap.sum() / (2 * tokens), rel=1e-12)
    assert found.per_document.difference == pytest.approx(gap.mean(), rel=1e-12)
    assert found.per_token.loss_a - found.per_token.loss_b == pytest.approx(found.per_token.difference)
    assert (found.share_better, found.share_worse) == (np.mean(gap < 0), np.mean(gap > 0))
    assert found.tokens == (tokens, tokens)
    assert found.bytes == 2 * tokens
    assert found.unit == "token"
    assert found.per_token.ci[0] < found.per_token.difference < found.per_token.ci[1] < 0
    assert found.per_token.p_value < 0.05


def test_interval_and_p_are_those_of_scores_whose_rows_are_tokens_and_clusters_documents():
    """A token is a row of two classes whose true class got its probability."""
    a, b = logs()
    rows = [np.exp([t.logprob for d in log for t in d.tokens]) for log in (a, b)]
    cluster = [d.id for d in a for _ in d.tokens]
    ones = np.ones(len(cluster), dtype=int)
    wanted = crossent.compare(*(crossent.score(ones, probs=q, classes=[0, 1], cluster=cluster) for q in rows))
    found = compare_logs(a, b).per_token
    assert found.difference == pytest.approx(wanted.difference, rel=1e-9)
    assert found.ci == pytest.approx(wanted.ci, rel=1e-9)
    assert found.se == pytest.approx(wanted.se, rel=1e-9)
    assert found.p_value == pytest.approx(wanted.p_value, rel=1e-6)


def test_the_other_way_round_is_the_negative():
    a, b = logs()
    one, other = compare_logs(a, b), compare_logs(b, a[::-1])
    assert one.per_token.difference == pytest.approx(-other.per_token.difference, rel=1e-12)
    assert one.per_token.ci == pytest.approx([-x for x in reversed(other.per_token.ci)], rel=1e-9)
    assert one.share_better == other.share_worse
    assert not compare_logs(a, a).worst_regressions
    assert compare_logs(a, a).per_token.p_value == 1.0


def test_other_tokens_of_the_same_text_compare_per_byte_alone():
    a = [document("x", [1.0, 2.0], ["ab", "cd"]), document("y", [0.5], ["abcd"])]
    b = [document("x", [2.5], ["abcd"]), document("y", [0.25, 0.75], ["a", "bcd"])]
    found = compare_logs(a, b)
    assert found.per_token is None
    assert found.per_byte.difference == pytest.approx((0.5 - 0.5) / 8)
    assert found.unit == "byte"
    assert "different tokens" in found.warnings[0]
    assert [r.document for r in found.worst_regressions] == ["x"]
    assert found.worst_regressions[0].difference == pytest.approx(0.125)
    assert "bits per byte" in repr(found)
    moved = compare_logs([document("x", [1.0, 2.0], ["ab", "cd"])], [document("x", [1.0, 2.0], ["abc", "d"])])
    assert moved.per_token is None


def test_questions_and_totals_of_documents():
    def questions(*losses):
        return [
            Document(f"doc {k}", "lm-eval", loglikelihood=-loss, choices=Choices((-loss, -1.0), (0,), float(loss < 1)))
            for k, loss in enumerate(losses)
        ]

    found = compare_logs(questions(0.5, 2.0, 0.25), questions(1.5, 1.5, 0.5))
    assert found.per_token is None
    assert found.accuracy.difference == pytest.approx(2 / 3 - 1 / 3)
    log = [math.log1p(math.exp(x - 1.0)) for x in (0.5, 2.0, 0.25, 1.5, 1.5, 0.5)]
    assert found.per_question.difference == pytest.approx((sum(log[:3]) - sum(log[3:])) / 3)
    assert found.unit == "document"
    alone = [Document("q", "lm-eval", choices=Choices((-1.0, -2.0), (0,), 1.0))]
    assert compare_logs(alone, alone).unit == "question"


def test_parts_of_a_document_are_one():
    whole = [document("x", [1.0, 2.0]), document("y", [3.0])]
    parts = [document("p1", [1.0], cluster="x"), document("p2", [2.0], cluster="x"), document("y", [3.0])]
    found = compare_logs(parts, parts)
    assert found.documents == 2
    assert compare_logs(whole, parts).per_byte.difference == 0.0


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ([document("x", [1.0])], [document("y", [1.0])], "1 of the 1 documents of a are not in b: 'x'; .* same ids"),
        ([document("x", [1.0])] * 2, [document("x", [1.0])], "a has two documents 'x'"),
        ([], [document("x", [1.0])], "a has no scored document"),
        (
            [document("x", [1.0], ["a"])],
            [document("x", [1.0, 2.0], ["a", "b"])],
            "'x' has 1 bytes in a and 2 bytes in b, so its texts differ; log both models on the same texts",
        ),
        (
            [document("chatcmpl-1", [1.0], ["a"])],
            [document("chatcmpl-2", [1.0], ["ab"])],
            "'chatcmpl-1' has 1 bytes in a and 2 bytes in b, so its texts differ; neither ids of server responses nor",
        ),
        (
            [document("cmpl-1", [1.0]), document("cmpl-2", [1.0])],
            [document("cmpl-3", [1.0])],
            "2 of the 2 documents of a are not in b: .*; these are ids of server responses; log the request",
        ),
        (
            [document("x", [1.0])],
            [Document("x", "plain", (Token(0, "ab", math.nan, -3.0, 2),))],
            "b: tokens of 'x' are outside the log",
        ),
    ],
)
def test_what_cannot_be_paired_is_refused(a, b, said):
    with pytest.raises(LogError, match=said):
        _ = compare_logs(a, b)


def test_options_out_of_range_are_refused():
    with pytest.raises(InputError, match="ci must lie"):
        _ = compare_logs([], [], ci=2.0)
    with pytest.raises(InputError, match="worst must not"):
        _ = compare_logs([], [], worst=-1)


def test_files_and_their_names(tmp_path):
    paths = []
    for name, shift in (("new", 0.0), ("old", 0.5)):
        lines = [json.dumps({"id": k, "tokens": ["a", "b"], "logprobs": [-1.0 - shift, -k]}) for k in range(3)]
        path = tmp_path / f"{name}.jsonl"
        _ = path.write_text("\n".join(lines))
        paths.append(path)
    found = compare_logs(*paths)
    assert found.names == tuple(map(str, paths))
    assert found.per_token.difference == pytest.approx(-0.25)
    assert repr(found).startswith("NEW minus OLD: 3 documents, paired")


def answers(log, prompts=False):
    """Return responses of a chat server with ids of its own, with or without what was asked."""
    rows = []
    for d in log:
        content = [{"token": t.text, "logprob": t.logprob, "bytes": list(t.text.encode())} for t in d.tokens]
        message = {"content": "".join(t.text for t in d.tokens)}
        response = {"id": f"chatcmpl-{RANDOM.integers(10**9)}", "choices": [{"message": message}]}
        response["choices"][0]["logprobs"] = {"content": content}
        rows.append(
            {"request": {"messages": [{"content": f"ask {d.id}"}]}, "response": response} if prompts else response
        )
    return rows


@pytest.mark.parametrize("prompts", [False, True])
def test_ids_that_a_server_draws_do_not_part_the_documents(tmp_path, prompts):
    a, b = logs(20)
    wanted = compare_logs(a, b).per_token.difference
    rows = [answers(a, prompts), answers(b[::-1] if prompts else b, prompts)]
    found = compare_logs(*(written(tmp_path, *side, name=f"{k}.jsonl") for k, side in enumerate(rows)))
    assert found.per_token.difference == pytest.approx(wanted, rel=1e-12)
    said = [warning for warning in found.warnings if "paired by their order" in warning]
    assert len(said) == (not prompts)


def test_a_first_token_that_one_tokenizer_leaves_out_does_not_make_another_text():
    """A model without BOS does not score the first token: the documents are the same, their scored bytes are not."""
    a = [document("x", [1.0, 2.0]), document("y", [2.0, 2.0])]
    b = [Document(d.id, "plain", d.tokens[1:]) for d in a]
    found = compare_logs(a, b)
    assert found.unit == "document"
    assert any("differ in bytes" in warning for warning in found.warnings)
