"""Samples of lm-eval: against what it reports itself, its formulas, and scikit-learn."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp
from sklearn.metrics import accuracy_score, log_loss

from crossent.scoring.lm import LogError, read, score_tokens
from tests.scoring.lm import records
from tests.scoring.lm.records import scored, written

SEED = np.random.default_rng(6)
EPS = np.finfo(float).eps


def test_rolling_agrees_with_the_formulas_of_lm_eval(tmp_path):
    rows = [records.rolling(0, -12000.25, "One  two\nthree é"), records.rolling(1, -7.5, "x y", 40, 9)]
    score = scored(tmp_path, *rows)
    loss, size, words = Fraction(48031, 4), len("One  two\nthree é".encode()) + 40, 4 + 9
    with mp.workdps(30):
        nats = mp.mpf(loss.numerator) / loss.denominator
        assert abs(score.bits_per_byte - nats / size / mp.log(2)) <= 1e-13
        assert score.byte_perplexity == pytest.approx(float(mp.exp(nats / size)), rel=1e-12)
        assert score.word_perplexity == math.inf == pytest.approx(math.inf)
        assert score.loss_per_word == pytest.approx(float(nats / words), rel=3 * EPS)
    assert (score.bytes, score.words, score.tokens) == (size, words, 0)
    assert math.isnan(score.loss)
    assert score.worst_documents[0].unit == "byte"
    assert scored(tmp_path, records.rolling(0, -1.0, "é", 10**400)).bytes == 2


def lm_eval(name):
    return score_tokens(read(Path(__file__).parent / "lm_eval" / f"{name}.jsonl"))


def test_real_samples_give_what_lm_eval_itself_reports():
    """Samples of lm-eval 0.4.13, its dummy model and six short texts, with the results that it printed for them."""
    rolling = lm_eval("rolling")
    assert rolling.word_perplexity == pytest.approx(1.1648582542531372, rel=1e-15)
    assert rolling.byte_perplexity == pytest.approx(1.034064787563937, rel=1e-15)
    assert rolling.bits_per_byte == pytest.approx(0.048326578079425114, rel=1e-15)
    assert math.exp(lm_eval("loglikelihood").loss_per_document) == pytest.approx(1.5805900526043333, rel=1e-15)
    for name, accuracy in (("multiple_choice", 0.5), ("two_contexts", 0.8333333333333334)):
        choices = lm_eval(name).choices
        assert (choices.n, choices.accuracy) == (6, accuracy)


def test_totals_of_documents_below_the_sentinel_count(tmp_path):
    score = scored(tmp_path, records.LOGLIKELIHOOD, {**records.LOGLIKELIHOOD, "doc_id": 1})
    assert score.loss_per_document == 10240.5
    assert score.bits_per_byte == pytest.approx(10240.5 / 7 / math.log(2), rel=3 * EPS)


def test_multiple_choice_is_the_log_loss_of_its_softmax(tmp_path):
    z = SEED.normal(-20, 6, (60, 3))
    target = SEED.integers(0, 3, 60)
    acc = (z.argmax(1) == target).astype(float)
    rows = [records.multiple_choice(list(z[k]), str(target[k]), acc[k]) for k in range(60)]
    choices = scored(tmp_path, *rows).choices
    p = np.exp(log_softmax(z, axis=1))
    assert choices.loss == pytest.approx(log_loss(target, p, labels=[0, 1, 2]), rel=1e-13)
    assert choices.accuracy == accuracy_score(target, z.argmax(1)) == acc.mean()
    assert choices.guess == pytest.approx(math.log(3), rel=EPS)
    assert choices.ci[0] < choices.loss < choices.ci[1]
    # Wilson (1927), the roots of (p − p̂)² = z² p (1 − p) / n.
    q, n = 1.959963984540054, 60
    for end in choices.accuracy_ci:
        assert (end - acc.mean()) ** 2 == pytest.approx(q * q * end * (1 - end) / n, rel=1e-9)


@pytest.mark.parametrize(
    ("target", "acc", "answers", "expected"),
    [
        ("1", 1.0, (" no", " yes", " maybe"), (1,)),
        ("yes", 1.0, (" no", " yes", " maybe"), (1,)),
        ("2", 0.0, (" 2", " 1", " 0"), ()),  # index 2 or the answer "2": both wrong
        ("1", 1.0, (" 2", " 3", " 1"), (1,)),  # index 1 or the answer "1": right, so the most probable
        ("end", 0.0, (" end", " end"), (0,)),  # one continuation of two contexts: the less probable
        ("[0, 1]", 1.0, (" no", " yes", " maybe"), (0, 1)),
        ("[0, 2]", 1.0, (" no", " yes", " maybe"), ()),  # the most probable answer would be wrong
        ("[0, 9]", 0.0, (" no", " yes", " maybe"), ()),
        ("7", 0.0, (" no", " yes", " maybe"), ()),
    ],
)
def test_the_target_of_a_sample_is_found_or_left_out(tmp_path, target, acc, answers, expected):
    values = [-3.0, -1.0, -2.0][: len(answers)]
    (document,) = read(written(tmp_path, records.multiple_choice(values, target, acc, answers)))
    assert (document.choices.right if document.choices else ()) == expected
    assert (document.loglikelihood is None) == (not expected)
    if expected:
        assert document.loglikelihood == pytest.approx(logsumexp([values[k] for k in expected]), rel=2 * EPS)


def test_a_second_filter_of_lm_eval_is_not_counted(tmp_path):
    row = records.rolling(0, -8.0, "abcd")
    score = scored(tmp_path, row, {**row, "filter": "other"}, {**row, "doc_id": 1})
    assert score.documents == 2
    assert any("another filter" in w for w in score.warnings)


def test_the_unconditional_half_of_mutual_information_is_left_out(tmp_path):
    row = records.multiple_choice([-3.0, -1.0, -9.0, -7.0], "1", 1.0, (" a", " b", " a", " b"))
    score = scored(tmp_path, {**row, "acc_mutual_info": 1.0})
    assert score.choices.loss == pytest.approx(log_loss([1], [[1, math.e**2]] / (1 + np.exp(2)), labels=[0, 1]))
    assert score.choices.guess == math.log(2)


def test_an_answer_that_cannot_happen_costs_infinitely(tmp_path):
    rows = [records.multiple_choice([-math.inf, -1.0, -2.0], "0", 0.0), records.rolling(1, -math.inf, "ab")]
    score = scored(tmp_path, *rows)
    assert score.choices.loss == score.loss_per_document == score.loss_per_document_ci[1] == math.inf
    with pytest.raises(LogError, match="no scored token in 0 records"):
        _ = score_tokens([])


def mc2(values, labels, acc=None, **more):
    """A sample of truthfulqa_mc2, whose accuracy is the probability of its right answers."""
    answers = [f" answer {k}" for k in range(len(values))]
    sample = records.multiple_choice(values, "0", acc, answers)
    first = {"choices": ["answer 0", "another"], "labels": [1, 0]}
    every = {"choices": [answer.strip() for answer in answers], "labels": labels}
    return {**sample, "doc": {"question": "?", "mc1_targets": first, "mc2_targets": every}, **more}


def harness_mc2(values, labels):
    """`process_results_mc2` of lm-eval 0.4."""
    split = labels.index(0)
    true, false = np.exp(np.array(values[:split])), np.exp(np.array(values[split:]))
    return float(sum(true / (sum(true) + sum(false))))


@pytest.mark.parametrize("with_doc", [True, False])
def test_several_right_answers_have_the_accuracy_of_their_samples(tmp_path, with_doc):
    """truthfulqa_mc2: the mean of the samples' own accuracies, and the logarithms of them as the loss."""
    draw = np.random.default_rng(3)
    rows, accuracies, right = [], [], []
    for k in range(30):
        values, true = draw.normal(-20, 3, draw.integers(4, 9)).tolist(), int(draw.integers(1, 4))
        labels = [1] * true + [0] * (len(values) - true)
        accuracies.append(harness_mc2(values, labels))
        right.append(tuple(range(true)))
        rows.append(mc2(values, labels, accuracies[-1], doc_id=k))
        if not with_doc:
            rows[-1]["doc"] = {"question": "?"}
    documents = list(read(written(tmp_path, *rows)))
    assert [d.choices.right for d in documents if d.choices] == right
    choices = score_tokens(documents).choices
    assert choices is not None
    assert choices.accuracy == pytest.approx(np.mean(accuracies), rel=1e-14)
    assert choices.loss == pytest.approx(-np.log(accuracies).mean(), rel=1e-12)
    assert 0 <= choices.accuracy_ci[0] < choices.accuracy < choices.accuracy_ci[1] <= 1


def test_a_harness_without_a_finite_accuracy_gets_the_probability_of_its_right_answers(tmp_path):
    """numpy's exp of −800 is 0, and 0 / 0 is NaN."""
    values = [-800.0, -801.0, -802.0, -803.0]
    choices = scored(tmp_path, mc2(values, [1, 1, 0, 0], math.nan)).choices
    p = np.exp(log_softmax(values))
    assert choices.accuracy == pytest.approx(p[:2].sum(), rel=1e-13)
    assert choices.loss == pytest.approx(-math.log(p[:2].sum()), rel=1e-13)


def test_an_accuracy_that_no_answers_explain_counts_and_has_no_loss(tmp_path):
    """A task that grades its answers by half points."""
    graded = {**records.multiple_choice([-3.0, -1.0, -2.0], "0", 0.5), "doc_id": 1}
    plain = records.multiple_choice([-3.0, -1.0, -2.0], "1", 1.0)
    score = scored(tmp_path, graded, plain)
    assert (score.choices.n, score.choices.accuracy) == (2, 0.75)
    assert score.choices.loss == pytest.approx(-log_softmax([-3.0, -1.0, -2.0])[1])
    assert any("1 record of multiple choice with an accuracy, which counts" in w for w in score.warnings)
    alone = scored(tmp_path, graded)
    assert (alone.choices.accuracy, alone.documents) == (0.5, 0)
    assert math.isnan(alone.choices.loss)
    assert "50.0\N{NO-BREAK SPACE}%" in repr(alone) or "0.5000" in repr(alone)


@pytest.mark.parametrize("own", [None, 1.0])
def test_labels_beside_the_answers_tell_the_right_one(tmp_path, own):
    """truthfulqa_mc1, with and without an accuracy."""
    sample = mc2([-1.0, -2.0, -3.0], [1, 0, 0], own)
    assert scored(tmp_path, sample).choices.loss == pytest.approx(-log_softmax([-1.0, -2.0, -3.0])[0])
