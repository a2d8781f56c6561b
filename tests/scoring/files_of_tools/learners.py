"""Files of scikit-learn, numpy, statsmodels, H2O, Weka and Spark."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
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
    forest,
    of_logits,
    of_logprobs,
    of_margin,
    of_positive,
    of_rows,
    of_text,
    text_rows,
    tool,
)


@tool("scikit-learn")
def sklearn_logprobs(at: Path) -> Case:
    from sklearn.linear_model import LogisticRegression

    logprobs = LogisticRegression().fit(TRAIN_X, TRAIN_3).predict_log_proba(TEST_X)
    np.savez(at / "sklearn_logprobs.npz", y=TEST_3, logprobs=logprobs)
    return Case("sklearn_logprobs.npz", ("--label", "y", "--logprobs", "logprobs"), of_logprobs(TEST_3, logprobs))


@tool("scikit-learn")
def sklearn_decision(at: Path) -> Case:
    from sklearn.linear_model import LogisticRegression

    z = LogisticRegression().fit(TRAIN_X, TRAIN_2).decision_function(TEST_X)
    pd.DataFrame({"y_true": TEST_2, "decision": z}).to_csv(at / "sklearn_decision.csv", index=False)
    rows = text_rows((at / "sklearn_decision.csv").read_text())
    loss = of_margin([int(row["y_true"]) for row in rows], [row["decision"] for row in rows])
    return Case("sklearn_decision.csv", ("--label", "y_true", "--logits", "decision"), loss)


@tool("scikit-learn")
def sklearn_joblib(at: Path) -> Case:
    import joblib

    joblib.dump({"y": TEST_3[:2], "p": forest()[:2]}, at / "sklearn.joblib")
    return Case("sklearn.joblib", ("--label", "y", "--probs", "p"), refused="pickle|--format")


def _folder(at: Path, name: str) -> Path:
    (at / name).mkdir(exist_ok=True)
    return at / name


@tool("numpy")
def numpy_two_files(at: Path) -> Case:
    """`pred_probs.npy` and `labels.npy`, which cleanlab and many notebooks save: arrays of a folder are its columns."""
    folder = _folder(at, "numpy_arrays")
    np.save(folder / "labels.npy", TEST_3)
    np.save(folder / "pred_probs.npy", forest())
    options = ("--label", "labels", "--probs", "pred_probs")
    return Case("numpy_arrays/pred_probs.npy", options, of_rows(TEST_3, forest()))


@tool("numpy")
def numpy_truth(at: Path) -> Case:
    """Labels in another folder."""
    folder = _folder(at, "numpy_truth")
    np.save(folder / "y_test.npy", TEST_3)
    np.save(_folder(at, "numpy_alone") / "y_pred.npy", forest())
    options = ("--truth", "numpy_truth/y_test.npy", "--label", "y_test", "--probs", "y_pred")
    return Case("numpy_alone/y_pred.npy", options, of_rows(TEST_3, forest()))


@tool("numpy")
def numpy_one_file(at: Path) -> Case:
    return Case("numpy_alone/y_pred.npy", refused="label")


@tool("numpy")
def numpy_objects(at: Path) -> Case:
    """An array of Python objects is a pickle inside."""
    rows = np.array([{"y": 1, "p": 0.5}], dtype=object)
    np.save(_folder(at, "numpy_objects") / "rows.npy", rows, allow_pickle=True)
    return Case("numpy_objects/rows.npy", ("--label", "y", "--probs", "p"), refused="pickle|object")


@tool("numpy")
def numpy_structured(at: Path) -> Case:
    """An array of records, as `DataFrame.to_records` makes it."""
    p = forest()
    made = np.zeros(ROWS, dtype=[("y", "i8"), *((f"p_{k}", "f8") for k in range(3))])
    made["y"] = TEST_3
    for k in range(3):
        made[f"p_{k}"] = p[:, k]
    np.save(_folder(at, "numpy_structured") / "records.npy", made)
    return Case("numpy_structured/records.npy", ("--label", "y", "--probs", "p_*"), of_rows(TEST_3, p))


@tool("statsmodels")
def statsmodels_multinomial(at: Path) -> Case:
    import statsmodels.api as sm

    with contextlib.redirect_stdout(None):
        model = sm.MNLogit(TRAIN_3, sm.add_constant(TRAIN_X)).fit(disp=0)
    p = pd.DataFrame(np.asarray(model.predict(sm.add_constant(TEST_X)))).assign(observed=TEST_3)
    p.to_csv(at / "statsmodels_mnlogit.csv", index=False)
    text = (at / "statsmodels_mnlogit.csv").read_text()
    loss = of_text(text, "observed", ["0", "1", "2"], [0, 1, 2])
    return Case("statsmodels_mnlogit.csv", ("--label", "observed", "--probs", "[0-9]"), loss)


@tool("statsmodels")
def statsmodels_logit(at: Path) -> Case:
    import statsmodels.api as sm

    p = np.asarray(sm.Logit(TRAIN_2, sm.add_constant(TRAIN_X)).fit(disp=0).predict(sm.add_constant(TEST_X)))
    pd.DataFrame({"y": TEST_2.astype(bool), "fitted": p}).to_csv(at / "statsmodels_logit.csv", index=False)
    rows = text_rows((at / "statsmodels_logit.csv").read_text())
    loss = of_positive(TEST_2, [row["fitted"] for row in rows])
    return Case("statsmodels_logit.csv", ("--label", "y", "--probs", "fitted"), loss)


def _h2o(at: Path, target: Any, words: Any, *, calibrated: bool = False) -> Path:
    import h2o
    from h2o.estimators import H2OGradientBoostingEstimator

    h2o.init(nthreads=1, max_mem_size="600M", verbose=False, bind_to_localhost=True)
    h2o.no_progress()
    names = list("abcd")
    train = h2o.H2OFrame(pd.DataFrame(TRAIN_X, columns=names).assign(species=target))
    test = h2o.H2OFrame(pd.DataFrame(TEST_X, columns=names).assign(species=words))
    for part in (train, test):
        part["species"] = part["species"].asfactor()
    more: dict[str, Any] = {"calibrate_model": True, "calibration_frame": train} if calibrated else {}
    model = H2OGradientBoostingEstimator(ntrees=8, max_depth=2, min_rows=3, seed=1, **more)
    model.train(x=names, y="species", training_frame=train)
    h2o.export_file(test["species"].cbind(model.predict(test)), str(at), force=True)
    return at


@tool("h2o")
def h2o_classes(at: Path) -> Case:
    path = _h2o(at / "h2o_classes.csv", TRAIN_WORDS, WORDS)
    loss = of_text(path.read_text(), "species", ANIMALS, ANIMALS)
    return Case(path.name, ("--label", "species"), loss, said="H2O")


@tool("h2o")
def h2o_numbers(at: Path) -> Case:
    path = _h2o(at / "h2o_numbers.csv", TRAIN_2, TEST_2)
    loss = of_text(path.read_text(), "species", ["p0", "p1"], [0, 1])
    return Case(path.name, ("--label", "species"), loss, said="H2O")


@tool("h2o")
def h2o_calibrated(at: Path) -> Case:
    """Beside p0 and p1 stand cal_p0 and cal_p1: two readings, of which the calibrated one is asked for."""
    path = _h2o(at / "h2o_calibrated.csv", TRAIN_2, TEST_2, calibrated=True)
    loss = of_text(path.read_text(), "species", ["cal_p0", "cal_p1"], [0, 1])
    return Case(path.name, ("--label", "species", "--probs", "cal_p*"), loss)


def _weka(at: Path, output: str) -> Path:
    """Weka itself: WEKA_HOME holds weka.jar, mtj.jar and core.jar."""
    home = Path(os.environ["WEKA_HOME"])

    def arff(name: str, x: Any, words: Any) -> str:
        rows = [",".join([*(repr(float(v)) for v in row), word]) for row, word in zip(x, words, strict=True)]
        head = ["@relation animals", *(f"@attribute {a} numeric" for a in "abcd")]
        head += ["@attribute species {cat,dog,owl}", "@data"]
        path = at.parent / f"{at.name}-{name}.arff"
        path.write_text("\n".join([*head, *rows]) + "\n")
        return str(path)

    jars = os.pathsep.join(str(home / name) for name in ("weka.jar", "mtj.jar", "core.jar"))
    train, test = arff("train", TRAIN_X, TRAIN_WORDS), arff("test", TEST_X, WORDS)
    form = f"weka.classifiers.evaluation.output.prediction.{output} -distribution -decimals 6 -file {at}"
    command = ["java", "-cp", jars, "weka.classifiers.bayes.NaiveBayes", "-t", train, "-T", test]
    _ = subprocess.run([*command, "-classifications", form], check=True, capture_output=True)
    for path in (train, test):
        Path(path).unlink()
    return at


@tool("weka")
def weka_csv(at: Path) -> Case:
    path = _weka(at / "weka.csv", "CSV")
    rows = [line.split(",") for line in path.read_text().split() if line[0].isdigit()]
    loss = of_rows([int(row[1][0]) - 1 for row in rows], [[p.strip("*") for p in row[-3:]] for row in rows])
    return Case(path.name, loss=loss, said="Weka")


@tool("weka")
def weka_text(at: Path) -> Case:
    """Weka's default: columns set by spaces."""
    return Case(_weka(at / "weka.txt", "PlainText").name, refused="csv")


def _spark(at: Path, how: str) -> None:
    from pyspark.ml.classification import LogisticRegression
    from pyspark.ml.linalg import Vectors
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()

    def table(x: Any, y: Any) -> Any:
        rows = [(Vectors.dense(row.tolist()), float(k)) for row, k in zip(x, y, strict=True)]
        return spark.createDataFrame(rows, ["features", "label"])

    model = LogisticRegression(maxIter=6).fit(table(TRAIN_X, TRAIN_3))
    made = model.transform(table(TEST_X, TEST_3)).repartition(2)
    shutil.rmtree(at, ignore_errors=True)
    getattr(made.write, how)(str(at))


def _spark_loss(at: Path, kind: str = "probability") -> float:
    import pyarrow.parquet as pq

    records = [row for path in sorted(at.glob("part-*")) for row in pq.read_table(path).to_pylist()]
    return of_rows([int(row["label"]) for row in records], [row[kind]["values"] for row in records])


@tool("spark")
def spark_parquet(at: Path) -> Case:
    """Vectors, parts, checksums and _SUCCESS; the label is a double."""
    _spark(at / "spark_parquet", "parquet")
    return Case("spark_parquet", loss=_spark_loss(at / "spark_parquet"), said="Spark")


@tool("spark")
def spark_named(at: Path) -> Case:
    options = ("--label", "label", "--probs", "probability")
    return Case("spark_parquet", options, _spark_loss(at / "spark_parquet"))


@tool("spark")
def spark_logits(at: Path) -> Case:
    options = ("--label", "label", "--logits", "rawPrediction")
    records = _spark_records(at / "spark_parquet")
    loss = of_logits([int(row["label"]) for row in records], [row["rawPrediction"]["values"] for row in records])
    return Case("spark_parquet", options, loss)


def _spark_records(at: Path) -> list[Any]:
    import pyarrow.parquet as pq

    return [row for path in sorted(at.glob("part-*")) for row in pq.read_table(path).to_pylist()]


@tool("spark")
def spark_json(at: Path) -> Case:
    """Vectors as JSON objects with type and values."""
    _spark(at / "spark_json", "json")
    parts = sorted((at / "spark_json").glob("part-*"))
    rows = [json.loads(line) for path in parts for line in path.read_text().splitlines()]
    loss = of_rows([int(row["label"]) for row in rows], [row["probability"]["values"] for row in rows])
    return Case("spark_json", ("--label", "label", "--probs", "probability"), loss)
