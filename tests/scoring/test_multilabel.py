"""Several labels in a row: scikit-learn's micro and macro numbers, and intervals whose independent parts are rows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

import crossent
from crossent.errors import InputError
from crossent.scoring.multilabel import MultilabelScore, MultilabelState
from tests.scoring.exact import Moments


def drawn(n: int = 600, labels: int = 4, seed: int = 0) -> tuple[Any, Any]:
    draw = np.random.default_rng(seed)
    z = draw.normal(size=(n, labels)) + draw.normal(size=(n, 1)) - 0.5 * np.arange(labels)
    p = 1 / (1 + np.exp(-z))
    return (draw.random((n, labels)) < p).astype(int), p


def cost(y: Any, p: Any) -> Any:
    return np.where(y == 1, -np.log(p), -np.log1p(-p))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_numbers_of_scikit_learn(weighted: bool) -> None:
    y, p = drawn()
    w = np.random.default_rng(1).random(600) + 0.1 if weighted else None
    found = crossent.score(y, probs=p, weight=w, multilabel=True)
    assert isinstance(found, MultilabelScore)
    for average, value in (("micro", found.micro.roc_auc), ("macro", found.macro.roc_auc)):
        assert value == pytest.approx(roc_auc_score(y, p, average=average, sample_weight=w), abs=1e-12)
    for average, value in (("micro", found.micro.average_precision), ("macro", found.macro.average_precision)):
        assert value == pytest.approx(average_precision_score(y, p, average=average, sample_weight=w), abs=1e-12)
    wanted = f1_score(y, p > 0.5, average="macro", sample_weight=w)
    assert found.macro.f1 == pytest.approx(wanted, abs=1e-12)
    each = f1_score(y, p > 0.5, average=None, sample_weight=w)
    for k, score in found.labels.items():
        assert score.loss == pytest.approx(np.average(cost(y, p)[:, k], weights=w), rel=1e-12)
        assert score.decisions is not None
        assert {part.value: part.f1 for part in score.decisions.classes}[1] == pytest.approx(each[k], abs=1e-12)
    assert found.loss == pytest.approx(np.average(cost(y, p).mean(axis=1), weights=w), rel=1e-12)
    assert found.macro.loss.loss == pytest.approx(np.average(cost(y, p), axis=0, weights=w).mean(), rel=1e-12)


def test_rows_are_the_independent_parts() -> None:
    y, p = drawn()
    found = crossent.score(y, probs=p, multilabel=True)
    assert (found.n, found.micro.n, found.micro.clusters) == (600, 2400, 600)
    wanted = Moments.of(cost(y, p).mean(axis=1))
    assert found.micro.se == pytest.approx(wanted.se, rel=1e-12)
    assert found.macro.loss.se == pytest.approx(wanted.se, rel=1e-9)
    assert found.macro.loss.ci == pytest.approx(found.ci, rel=1e-6)
    apart = crossent.score(y, probs=p, multilabel=True, cluster=np.arange(600) // 3)
    assert apart.micro.clusters == 200


def test_parts_are_the_whole_and_kinds_are_the_same() -> None:
    y, p = drawn()
    whole = crossent.score(y, probs=p, multilabel=True)
    state = MultilabelState()
    for part in (slice(0, 100), slice(100, 600)):
        state.update(y[part], probs=p[part])
    for other in (state.finalize(), crossent.score(y, logits=np.log(p / (1 - p)), multilabel=True)):
        assert other.loss == pytest.approx(whole.loss, rel=1e-12)
        assert other.macro.loss.ci == pytest.approx(whole.macro.loss.ci, rel=1e-10)
        assert other.macro.roc_auc == pytest.approx(whole.macro.roc_auc, rel=1e-12)


def test_frames_name_the_labels() -> None:
    y, p = drawn(50, 2)
    frames = pd.DataFrame(y, columns=["y_red", "y_blue"]), pd.DataFrame(p, columns=["p_red", "p_blue"])
    found = crossent.score(frames[0], probs=frames[1], multilabel=True)
    assert list(found.labels) == ["red", "blue"]
    assert [part.value for part in found.micro.by["label"]] == ["blue", "red"]


ORDERS = [["p_red", "p_blue", "p_green"], ["p_blue", "p_green", "p_red"], ["green", "red", "blue"]]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("parts", [1, 3])
def test_columns_pair_by_name(order: list[str], parts: int) -> None:
    y, p = drawn(90, 3)
    truth = pd.DataFrame(y, columns=["y_red", "y_blue", "y_green"])
    state = MultilabelState()
    for rows in np.array_split(np.arange(90), parts):
        probs = pd.DataFrame(p[rows], columns=["red", "blue", "green"])[[name.removeprefix("p_") for name in order]]
        state.update(truth.iloc[rows], probs=probs.set_axis(order, axis=1))
    found = state.finalize()
    for k, name in enumerate(("red", "blue", "green")):
        assert found.labels[name].loss == pytest.approx(cost(y, p)[:, k].mean(), rel=1e-12)


def test_beginnings_that_one_side_alone_shares() -> None:
    y, p = drawn(40, 2)
    truth = pd.DataFrame(y, columns=["toxic", "severe_toxic"])
    probs = pd.DataFrame(p[:, ::-1], columns=["p_severe_toxic", "p_toxic"])
    assert crossent.score(truth, probs=probs, multilabel=True).loss == pytest.approx(cost(y, p).mean(), rel=1e-12)


@pytest.mark.parametrize("names", [["p0", "p1"], ["p_1", "p_2"]])
def test_numbers_that_count_pair_by_place(names: list[str]) -> None:
    y, p = drawn(40, 2)
    found = crossent.score(
        pd.DataFrame(y, columns=["cat", "dog"]), probs=pd.DataFrame(p, columns=names), multilabel=True
    )
    assert found.loss == pytest.approx(cost(y, p).mean(), rel=1e-12)


def test_names_of_other_labels_are_refused() -> None:
    y, p = drawn(40, 2)
    truth, probs = pd.DataFrame(y, columns=["y_cat", "y_dog"]), pd.DataFrame(p, columns=["p_cat", "p_owl"])
    with pytest.raises(
        InputError, match=r"labels \['cat', 'dog'\], the columns of probs name \['cat', 'owl'\]; name both alike"
    ):
        crossent.score(truth, probs=probs, multilabel=True)


def test_one_label_is_a_score_of_two_classes() -> None:
    y, p = drawn(60, 1)
    found = crossent.score(y, probs=p, multilabel=True)
    assert found.loss == pytest.approx(crossent.score(y[:, 0], probs=p[:, 0]).loss, rel=1e-12)
    assert list(found.labels) == [0]


def test_without_the_flag_it_is_named() -> None:
    y, p = drawn(60, 3)
    with pytest.raises(InputError, match="pass multilabel=True"):
        crossent.score(y, probs=p)


def test_missing_labels_are_left_out_where_they_are_ignored() -> None:
    y, p = drawn(100, 3)
    some = y.astype(float)
    some[::4, 1] = np.nan
    found = crossent.score(some, probs=p, multilabel=True, ignore=float("nan"))
    assert [score.n for score in found.labels.values()] == [100, 75, 100]
    means = [cost(y, p)[:, k][~np.isnan(some[:, k])].mean() for k in range(3)]
    assert found.macro.loss.loss == pytest.approx(np.mean(means), rel=1e-12)


def test_faces(tmp_path: Any) -> None:
    y, p = drawn(60, 2)
    found = crossent.score(y, probs=p, multilabel=True)
    said = json.loads(found.to_json())
    assert set(said) == {"micro", "macro", "labels"}
    assert said["macro"]["roc_auc"] == found.macro.roc_auc
    assert "120 pairs of row and label, 2 labels" in repr(found)
    assert "by label" in found._repr_html_()
    assert "Loss by label" in found.to_html(tmp_path / "r.html").read_text(encoding="utf-8")
    assert found.warnings == found.micro.warnings


def test_what_cannot_be_scored() -> None:
    y, p = drawn(10, 3)
    with pytest.raises(InputError, match=r"y and probs must have the same shape .* got \(10, 3\) and \(10, 2\)"):
        crossent.score(y, probs=p[:, :2], multilabel=True)
    with pytest.raises(InputError, match=r"label \d of row \d+ is 2, neither 0 nor 1"):
        crossent.score(2 * y, probs=p, multilabel=True)
    with pytest.raises(InputError, match="each of several labels has the classes 0 and 1; leave classes out"):
        crossent.score(y, probs=p, classes=["a", "b"], multilabel=True)
    with pytest.raises(InputError, match=r"these rows have the labels \[0, 1\], earlier ones \[0, 1, 2\]"):
        MultilabelState().update(y, probs=p).update(y[:, :2], probs=p[:, :2])
