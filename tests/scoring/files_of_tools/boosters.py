"""Files of xgboost, LightGBM and CatBoost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.scoring.files_of_tools.problem import (
    ANIMALS,
    ROWS,
    TEST_2,
    TEST_3,
    TEST_X,
    TRAIN_2,
    TRAIN_3,
    TRAIN_WORDS,
    TRAIN_X,
    WORDS,
    Case,
    of_logits,
    of_margin,
    of_positive,
    of_rows,
    of_text,
    text_rows,
    tool,
)


def _xgboost(y: Any, **options: Any) -> Any:
    import xgboost

    return xgboost.XGBClassifier(n_estimators=8, max_depth=2, n_jobs=1, **options).fit(TRAIN_X, y)


@tool("xgboost")
def xgboost_frame(at: Path) -> Case:
    p = _xgboost(TRAIN_3).predict_proba(TEST_X)
    frame = pd.DataFrame(p, columns=[f"p_{name}" for name in ANIMALS]).assign(y=WORDS)
    frame.to_csv(at / "xgboost_frame.csv", index=False)
    text = (at / "xgboost_frame.csv").read_text()
    loss = of_text(text, "y", [f"p_{name}" for name in ANIMALS], ANIMALS)
    return Case("xgboost_frame.csv", ("--label", "y", "--probs", "p_*"), loss)


@tool("xgboost")
def xgboost_binary(at: Path) -> Case:
    p = _xgboost(TRAIN_2).predict_proba(TEST_X)[:, 1]
    pd.DataFrame({"label": TEST_2, "prob": p}).to_parquet(at / "xgboost_binary.parquet")
    return Case("xgboost_binary.parquet", ("--label", "label", "--probs", "prob"), of_positive(TEST_2, p))


@tool("xgboost")
def xgboost_margin(at: Path) -> Case:
    margin = _xgboost(TRAIN_2).predict(TEST_X, output_margin=True)
    np.savez(at / "xgboost_margin.npz", y=TEST_2, margin=margin)
    return Case("xgboost_margin.npz", ("--label", "y", "--logits", "margin"), of_margin(TEST_2, margin))


@tool("xgboost")
def xgboost_margins(at: Path) -> Case:
    margin = _xgboost(TRAIN_3).predict(TEST_X, output_margin=True)
    np.savez_compressed(at / "xgboost_margins.npz", y_true=TEST_3, margin=margin)
    return Case("xgboost_margins.npz", ("--label", "y_true", "--logits", "margin"), of_logits(TEST_3, margin))


@tool("xgboost")
def xgboost_plain(at: Path) -> Case:
    """The command line of xgboost writes one number a line, and no labels."""
    p = _xgboost(TRAIN_2).predict_proba(TEST_X)[:, 1]
    np.savetxt(at / "xgboost_plain.pred.txt", p, fmt="%g")
    return Case("xgboost_plain.pred.txt", refused="label|--format")


@tool("xgboost")
def xgboost_plain_with_truth(at: Path) -> Case:
    """The same file, its labels in another file: rows in one order, since neither has names of rows."""
    np.savetxt(at / "xgboost_truth.csv", TEST_2, fmt="%d", header="y", comments="")
    p = [float(line) for line in (at / "xgboost_plain.pred.txt").read_text().split()]
    options = ("--truth", "xgboost_truth.csv", "--label", "y", "--probs", "predictions")
    return Case("xgboost_plain.pred.txt", options, of_positive(TEST_2, p))


def _lightgbm(y: Any) -> Any:
    import lightgbm

    model = lightgbm.LGBMClassifier(n_estimators=8, min_child_samples=3, verbose=-1, n_jobs=1)
    return model.fit(pd.DataFrame(TRAIN_X, columns=list("abcd")), y)


def _rows() -> Any:
    return pd.DataFrame(TEST_X, columns=list("abcd"))


@tool("lightgbm")
def lightgbm_numbered(at: Path) -> Case:
    p = _lightgbm(TRAIN_3).predict_proba(_rows())
    pd.DataFrame(p).add_prefix("class_").assign(target=TEST_3).to_csv(at / "lightgbm_numbered.csv")
    text = (at / "lightgbm_numbered.csv").read_text()
    loss = of_text(text, "target", ["class_0", "class_1", "class_2"], [0, 1, 2])
    return Case("lightgbm_numbered.csv", ("--label", "target", "--probs", "class_*"), loss)


@tool("lightgbm")
def lightgbm_raw(at: Path) -> Case:
    z = _lightgbm(TRAIN_3).predict(_rows(), raw_score=True)
    frame = pd.DataFrame(z, columns=[f"z_{name}" for name in ANIMALS]).assign(y=WORDS)
    frame.to_feather(at / "lightgbm_raw.feather")
    return Case("lightgbm_raw.feather", ("--label", "y", "--logits", "z_*"), of_logits(TEST_3, z))


@tool("lightgbm")
def lightgbm_raw_as_probabilities(at: Path) -> Case:
    """Raw scores taken for probabilities."""
    return Case("lightgbm_raw.feather", ("--label", "y", "--probs", "z_*"), refused="--logits")


@tool("lightgbm")
def lightgbm_plain(at: Path) -> Case:
    """LightGBM_predict_result.txt: a tab between classes, no header, no labels."""
    p = _lightgbm(TRAIN_3).predict_proba(_rows())
    np.savetxt(at / "LightGBM_predict_result.txt", p, delimiter="\t", fmt="%.17g")
    return Case("LightGBM_predict_result.txt", refused="label|--format")


@tool("lightgbm")
def lightgbm_plain_with_truth(at: Path) -> Case:
    np.savetxt(at / "lightgbm_truth.csv", TEST_3, fmt="%d", header="y", comments="")
    p = [line.split("\t") for line in (at / "LightGBM_predict_result.txt").read_text().splitlines()]
    options = ("--truth", "lightgbm_truth.csv", "--label", "y", "--probs", "predictions")
    return Case("LightGBM_predict_result.txt", options, of_rows(TEST_3, p))


def _catboost(y: Any) -> Any:
    import catboost

    options: dict[str, Any] = {"iterations": 12, "depth": 2, "verbose": False, "thread_count": 1}
    return catboost.CatBoostClassifier(allow_writing_files=False, **options).fit(TRAIN_X, y)


def _catboost_columns(model: Any, kind: str, words: Any, at: Path, *, binary: bool = False) -> Path:
    """`catboost calc --output-columns SampleId,KIND,Label` writes a table with these names."""
    values = model.predict(TEST_X, prediction_type=kind)
    names = [kind] if binary else [f"{kind}:Class={name}" for name in model.classes_]
    values = values[:, -1:] if binary and values.ndim == 2 else np.reshape(values, (ROWS, -1))
    frame = pd.DataFrame(values, columns=names).assign(Label=words)
    frame.insert(0, "SampleId", range(ROWS))
    frame.to_csv(at, sep="\t", index=False)
    return at


@tool("catboost")
def catboost_classes(at: Path) -> Case:
    path = _catboost_columns(_catboost(TRAIN_WORDS), "Probability", WORDS, at / "catboost_classes.tsv")
    names = [f"Probability:Class={name}" for name in ANIMALS]
    loss = of_text(path.read_text(), "Label", names, ANIMALS, delimiter="\t")
    return Case(path.name, loss=loss, said="CatBoost")


@tool("catboost")
def catboost_classes_named(at: Path) -> Case:
    names = [f"Probability:Class={name}" for name in ANIMALS]
    loss = of_text((at / "catboost_classes.tsv").read_text(), "Label", names, ANIMALS, delimiter="\t")
    return Case("catboost_classes.tsv", ("--label", "Label", "--probs", "Probability:Class=*"), loss)


@tool("catboost")
def catboost_raw(at: Path) -> Case:
    path = _catboost_columns(_catboost(TRAIN_WORDS), "RawFormulaVal", WORDS, at / "catboost_raw.tsv")
    rows = text_rows(path.read_text(), "\t")
    z = [[row[f"RawFormulaVal:Class={name}"] for name in ANIMALS] for row in rows]
    options = ("--label", "Label", "--logits", "RawFormulaVal:Class=*")
    return Case(path.name, options, of_logits(TEST_3, z))


@tool("catboost")
def catboost_binary(at: Path) -> Case:
    path = _catboost_columns(_catboost(TRAIN_2), "Probability", TEST_2, at / "catboost_binary.tsv", binary=True)
    rows = text_rows(path.read_text(), "\t")
    loss = of_positive(TEST_2, [row["Probability"] for row in rows])
    return Case(path.name, ("--label", "Label", "--probs", "Probability"), loss)
