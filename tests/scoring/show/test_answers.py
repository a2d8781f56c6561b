"""Sections of answers in a report: what they say of scores of every kind, and what they leave out."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

import crossent
from crossent.scoring.show import answers, report
from tests.page import Page
from tests.scoring.exact import made


def score(classes: int, n: int = 500, **more: Any) -> crossent.Score:
    y, z = made(1, n, classes)
    return crossent.score(y, logits=z, **more)


def said(html: str) -> str:
    return Page(f"<main>{html}</main>").text


def test_cards_have_the_numbers() -> None:
    found = score(3)
    assert found.decisions is not None
    assert found.brier is not None
    cards = {heading: (value, text) for heading, value, text in answers.cards(found)}
    assert list(cards) == ["Balanced accuracy", "ROC area", "Average precision", "Brier score"]
    assert cards["ROC area"][0] == f"{found.roc_auc:.4f}"
    assert cards["Balanced accuracy"][0] == f"{100 * found.decisions.balanced_accuracy.value:.1f}\xa0%"
    assert f"{found.brier.miscalibration:.4f}" in cards["Brier score"][1]
    assert "grid" not in cards["ROC area"][1]
    near = dataclasses.replace(found, ranking=tuple(dataclasses.replace(r, auc_within=0.002) for r in found.ranking))
    assert "off by 0.0020 at most" in {h: t for h, _, t in answers.cards(near)}["ROC area"]
    one = [heading for heading, _, _ in answers.cards(crossent.score([1, 1], probs=[0.7, 0.6]))]
    assert one == ["Brier score"]


def test_the_matrix_shades_each_cell_by_its_share_of_the_class() -> None:
    found = score(3)
    assert found.decisions is not None
    page = answers.answers(found)
    counts = np.array(found.decisions.confusion.counts)
    for k in range(3):
        assert f'class="cell right" style="--part:{45 * counts[k, k] / counts[k].sum():.1f}%">{counts[k, k]}<' in page
    assert page.count('class="cell') == 9
    assert "most frequent mistakes" in page
    many = answers.answers(score(20, 2000))
    assert 'class="cell' not in many
    assert "<rect" in many
    assert answers.answers(crossent.score([1, 1], probs=[0.7, 0.6])) == ""


def test_thresholds_and_their_costs() -> None:
    found = score(2, costs={"fp": 2, "fn": 6})
    text = said(answers.order(found))
    assert "A false positive costs 2 here, a false negative 6" in text
    assert "best if calibrated" in text or "best in these rows and if calibrated" in text
    assert "Which threshold" not in answers.order(score(3))
    assert answers.order(crossent.score([1, 1], probs=[0.7, 0.6])) == ""


def test_calibration_of_each_class_names_the_worst() -> None:
    found = score(4)
    worst = max(found.class_reliability, key=lambda part: part.ece)
    assert f"calibration error {100 * worst.ece:.1f}\xa0%, the largest" in answers.by_class(found)
    assert answers.by_class(score(2)) == ""


def test_the_rows_to_blame() -> None:
    y, p = np.array([0, 1, 1, 1]), np.array([0.5, 0.0, 0.0, 0.5])
    found = crossent.score(y, probs=p, id=["<a>", "b", "c", "d"])
    html = answers.blame(found)
    text = said(html)
    assert "The true class of 2 rows got probability 0" in text
    assert "b, c" in text
    assert answers.blame(score(2)) == ""
    hostile = answers.blame(crossent.score([1], probs=[0.0], id=["<script>"]))
    assert "<script>" not in hostile


def test_a_report_has_them_all() -> None:
    page = report.render(score(3, by={"age": np.arange(500)}), title="t")
    for heading in ("Which classes are mistaken for which?", "How well are the classes separated?"):
        assert heading in page
    assert "cut into bins with about equally many rows: <bdi>age</bdi> in 5 bins" in page
    rows = {name: value for name, value, _, _ in answers.number_rows(score(3))}
    assert set(rows) == {
        "balanced loss, nats", "balanced accuracy", "F1", "Brier score", "ROC area", "average precision",
    }  # fmt: skip


@pytest.mark.parametrize("classes", [2, 3])
def test_undefined_numbers_are_left_out(classes: int) -> None:
    found = dataclasses.replace(score(classes), roc_auc=math.nan, average_precision=None, brier=None)
    assert [heading for heading, _, _ in answers.cards(found)] == ["Balanced accuracy"]
