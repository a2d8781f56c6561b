"""Public bug reports against other scores, each as a test with its own numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from mpmath import mp
from scipy.special import log_softmax, logsumexp

import crossent
from crossent.scoring.lm import read, score_tokens


def lm(folder, *records):
    path = folder / "log.jsonl"
    _ = path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return score_tokens(read(path))


def test_a_mean_over_tokens_is_not_one_over_sequences(tmp_path):
    """Losses [2, 2, 2, 2, 2] and [10]: 3.333 over the tokens, 6 over the sequences (verl #593)."""
    losses, document = np.array([2.0, 2, 2, 2, 2, 10]), np.array([0, 0, 0, 0, 0, 1])
    logprobs = np.stack([-losses, np.log(-np.expm1(-losses))], axis=1)
    y = np.zeros(6, int)
    tokens = crossent.score(y, logprobs=logprobs, cluster=document)
    sequences = crossent.score(y, logprobs=logprobs, cluster=document, weight=1 / np.bincount(document)[document])
    assert tokens.loss == pytest.approx(20 / 6, rel=1e-15)
    assert sequences.loss == pytest.approx(6.0, rel=1e-15)
    log = lm(tmp_path, {"id": "long", "logprobs": [-2.0] * 5}, {"id": "short", "logprobs": [-10.0]})
    assert log.loss == pytest.approx(20 / 6, rel=1e-15)
    assert [(d.document, d.loss) for d in log.worst_documents] == [("short", 10.0), ("long", 2.0)]


@pytest.mark.parametrize("padding", [-100, 0])
def test_padding_is_not_scored(tmp_path, padding):
    """A short and a long document in one batch cost what they cost one by one (mlx-lm #1855)."""
    rng = np.random.default_rng(0)
    lengths, classes = (3, 11), 7
    z = rng.normal(size=(2, 11, classes))
    y = rng.integers(0, classes, (2, 11))
    real = np.arange(11) < np.array(lengths)[:, None]
    alone = [-log_softmax(z[k, :n], axis=1)[np.arange(n), y[k, :n]] for k, n in enumerate(lengths)]
    exact = math.fsum(np.concatenate(alone)) / 14
    padded = np.where(real, y, padding)
    more = {"ignore": padding} if padding < 0 else {"weight": real.reshape(-1).astype(float)}
    found = crossent.score(padded.reshape(-1), logits=z.reshape(-1, classes), classes=list(range(classes)), **more)
    assert found.n == 14
    assert found.loss == pytest.approx(exact, rel=1e-14)
    log = lm(tmp_path, *({"id": str(k), "logprobs": (-row).tolist()} for k, row in enumerate(alone)))
    assert log.loss == pytest.approx(exact, rel=1e-14)


@pytest.mark.parametrize(("window", "stride"), [(10, 6), (10, 10), (8, 1), (100, 50)])
def test_strided_windows_lose_no_token(tmp_path, window, stride):
    """Each window scores the tokens that none before it did, its first one too (transformers #30975)."""
    losses = np.random.default_rng(1).gamma(1.0, 2.0, 57)
    records, done = [], 1  # nothing predicts the first token of the text
    for begin in range(0, 57, stride):
        end = min(begin + window, 57)
        values = [None if k < done else -losses[k] for k in range(begin, end)]
        records += [{"id": "text", "logprobs": values, "tokens": ["x"] * len(values)}] if end > done else []
        done = max(done, end)
    found = lm(tmp_path, *records)
    assert (found.tokens, found.bytes, found.documents) == (56, 56, 1)
    assert found.loss == pytest.approx(math.fsum(losses[1:]) / 56, rel=1e-15)


def test_a_loss_beyond_709_does_not_overflow(tmp_path):
    """e^709.78 is the largest float64 (inspect_ai #5028)."""
    found = crossent.score([1, 1], logits=[[1000.0, 0.0], [2000.0, 0.0]])
    assert (found.loss, found.perplexity) == (1500.0, math.inf)
    with mp.workdps(30):
        digits, power = mp.nstr(mp.exp(1500), 3, min_fixed=0, max_fixed=0).split("e+")
    written = f"{digits} × 10{power.translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    assert written in str(found).replace("\N{NO-BREAK SPACE}", " ")
    log = lm(tmp_path, {"logprobs": [-1000.0, -2000.0]}, {"logprobs": [-1500.0]})
    assert (log.loss, log.perplexity) == (1500.0, math.inf)
    assert written in repr(log).replace("\N{NO-BREAK SPACE}", " ")
    values = [-1000.0, -800.0, -1001.0]
    sample = {
        "doc_id": 0,
        "target": "0",
        "arguments": [["Q", f" {k}"] for k in "abc"],
        "resps": [[[str(x), "False"]] for x in values],
        "filtered_resps": [[str(x), "False"] for x in values],
        "acc": 0.0,
    }
    choices = lm(tmp_path, sample).choices
    assert choices is not None
    assert choices.loss == pytest.approx(logsumexp(values) - values[0], rel=1e-14)


def test_an_anti_predictive_or_separable_set_has_no_best_temperature():
    """It is said, not fitted: such a T is infinite, negative or 0 (AutoGluon #4396)."""
    z = np.random.default_rng(3).normal(size=(200, 3))
    for y, said in ((z.argmin(1), "every larger T"), (z.argmax(1), "every smaller T")):
        found = crossent.score(y, logits=z)
        assert found.calibration is not None
        assert found.calibration.temperature is None
        assert f"There is no best temperature: {'the true' if said == 'every larger T' else 'in all 200'}" in str(found)
        assert said in str(found)


@pytest.mark.parametrize("copies", [1, 4000])
def test_the_last_bin_of_the_calibration_error_holds_the_sure_rows(copies):
    """Confidences [0.95, 1.0], of which the first was right, in 10 bins: 0.475 (torchmetrics #3510)."""
    q = np.tile([0.95, 1.0], copies)
    q[::2] += 1e-12 * (np.arange(copies) - (copies - 1) / 2)  # too many to be kept one by one
    y = np.tile([0, 1], copies)
    three = np.stack([q, 1 - q, 0 * q], axis=1)
    assert crossent.score(y, probs=three).calibration.ece == pytest.approx(0.475, abs=1e-14)
    assert crossent.score(1 - y, probs=q).calibration.ece == pytest.approx(0.475, abs=1e-14)
