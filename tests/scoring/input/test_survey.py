"""Files whose columns are looked up by path, by shape and by what the file says: the loss is that of NumPy."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossent.errors import InputError, UsageError
from crossent.scoring.cli.reading import state_of
from crossent.scoring.input.arguments import RowArguments
from crossent.scoring.input.columns import columns
from crossent.scoring.input.files import open_table
from crossent.scoring.input.survey import first_rows, settled

RANDOM = np.random.default_rng(11)
CLASSES = np.array(["cat", "dog", "eel"])
N = 300
P = RANDOM.dirichlet(np.ones(3), N)
Y = np.array([RANDOM.choice(3, p=row) for row in P])
LOSS = float(-np.log(P[np.arange(N), Y]).mean())
ORDERS = [RANDOM.permutation(3) for _ in range(N)]
RECORDS = [[{"label": CLASSES[k], "score": p[k]} for k in order] for p, order in zip(P, ORDERS, strict=True)]
OBJECTS = [{r["label"]: r["score"] for r in row} for row in RECORDS]


def named(label=None, **roles):
    return columns(label, RowArguments(**roles), by_shape=True)


def scored(path, label=None, options=None, **roles):
    return state_of(path, named(label, **roles), options or {}).finalize()


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet", ".arrow", ".csv"])
@pytest.mark.parametrize("values", [RECORDS, OBJECTS, P.tolist()], ids=["records", "objects", "lists"])
def test_one_column_of_any_shape_in_any_format(ending, values, tmp_path):
    path = tmp_path / f"a{ending}"
    labels = (Y if values[0] == P[0].tolist() else CLASSES[Y]).tolist()
    if ending in (".jsonl", ".json"):
        lines(path, *({"label": y, "probs": value} for y, value in zip(labels, values, strict=True)))
    elif ending == ".csv":
        pd.DataFrame({"label": labels, "probs": [json.dumps(value) for value in values]}).to_csv(path, index=False)
    else:
        table = pa.table({"label": labels, "probs": values})
        if ending == ".parquet":
            pq.write_table(table, path, row_group_size=70)
        else:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table, max_chunksize=70)
    assert scored(path, "label", probs="probs").loss == pytest.approx(LOSS, rel=1e-13)
    assert scored(path).loss == pytest.approx(LOSS, rel=1e-13)


def test_classes_that_first_rows_lack_are_found(tmp_path, monkeypatch):
    """Rows leave out classes of probability 0, other ones in each block."""
    monkeypatch.setattr("crossent.scoring.input.json_files._BLOCK", 256)
    rows = [{"a": 0.25, "b": 0.75}] * 50 + [{"c": 0.5, "a": 0.5}] * 50 + [{"d": 1.0}] * 50
    path = lines(tmp_path / "a.jsonl", *({"y": next(iter(row)), "p": row} for row in rows))
    found = scored(path, "y", probs="p")
    assert found.loss == pytest.approx((np.log(4) + np.log(2)) / 3)
    assert list(found.classes) == ["a", "b", "c", "d"]


def test_paths_lead_into_objects(tmp_path):
    rows = [
        {"meta": {"y": int(y), "lang": "en"}, "pred": {"probs": p.tolist(), "by": {f"p_{k}": p[k] for k in range(3)}}}
        for y, p in zip(Y, P, strict=True)
    ]
    path = lines(tmp_path / "a.jsonl", *rows)
    for probs in ("pred.probs", "pred.by.*", "pred.by.p_0,pred.by.p_1,pred.by.p_2", "pred.by"):
        found = scored(path, "meta.y", probs=probs, by=["meta.lang"])
        assert found.loss == pytest.approx(LOSS, rel=1e-13)
        assert [part.value for part in found.by["meta.lang"]] == ["en"]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert scored(tmp_path / "a.parquet", "meta.y", probs="pred.by.p_*").loss == pytest.approx(LOSS, rel=1e-13)
    with pytest.raises(UsageError, match=r"there is no column 'meta\.z'"):
        scored(path, "meta.z", probs="pred.probs")


def test_vertex_ai(tmp_path):
    rows = [
        {"instance": {"x": 1, "label": CLASSES[y]}, "prediction": {"classes": CLASSES.tolist(), "scores": p.tolist()}}
        for y, p in zip(Y, P, strict=True)
    ]
    assert scored(lines(tmp_path / "a.jsonl", *rows)).loss == pytest.approx(LOSS, rel=1e-13)


def test_what_is_recognised_is_said(tmp_path, capsys):
    table = {"y": Y, "predict": P.argmax(1), **{f"p{k}": P[:, k] for k in range(3)}}
    pd.DataFrame(table).to_csv(tmp_path / "a.csv", index=False)
    assert scored(tmp_path / "a.csv").loss == pytest.approx(LOSS, rel=1e-12)
    assert capsys.readouterr().err == "read as H2O predictions: labels in 'y', probabilities in 'p0', 'p1', 'p2'\n"
    assert scored(tmp_path / "a.csv", "y", probs="p0,p1,p2").loss == pytest.approx(LOSS, rel=1e-12)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"p_0": P[:, 0], "p_1": P[:, 1], "p_2": P[:, 2]}, "no column with a usual name of labels"),
        ({"label": Y, "score": P.max(1)}, "top_k=None"),
        ({"label": Y, "x": P.max(1)}, "pass --label with the column of true labels, and --probs"),
        ({"inst#": Y, "actual": Y, "predicted": Y, "error": Y, "prediction": P.max(1)}, "this table of Weka lacks"),
    ],
)
def test_what_is_not_recognised_says_what_to_pass(table, says, tmp_path):
    pd.DataFrame(table).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(UsageError) as raised:
        scored(tmp_path / "a.csv")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def class_label(table, names=("cat", "dog", "eel")):
    info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    return table.replace_schema_metadata({"huggingface": json.dumps(info)})


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
@pytest.mark.parametrize("stem", ["", "p_"])
def test_class_labels_of_datasets_name_the_classes(order, stem, tmp_path):
    named_columns = {f"{stem}{CLASSES[k]}": P[:, k] for k in order}
    pq.write_table(class_label(pa.table({"label": Y, **named_columns})), tmp_path / "a.parquet")
    found = scored(tmp_path / "a.parquet", "label", probs=",".join(named_columns))
    assert found.loss == pytest.approx(LOSS, rel=1e-13)
    assert list(found.classes) == CLASSES.tolist()


@pytest.mark.parametrize("values", [P.tolist(), RECORDS, OBJECTS], ids=["lists", "records", "objects"])
def test_class_labels_beside_one_column(values, tmp_path):
    pq.write_table(class_label(pa.table({"label": Y, "out": values})), tmp_path / "a.parquet")
    found = scored(tmp_path / "a.parquet", "label", probs="out")
    assert found.loss == pytest.approx(LOSS, rel=1e-13)
    assert set(found.classes) == set(CLASSES)


def test_class_labels_that_do_not_fit_are_left(tmp_path):
    table = pa.table({"label": Y, "p_0": P[:, 0], "p_1": P[:, 1], "p_2": P[:, 2], "q": P.tolist()})
    pq.write_table(class_label(table, ["x", "y"]), tmp_path / "a.parquet")
    assert scored(tmp_path / "a.parquet", "label", probs="p_*").loss == pytest.approx(LOSS, rel=1e-13)
    assert scored(tmp_path / "a.parquet", "label", probs="q").loss == pytest.approx(LOSS, rel=1e-13)


def test_datasets_writes_class_labels(tmp_path):
    import datasets

    features = datasets.Features(
        {"label": datasets.ClassLabel(names=CLASSES.tolist()), "probs": datasets.List(datasets.Value("float64"))}
    )
    made = datasets.Dataset.from_dict({"label": Y, "probs": P.tolist()}, features=features)
    made.to_parquet(tmp_path / "a.parquet")
    found = scored(tmp_path / "a.parquet", "label", probs="probs")
    assert (list(found.classes), found.loss) == (CLASSES.tolist(), pytest.approx(LOSS, rel=1e-13))


def test_labels_may_be_elsewhere(tmp_path):
    pd.DataFrame({"id": range(N), **{f"p_{k}": P[:, k] for k in range(3)}}).to_csv(tmp_path / "a.csv", index=False)
    found = settled(open_table(tmp_path / "a.csv"), named(), unlabelled=True)
    assert found.columns.label is None
    assert found.said == "read as predictions: no labels, probabilities in 'p_0', 'p_1', 'p_2'"


def test_rows_of_many_classes_are_read_in_pieces(tmp_path):
    keys = [f"k{k}" for k in range(40_000)]
    rows = pa.array([[(keys[k], 1.0)] for k in range(40_000)], pa.map_(pa.string(), pa.float64()))
    pq.write_table(pa.table({"y": keys, "p": rows}), tmp_path / "a.parquet")
    asked = settled(open_table(tmp_path / "a.parquet"), named("y", probs="p"))
    batch = next(open_table(tmp_path / "a.parquet").batches(["y", "p"], ["y"])).batch
    pieces = list(asked.pieces(batch))
    assert sum(map(len, pieces)) == len(batch)
    assert max(map(len, pieces)) * 40_000 <= 1 << 23


def test_first_rows_of_an_empty_table(tmp_path):
    (tmp_path / "a.csv").write_text("y,p\n")
    assert first_rows(open_table(tmp_path / "a.csv"), ["y", "p"], 3) is None
    with pytest.raises(InputError):
        settled(open_table(tmp_path / "a.csv"), named())


def test_a_column_that_is_not_there_comes_first(tmp_path):
    """The table has no known shape either; but the name is the likelier mistake."""
    pd.DataFrame({"truth": Y, "u": P[:, 0], "v": P[:, 1]}).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(InputError, match="label: there is no column 'trut'; did you mean 'truth'"):
        settled(open_table(tmp_path / "a.csv"), named("trut"))


def test_a_log_is_for_another_command(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"tokens": ["a"], "logprobs": [-1.0]}\n')
    with pytest.raises(
        InputError, match=r"match no known tool; .*; logs of language models are scored by crossent lm$"
    ):
        settled(open_table(tmp_path / "a.jsonl"), named())
