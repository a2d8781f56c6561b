"""The pictures of guide/report.md: predictions of a forest, of a booster, and of a small language model."""

from __future__ import annotations

from functools import cache
from pydoc_data.topics import topics

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.model_selection import cross_val_predict

import crossent
from crossent.scoring.show import curves, pictures

LETTERS = "abcdefghijklmnopqrstuvwxyz "


@cache
def forest() -> crossent.Score:
    """Return the score of a random forest on handwritten digits, each predicted by trees that did not see it."""
    x, y = load_digits(return_X_y=True)
    model = RandomForestClassifier(100, random_state=0)
    return crossent.score(y, probs=cross_val_predict(model, x, y, cv=3, method="predict_proba"))


@cache
def booster() -> crossent.Score:
    """Return the score of a gradient booster on tumours; to overlook a malignant one costs ten times a false alarm."""
    x, y = load_breast_cancer(return_X_y=True)
    model = HistGradientBoostingClassifier(max_iter=30, random_state=0)
    p = cross_val_predict(model, x, 1 - y, cv=3, method="predict_proba")
    return crossent.score(1 - y, probs=p, classes={0: "benign", 1: "malignant"}, costs={"fp": 1, "fn": 10})


@cache
def language() -> crossent.Score:
    """Return the score of a model of the next letter from the two before, counted in one half of Python's help."""
    place = {letter: k for k, letter in enumerate(LETTERS)}
    text = " ".join("".join(c if c in place else " " for c in " ".join(topics.values()).lower()).split())
    code = np.array([place[c] for c in text])
    half, v = len(code) // 2, len(LETTERS)
    counts = np.zeros((v, v, v))
    first, second, third = code[:-2], code[1:-1], code[2:]
    np.add.at(counts, (first[:half], second[:half], third[:half]), 1.0)
    pairs = counts.sum(axis=0)
    before = (pairs + 0.1) / (pairs + 0.1).sum(axis=1, keepdims=True)
    p = (counts + 5.0 * before) / (counts + 5.0 * before).sum(axis=2, keepdims=True)
    rows = slice(half, half + 50_000)
    classes = dict(enumerate([*LETTERS[:-1], "space"]))
    return crossent.score(third[rows], probs=p[first[rows], second[rows]], classes=classes)


def forest_calibration() -> str:
    """Draw the reliability of each digit."""
    parts = forest().class_reliability
    return curves.class_reliability(parts, max(parts, key=lambda part: part.ece))


def booster_roc() -> str:
    """Draw the ROC curve."""
    return curves.roc(booster().ranking, booster().ranking[0])


def booster_precision() -> str:
    """Draw the precision over the recall."""
    return curves.precision_recall(booster().ranking, booster().ranking[0])


def booster_reliability() -> str:
    """Draw the reliability of the positive class."""
    return pictures.reliability(booster())


def letters() -> str:
    """Draw which letters are mistaken for which."""
    found = language().decisions
    assert found is not None
    return curves.grid(found.confusion, len(LETTERS))


def letter_losses() -> str:
    """Draw the distribution of what the letters cost."""
    return pictures.losses(language())
