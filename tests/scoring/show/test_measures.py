"""Text of the measures: the numbers of the score, in tables that stay short."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

import crossent
from crossent.scoring.parts import Threshold
from crossent.scoring.show.measures import MATRIX, measure_rows, measure_tables, threshold_of
from crossent.scoring.show.text import notebook_html, text
from crossent.scoring.show.words import number, places
from tests.scoring.exact import made


def score(classes: int, n: int = 400, **more: Any) -> crossent.Score:
    y, z = made(1, n, classes)
    return crossent.score(y, logits=z, **more)


def titles(found: crossent.Score) -> list[str]:
    return [table.title for table in measure_tables(found)]


def test_headline_has_the_numbers_with_their_intervals() -> None:
    found = score(3)
    rows = {name: (value, note) for name, value, note in measure_rows(found, float, "nats")}
    assert found.decisions is not None
    assert found.brier is not None
    low, high = found.decisions.accuracy.ci
    assert rows["accuracy"] == (f"{100 * found.accuracy:.1f}\xa0%", f"{100 * low:.1f}\xa0% to {100 * high:.1f}\xa0%")
    assert rows["Brier score"][0] == number(found.brier.value, places(found.brier.se))
    assert rows["ROC area"] == (f"{found.roc_auc:.4f}", "each class against the rest, mean")
    in_bits = {name: value for name, value, _ in measure_rows(found, lambda x: x / math.log(2), "bits")}
    assert found.balanced_loss is not None
    assert in_bits["balanced loss, bits"] == f"{found.balanced_loss.loss / math.log(2):.3f}"


def test_areas_of_a_grid_say_how_far_they_may_be_off() -> None:
    found = score(2)
    ranked = tuple(dataclasses.replace(each, auc_within=0.0123) for each in found.ranking)
    found = dataclasses.replace(found, ranking=ranked)
    rows = {name: note for name, _, note in measure_rows(found, float, "nats")}
    assert rows["ROC area"] == "of class 1, ± 0.0123 at most"
    assert rows["average precision"] == "of class 1"


def test_few_classes_have_a_matrix_and_many_their_mistakes() -> None:
    assert "confusion matrix: true class (down), predicted class (across)" in titles(score(MATRIX))
    assert "the most frequent mistakes" in titles(score(MATRIX + 1))
    assert any("the 12 of 20 with the least F1" in title for title in titles(score(20)))
    found = score(3)
    matrix = next(table for table in measure_tables(found) if "down" in table.title)
    assert found.decisions is not None
    assert [tuple(int(cell) for cell in row[1:]) for row in matrix.rows[1:]] == list(found.decisions.confusion.counts)


def test_thresholds_are_there_for_two_classes() -> None:
    found = score(2, costs={"fn": 4})
    table = next(table for table in measure_tables(found) if table.title.startswith("thresholds"))
    assert table.title == "thresholds for class 1: a false positive costs 1, a false negative 4"
    notes = {row[0]: row[-1] for row in table.rows}
    assert notes["0.2"] == "best if calibrated"
    assert "best in these rows" in notes.values()
    assert all(len(row) == 6 for row in table.rows)
    assert not any(title.startswith("thresholds") for title in titles(score(3)))
    nobody = Threshold(math.inf, math.nan, 0.0, 0.0, 0.1)
    assert threshold_of(nobody) == "above all"


def test_every_face_says_them() -> None:
    found = score(2, by={"age": np.arange(400)})
    for said in (text(found), notebook_html(found)):
        for part in ("balanced accuracy", "Brier score", "ROC area", "predicted classes", "thresholds for class 1"):
            assert part in said
        assert "by age: 5 bins with about equally many rows" in said
    assert found.to_dict()["bins"] == {"age": 5}


@pytest.mark.parametrize("rows", [([1, 0], [0.0, 0.5]), ([1, 0, 1, 1], [0.0, 0.0, 0.5, 0.0])])
def test_rows_to_blame_stand_below_an_infinite_loss(rows: Any) -> None:
    y, p = rows
    said = text(crossent.score(y, probs=p))
    blamed = sum(a == 1 and q == 0 for a, q in zip(y, p, strict=True))
    line = next(line for line in said.splitlines() if "rows of class 1" in line)
    assert line.split()[4:] == [str(blamed), "of", str(sum(y)), "got", "probability", "0"]


def test_no_rows_of_other_classes_no_tables() -> None:
    assert measure_tables(crossent.score([1, 1], probs=[0.6, 0.7])) == []
