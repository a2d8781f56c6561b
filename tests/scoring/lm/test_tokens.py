"""Losses of logged log-probabilities against exact arithmetic, other libraries and laws."""

from __future__ import annotations

import itertools
import json
import math
import tracemalloc
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from crossent.scoring.lm import read, score_tokens
from crossent.scoring.lm.document import Document, Token
from tests.scoring.lm import records
from tests.scoring.lm.records import scored, written

SEED = np.random.default_rng(6)
EPS = np.finfo(float).eps


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


@pytest.mark.parametrize("number", range(len(records.TOKENS)))
@pytest.mark.parametrize("named", [False, True])
def test_every_format_gives_its_tokens(tmp_path, number, named):
    source, record, expected = records.TOKENS[number]
    documents = list(read(written(tmp_path, record), format=source if named else "auto"))
    assert {d.source for d in documents} == {source}
    assert seen(documents) == [(p, t, "outside" if math.isnan(x) else x, b) for p, t, x, b in expected]


def test_one_json_value_and_an_array_read_like_lines(tmp_path):
    rows = [records.CHAT, records.COMPLETION, records.VLLM]
    lines = seen(read(written(tmp_path, *rows)))
    path = tmp_path / "one.json"
    for text in (json.dumps(rows), json.dumps(rows, indent=2), "\ufeff" + json.dumps(rows), f"\n{json.dumps(rows)}\n"):
        _ = path.write_text(text, encoding="utf-8")
        assert seen(read(path)) == lines
    _ = path.write_text(json.dumps(records.CHAT, indent=1), encoding="utf-8")
    assert seen(read(path)) == seen(read(written(tmp_path, records.CHAT)))


def test_documents_are_named_and_counted(tmp_path):
    batch = {"choices": [dict(records.COMPLETION["choices"][0]) for _ in range(2)]}
    failed = {"custom_id": "r9", "response": {"status_code": 400, "body": {"error": {"message": "no"}}}, "error": None}
    expired = {"custom_id": "r10", "response": None, "error": {"code": "batch_expired"}}
    silent = {"id": "quiet", "choices": [{"message": {"content": "x"}, "logprobs": None}]}
    score = scored(tmp_path, records.BATCH, records.CHAT, batch, failed, expired, silent)
    assert score.documents == 4
    assert {d.document for d in score.worst_documents} == {
        "request-7",
        "chatcmpl-1",
        "line 3, choice 0",
        "line 3, choice 1",
    }
    assert any("2 records of failed requests" in w for w in score.warnings)
    assert any("1 record without a scored token" in w for w in score.warnings)


def test_n_answers_of_vllm_repeat_one_prompt(tmp_path):
    choice = records.VLLM["choices"][0]
    score = scored(tmp_path, {"choices": [choice, choice]})
    assert (score.documents, score.tokens) == (1, 2)


def test_what_was_generated_after_a_scored_prompt_does_not_count(tmp_path):
    choice = records.COMPLETION["choices"][0]
    one = {**records.COMPLETION, "usage": {"prompt_tokens": 4, "completion_tokens": 1}}
    assert seen(read(written(tmp_path, one))) == seen(read(written(tmp_path, records.COMPLETION)))[:-1]
    two = {"choices": [choice] * 2, "usage": {"completion_tokens": 2}}
    assert scored(tmp_path, two).tokens == 6
    unclear = scored(tmp_path, {"choices": [choice] * 2, "usage": {"completion_tokens": 3}})
    assert unclear.tokens == 8
    assert any("cannot be told apart" in w for w in unclear.warnings)
    both = {**records.VLLM_CHAT, "choices": records.CHAT["choices"]}
    for row in (one, two, both, records.VLLM):
        said = any("only the prompt is counted" in w for w in scored(tmp_path, row).warnings)
        assert said == (row is not records.VLLM)


def test_a_uniform_model_costs_the_logarithm_of_its_vocabulary(tmp_path):
    rows = [{"logprobs": [-math.log(50257)] * n} for n in (1, 7, 1000)]
    score = scored(tmp_path, *rows)
    with mp.workdps(30):
        assert abs(score.loss - mp.mpf("10.824905119702080107")) <= EPS * 11
        assert abs(score.perplexity - 50257) <= 50257 * 11 * 2 * EPS
    assert score.ci == (score.loss, score.loss)
    assert score.tokens == score.covered == 1008


def test_loss_and_bits_per_byte_are_exact_sums(tmp_path):
    rows = corpus()
    score = scored(tmp_path, *rows)
    loss = -sum(Fraction(x) for row in rows for x in row["logprobs"])
    tokens = sum(len(row["tokens"]) for row in rows)
    size = sum(len("".join(row["tokens"]).encode()) for row in rows)
    assert (score.tokens, score.bytes, score.documents) == (tokens, size, 40)
    # One rounding for each document's sum, the total and the division.
    assert score.loss == pytest.approx(float(loss / tokens), rel=3 * EPS)
    with mp.workdps(40):
        bits = mp.mpf(loss.numerator) / loss.denominator / mp.log(2) / size
        assert abs(score.bits_per_byte - bits) <= 5 * EPS * bits
        assert abs(score.byte_perplexity - mp.power(2, bits)) <= 20 * EPS * mp.power(2, bits)


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


def test_a_single_document_has_no_interval_and_says_so(tmp_path):
    score = scored(tmp_path, records.GENERIC)
    assert math.isnan(score.ci[0])
    assert math.isnan(score.bits_per_byte_ci[1])
    assert any("one document" in w for w in score.warnings)
    assert "no interval" in repr(score)


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 10**6))
def test_the_bound_holds_for_a_token_outside_the_top(vocabulary, k, seed):
    """Against whole distributions whose top k is all that is logged, in float32 as servers do."""
    k = min(k, vocabulary - 1)
    z = np.random.default_rng(seed).normal(0, 3, vocabulary)
    logprobs = log_softmax(z)
    order = np.argsort(-logprobs)
    top = {f"t{v}": float(np.float32(logprobs[v])) for v in order[:k]}
    outside = int(order[k + seed % (vocabulary - k)])
    from crossent.scoring.lm.formats import documents

    made = list(documents({"tokens": [f"t{outside}"], "top_logprobs": [top]}, "x", None))
    score = score_tokens(made)
    assert score.bounds[0] <= -logprobs[outside]
    assert score.bounds[1] == math.inf
    assert math.isnan(score.loss)
    assert (score.covered, score.coverage) == (0, 0.0)
    # And no looser than the exact bound by more than the roundings of k logarithms hide.
    with mp.workdps(30):
        p = [mp.exp(x) for x in top.values()]
        rest = 1 - mp.fsum(p) + mp.mpf(2) ** -23 * mp.fsum(q * (1 - mp.log(q)) for q in p)
        exact = -mp.log(min(*p, rest)) if rest > 0 else -mp.log(min(p))
        assert abs(score.bounds[0] - exact) <= 1e-8 * (1 + abs(exact))


@pytest.mark.parametrize("missing", [-9999.0, -9999.5, -1e300, -math.inf, None])
def test_a_sentinel_is_outside_and_never_averaged(tmp_path, missing):
    top = {" a": math.log(0.5), " b": math.log(0.375)}
    row = {"tokens": ["x", "y", "z"], "logprobs": [-1.0, missing, -2.0], "top_logprobs": [{}, top, None]}
    score = scored(tmp_path, row, {"tokens": ["q"], "logprobs": [-3.0]})
    assert (score.tokens, score.covered, score.covered_loss) == (4, 3, 2.0)
    assert score.bounds[0] == pytest.approx((6 - math.log(0.125)) / 4, rel=1e-6)
    assert score.bounds[1] == score.bits_per_byte_bounds[1] == math.inf
    assert math.isnan(score.loss)
    assert math.isnan(score.bits_per_byte)
    assert score.covered_ci[0] < 2.0 < score.covered_ci[1]
    assert score.warnings[0].startswith("1 of 4 tokens (25.0\N{NO-BREAK SPACE}%)")
    assert [t.exact for t in score.worst_tokens] == [True, False, True, True]


LOST = "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    "row",
    [
        {"choices": [{"text": "né", "logprobs": {"tokens": ["n", LOST, LOST], "token_logprobs": [-1] * 3}}]},
        # A decoded token without its blank, and a server that sends the bytes of a replacement character.
        {
            "prompt": "a cat",
            "prompt_logprobs": [None, {"1": records.candidate(-1, 1, "a")}, {"2": records.candidate(-1, 1, "cat")}],
        },
        {"choices": [{"text": "a cat", "logprobs": {"tokens": ["a", "cat"], "token_logprobs": [-1, -1]}}]},
        {"choices": [{"message": {"content": "a cat"}, "logprobs": {"content": [{"token": "acat", "logprob": -1}]}}]},
        {"logprobs": [{"token": LOST, "logprob": -1, "bytes": list(LOST.encode())}]},
    ],
)
def test_bytes_that_are_only_known_roughly(tmp_path, row):
    score = scored(tmp_path, row, records.COMPLETION)
    assert any("approximate for 1 document" in w for w in score.warnings)
    assert score.bytes is not None


def test_bytes_that_are_not_known(tmp_path):
    ids = {"choices": [{"logprobs": {"tokens": ["token_id:42"], "token_logprobs": [-1.0]}}]}
    for row in (ids, {"logprobs": [-1.0]}, {"prompt_logprobs": [None, {"2": -1.0}]}):
        score = scored(tmp_path, row, records.GENERIC)
        assert score.bytes is None
        assert math.isnan(score.bits_per_byte)
        assert any("no bits per byte" in w for w in score.warnings)
    assert scored(tmp_path, {"logprobs": [-1.0, -2.0], "text": "né!"}).bytes == 4
    assert not any("bytes" in w for w in scored(tmp_path, records.CHAT, records.COMPLETION, records.VLLM_DUMP).warnings)


def test_a_token_is_found_among_the_top_by_its_bytes(tmp_path):
    def row(raw, token=LOST):
        top = [{"token": LOST, "bytes": [226], "logprob": -0.5}, {"token": "x", "bytes": None, "logprob": -9999.0}]
        return {"token": token, "bytes": raw, "top_logprobs": top}

    assert scored(tmp_path, row([226])).loss == 0.5
    for outside in (row([195]), row(None), row(None, "x")):
        score = scored(tmp_path, outside)
        assert score.covered == 0
        assert score.bounds[0] == pytest.approx(-math.log1p(-math.exp(-0.5)), rel=1e-6)


def test_a_later_null_is_outside_without_any_bound(tmp_path):
    score = scored(tmp_path, {"logprobs": [None, None, -1.0, None, -2.0]})
    assert (score.tokens, score.covered, score.covered_loss, score.bounds) == (3, 2, 1.5, (1.0, math.inf))


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


def test_what_is_printed(tmp_path):
    score = scored(
        tmp_path, records.CHAT, records.COMPLETION, {"id": "<b>\x1b\ud800", "tokens": ["<i>"], "logprobs": [-9]}
    )
    strict = json.loads(score.to_json(), parse_constant=pytest.fail)
    assert strict["bounds"][1] == "inf"
    assert strict["loss"] is None
    assert strict["coverage"] == score.covered / score.tokens == 9 / 10
    text = repr(score)
    _ = text.encode()
    assert "≥" in text
    assert "\x1b" not in text
    assert "\\xa0" not in text
    table = text.split("\n\n")[0].splitlines()[1:]
    assert len({len(line) for line in table}) == 1
    page = score._repr_html_()
    assert "<b>" not in page
    assert "&lt;i&gt;" in page
    exact = scored(tmp_path, *corpus(3))
    assert "perplexity" in repr(exact)
    assert exact.bounds == (exact.loss, exact.loss)
    assert exact.to_dict()["perplexity"] == math.exp(exact.loss)


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


@pytest.mark.parametrize(("options", "said"), [({"ci": 1.0}, "ci"), ({"worst": -1}, "worst")])
def test_options_are_checked(options, said):
    with pytest.raises(ValueError, match=said):
        _ = score_tokens([], **options)
