"""Hints of the adapters for scikit-learn, torchmetrics and Dask."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import log_loss
from sklearn.svm import LinearSVC

import crossent
import crossent.scoring.dask
from crossent.scoring.sklearn import Scorer
from crossent.scoring.torchmetrics import CrossEntropyScore
from tests.scoring.hints.table import LOSS, Hinted, N, P, Y, Z, refused

BOTH = np.stack([Y, np.roll(Y, 1)], axis=1)
FOREST = RandomForestClassifier(5, max_depth=2, random_state=0).fit(Z, BOTH)
MACHINE = LinearSVC(random_state=0)
CALIBRATED = CalibratedClassifierCV(LinearSVC(random_state=0), cv=3).fit(Z, Y)
FRAME = pd.DataFrame({"y": Y, "p_0": P[:, 0], "p_1": P[:, 1], "p_2": P[:, 2]})
LISTS = pd.DataFrame({"y": Y, "p": P.tolist()})
PARTS = dd.from_pandas(FRAME, npartitions=3)


class Margins:
    """A classifier whose probabilities are log-probabilities."""

    classes_ = np.arange(3)

    def predict_proba(self, X: Any) -> Any:
        return np.log(P)

    predict_log_proba = predict_proba


def metric(preds: Any, target: Any, kind: Any = "logits") -> float:
    made = CrossEntropyScore(kind)
    made.update(preds, target)
    return float(made.compute())


def lists(convert: bool) -> float:
    with dask.config.set({"dataframe.convert-string": convert}):
        return crossent.scoring.dask.score(dd.from_pandas(LISTS, npartitions=2), label="y", probs="p").loss


TOKENS, TARGETS = torch.tensor(Z.reshape(4, 15, 3)), torch.tensor(Y.reshape(4, 15))
ADAPTERS = {
    "scikit-learn, no probabilities": Hinted(
        refused(lambda: Scorer()(MACHINE.fit(Z, Y), Z, Y)),
        "wrap it in sklearn.calibration.CalibratedClassifierCV",
        lambda _: -Scorer()(CALIBRATED, Z, Y),
        float(log_loss(Y, CALIBRATED.predict_proba(Z))),
    ),
    "scikit-learn, several outputs": Hinted(
        refused(lambda: Scorer()(FOREST, Z, BOTH)),
        "outputs; score each with crossent.score",
        lambda _: crossent.score(BOTH[:, 1], probs=FOREST.predict_proba(Z)[1]).loss,
        float(log_loss(BOTH[:, 1], FOREST.predict_proba(Z)[1])),
    ),
    "scikit-learn, logarithms": Hinted(
        refused(lambda: Scorer()(Margins(), Z, Y)),
        "if these are log-probabilities, pass response_method='predict_log_proba'",
        lambda _: -Scorer(response_method="predict_log_proba")(Margins(), Z, Y),
        LOSS,
    ),
    "torchmetrics, the second axis": Hinted(
        refused(lambda: metric(TOKENS.movedim(-1, 1), TARGETS)),
        "if the classes are the second axis, pass preds.movedim(1, -1)",
        lambda _: metric(TOKENS.movedim(-1, 1).movedim(1, -1), TARGETS),
        LOSS,
    ),
    "torchmetrics, logits": Hinted(
        refused(lambda: metric(TOKENS, TARGETS, "probs")),
        "if these are logits, pass predictions='logits'",
        lambda _: metric(TOKENS, TARGETS),
        LOSS,
    ),
    "Dask, no collection": Hinted(
        refused(lambda: crossent.scoring.dask.score(FRAME, label="y", probs="p_*")),
        "; see crossent.score",
        lambda _: crossent.score(FRAME["y"], probs=FRAME[["p_0", "p_1", "p_2"]]).loss,
        LOSS,
    ),
    "Dask, no label": Hinted(
        refused(lambda: crossent.scoring.dask.score(PARTS, probs="p_*")),
        "for a data frame pass label=, the name of the column of true classes",
        lambda _: crossent.scoring.dask.score(PARTS, label="y", probs="p_*").loss,
        LOSS,
    ),
    "Dask, lists as texts": Hinted(
        refused(lambda: lists(True)),
        "read them under dask.config.set({'dataframe.convert-string': False})",
        lambda _: lists(False),
        LOSS,
    ),
    "Dask, other partitions": Hinted(
        refused(lambda: crossent.scoring.dask.score(PARTS["y"], probs=da.from_array(P, chunks=(10, 3)))),
        "they must be the same rows: repartition one of them",
        lambda _: crossent.scoring.dask.score(PARTS["y"], probs=da.from_array(P, chunks=(N // 3, 3))).loss,
        LOSS,
    ),
}
"""Every hint of an adapter, by a name."""
