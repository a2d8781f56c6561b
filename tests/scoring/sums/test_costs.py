"""Costs of rows: nothing is clipped, nothing overflows, and storage does not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

import crossent
from tests.scoring.exact import close, exact_mean, made, softmax


@pytest.mark.parametrize("single", [True, False])
def test_the_smallest_positive_number(single):
    tiny = 2.0**-1074
    probs = [tiny] if single else [[1.0, tiny]]
    close(crossent.score([1], probs=probs).loss, 744.44007192138126231, 1e-15)


def test_uniform_over_a_vocabulary():
    v = 50257
    y = [0, 17, v - 1]
    for storage in (np.float64, np.float32, np.float16):
        close(crossent.score(y, logits=np.zeros((3, v), storage)).loss, 10.824905119702080107, 1e-15)
    close(crossent.score(y, probs=np.full((3, v), 1 / v)).loss, 10.824905119702080107, 1e-15)
    close(crossent.score(y, logprobs=np.full((3, v), -math.log(v))).loss, 10.824905119702080107, 1e-15)
    close(crossent.score(y, logits=np.full((3, v), 6e4, np.float16)).loss, 10.824905119702080107, 1e-15)


def test_nothing_is_clipped():
    """scikit-learn charges 11.57 in float64 and 8.02 in float32 for these two rows; Keras at most 16.1."""
    for storage in (np.float64, np.float32):
        p = np.array([1e-10, 0.9], storage)
        close(crossent.score([1, 1], probs=p).loss, exact_mean(p.astype(np.float64)), 1e-15)
    close(crossent.score([1], probs=[1e-300]).loss, exact_mean([1e-300]), 1e-15)
    close(crossent.score([1], logits=[-1e4]).loss, 1e4, 1e-15)
    close(crossent.score([0], logits=[[-1e300, 0.0]]).loss, 1e300, 1e-15)


def test_half_precision_perplexity():
    """The case in which softmax, log and sum in float16 give infinity where the answer is 64."""
    logits = np.zeros((2000, 64), np.float16)
    close(crossent.score(np.arange(2000) % 64, logits=logits).perplexity, 64.0)


def test_near_certainty_keeps_its_digits():
    """1 − p in one column; log1p of it. Log-odds of 40 leave a loss of 4e-18, not 0."""
    p = np.array([2.0**-60, 1e-20, 1e-12])
    result = crossent.score([0, 0, 0], probs=p)
    assert abs(result.loss / (p.sum() / 3) - 1) < 1e-11
    sure = crossent.score([1, 1], logits=[40.0, 40.0]).loss
    assert abs(sure / math.log1p(math.exp(-40)) - 1) < 1e-13


@pytest.mark.parametrize("shift", [2.0**10, 2.0**20, -(2.0**30)])
def test_a_constant_added_to_logits_changes_nothing(shift):
    y, z = made(6, 50, 4)
    z = np.round(z * 1024) / 1024  # so that adding the constant is exact
    close(crossent.score(y, logits=z + shift).loss, crossent.score(y, logits=z).loss)


@pytest.mark.parametrize("kind", ["probs", "logits", "logprobs"])
def test_nothing_but_infinite_losses(kind):
    impossible = {"probs": [[1.0, 0.0]], "logits": [[0.0, -math.inf]], "logprobs": [[0.0, -math.inf]]}[kind]
    result = crossent.score([1, 1], **{kind: impossible * 2})
    assert (result.loss, result.n, result.ci) == (math.inf, 2, (math.inf, math.inf))
    assert result.per_class[-1].loss == math.inf


def test_normalize():
    counts = np.array([[3, 1], [1, 4], [2, 2]])
    result = crossent.score([0, 1, 1], probs=counts, normalize=True)
    close(result.loss, exact_mean([0.75, 0.8, 0.5]))
    shares = np.array([[30.0, 70.0], [99.0, 1.0]])
    close(crossent.score([1, 0], probs=shares, normalize=True).loss, exact_mean([0.7, 0.99]))


@pytest.mark.parametrize("kind", ["probs", "logits", "logprobs"])
@pytest.mark.parametrize("columns", [1, 2, 11])
@pytest.mark.parametrize("narrow", ["float16", "float32", "bfloat16"])
def test_storage_does_not_matter(kind, columns, narrow):
    """The same values stored in a narrow type and in float64 give the same loss."""
    y, z = made(columns, 400, max(columns, 2))
    values = {"probs": softmax(z), "logits": z, "logprobs": log_softmax(z, axis=1)}[kind]
    if columns == 1:
        values = z[:, 1] - z[:, 0] if kind == "logits" else values[:, 1]
    stored = torch.tensor(values).to(getattr(torch, narrow))
    wide = stored.double().numpy()
    expected = crossent.score(y, **{kind: wide}).loss
    close(crossent.score(y, **{kind: stored}).loss, expected)
    if narrow != "bfloat16":
        close(crossent.score(y, **{kind: stored.numpy()}).loss, expected)
    if kind == "probs":
        of_truth = wide[np.arange(400), y] if columns > 1 else np.where(y == 1, wide, 1 - wide)
        close(expected, exact_mean(of_truth) if of_truth.all() else math.inf)
