"""Labels with several numbers a row: what the error advises leads to the loss of scikit-learn, or of NumPy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.metrics import log_loss

import crossent
import crossent.torch
from crossent import score
from crossent.errors import InputError
from tests.scoring.exact import close, made, softmax

Y, Z = made(7, 30, 3)
P = softmax(Z)
ONE_HOT = np.eye(3, dtype=int)[Y]
LOSS = log_loss(Y, P)
ORDER = [2, 0, 1]
NAMED = pd.DataFrame(P, columns=["p_a", "p_b", "p_c"])


def advice(y, **predictions):
    """What the error says after its last "pass "."""
    with pytest.raises(InputError) as caught:
        score(y, **predictions)
    return str(caught.value).split("pass ")[-1]


@pytest.mark.parametrize(
    ("y", "advised"),
    [
        (ONE_HOT, "y.argmax(1)"),
        (ONE_HOT.astype(float), "y.argmax(1)"),
        (ONE_HOT.astype(bool), "y.argmax(1)"),
        (torch.tensor(ONE_HOT), "y.argmax(1)"),
        (ONE_HOT.tolist(), "np.array(y).argmax(1)"),
        (pd.DataFrame(ONE_HOT), "y.to_numpy().argmax(1), if its columns are in the order of the predictions'"),
    ],
    ids=["integers", "floats", "bools", "tensor", "lists", "frame"],
)
def test_one_hot_rows(y, advised):
    assert advice(y, probs=P) == advised
    close(score(eval(advised.split(", if")[0]), probs=P).loss, LOSS, 1e-12)  # the advice is Python


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
@pytest.mark.parametrize("names", [["a", "b", "c"], ["p_a", "p_b", "p_c"]])
def test_one_hot_frames_are_read_by_their_names(frame, names):
    y = frame({names[k]: ONE_HOT[:, k] for k in ORDER})
    advised = advice(y, probs=NAMED)
    close(score(eval(advised), probs=NAMED).loss, LOSS, 1e-12)


def test_one_hot_rows_of_classes_with_names_go_by_place():
    y = ONE_HOT
    advised = advice(y, probs=NAMED)
    assert advised == "y.argmax(1), if its columns are in the order of the predictions', and classes=[0, 1, 2]"
    close(score(y.argmax(1), probs=NAMED, classes=[0, 1, 2]).loss, LOSS, 1e-12)


def test_one_hot_rows_of_one_column():
    y = np.eye(2, dtype=int)[Y % 2]
    assert advice(y, probs=P[:, 1]) == "y.argmax(1)"
    close(score(y.argmax(1), probs=P[:, 1]).loss, log_loss(Y % 2, P[:, 1]), 1e-12)


def test_several_classes_in_a_row():
    y = (P > 0.2).astype(int)
    with pytest.raises(InputError, match=r"score each column as two classes, y\[:, k\] with probs\[:, k\]"):
        score(y, probs=P)
    for k in range(3):
        close(score(y[:, k], probs=P[:, k]).loss, log_loss(y[:, k], P[:, k], labels=[0, 1]), 1e-12)


@pytest.mark.parametrize("kind", ["probs", "logits", "logprobs"])
def test_soft_labels(kind):
    soft = np.random.default_rng(0).dirichlet(np.ones(3), 30)
    values = {"probs": P, "logits": Z, "logprobs": np.log(P)}[kind]
    with pytest.raises(InputError) as caught:
        score(soft, **{kind: values})
    call = str(caught.value).split("for soft labels use ")[1]
    names = {"crossent": crossent, "np": np, "y": soft, kind: values}
    if kind == "logits":
        names |= {"y": torch.tensor(soft), kind: torch.tensor(values)}
    close(float(np.mean(np.asarray(eval(call, names)))), float(-(soft * np.log(P)).sum(1).mean()), 1e-12)


def test_swapped():
    with pytest.raises(InputError, match="are they swapped"):
        score(P, probs=Y)
    close(score(Y, probs=P).loss, LOSS, 1e-12)


@pytest.mark.parametrize("y", [np.zeros((4, 3, 2)), np.array([["a", "b", "c"]] * 4), np.array([[1, 2, 3]] * 4)])
def test_other_labels_are_refused_without_a_hint(y):
    with pytest.raises(InputError, match=r"^y must be one class per row, got shape \(4, 3(, 2)?\)$"):
        score(y, probs=P[:4])
