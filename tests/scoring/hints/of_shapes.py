"""Hints about shapes of predictions, tables of tools, and tables in JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crossent import score
from tests.scoring.hints.table import LOSS, LOSS2, NAMES, Y2, Bench, Hinted, P, Q, Y, loss, options, refused

ROWS = P.tolist()
TRUTH = NAMES[Y]
RECORDS = [[{"label": name, "score": p} for name, p in zip(NAMES, row, strict=True)] for row in ROWS]
TOP = [[max(row, key=lambda record: record["score"])] for row in RECORDS]
TWO = [sorted(row, key=lambda record: -record["score"])[:2] for row in RECORDS]
OBJECTS = [dict(zip(NAMES.tolist(), row, strict=True)) for row in ROWS]
NAMED = {"y": TRUTH, **{f"p_{name}": P[:, k] for k, name in enumerate(NAMES)}}
PLAIN = {"y": TRUTH, **{name: P[:, k] for k, name in enumerate(NAMES)}}
THIRD = {"y": [*NAMES[Y2], "x"], "p_cat": [*(1 - Q), 0.5], "p_dog": [*Q, 0.5]}
CALL = ("--label", "y", "--probs", "p_*")


def csv(made: dict[str, Any]) -> Callable[[Bench], Path]:
    def write(bench: Bench) -> Path:
        pd.DataFrame(made).to_csv(bench.path / "a.csv", index=False)
        return bench.path / "a.csv"

    return write


def jsonl(made: dict[str, Any]) -> Callable[[Bench], Path]:
    def write(bench: Bench) -> Path:
        pd.DataFrame(made).to_json(bench.path / "a.jsonl", orient="records", lines=True, double_precision=15)
        return bench.path / "a.jsonl"

    return write


def text(value: Any) -> Callable[[Bench], Path]:
    def write(bench: Bench) -> Path:
        (bench.path / "a.json").write_text(json.dumps(value))
        return bench.path / "a.json"

    return write


def says(made: Callable[[Bench], Path], *call: str) -> Callable[[Bench], str]:
    return lambda bench: bench.said("score", made(bench), *call)


def scores(made: Callable[[Bench], Path], *call: str) -> Callable[[Bench], float]:
    return lambda bench: bench.loss(made(bench), *call)


def pasted(made: Callable[[Bench], Path], begin: str, end: str, *call: str) -> Callable[[Bench], float]:
    """Return what runs the command with the options that its message names."""

    def followed(bench: Bench) -> float:
        path = made(bench)
        return bench.loss(path, *call, *options(bench.said("score", path), begin, end))

    return followed


RECORDS_OF_JSON = [{name: np.asarray(values)[k].item() for name, values in NAMED.items()} for k in range(len(Y))]
BOTH = {**NAMED, "target": TRUTH[::-1]}
CALIBRATED = {
    "y": Y, "predict": Y, **{f"p{k}": P[:, k] for k in range(3)}, **{f"cal_p{k}": P[:, -1 - k] for k in range(3)}
}  # fmt: skip
UNKNOWN = {"y": TRUTH, **{f"m{k}": P[:, k] for k in range(3)}}
WEKA = {"inst#": Y, "actual": Y, "predicted": Y, "error": "", "prediction": P.max(1)}
WITHOUT = {**{name: values for name, values in NAMED.items() if name != "y"}, "kind": TRUTH}

SHAPES = {
    "one class a row": Hinted(
        refused(lambda: score(TRUTH, probs=[[{"label": "cat", "score": 1.0}]] * len(Y))),
        "; write the numbers of all classes",
        loss(TRUTH, probs=RECORDS),
        LOSS,
    ),
    "the most probable class": Hinted(
        refused(lambda: score(TRUTH, probs=[row[0] for row in TOP])),
        "write the numbers of all classes (of pipelines of Hugging Face: top_k=None)",
        loss(TRUTH, probs=RECORDS),
        LOSS,
    ),
    "the two most probable classes": Hinted(
        refused(lambda: score(TRUTH, probs=TWO)),
        "; write the numbers of all classes (of pipelines of Hugging Face: top_k=None)",
        loss(TRUTH, probs=RECORDS),
        LOSS,
    ),
    "a column of all classes beside others": Hinted(
        says(jsonl({"y": TRUTH, "p": OBJECTS, "p_cat": P[:, 0]}), "--label", "y", "--probs", "p*"),
        "name it alone",
        scores(jsonl({"y": TRUTH, "p": OBJECTS, "p_cat": P[:, 0]}), "--label", "y", "--probs", "p"),
        LOSS,
    ),
    "classes that rows do not name": Hinted(
        refused(lambda: score(TRUTH, probs=OBJECTS, classes=["ant", "bee", "cow"])),
        "; leave classes= out, or pass the names in the rows, ['cat', 'dog', 'emu']",
        loss(TRUTH, probs=OBJECTS, classes=["cat", "dog", "emu"]),
        LOSS,
    ),
    "several readings": Hinted(
        says(csv(CALIBRATED)),
        "the table can be read in several ways; pass --probs p0,p1,p2 or --probs cal_p0",
        pasted(csv(CALIBRATED), "pass ", " or ", "--label", "y"),
        LOSS,
    ),
    "several truths": Hinted(
        says(csv(BOTH)),
        "several columns may hold the true labels; pass --label y or --label target",
        pasted(csv(BOTH), "pass ", " or ", "--probs", "p_*"),
        LOSS,
    ),
    "no truth": Hinted(
        says(csv(WITHOUT)),
        ", and no column with a usual name of labels holds classes; pass --label",
        scores(csv(WITHOUT), "--label", "kind", "--probs", "p_*"),
        LOSS,
    ),
    "unknown columns": Hinted(
        says(csv(UNKNOWN)),
        "the columns match no known tool; pass --label with the column of true labels, and --probs",
        scores(csv(UNKNOWN), "--label", "y", "--probs", "m*", "--classes", ",".join(NAMES)),
        LOSS,
    ),
    "a row whose sum is wrong": Hinted(
        says(csv({**PLAIN, "cat": np.where(np.arange(len(P)) == 3, P[:, 0] + 0.3, P[:, 0])})),
        "'cat', 'dog', 'emu' look like probabilities, but row 3 sums to 1.3: correct it, or pass --label with the "
        "column of true labels, and --probs",
        scores(csv(PLAIN), "--label", "y", "--probs", "cat,dog,emu"),
        LOSS,
    ),
    "a misspelled label": Hinted(
        says(csv({**PLAIN, "y": np.where(np.arange(len(P)) == 5, "cta", TRUTH)})),
        "but label 'cta' (row 5) in 'y' has no column: correct it, or pass --label",
        scores(csv(PLAIN), "--label", "y", "--probs", "cat,dog,emu"),
        LOSS,
    ),
    "a label without a column": Hinted(
        says(csv(THIRD), *CALL),
        "; correct it, pass --ignore x to skip such rows, or pass a column for the third class",
        scores(csv(THIRD), *CALL, "--ignore", "x"),
        LOSS2,
    ),
    "Weka": Hinted(
        says(csv(WEKA)),
        "write a column of probabilities for each class, and the actual class without its number",
        scores(csv(NAMED), *CALL),
        LOSS,
    ),
    "a label and its score": Hinted(
        says(csv({"label": TRUTH, "score": P.max(1)})),
        "write those of all classes (of pipelines of Hugging Face: top_k=None)",
        scores(jsonl({"label": TRUTH, "out": RECORDS}), "--label", "label", "--probs", "out"),
        LOSS,
    ),
    "JSON that is no table": Hinted(
        says(text({"a": 1, "b": {"c": 2}}), *CALL),
        'write an array of objects, as pandas does with orient="records", or JSON lines',
        scores(text(RECORDS_OF_JSON), *CALL),
        LOSS,
    ),
    "JSON of objects in objects": Hinted(
        says(text({"1": {"2": 1}, "3": {"2": 5}}), *CALL),
        'write an array of objects, as pandas does with orient="records"',
        scores(text(RECORDS_OF_JSON), *CALL),
        LOSS,
    ),
    "JSON of too many columns": Hinted(
        says(text({f"c{k}": [1] for k in range(400)}), *CALL),
        'are too many to read at once; write an array of objects, as pandas does with orient="records"',
        scores(text(RECORDS_OF_JSON), *CALL),
        LOSS,
    ),
    "names in a file of outputs": Hinted(
        lambda bench: bench.said("score", csv(NAMED)(bench).rename(bench.path / "a.txt"), *CALL),
        "if these are names of columns, pass --format csv or --format tsv",
        lambda bench: bench.loss(bench.path / "a.txt", *CALL, "--format", "csv"),
        LOSS,
    ),
}
