"""Text of several labels: all pairs beside the mean of the labels, and each label."""

from __future__ import annotations

import numpy as np

import crossent
from crossent.scoring.show.labels import notebook_html, text


def score() -> crossent.scoring.MultilabelScore:
    draw = np.random.default_rng(0)
    p = draw.random((80, 3))
    return crossent.score((draw.random((80, 3)) < p).astype(int), probs=p, multilabel=True)


def test_the_tables_have_the_numbers() -> None:
    found = score()
    said = text(found.labels, found.micro, found.macro)
    lines = {line.split("  ")[0]: line for line in said.splitlines()}
    assert f"{found.micro.roc_auc:.4f}" in lines["ROC area"]
    assert f"{found.macro.roc_auc:.4f}" in lines["ROC area"]
    assert f"{found.macro.f1:.3f}" in lines["F1"]
    assert len([line for line in said.splitlines() if line.split() and line.split()[0] in {"0", "1", "2"}]) == 3


def test_a_notebook_has_the_same() -> None:
    found = score()
    said = notebook_html(found.labels, found.micro, found.macro)
    assert said.count("<table>") == 2
    assert f"{found.macro.average_precision:.4f}" in said
