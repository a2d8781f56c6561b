"""Tables of tools are recognised, and tables that nearly look like them are not: a wrong reading is worse than none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from crossent.errors import InputError
from crossent.scoring.input.recognised import almost, recognise

RANDOM = np.random.default_rng(5)
P = RANDOM.dirichlet(np.ones(3), 30)
Y = np.array([RANDOM.choice(3, p=row) for row in P])
BEST = P.argmax(axis=1)
NAMES = np.array(["a", "b", "c"])
A, B, C = P.T


def labels(names=NAMES, numbers=Y):
    return [names[k] for k in numbers]


def columns(stem, end="", values=P):
    return {f"{stem}{name}{end}": column for name, column in zip(NAMES, values.T, strict=True)}


TRUE, PREDICTED = labels(), labels(numbers=BEST)
RECORDS = [[{"label": name, "score": p} for name, p in zip(NAMES, row, strict=True)][::-1] for row in P]
VECTORS = pa.array([{"type": 1, "size": None, "indices": None, "values": row.tolist()} for row in P])
TWO = P[:, :2] / P[:, :2].sum(axis=1, keepdims=True)
TWO_Y = (RANDOM.random(30) < TWO[:, 1]).astype(int)

KNOWN = {
    "H2O": ({"y": Y, "predict": BEST, "p0": A, "p1": B, "p2": C}, "y", ["p0", "p1", "p2"]),
    "H2O with levels": ({"predict": PREDICTED, "a": A, "b": B, "c": C, "label": TRUE}, "label", ["a", "b", "c"]),
    "H2O calibrated alone": ({"y": Y, "predict": BEST, "cal_p0": A, "cal_p1": B, "cal_p2": C}, "y", None),
    "tidymodels": ({"species": TRUE, ".pred_class": PREDICTED, **columns(".pred_"), ".row": Y}, "species", None),
    "caret": ({"pred": PREDICTED, "obs": TRUE, "a": A, "b": B, "c": C, "rowIndex": Y}, "obs", ["a", "b", "c"]),
    "mlr3": ({"row_ids": Y, "truth": TRUE, "response": PREDICTED, **columns("prob.")}, "truth", None),
    "KNIME": ({"kind": TRUE, **columns("P (kind=", ")"), "Prediction (kind)": PREDICTED}, "kind", None),
    "RapidMiner": ({"kind": TRUE, **columns("confidence(", ")"), "prediction(kind)": PREDICTED}, "kind", None),
    "SAS": ({"F_kind": TRUE, "I_kind": PREDICTED, **columns("P_kind")}, "F_kind", None),
    "Azure Machine Learning": (
        {"label": TRUE, **columns('Scored Probabilities for Class "', '"'), "Scored Labels": PREDICTED}, "label", None,
    ),
    "CatBoost": ({"Label": TRUE, **columns("Probability:Class="), "Class": PREDICTED}, "Label", None),
    "BigQuery ML": (
        {"predicted_kind": PREDICTED, "predicted_kind_probs":
         [[{"label": r["label"], "prob": r["score"]} for r in row] for row in RECORDS], "kind": TRUE},
        "kind", ["predicted_kind_probs"],
    ),
    "Spark": ({"label": Y.astype(float), "rawPrediction": VECTORS, "probability": VECTORS, "prediction": BEST}, "label",
              ["probability"]),
    "Hugging Face Trainer": ({"predictions": np.log(P).tolist(), "label_ids": Y}, "label_ids", ["predictions"]),
    "Hugging Face pipeline": ({"text": TRUE, "label": TRUE, "output": RECORDS}, "label", ["output"]),
    "spaCy": ({"text": PREDICTED, "label": TRUE, "cats": [{r["label"]: r["score"] for r in row} for row in RECORDS]},
              "label", ["cats"]),
    "Vertex AI": (
        {"instance": [{"x": 1.0, "label": y} for y in TRUE],
         "prediction": [{"classes": NAMES.tolist(), "scores": row.tolist()} for row in P]},
        "instance.label", ["prediction"],
    ),
    "": ({"y_true": TRUE, **columns("prob_")}, "y_true", None),
    " of W&B": ({"id": Y, "guess": PREDICTED, "truth": TRUE, **columns("score_")}, "truth", None),
    " of Snowflake": ({"TARGET": TRUE, **columns("PREDICT_PROBA_"), "PREDICTION": PREDICTED}, "TARGET", None),
    " of ends": ({"target": TRUE, **columns("", "_prob")}, "target", None),
    " of AutoGluon": ({"label": TRUE, "a": A, "b": B, "c": C}, "label", ["a", "b", "c"]),
    " of arrays": ({"y": Y, "probs": P.tolist()}, "y", ["probs"]),
    " of one column": ({"y": TWO_Y, "y_prob": TWO[:, 1]}, "y", ["y_prob"]),
}  # fmt: skip


def read(table, **given):
    batch = pa.RecordBatch.from_pydict(dict(table))
    return recognise(batch.schema.names, batch.schema.types, batch, **given)


def as_texts(table):
    """Return a table as csv files give it: everything is text."""
    return {
        name: [None if v is None else str(v) for v in pa.array(values).to_pylist()] for name, values in table.items()
    }


@pytest.mark.parametrize("text", [False, True], ids=["typed", "texts"])
@pytest.mark.parametrize("tool", KNOWN)
def test_tables_of_tools_are_recognised(tool, text):
    table, label, values = KNOWN[tool]
    found = read(as_texts(table) if text and not isinstance(table.get("probability"), pa.Array) else table)
    assert found is not None
    assert found.columns.label == label
    expected = values or [name for name in table if np.shape(table[name]) == (30,) and _is_one_of(table[name])]
    assert list(found.columns.values) == expected
    assert f"labels in '{label}'" in found.said
    name = tool.split(" of ")[0].split(" with ")[0].split(" calibrated")[0]
    assert found.said.startswith(f"read as {name} predictions" if name.strip() else "read as predictions")


def _is_one_of(column):
    return any(np.array_equal(column, each) for each in (A, B, C))


@pytest.mark.parametrize("tool", KNOWN)
def test_without_its_labels_a_table_has_none(tool):
    """No other column takes their place, least of all the predicted ones."""
    table, label, _ = KNOWN[tool]
    left = {name: values for name, values in table.items() if name != label.split(".")[0]}
    if tool == "caret" or tool == "mlr3" or tool == "Hugging Face Trainer" or tool == " of AutoGluon":
        assert read(left) is None or read(left).columns.label is None
        return
    found = read(left)
    assert found is not None
    assert found.columns.label is None
    assert "no labels" in found.said


NEAR = {
    "a predicted class is no probability": {"label": Y % 2, "prediction": BEST % 2},
    "a score in a column called prediction": {"label": TWO_Y, "prediction": TWO[:, 1]},
    "the predicted class and its probability": {"label": PREDICTED, "score": P.max(axis=1)},
    "a confidence beside predicted classes": {"y": TWO_Y, "predicted": TWO.argmax(1), "prob": TWO.max(axis=1)},
    "a confidence alone": {"y": TWO_Y, "prob": TWO.max(axis=1)},
    "probabilities of 0 and 1 alone": {"y": TWO_Y, "p": TWO.argmax(1)},
    "H2O of a regression": {"y": A, "predict": B},
    "H2O without all classes": {"y": Y, "predict": BEST, "p0": A, "p1": B},
    "several labels a row": {"y": Y, **columns("p_", values=np.minimum(1, 2 * P))},
    "percentages": {"y": TRUE, **columns("p_", values=100 * P)},
    "logits in columns of probabilities": {"y": TRUE, **columns("p_", values=np.log(P))},
    "lists that are no distributions": {"y": Y, "probs": (2 * P).tolist()},
    "logits that are distributions": {"y": Y, "logits": P.tolist()},
    "features that add up to 1": {"y": TRUE, "u": A, "v": B, "w": C},
    "Weka's probability of the predicted class": {
        "inst#": Y, "actual": [f"{k + 1}:a" for k in Y], "predicted": [f"{k + 1}:a" for k in BEST],
        "error": [""] * 30, "prediction": P.max(axis=1),
    },
    "one class a record": {"label": TRUE, "out": [[row[0]] for row in RECORDS]},
    "vectors that are no probabilities": {"label": Y, "features": VECTORS, "prediction": BEST},
}  # fmt: skip


@pytest.mark.parametrize("table", NEAR.values(), ids=NEAR)
def test_near_misses_are_not_recognised(table):
    assert read(table) is None


SEVERAL = {
    "calibrated or not": ({"y": Y, "predict": BEST, "p0": A, "p1": B, "p2": C, "cal_p0": A, "cal_p1": B, "cal_p2": C},
                          "probs='p0,p1,p2' or probs='cal_p0,cal_p1,cal_p2'"),
    "two models": ({"y": TRUE, **columns("prob_"), **columns("score_", values=P[:, ::-1])},
                   "probs='prob_a,prob_b,prob_c'"),
    "probabilities or logits": ({"y": Y, "probs": P.tolist(), "logits": np.log(P).tolist()}, "logits='logits'"),
    "two columns of records": ({"y": TRUE, "new": RECORDS, "old": RECORDS}, "probs='new' or probs='old'"),
    "two truths": ({"label": TRUE, "target": PREDICTED, **columns("p_")}, "label='label' or label='target'"),
}  # fmt: skip


@pytest.mark.parametrize(("table", "says"), SEVERAL.values(), ids=SEVERAL)
def test_two_readings_are_both_said(table, says):
    with pytest.raises(InputError) as raised:
        read(table)
    assert says in str(raised.value)


def test_labels_that_are_the_predicted_classes_are_doubted():
    found = read({"label": PREDICTED, **columns("p_")})
    assert found.said.endswith("each label is the most probable class: are they predicted ones?")
    assert "?" not in read({"label": TRUE, **columns("p_")}).said
    assert "?" not in read({"label": PREDICTED, **columns("p_")}, label="label").said


def test_what_the_caller_names_is_not_sought():
    table = {"label": TRUE, "target": PREDICTED, **columns("p_"), **columns("score_", values=P[:, ::-1])}
    found = read(table, label="target", values=["p_a", "p_b", "p_c"])
    assert (found.columns.label, list(found.columns.values)) == ("target", ["p_a", "p_b", "p_c"])


def test_labels_that_are_no_classes_are_left_to_the_error_about_them():
    assert read({"label": [*TRUE[:-1], "unknown"], **columns("p_")}).columns.label == "label"


def test_no_rows_say_nothing():
    batch = pa.RecordBatch.from_pydict({"y": pa.array([], pa.int64()), "p": pa.array([], pa.float64())})
    assert recognise(batch.schema.names, batch.schema.types, batch) is None


NEARLY = {
    "a sum": ({"y": TRUE, "a": A, "b": B, "c": np.where(np.arange(30) == 7, C + 0.5, C)}, "but row 7 sums to 1.5"),
    "a label": ({"y": ["A", *TRUE[1:]], "a": A, "b": B, "c": C}, "but label 'A' (row 0) in 'y' has no column"),
    "a sum of p_*": ({"y": Y, **columns("p_", values=P + 0.5 * np.eye(30, 3))}, "but row 0 sums to 1.5"),
}
UNLIKE = {
    "most rows": {"y": TRUE, "a": A, "b": B, "c": np.where(np.arange(30) < 20, C + 0.5, C)},
    "numbers": {"y": TRUE, "x": A, "z": B},
    "one column": {"y": TRUE, "a": A},
    "texts": {"y": TRUE, "p_a": TRUE, "p_b": TRUE},
    "nothing wrong": {"y": TRUE, "a": A, "b": B, "c": C},
}


@pytest.mark.parametrize("case", NEARLY)
def test_a_slip_in_a_table_is_named(case):
    made, said = NEARLY[case]
    assert almost(pa.RecordBatch.from_pydict(made)).endswith(said)


@pytest.mark.parametrize("case", UNLIKE)
def test_no_slip_is_named_where_none_is_likely(case):
    assert almost(pa.RecordBatch.from_pydict(UNLIKE[case])) == ""
