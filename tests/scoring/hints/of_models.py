"""Hints of calibration, of comparisons, and of labels in another file."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

import crossent
from crossent.scoring import TemperatureScaling
from tests.scoring.calibration.drawn import best_temperature, drawn
from tests.scoring.hints.table import LOSS, NAMES, Bench, Hinted, P, Y, refused
from tests.scoring.written import columns, saved

LOGITS, LABEL, _ = drawn(200, 3)
BEST = best_temperature(LOGITS, LABEL)
HALVES = [(LOGITS[:100], LABEL[:100]), (LOGITS[100:], LABEL[100:])]
OTHER = (P + 0.2) / 1.6
DIFFERENCE = float(crossent.score(Y, probs=P).loss - crossent.score(Y, probs=OTHER).loss)
CALIBRATED = TemperatureScaling(input="probs").fit(P, Y).calibrated_loss_


def two(bench: Bench) -> list[Any]:
    """Write the predictions of two models, and return the files."""
    return [saved(bench.path / "new.csv", columns(Y, P)), saved(bench.path / "old.csv", columns(Y, OTHER))]


def both(bench: Bench) -> Any:
    """Write the predictions of two models as one table, and return the file."""
    parts = {f"{name}_{k}": q[:, k] for name, q in (("a", P), ("b", OTHER)) for k in range(3)}
    return saved(bench.path / "both.csv", {"y": Y, **parts})


def difference(bench: Bench, *arguments: object) -> float:
    ran = bench.run("compare", *arguments, "--label", "y", "--json")
    assert ran.code == 0, ran.err
    return float(json.loads(ran.out)["difference"])


def calibrated(bench: Bench) -> float:
    path = saved(bench.path / "c.csv", columns(Y, P))
    out = bench.path / "out.parquet"
    ran = bench.run("calibrate", path, "--label", "y", "--probs", "p_*", "--out", out, "--json")
    return float(json.loads(ran.out)["calibrated_loss"])


def objects(bench: Bench) -> str:
    rows = [{"y": int(y), "p": {str(k): float(x) for k, x in enumerate(q)}} for y, q in zip(Y, P, strict=True)]
    path = bench.path / "objects.jsonl"
    _ = path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return bench.said("calibrate", path, "--label", "y", "--probs", "p", "--out", bench.path / "out.parquet")


def truth(bench: Bench, order: Any, rows: int = len(Y), *, named: bool = True) -> list[Any]:
    """Write predictions with ids, and as many labels in an order; return the call of the command."""
    ids = np.array([f"r{k}" for k in range(len(Y))])
    made = {"key": ids, **{f"p_{name}": P[:, k] for k, name in enumerate(NAMES)}}
    predictions = saved(bench.path / "p.csv", made)
    label: Any = {"key" if named else "name": ids[order][:rows], "u": NAMES[Y][order][:rows]}
    there = saved(bench.path / "t.csv", label | {"v": NAMES[Y][order][:rows]})
    return [predictions, "--truth", there, "--probs", "p_*"]


def loss(bench: Bench, *arguments: object) -> float:
    ran = bench.run("score", *arguments, "--json")
    assert ran.code == 0, ran.err
    return float(json.loads(ran.out)["loss"])


def last(message: Callable[[Bench], list[object]]) -> Callable[[Bench], str]:
    return lambda bench: bench.said("score", *message(bench))


BACKWARD = np.arange(len(Y))[::-1]
MODELS = {
    "batches that can be read once": Hinted(
        refused(lambda: TemperatureScaling().fit_batches(iter(HALVES))),  # pyright: ignore[reportArgumentType]
        "pass a list, or a function that returns a new iterator at each call",
        lambda _: TemperatureScaling().fit_batches(lambda: iter(HALVES)).temperature_,
        BEST,
    ),
    "a scaling that is not fitted": Hinted(
        refused(lambda: TemperatureScaling().predict_proba(LOGITS)),
        "call fit first",
        lambda _: float(np.log(TemperatureScaling().fit(LOGITS, LABEL).predict_proba(LOGITS))[0, 0]),
        float(LOGITS[0, 0] / BEST - np.logaddexp.reduce(LOGITS[0] / BEST)),
    ),
    "objects to calibrate": Hinted(objects, "write a column for each class first", calibrated, CALIBRATED),
    "one file without columns of two models": Hinted(
        lambda bench: bench.said("compare", two(bench)[0], "--label", "y", "--probs", "p_*"),
        "pass two files, or repeat --probs (--logits, --logprobs) for each model in this file",
        lambda bench: difference(bench, both(bench), "--probs", "a_*", "--probs", "b_*"),
        DIFFERENCE,
    ),
    "two kinds of predictions": Hinted(
        lambda bench: bench.said("compare", *two(bench), "--label", "y", "--probs", "p_*", "--logits", "p_*"),
        "pass one of --",
        lambda bench: difference(bench, *two(bench), "--probs", "p_*"),
        DIFFERENCE,
    ),
    "two patterns for three files": Hinted(
        lambda bench: bench.said(
            "compare", *two(bench), both(bench), "--label", "y", "--probs", "p_*", "--probs", "a_*"
        ),
        "pass --probs once for all 3 files, or once for each",
        lambda bench: difference(bench, two(bench)[0], both(bench), "--probs", "p_*", "--probs", "b_*"),
        DIFFERENCE,
    ),
    "a label and several": Hinted(
        lambda bench: bench.said("score", two(bench)[0], "--label", "y", "--labels", "y", "--probs", "p_*"),
        "pass --label with the column of true classes, or --labels with several columns of 0 and 1",
        lambda bench: loss(bench, two(bench)[0], "--label", "y", "--probs", "p_*"),
        LOSS,
    ),
    "labels elsewhere in another order": Hinted(
        last(lambda bench: [*truth(bench, BACKWARD), "--label", "u"]),
        "pass --on key",
        lambda bench: loss(bench, *truth(bench, BACKWARD), "--label", "u", "--on", "key"),
        LOSS,
    ),
    "fewer labels elsewhere": Hinted(
        last(lambda bench: [*truth(bench, BACKWARD, 40, named=False), "--label", "u"]),
        "only the same rows in the same order can be paired: pass --on",
        lambda bench: loss(bench, *truth(bench, BACKWARD), "--label", "u", "--on", "key"),
        LOSS,
    ),
    "two columns that may be labels elsewhere": Hinted(
        last(lambda bench: [*truth(bench, BACKWARD), "--on", "key"]),
        "pass --label",
        lambda bench: loss(bench, *truth(bench, BACKWARD), "--label", "u", "--on", "key"),
        LOSS,
    ),
}
