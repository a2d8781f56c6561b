"""What columns are called as classes, and every label that means one of them; the numbers against scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import crossent
from crossent import score
from crossent.errors import InputError
from crossent.scoring.input.classes import Classes, chosen, class_names, matched, of_columns, written
from tests.scoring.exact import close, exact_mean, made, softmax
from tests.scoring.written import columns, run, saved

Y, Z = made(5, 60, 3)
P = softmax(Z)
LOSS = exact_mean(P[np.arange(60), Y])


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["p_cat", "p_dog"], ("cat", "dog")),
        (["cat_prob", "dog_prob"], ("cat", "dog")),
        (["p_cat_v2", "p_dog_v2"], ("cat", "dog")),
        (["p0", "p1", "p10"], ("0", "1", "10")),
        (["Class_1", "Class_2", "Class_10"], ("1", "2", "10")),
        (["p_1.0", "p_2.0"], ("1.0", "2.0")),
        (["is_spam", "is_not_spam"], ("spam", "not_spam")),
        (["p(cat)", "p(dog)"], ("cat", "dog")),
        (["probs[0]", "probs[1]"], ("0", "1")),
        (["cat.p", "dog.p"], ("cat", "dog")),
        (["('p', 'cat')", "('p', 'dog')"], ("cat", "dog")),
        (["0.5", "1.5"], ("0.5", "1.5")),
        (["cat", "cow"], ("cat", "cow")),
        (["p_", "p_cat"], ("", "cat")),
    ],
)
def test_columns_are_called_by_what_tells_them_apart(names, short):
    assert class_names(names) == short


#: columns, and forms in which their labels are written
FORMS = {
    "Otto": (["Class_1", "Class_2", "Class_3"], ["Class_{}", "{}", "{}.0"], ["1", "2", "3"]),
    "wine": (["p_class_0", "p_class_1", "p_class_2"], ["class_{}", "{}", "p_class_{}"], ["0", "1", "2"]),
    "towns": (["p_new_york", "p_new_jersey", "p_new_delhi"], ["new_{}", "{}"], ["york", "jersey", "delhi"]),
    "end": (["cat_prob", "dog_prob", "emu_prob"], ["{}_prob", "{}"], ["cat", "dog", "emu"]),
    "both": (["p_cat_v2", "p_dog_v2", "p_emu_v2"], ["p_{}_v2", "{}_v2", "p_{}", "{}"], ["cat", "dog", "emu"]),
    "digits": (["prob1", "prob2", "prob10"], ["prob{}", "{}"], ["1", "2", "10"]),
    "no value": (["p_nan", "p_None", "p_null"], ["p_{}", "{}"], ["nan", "None", "null"]),
    "composed": (["p_café", "p_thé", "p_lait"], ["p_{}", "{}"], ["cafe\u0301", "the\u0301", "lait"]),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_labels_carry_any_part_of_the_columns_names(name, ending, tmp_path, capsys):
    columns_, forms, words = FORMS[name]
    for form in forms:
        labels = [form.format(words[k]) for k in Y]
        close(score(labels, probs=pd.DataFrame(P, columns=columns_)).loss, LOSS)
        close(score(pa.array(labels), probs=pa.table(dict(zip(columns_, P.T, strict=True)))).loss, LOSS)
        path = saved(tmp_path / f"a{ending}", {"y": labels, **dict(zip(columns_, P.T, strict=True))})
        ran = run(capsys, "score", path, "--label", "y", "--probs", ",".join(columns_), "--json")
        assert (ran.code, ran.err) == (0, "")
        close(ran.json()["loss"], LOSS)


def test_wine_by_its_own_names():
    data = load_wine(as_frame=True)
    labels = data.target_names[data.target]
    model = LogisticRegression(max_iter=50).fit(data.data / data.data.max(), labels)
    p = model.predict_proba(data.data / data.data.max())
    frame = pd.DataFrame(p, columns=model.classes_)
    close(score(labels, probs=frame).loss, log_loss(labels, p), 1e-12)
    close(score(labels, probs=frame.add_prefix("p_")).loss, log_loss(labels, p), 1e-12)


def test_columns_that_are_not_in_the_order_of_the_alphabet():
    """scikit-learn's `labels=` is no order of columns, so its loss is of the columns in order."""
    labels = np.array(["z", "a"])[Y % 2]
    p = P[:, :2] / P[:, :2].sum(1, keepdims=True)
    close(score(labels, probs=pd.DataFrame(p, columns=["z_prob", "a_prob"])).loss, log_loss(labels, p[:, ::-1]), 1e-12)


@pytest.mark.parametrize("names", [["p_a", "p_p_a"], ["x_x_b", "x_b"]])
def test_a_label_that_could_mean_two_columns_is_refused(names):
    frame = pd.DataFrame(P[:, :2] / P[:, :2].sum(1, keepdims=True), columns=names)
    short = class_names(names)
    common = next(iter(set(names) & set(short)))
    labels = [names[k % 2] for k in Y]
    with pytest.raises(InputError) as caught:
        score(labels, probs=frame)
    assert f"label {common!r}" in str(caught.value)
    assert f"may mean column {names[0]!r} or column {names[1]!r}" in str(caught.value)
    whole, cut = (
        score([side[k % 2] for k in Y], probs=frame, classes=list(side)) for side in (names, short)
    )  # as the error says
    close(whole.loss, exact_mean(frame.to_numpy()[np.arange(60), Y % 2]))
    close(cut.loss, whole.loss)


@pytest.mark.parametrize("value", [None, float("nan"), np.nan, pd.NaT])
def test_no_value_is_never_a_class_of_that_name(value):
    frame = pd.DataFrame(P, columns=["p_nan", "p_None", "p_x"])
    labels = [["nan", "None", "x"][k] for k in Y]
    close(score(labels, probs=frame).loss, LOSS)
    with pytest.raises(InputError, match="y has no value"):
        score([*labels[:-1], value], probs=frame)
    close(score([*labels[:-1], value], probs=frame, ignore=float("nan")).loss, exact_mean(P[np.arange(59), Y[:59]]))


def test_none_may_be_a_class_that_the_user_names():
    labels = np.array([None, "a", "b"], object)[Y]
    close(score(labels, probs=P, classes=[None, "a", "b"]).loss, LOSS)
    close(score(labels, probs=P, classes=[float("nan"), "a", "b"]).loss, LOSS)
    with pytest.raises(InputError, match="must differ"):
        score(labels, probs=P, classes=[None, float("nan"), "b"])


@pytest.mark.parametrize(
    ("classes", "forms"),
    [
        ({0: "low", 1: "mid", 2: "high"}, ([0, 1, 2], ["0", "1", "2"], ["low", "mid", "high"])),
        ({"2": "high", "0": "low", "1": "mid"}, ([0, 1, 2], ["low", "mid", "high"])),
        ({"low": 0, "high": 2, "mid": 1}, ([0, 1, 2], ["low", "mid", "high"])),
        ({-1: "low", 0: "mid", 1: "high"}, ([-1, 0, 1], ["low", "mid", "high"])),
        ({"l": "low", "m": "mid", "h": "high"}, (["l", "m", "h"], ["low", "mid", "high"])),
    ],
    ids=["id2label", "id2label of JSON", "label2id", "labels", "codes"],
)
def test_a_mapping_names_the_classes(classes, forms):
    for form in forms:
        result = score([form[k] for k in Y], probs=P, classes=classes)
        assert result.classes == ("low", "mid", "high")
        close(result.loss, LOSS)


def test_a_mapping_of_numbers_to_other_numbers_is_refused():
    with pytest.raises(InputError, match="pass a list of the classes in the order of the columns"):
        score(Y % 2, probs=P[:, 1], classes={0: 1, 1: 0})
    assert chosen({0: 0, 1: 1}) == Classes((0, 1), ((0,), (1,)))


def test_states_of_a_mapping_merge():
    names = {0: "low", 1: "mid", 2: "high"}
    first, second = (
        crossent.ScoreState(classes=names).update(Y[part], probs=P[part]) for part in (slice(30), slice(30, 60))
    )
    close(first.merge(second).finalize().loss, LOSS)


def test_classes_are_matched_by_how_they_are_written():
    assert matched(["b", "a"], ["a", "b"]) == [1, 0]
    assert matched(["1", "0"], range(2)) == [1, 0]
    assert matched([None, "nan"], ["nan", None]) == [1, 0]
    assert matched(["a", "c"], ["a", "b"]) is None
    assert matched(["a"], ["a", "b"]) is None


def test_how_labels_are_written():
    assert {written(value) for value in (3, 3.0, "3", " 3 ", "+3", "3.00", np.int8(3))} == {"3"}
    assert written("cafe\u0301") == written("caf\u00e9")
    assert written("1.5") != written("15")


def test_two_classes_that_are_written_alike_need_the_label_itself():
    """Of 1 and "1" each label means one; 1.0 equals the first."""
    p = P[:, :2] / P[:, :2].sum(1, keepdims=True)
    labels = np.array([1, "1"], object)[Y % 2]
    close(score(labels, probs=p, classes=[1, "1"]).loss, exact_mean(p[np.arange(60), Y % 2]))
    with pytest.raises(InputError, match="may mean class 1 or class '1'"):
        score(["1.0"] * 60, probs=p, classes=[1, "1"])


def test_all_parts_of_a_frame_have_the_same_classes():
    made_ = columns(np.array(["Class_1", "Class_2", "Class_3"])[Y], P, ("1", "2", "3"), stem="Class_")
    frame = pd.DataFrame(made_)
    state = crossent.ScoreState()
    for part in (frame[:20], frame[20:]):
        _ = state.update(part["y"], probs=part[["Class_1", "Class_2", "Class_3"]])
    close(state.finalize().loss, LOSS)
    assert of_columns(["Class_1", "Class_2", "Class_3"]).names == state.finalize().classes


@pytest.mark.parametrize("order", [["p_c", "p_a", "p_b"], ["p_b", "p_a", "p_c"]])
@pytest.mark.parametrize("kind", ["probs", "logits"])
def test_later_parts_may_have_their_columns_in_another_order(order, kind):
    frame = pd.DataFrame({"probs": P, "logits": Z}[kind], columns=["p_a", "p_b", "p_c"])
    labels = np.array(["a", "b", "c", "-"])[np.where(np.arange(60) % 7 == 0, 3, Y)]
    state = crossent.ScoreState(ignore="-")
    _ = state.update(labels[:20], **{kind: frame[:20]}).update(labels[20:], **{kind: frame[20:][order]})
    counts = np.arange(60) % 7 != 0
    found = state.finalize()
    close(found.loss, exact_mean(P[np.arange(60), Y][counts]))
    assert [part.n for part in found.per_class] == np.bincount(Y[counts]).tolist()


def test_an_equals_sign_ends_a_common_beginning():
    assert class_names(["RawFormulaVal:Class=cat", "RawFormulaVal:Class=dog"]) == ("cat", "dog")
    assert class_names(["P(y=0)", "P(y=1)"]) == ("0", "1")
