"""The rules of single tools: the names that they look at, and the classes that follow from these."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from crossent.scoring.input.seen import Seen
from crossent.scoring.input.tools import FORMS, LAST, TOOLS, classes_of, is_truth

P = np.array([[0.25, 0.75], [0.5, 0.5]])
EXAMPLES = {
    "H2O": {"predict": [1, 0], "p0": P[:, 0], "p1": P[:, 1]},
    "tidymodels": {".pred_0": P[:, 0], ".pred_1": P[:, 1]},
    "caret": {"pred": ["0", "1"], "obs": ["1", "1"], "0": P[:, 0], "1": P[:, 1]},
    "mlr3": {"truth": ["0", "1"], "response": ["1", "1"], "prob.0": P[:, 0], "prob.1": P[:, 1]},
    "KNIME": {"P (y=0)": P[:, 0], "P (y=1)": P[:, 1]},
    "RapidMiner": {"confidence(0)": P[:, 0], "confidence(1)": P[:, 1], "prediction(y)": ["0", "1"]},
    "SAS": {"I_y": ["0", "1"], "P_y0": P[:, 0], "P_y1": P[:, 1]},
    "Azure Machine Learning": {f'Scored Probabilities for Class "{k}"': P[:, k] for k in range(2)},
    "CatBoost": {"Probability:Class=0": P[:, 0], "Probability:Class=1": P[:, 1], "RawFormulaVal:Class=0": P[:, 0]},
    "Weka": {
        "actual": ["1:0", "2:1"], "predicted": ["2:1", "2:1"], "distribution 1": P[:, 0], "distribution 2": P[:, 1],
    },
    "BigQuery ML": {"predicted_y_probs": [[{"label": str(k), "prob": p} for k, p in enumerate(row)] for row in P]},
    "Spark": {"probability": [{"type": 1, "values": row.tolist()} for row in P], "prediction": [1.0, 0.0]},
    "Hugging Face Trainer": {"predictions": (9 * P - 3).tolist(), "label_ids": [1, 0]},
}  # fmt: skip


def rules_that_fit(table):
    seen = Seen(pa.RecordBatch.from_pydict(table))
    return seen, {tool.name: found for tool in TOOLS if (found := tool.rule(seen))}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_tool_is_its_own(name):
    seen, found = rules_that_fit(EXAMPLES[name])
    assert list(found) == [name]
    numbered = "1:0 2:1" if name == "Weka" else "0 1"
    assert [str(each) for each in classes_of(found[name][0], seen).names] == numbered.split()


def test_every_tool_has_an_example():
    assert [tool.name for tool in TOOLS] == list(EXAMPLES)


@pytest.mark.parametrize("tool", [*TOOLS, *FORMS, *LAST], ids=lambda tool: tool.name)
def test_tools_say_what_their_tables_look_like(tool):
    assert tool.columns
    assert tool.rule(Seen(pa.RecordBatch.from_pydict({"x": [1.0], "text": ["a"], "y": [1]}))) == []


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("y", True), ("Y_true", True), ("true label", True), ("TrueLabel", True), ("label", True),
        ("instance.label", True),
        ("ground-truth", True), ("actual", True), ("label_ids", True), ("class", False), ("predicted_label", False),
        ("y_pred", False), ("prediction", False), ("label.", True), ("pred.class", False), ("labelled", False),
        ("", False),
    ],
)  # fmt: skip
def test_names_of_the_truth(name, is_one):
    assert is_truth(name) is is_one


def test_a_class_that_occurs_twice_is_no_reading():
    _, found = rules_that_fit({"P (y=a)": P[:, 0], "P (z=a)": P[:, 1]})
    assert found == {}


def test_raw_and_calibrated_probabilities_are_two_readings():
    both = {"p0": P[:, 0], "p1": P[:, 1], "cal_p0": P[:, 1], "cal_p1": P[:, 0]}
    _, found = rules_that_fit(both)
    assert [reading.values for reading in found["H2O"]] == [("p0", "p1"), ("cal_p0", "cal_p1")]


@pytest.mark.parametrize("actual", [["1:0", "1:0"], ["1:0", "2:?"], ["1:0", "1:1"]])
def test_a_class_of_weka_without_a_name_is_no_reading(actual):
    table = {**EXAMPLES["Weka"], "actual": actual, "predicted": ["1:0", "1:0"]}
    _, found = rules_that_fit(table)
    assert found == {}


def test_columns_called_as_the_labels_of_a_column_that_the_user_names():
    table = pa.RecordBatch.from_pydict({"": [0, 1], "a": P[:, 0], "b": P[:, 1], "class": ["a", "b"]})
    (rule,) = [tool.rule for tool in FORMS if tool.name.startswith("AutoGluon")]
    assert rule(Seen(table)) == []
    (found,) = rule(Seen(table, "class"))
    assert (found.values, found.truth, found.classes) == (("a", "b"), ("class",), ("a", "b"))
