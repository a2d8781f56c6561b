"""Files of tools that do not install here, written in the form that their documentation gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tests.scoring.files_of_tools.problem import (
    ANIMALS,
    IDS,
    ROWS,
    TEST_2,
    TEST_3,
    WORDS,
    YES,
    Case,
    dumped,
    forest,
    forest_of_two,
    lines,
    of_positive,
    of_records,
    of_rows,
    of_text,
    text_rows,
    tool,
)


def _frame(form: str, **more: Any) -> pd.DataFrame:
    """One column a class, named after `form`, which has the class in place of {}."""
    p = forest()
    return pd.DataFrame({**more, **{form.format(name): p[:, k] for k, name in enumerate(ANIMALS)}})


def _csv(at: Path, frame: pd.DataFrame, label: str, form: str, **options: Any) -> float:
    frame.to_csv(at, index=False, **options)
    columns = [form.format(name) for name in ANIMALS]
    delimiter = options.get("sep", ",")
    return of_text(at.read_text("utf-8-sig"), label, columns, ANIMALS, delimiter=delimiter)


def _best() -> list[str]:
    return [ANIMALS[k] for k in forest().argmax(axis=1)]


@tool("tidymodels")
def tidymodels_augment(at: Path) -> Case:
    """`augment(fit, new_data)` in R, by write_csv."""
    frame = _frame(".pred_{}", **{".pred_class": _best()}).assign(species=WORDS, mass=np.arange(ROWS) / 4)
    loss = _csv(at / "tidymodels.csv", frame, "species", ".pred_{}")
    return Case("tidymodels.csv", ("--label", "species"), loss, said="tidymodels")


@tool("tidymodels")
def tidymodels_parquet(at: Path) -> Case:
    """`collect_predictions()` by arrow's write_parquet: factors are dictionaries."""
    frame = _frame(".pred_{}", **{".pred_class": pd.Categorical(_best(), ANIMALS), "id": "Fold1", ".row": range(ROWS)})
    frame["species"] = pd.Categorical(WORDS, ANIMALS)
    frame.to_parquet(at / "tidymodels.parquet")
    return Case("tidymodels.parquet", ("--label", "species"), of_rows(TEST_3, forest()), said="tidymodels")


@tool("caret")
def caret_saved(at: Path) -> Case:
    """`train(..., trControl(savePredictions=TRUE, classProbs=TRUE))$pred` by write.csv."""
    frame = _frame("{}", pred=_best(), obs=WORDS).assign(rowIndex=range(1, ROWS + 1), mtry=2, Resample="Fold1")
    frame.index += 1
    frame.to_csv(at / "caret.csv", quoting=2)
    loss = of_text((at / "caret.csv").read_text(), "obs", ANIMALS, ANIMALS)
    return Case("caret.csv", loss=loss, said="caret")


@tool("ranger")
def ranger_matrix(at: Path) -> Case:
    """`cbind(truth, predict(fit, data)$predictions)` by write.csv2: semicolons and decimal commas."""
    frame = _frame("{}", truth=WORDS)
    frame.to_csv(at / "ranger.csv", index=False, sep=";", decimal=",")
    text = (at / "ranger.csv").read_text()
    loss = of_text(text, "truth", ANIMALS, ANIMALS, delimiter=";", decimal=",")
    options = ("--label", "truth", "--probs", "cat,dog,owl", "--delimiter", ";", "--decimal", ",")
    return Case("ranger.csv", options, loss)


@tool("mlr3")
def mlr3_table(at: Path) -> Case:
    """`as.data.table(prediction)`."""
    frame = _frame("prob.{}", row_ids=range(1, ROWS + 1), truth=WORDS, response=_best())
    return Case("mlr3.csv", ("--label", "truth", "--probs", "prob.*"), _csv(at / "mlr3.csv", frame, "truth", "prob.{}"))


@tool("knime")
def knime_csv(at: Path) -> Case:
    frame = _frame("P (species={})", **{"row ID": [f"Row{k}" for k in range(ROWS)], "species": WORDS})
    frame["Prediction (species)"] = _best()
    loss = _csv(at / "knime.csv", frame, "species", "P (species={})", quoting=2)
    return Case("knime.csv", loss=loss, said="KNIME")


@tool("rapidminer")
def rapidminer_csv(at: Path) -> Case:
    frame = _frame("confidence({})", id=range(1, ROWS + 1), species=WORDS)
    frame["prediction(species)"] = _best()
    loss = _csv(at / "rapidminer.csv", frame, "species", "confidence({})", quoting=2, sep=";")
    return Case("rapidminer.csv", ("--delimiter", ";"), loss, said="RapidMiner")


@tool("sas")
def sas_scored(at: Path) -> Case:
    """PROC HPFOREST and SAS Viya: F_ the answer, I_ the prediction, P_ one probability a class."""
    frame = _frame("P_species{}", F_species=WORDS, I_species=_best())
    loss = _csv(at / "sas.csv", frame, "F_species", "P_species{}")
    return Case("sas.csv", ("--label", "F_species"), loss, said="SAS")


@tool("r")
def r_rds(at: Path) -> Case:
    """The first bytes of saveRDS: gzip around an R serialization."""
    import gzip

    (at / "r.rds").write_bytes(gzip.compress(b"X\n\x00\x00\x00\x03\x00\x04\x03\x01" + bytes(40), mtime=0))
    return Case("r.rds", ("--label", "y", "--probs", "p_*"), refused="write|--format")


@tool("excel")
def excel_xls(at: Path) -> Case:
    """The first bytes of the old binary format."""
    (at / "excel.xls").write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + bytes(504))
    return Case("excel.xls", ("--label", "y", "--probs", "p_*"), refused="xlsx")


@tool("bigquery ml")
def bigquery_parquet(at: Path) -> Case:
    """`EXPORT DATA` of ML.PREDICT: an array of structs in the order of probability."""
    p = forest()
    best = [sorted(zip(ANIMALS, row, strict=True), key=lambda pair: -pair[1]) for row in p.tolist()]
    inner = pa.list_(pa.field("element", pa.struct([("label", pa.string()), ("prob", pa.float64())])))
    probs = pa.array([[{"label": a, "prob": q} for a, q in row] for row in best], inner)
    table = pa.table({"predicted_species": _best(), "predicted_species_probs": probs, "species": WORDS})
    pq.write_table(table, at / "bigquery.parquet")
    return Case("bigquery.parquet", loss=of_rows(TEST_3, p), said="BigQuery")


@tool("bigquery ml")
def bigquery_json(at: Path) -> Case:
    """The same by JSON lines: numbers of classes are strings there."""
    rows = []
    for row, y in zip(forest().tolist(), TEST_3.tolist(), strict=True):
        best = sorted(enumerate(row), key=lambda pair: -pair[1])
        probs = [{"label": str(k), "prob": q} for k, q in best]
        rows.append({"predicted_label": str(best[0][0]), "predicted_label_probs": probs, "label": str(y)})
    path = lines(at / "bigquery.jsonl", rows)
    return Case(path.name, ("--label", "label"), of_rows(TEST_3, forest()), said="BigQuery")


@tool("vertex ai")
def vertex_lines(at: Path) -> Case:
    """Batch prediction of tables: the instance beside classes and scores."""
    rows = [
        {"instance": {"mass": "1.5", "species": y}, "prediction": {"classes": ANIMALS, "scores": row}}
        for y, row in zip(WORDS, forest().tolist(), strict=True)
    ]
    path = lines(at / "prediction.results-00000-of-00001.jsonl", rows)
    return Case(path.name, ("--label", "instance.species"), of_rows(TEST_3, forest()), said="Vertex")


@tool("sagemaker")
def sagemaker_joined(at: Path) -> Case:
    """Batch transform with JoinSource: the record with SageMakerOutput in it."""
    rows = [
        {"features": [0.5, 1.5], "label": int(y), "SageMakerOutput": {"score": q, "predicted_label": int(q > 0.5)}}
        for y, q in zip(TEST_2, forest_of_two().tolist(), strict=True)
    ]
    path = lines(at / "sagemaker.jsonl.out", rows)
    options = ("--label", "label", "--probs", "SageMakerOutput.score", "--format", "jsonl")
    return Case(path.name, options, of_positive(TEST_2, forest_of_two()))


@tool("sagemaker")
def sagemaker_plain(at: Path) -> Case:
    """XGBoost's container answers a list a line, without labels."""
    (at / "sagemaker.csv.out").write_text("\n".join(str(row) for row in forest().tolist()) + "\n")
    return Case("sagemaker.csv.out", refused="label|--format")


@tool("sagemaker")
def sagemaker_plain_with_truth(at: Path) -> Case:
    """The same, its labels in the file that was sent."""
    pd.DataFrame({"y": TEST_3}).to_csv(at / "sagemaker_truth.csv", index=False)
    options = ("--truth", "sagemaker_truth.csv", "--label", "y", "--probs", "predictions")
    return Case("sagemaker.csv.out", options, of_rows(TEST_3, forest()))


@tool("sagemaker")
def sagemaker_headless(at: Path) -> Case:
    """A joined csv file: label, probabilities, no header. The first row must not be taken for names in silence."""
    rows = [",".join([str(y), *map(repr, row)]) for y, row in zip(TEST_3, forest().tolist(), strict=True)]
    (at / "sagemaker_joined.csv").write_text("\n".join(rows) + "\n")
    return Case("sagemaker_joined.csv", ("--label", "y", "--probs", "p_*"), refused="header")


@tool("azure ml")
def azure_designer(at: Path) -> Case:
    frame = _frame("Scored Probabilities_{}", species=WORDS).assign(**{"Scored Labels": _best()})
    loss = _csv(at / "azure.csv", frame, "species", "Scored Probabilities_{}")
    return Case("azure.csv", ("--label", "species", "--probs", "Scored Probabilities_*"), loss)


@tool("kaggle")
def kaggle_submission(at: Path) -> Case:
    """Solution and submission: the truth in another file, rows in another order."""
    pd.DataFrame({"id": IDS, "species": WORDS, "Usage": "Private"}).to_csv(at / "kaggle_solution.csv", index=False)
    frame = _frame("{}", id=IDS).iloc[::-1]
    frame.to_csv(at / "kaggle_submission.csv", index=False)
    truth = dict(zip(IDS, WORDS, strict=True))
    rows = text_rows((at / "kaggle_submission.csv").read_text())
    loss = of_records([truth[row["id"]] for row in rows], rows)
    options = ("--truth", "kaggle_solution.csv", "--on", "id", "--label", "species", "--probs", "cat,dog,owl")
    return Case("kaggle_submission.csv", options, loss)


@tool("kaggle")
def kaggle_one_row_short(at: Path) -> Case:
    """A solution that lacks a row of the submission."""
    frame = pd.read_csv(at / "kaggle_solution.csv")
    frame.iloc[1:].to_csv(at / "kaggle_short.csv", index=False)
    options = ("--truth", "kaggle_short.csv", "--on", "id", "--label", "species", "--probs", "cat,dog,owl")
    return Case("kaggle_submission.csv", options, refused="r00")


@tool("kaggle")
def kaggle_twice(at: Path) -> Case:
    """A solution that names a row twice."""
    frame = pd.read_csv(at / "kaggle_solution.csv")
    pd.concat([frame, frame.iloc[:1]]).to_csv(at / "kaggle_twice.csv", index=False)
    options = ("--truth", "kaggle_twice.csv", "--on", "id", "--label", "species", "--probs", "cat,dog,owl")
    return Case("kaggle_submission.csv", options, refused="r00")


@tool("snowflake")
def snowflake_classification(at: Path) -> Case:
    """`model!PREDICT` answers an object, which csv holds as JSON text."""
    import json

    p = forest().tolist()
    made = [
        {"class": b, "logs": None, "probability": dict(zip(ANIMALS, r, strict=True))}
        for b, r in zip(_best(), p, strict=True)
    ]
    pd.DataFrame({"SPECIES": WORDS, "PREDS": [json.dumps(m) for m in made]}).to_csv(at / "snowflake.csv", index=False)
    options = ("--label", "SPECIES", "--probs", "PREDS.probability")
    return Case("snowflake.csv", options, of_rows(TEST_3, p))


@tool("snowflake")
def snowflake_unloaded(at: Path) -> Case:
    """The same unloaded as JSON, gzipped."""
    import gzip
    import json

    p = forest().tolist()
    rows = [
        {"SPECIES": y, "PREDS": {"probability": dict(zip(ANIMALS, r, strict=True))}}
        for y, r in zip(WORDS, p, strict=True)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (at / "data_0_0_0.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    return Case("data_0_0_0.json.gz", ("--label", "SPECIES", "--probs", "PREDS.probability"), of_rows(TEST_3, p))


@tool("vllm")
def vllm_classify(at: Path) -> Case:
    """`LLM.classify`: the list at outputs.probs."""
    rows = [
        {"prompt": f"text {k}", "label": int(y), "outputs": {"probs": row, "num_classes": 3}}
        for k, (y, row) in enumerate(zip(TEST_3, forest().tolist(), strict=True))
    ]
    path = lines(at / "vllm_classify.jsonl", rows)
    return Case(path.name, ("--label", "label", "--probs", "outputs.probs"), of_rows(TEST_3, forest()))


@tool("autogluon")
def autogluon_frame(at: Path) -> Case:
    """`predictor.predict_proba(data)` joined with the label: columns are the classes, the index is kept."""
    frame = _frame("{}").join(pd.Series(WORDS, name="class"))
    frame.to_csv(at / "autogluon.csv")
    loss = of_text((at / "autogluon.csv").read_text(), "class", ANIMALS, ANIMALS)
    return Case("autogluon.csv", ("--label", "class"), loss, said="class")


@tool("pycaret")
def pycaret_raw(at: Path) -> Case:
    """`predict_model(model, raw_score=True)`."""
    frame = _frame("prediction_score_{}", species=WORDS, prediction_label=_best())
    loss = _csv(at / "pycaret.csv", frame, "species", "prediction_score_{}")
    return Case("pycaret.csv", ("--label", "species", "--probs", "prediction_score_*"), loss)


@tool("datarobot")
def datarobot_csv(at: Path) -> Case:
    """The class is in the middle of the name: what follows the star belongs to every column."""
    frame = _frame("species_{}_PREDICTION", species=WORDS, species_PREDICTION=_best())
    frame["DEPLOYMENT_APPROVAL_STATUS"] = "APPROVED"
    loss = _csv(at / "datarobot.csv", frame, "species", "species_{}_PREDICTION")
    return Case("datarobot.csv", ("--label", "species", "--probs", "species_*_PREDICTION"), loss)


@tool("dataiku")
def dataiku_csv(at: Path) -> Case:
    frame = _frame("proba_{}", species=WORDS, prediction=_best())
    frame.to_csv(at / "dataiku.csv.gz", index=False, sep="\t")
    loss = of_rows(TEST_3, forest())
    return Case("dataiku.csv.gz", ("--label", "species", "--probs", "proba_*", "--delimiter", "tab"), loss)


@tool("onnxruntime")
def onnx_zipmap(at: Path) -> Case:
    """`output_probability` of a converted scikit-learn model: a dictionary a row."""
    p = forest().astype(np.float32).tolist()
    rows = [
        {"y": y, "output_probability": dict(zip(ANIMALS, row, strict=True))} for y, row in zip(WORDS, p, strict=True)
    ]
    path = lines(at / "onnx.jsonl", rows)
    return Case(path.name, ("--label", "y", "--probs", "output_probability"), of_rows(TEST_3, p))


@tool("tf serving")
def tensorflow_serving(at: Path) -> Case:
    """A response of TF Serving: predictions without labels."""
    path = dumped(at / "tf_serving.json", {"predictions": forest().tolist()})
    return Case(path.name, refused="label")


@tool("keras")
def keras_predict(at: Path) -> Case:
    """`np.savez("test.npz", y_test=y_test, y_pred=model.predict(x_test))`: float32, one unit of sigmoid as (N, 1)."""
    p = forest_of_two().astype(np.float32)[:, None]
    np.savez(at / "keras.npz", y_test=TEST_2, y_pred=p)
    return Case("keras.npz", ("--label", "y_test", "--probs", "y_pred"), of_positive(TEST_2, p[:, 0]))


@tool("keras")
def keras_one_hot(at: Path) -> Case:
    """Labels as one-hot rows, as `to_categorical` makes them: the refusal names the way to classes."""
    p = forest().astype(np.float32)
    np.savez(at / "keras_one_hot.npz", y_test=np.eye(3, dtype=np.float32)[TEST_3], y_pred=p)
    return Case("keras_one_hot.npz", ("--label", "y_test", "--probs", "y_pred"), refused="argmax")


@tool("clickhouse")
def clickhouse_tsv(at: Path) -> Case:
    """TabSeparatedWithNames: arrays are text in brackets."""
    rows = [f"{y}\t[{','.join(map(repr, row))}]" for y, row in zip(TEST_3, forest().tolist(), strict=True)]
    (at / "clickhouse.tsv").write_text("\n".join(["label\tprobs", *rows]) + "\n")
    return Case("clickhouse.tsv", ("--label", "label", "--probs", "probs"), of_rows(TEST_3, forest()))


@tool("postgresql")
def postgresql_csv(at: Path) -> Case:
    """COPY … CSV HEADER: booleans are t and f."""
    marks = ["t" if y else "f" for y in TEST_2]
    pd.DataFrame({"churned": marks, "p": forest_of_two()}).to_csv(at / "postgresql.csv", index=False)
    rows = text_rows((at / "postgresql.csv").read_text())
    loss = of_positive(TEST_2, [row["p"] for row in rows])
    return Case("postgresql.csv", ("--label", "churned", "--probs", "p", "--classes", "f,t"), loss)


@tool("ludwig")
def ludwig_csv(at: Path) -> Case:
    """predictions.csv with a probability of the best class too, which is no class."""
    frame = _frame("species_probabilities_{}", species=WORDS, species_predictions=_best())
    frame["species_probability"] = forest().max(axis=1)
    loss = _csv(at / "ludwig.csv", frame, "species", "species_probabilities_{}")
    return Case("ludwig.csv", ("--label", "species", "--probs", "species_probabilities_*"), loss)


@tool("argilla")
def argilla_records(at: Path) -> Case:
    """Suggestions as one object of classes a record, classes without probability left out."""
    rows: list[dict[str, Any]] = []
    for y, row in zip(YES, forest_of_two().tolist(), strict=True):
        rows.append({"metadata": {"gold": y}, "prediction": {"no": 1 - row, "yes": row}})
    path = lines(at / "argilla.jsonl", rows)
    loss = of_records(YES, [row["prediction"] for row in rows])
    return Case(path.name, ("--label", "metadata.gold", "--probs", "prediction"), loss)
