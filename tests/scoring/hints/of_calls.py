"""Hints of `score`, `compare` and `ScoreState`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import log_loss

import crossent
import crossent.torch
from crossent import ScoreState, compare, score
from tests.scoring.exact import softmax
from tests.scoring.hints.table import LOSS, LOSS2, NAMES, Y2, Hinted, M, N, P, Q, Y, Z, loss, refused, warned

IMAGES = np.moveaxis(Z.reshape(3, 4, 5, 3), -1, 1)  # (N, C, H, W)
TEXTS = np.moveaxis(Z.reshape(4, 15, 3), -1, 1)  # (B, C, T)
IMAGE_Y, TEXT_Y = Y.reshape(3, 4, 5), Y.reshape(4, 15)
SQUARE, SQUARE_Y = Z.reshape(20, 3, 3), Y.reshape(20, 3)
BOTH = np.stack([Y, np.roll(Y, 1)], axis=1)
FOREST = RandomForestClassifier(5, max_depth=2, random_state=0).fit(Z, BOTH)
OUTPUTS = FOREST.predict_proba(Z)
SOFT = np.random.default_rng(0).dirichlet(np.ones(3), N)
SOFT_LOSS = float(-(SOFT * np.log(P)).sum(1).mean())
ONE_HOT = np.eye(3, dtype=int)[Y]
SEVERAL = (P > 0.2).astype(int)
FRAME = pd.DataFrame(P, columns=[f"p_{name}" for name in NAMES])
ODD = pd.DataFrame(P, columns=["m1_cat", "m2_dog", "m3_emu"])
TWO = pd.DataFrame({"p_a": 1 - Q, "p_p_a": Q})
HOLED: list[Any] = [*Y[:-1].tolist(), None]
SHORT = float(log_loss(Y[:-1], P[:-1]))
ROWS = np.stack([1 - M, M], axis=1)
PAIR = np.stack([1 - Q, Q], axis=1)
OFF = P * np.where(np.arange(N) == 7, 1.005, 1.0)[:, None]
COSTS = -np.log(P[np.arange(N), Y])
HARD = np.eye(3)[P.argmax(1)]
ZEROS = np.where(P < 0.05, 0.0, P) / np.where(P < 0.05, 0.0, P).sum(1, keepdims=True)
FLOORED = float(-np.log(np.maximum(ZEROS[np.arange(N), Y], 1e-6)).mean())
TINY = 1e-80 * (1.0 + np.arange(N) % 3)
OTHER = np.roll(P, 1, axis=0)
DIFFERENCE = float((COSTS + np.log(OTHER[np.arange(N), Y])).mean())
ORDER = np.random.default_rng(2).permutation(N)
WORDS = NAMES[Y].tolist()
LONG = np.random.default_rng(4).dirichlet(np.ones(12), 24)
LONG_Y = np.arange(24) % 12


def a(**more: Any) -> crossent.Score:
    return score(Y, probs=P, **more)


def b(rows: Any = slice(None), **more: Any) -> crossent.Score:
    return score(Y[rows], probs=OTHER[rows], **more)


def difference(one: crossent.Score, other: crossent.Score) -> Any:
    return lambda _: compare(one, other).difference


def _again(_: Any) -> float:
    return ScoreState().update(Y, probs=P).finalize().loss


def _midway() -> None:
    state = ScoreState()
    try:
        _ = state.update(Y, probs=np.where(np.arange(N)[:, None] == 9, np.nan, P))
    except ValueError:
        _ = state.update(Y, probs=P)


def _masked(values: Any) -> Any:
    return np.ma.masked_array(values, np.arange(N) == N - 1)


AXES = {
    "images": Hinted(
        refused(lambda: score(IMAGE_Y, logits=IMAGES)),
        "move them last first, np.moveaxis(logits, 1, -1).reshape(-1, 3), and reshape y to (-1,)",
        loss(IMAGE_Y.reshape(-1), logits=np.moveaxis(IMAGES, 1, -1).reshape(-1, 3)),
        LOSS,
    ),
    "texts": Hinted(
        refused(lambda: score(torch.tensor(TEXT_Y), logits=torch.tensor(TEXTS))),
        "move them last first, logits.movedim(1, -1).reshape(-1, 3), and reshape y to (-1,)",
        loss(torch.tensor(TEXT_Y).reshape(-1), logits=torch.tensor(TEXTS).movedim(1, -1).reshape(-1, 3)),
        LOSS,
    ),
    "classes last": Hinted(
        refused(lambda: score(IMAGE_Y, logits=np.moveaxis(IMAGES, 1, -1))),
        "; reshape to (-1, 3), and y to (-1,)",
        loss(IMAGE_Y.reshape(-1), logits=np.moveaxis(IMAGES, 1, -1).reshape(-1, 3)),
        LOSS,
    ),
    "either axis": Hinted(
        refused(lambda: score(SQUARE_Y, logits=SQUARE)),
        "if the classes are the last axis, reshape to (-1, 3), and y to (-1,); if they are axis 1, move them",
        loss(SQUARE_Y.reshape(-1), logits=SQUARE.reshape(-1, 3)),
        LOSS,
    ),
    "outputs of a forest": Hinted(
        refused(lambda: score(BOTH, probs=OUTPUTS)),
        "these are 2 outputs: score each of them, y[:, k] with probs[k]",
        lambda _: sum(score(BOTH[:, k], probs=OUTPUTS[k], zero=1e-9).loss for k in range(2)),
        sum(float(log_loss(BOTH[:, k], np.maximum(OUTPUTS[k], 1e-300))) for k in range(2)),
    ),
    "one output": Hinted(
        refused(lambda: score(BOTH[:, 1], probs=OUTPUTS)),
        "these are 2 outputs: pass the one that y belongs to, probs[k]",
        loss(BOTH[:, 1], probs=OUTPUTS[1]),
        float(log_loss(BOTH[:, 1], OUTPUTS[1])),
    ),
    "a list of one": Hinted(
        refused(lambda: score(Y, probs=[P])), "this is a list of one output: pass probs[0]", loss(Y, probs=P), LOSS
    ),
    "one-hot": Hinted(
        refused(lambda: score(ONE_HOT, probs=P)),
        "if these are one-hot rows, pass y.argmax(1)",
        loss(ONE_HOT.argmax(1), probs=P),
        LOSS,
    ),
    "several classes": Hinted(
        refused(lambda: score(SEVERAL, probs=P)),
        "score each column as two classes, y[:, k] with probs[:, k]",
        lambda _: sum(score(SEVERAL[:, k], probs=P[:, k]).loss for k in range(3)),
        sum(float(log_loss(SEVERAL[:, k], P[:, k])) for k in range(3)),
    ),
    "soft labels": Hinted(
        refused(lambda: score(SOFT, probs=P)),
        "for soft labels use crossent.cross_entropy(y, probs)",
        lambda _: float(np.mean(crossent.cross_entropy(SOFT, P))),
        SOFT_LOSS,
    ),
    "soft labels of logits": Hinted(
        refused(lambda: score(SOFT, logits=Z)),
        "for soft labels use crossent.torch.cross_entropy(logits, y)",
        lambda _: crossent.torch.cross_entropy(torch.tensor(Z), torch.tensor(SOFT)).item(),
        SOFT_LOSS,
    ),
    "swapped": Hinted(
        refused(lambda: score(P, probs=Y)),
        "are they swapped? The truth comes first",
        loss(Y, probs=P),
        LOSS,
    ),
    "swapped columns": Hinted(
        refused(lambda: score(Q, probs=Y2)),
        "are y and the predictions swapped? Soft labels are for crossent.cross_entropy",
        loss(Y2, probs=Q),
        LOSS2,
    ),
}

LABELS = {
    "no value": Hinted(
        refused(lambda: score(HOLED, probs=P)),
        "drop such rows, or pass ignore=float('nan') to skip them",
        loss(HOLED, probs=P, ignore=float("nan")),
        SHORT,
    ),
    "names": Hinted(
        refused(lambda: score(WORDS, probs=P)),
        "pass classes= with the 3 names in the order of the columns",
        loss(WORDS, probs=P, classes=NAMES.tolist()),
        LOSS,
    ),
    "names of two": Hinted(
        refused(lambda: score(NAMES[Y2], probs=Q)),
        "pass classes= with the 2 names in the order of the columns, the positive class last",
        loss(NAMES[Y2], probs=Q, classes=["cat", "dog"]),
        LOSS2,
    ),
    "from 1": Hinted(
        refused(lambda: score(Y + 1, probs=P)),
        "if the columns are [1, 2, 3] in this order, pass that as classes=",
        loss(Y + 1, probs=P, classes=[1, 2, 3]),
        LOSS,
    ),
    "from 1, some": Hinted(
        refused(lambda: score(np.where(Y == 0, 3, Y + 1), probs=P)),
        "if labels count from 1, and the columns are [1, 2, 3] in this order, pass that as classes=",
        loss(np.where(Y == 0, 3, Y + 1), probs=P, classes=[1, 2, 3]),
        float(log_loss(np.where(Y == 0, 2, Y), P, labels=[0, 1, 2])),
    ),
    "as texts": Hinted(
        refused(lambda: score(np.array(["1", "2", "10"])[Y], probs=P)),
        "if the columns are ['1', '2', '10'] in this order, pass that as classes=",
        loss(np.array(["1", "2", "10"])[Y], probs=P, classes=["1", "2", "10"]),
        LOSS,
    ),
    "-1 and 1": Hinted(
        refused(lambda: score(2 * Y2 - 1, probs=Q)),
        "if the columns are [-1, 1] in this order, pass that as classes=",
        loss(2 * Y2 - 1, probs=Q, classes=[-1, 1]),
        LOSS2,
    ),
    "-1 or a class": Hinted(
        refused(lambda: score(Y - 1, probs=P)),
        "; or use ignore=-1 to skip such rows",
        loss(Y - 1, probs=P, ignore=-1),
        float(log_loss((Y - 1)[Y > 0], P[Y > 0], labels=[0, 1, 2])),
    ),
    "-100": Hinted(
        refused(lambda: score([*Y2[:-1], -100], probs=Q)),
        "; use ignore=-100 to skip such rows",
        loss([*Y2[:-1], -100], probs=Q, ignore=-100),
        float(log_loss(Y2[:-1], Q[:-1])),
    ),
    "unknown": Hinted(
        refused(lambda: score([*WORDS[:-1], "yak"], probs=FRAME)),
        "use ignore='yak' to skip such rows, or classes= to name the columns",
        loss([*WORDS[:-1], "yak"], probs=FRAME, ignore="yak"),
        SHORT,
    ),
    "several unknown": Hinted(
        refused(lambda: score([*Y[:-2].tolist(), 255, 254], probs=P)),
        "use ignore=[254, 255] to skip such rows",
        loss([*Y[:-2].tolist(), 255, 254], probs=P, ignore=[255, 254]),
        float(log_loss(Y[:-2], P[:-2])),
    ),
    "unknown to the user": Hinted(
        refused(lambda: score([*WORDS[:-1], "yak"], probs=P, classes=NAMES.tolist())),
        "write both alike, or use ignore='yak' to skip such rows",
        loss([*WORDS[:-1], "yak"], probs=P, classes=NAMES.tolist(), ignore="yak"),
        SHORT,
    ),
    "upper case": Hinted(
        refused(lambda: score([w.title() for w in WORDS], probs=FRAME)),
        "in upper and lower case: write both alike",
        loss([w.title().lower() for w in WORDS], probs=FRAME),
        LOSS,
    ),
    "columns of other names": Hinted(
        refused(lambda: score(WORDS, probs=ODD)),
        "pass classes= with the labels of y in the order of the columns ['m1_cat', 'm2_dog', 'm3_emu']",
        loss(WORDS, probs=ODD, classes=["cat", "dog", "emu"]),
        LOSS,
    ),
    "two columns": Hinted(
        refused(lambda: score(np.array(["p_a", "p_p_a"])[Y2], probs=TWO)),
        "pass classes= with the labels of y in the order of the columns ['p_a', 'p_p_a']",
        loss(np.array(["p_a", "p_p_a"])[Y2], probs=TWO, classes=["p_a", "p_p_a"]),
        LOSS2,
    ),
    "more than two": Hinted(
        refused(lambda: score(Y, probs=P[:, 1])),
        "for 3 classes pass a column for each (of scikit-learn predict_proba, not predict)",
        loss(Y, probs=P),
        LOSS,
    ),
    "numbers to numbers": Hinted(
        refused(lambda: score(Y2, probs=Q, classes={0: 1, 1: 0})),
        "pass a list of the classes in the order of the columns",
        loss(Y2, probs=Q, classes=[0, 1]),
        LOSS2,
    ),
}

NUMBERS = {
    "logits": Hinted(refused(lambda: score(Y, probs=Z)), "if these are logits, pass logits=", loss(Y, logits=Z), LOSS),
    "log-probabilities": Hinted(
        refused(lambda: score(Y, probs=np.log(P))),
        "if these are log-probabilities, pass logprobs=",
        loss(Y, logprobs=np.log(P)),
        LOSS,
    ),
    "log-probabilities of one": Hinted(
        refused(lambda: score(Y2, probs=np.log(Q))),
        "if these are log-probabilities, pass logprobs=",
        loss(Y2, logprobs=np.log(Q)),
        LOSS2,
    ),
    "log-odds, all negative": Hinted(
        refused(lambda: score(Y2, probs=-np.abs(M))),
        "; if they are logits, pass logits=",
        loss(Y2, logits=-np.abs(M)),
        float(log_loss(Y2, 1 / (1 + np.exp(np.abs(M))))),
    ),
    "log-odds": Hinted(
        refused(lambda: score(Y2, probs=M)), "if these are logits, pass logits=", loss(Y2, logits=M), LOSS2
    ),
    "other sign": Hinted(
        refused(lambda: score(Y, probs=-np.log(P))),
        "if these are −log of probabilities, pass them with the other sign as logprobs=",
        loss(Y, logprobs=np.log(P)),
        LOSS,
    ),
    "base 2": Hinted(
        refused(lambda: score(Y, probs=np.log2(P))),
        "if these are logarithms to base 2, multiply them by log(2) and pass that as logprobs=",
        loss(Y, logprobs=np.log2(P) * np.log(2)),
        LOSS,
    ),
    "base 10": Hinted(
        refused(lambda: score(Y, logprobs=np.log10(P))),
        "if these are logarithms to base 10, multiply them by log(10) and pass that as logprobs=",
        loss(Y, logprobs=np.log10(P) * np.log(10)),
        LOSS,
    ),
    "margins": Hinted(
        refused(lambda: score(Y2, probs=ROWS)),
        "if m are log-odds, such as the margins of XGBoost, pass the second column alone as logits=",
        loss(Y2, logits=ROWS[:, 1]),
        LOSS2,
    ),
    "margins as logits": Hinted(
        warned(lambda: score(Y2, logits=ROWS)),
        "all rows of logits are [1 − m, m]; if m are log-odds, such as the margins of XGBoost, pass the second",
        loss(Y2, logits=ROWS[:, 1]),
        LOSS2,
    ),
    "percentages": Hinted(
        refused(lambda: score(Y, probs=100 * P)),
        "if these are percentages, pass normalize=True; if they are logits, pass logits=",
        loss(Y, probs=100 * P, normalize=True),
        LOSS,
    ),
    "percentages of one": Hinted(
        refused(lambda: score(Y2, probs=100 * Q)),
        "if these are percentages, divide by 100",
        loss(Y2, probs=100 * Q / 100),
        LOSS2,
    ),
    "counts": Hinted(
        refused(lambda: score(Y, probs=7 * P)),
        "if they are weights or counts, pass normalize=True",
        loss(Y, probs=7 * P, normalize=True),
        LOSS,
    ),
    "sums": Hinted(
        refused(lambda: score(Y, probs=0.7 * P)),
        "; if they are weights or counts, pass normalize=True",
        loss(Y, probs=0.7 * P, normalize=True),
        LOSS,
    ),
    "missing classes": Hinted(
        refused(lambda: score(Y2, logprobs=np.log(P[:, :2]))),
        "if classes are missing, add them; or pass normalize=True",
        loss(Y2, logprobs=np.log(P)),
        float(log_loss(Y2, P, labels=[0, 1, 2])),
    ),
    "missing classes, divided": Hinted(
        refused(lambda: score(Y2, logprobs=np.log(P[:, :2]))),
        "or pass normalize=True",
        loss(Y2, logprobs=np.log(P[:, :2]), normalize=True),
        float(log_loss(Y2, P[:, :2] / P[:, :2].sum(1, keepdims=True))),
    ),
    "probabilities as logarithms": Hinted(
        refused(lambda: score(Y2, logprobs=Q)), "; pass probs=", loss(Y2, probs=Q), LOSS2
    ),
    "probabilities as logits": Hinted(
        warned(lambda: score(Y, logits=P)),
        "all logits are distributions (not negative, summing to 1): if they are probabilities, pass probs=",
        loss(Y, probs=P),
        LOSS,
    ),
    "sums that are off": Hinted(
        warned(lambda: score(Y, probs=OFF)),
        f"normalize=True would change the loss by {np.log(1.005) / N:+.2g} nats",
        lambda _: score(Y, probs=OFF, normalize=True).loss - score(Y, probs=OFF).loss,
        float(np.log(1.005) / N),
    ),
    "decided": Hinted(
        warned(lambda: score(Y, probs=HARD)),
        "a score needs the model's probabilities (predict_proba, not predict)",
        loss(Y, probs=P),
        LOSS,
    ),
    "impossible": Hinted(
        warned(lambda: score(Y, probs=ZEROS)),
        "so the loss is infinite; pass zero=1e-6, for example, to charge at least that probability",
        loss(Y, probs=ZEROS, zero=1e-6),
        FLOORED,
    ),
    "NaN": Hinted(
        refused(lambda: score(Y, probs=np.where(np.arange(N)[:, None] == N - 1, np.nan, P))),
        "drop such rows or fix what made them",
        loss(Y[:-1], probs=P[:-1]),
        SHORT,
    ),
    "unreported": Hinted(
        refused(lambda: score(Y, logprobs=np.where(P < 0.05, -9999.0, np.log(P)), normalize=True)),
        "it stands for an unreported value, which cannot be scored; for logs of language models see crossent lm",
        loss(Y, logprobs=np.log(P)),
        LOSS,
    ),
    "unreported probabilities": Hinted(
        refused(lambda: score(Y, probs=np.where(P < 0.05, -9999.0, np.log(P)))),
        "-9999 stands for an unreported value, which cannot be scored; see crossent lm",
        loss(Y, logprobs=np.log(P)),
        LOSS,
    ),
}

ARGUMENTS = {
    "no kind": Hinted(
        refused(lambda: score(Y)),
        "pass exactly one of probs=, logits= and logprobs=",
        lambda _: (a().loss + score(Y, logits=Z).loss + score(Y, logprobs=np.log(P)).loss) / 3,
        LOSS,
    ),
    "slices": Hinted(
        refused(lambda: a(by=[Y.tolist(), Y2.tolist()])),
        "by is a list of columns; name them: by={'name': column, …}",
        lambda _: a(by={"name": Y.tolist()}).by["name"][0].loss,
        float(COSTS[Y == 0].mean()),
    ),
    "weights": Hinted(
        refused(lambda: a(weight=TINY)),
        "divide all of them by a typical one (their scale changes nothing)",
        lambda _: a(weight=TINY / TINY[0]).loss,
        float(log_loss(Y, P, sample_weight=TINY / TINY[0])),
    ),
    "midway": Hinted(refused(_midway), "create a new ScoreState", _again, LOSS),
    "masked predictions": Hinted(
        refused(lambda: score(Y2, probs=_masked(Q))),
        "probs is a masked array with masked values; drop these rows first",
        loss(Y2[:-1], probs=_masked(Q)[:-1]),
        float(log_loss(Y2[:-1], Q[:-1])),
    ),
    "masked labels": Hinted(
        refused(lambda: score(_masked(Y), probs=P)),
        "y is a masked array with masked values; drop these rows first",
        loss(_masked(Y)[:-1], probs=P[:-1]),
        SHORT,
    ),
    "texts": Hinted(
        refused(lambda: score(Y, probs=P.astype(str))),
        "convert the columns to floats",
        loss(Y, probs=P.astype(str).astype(float)),
        LOSS,
    ),
    "complex tensors": Hinted(
        refused(lambda: score(Y, probs=torch.tensor(P + 0j))),
        "must hold real numbers, got complex128; convert it",
        loss(Y, probs=torch.tensor(P + 0j).real),
        LOSS,
    ),
    "a temperature": Hinted(
        lambda _: repr(score(Y, logits=3 * Z)),
        "dividing the logits by T = ",
        lambda _: score(Y, logits=3 * Z / score(Y, logits=3 * Z).calibration.temperature.value).loss,  # pyright: ignore
        float(
            minimize_scalar(lambda t: log_loss(Y, softmax(3 * Z / t)), bounds=(0.5, 8.0), options={"xatol": 1e-9}).fun
        ),
    ),
    "baseline of few rows": Hinted(
        warned(lambda: score(LONG_Y, probs=LONG)),
        "nats; compare losses instead",
        lambda _: compare(score(LONG_Y, probs=LONG), score(LONG_Y, probs=np.full((24, 12), 1 / 12))).difference,
        float(log_loss(LONG_Y, LONG) - np.log(12)),
    ),
}

PAIRS = {
    "other order": Hinted(
        refused(lambda: compare(a(), b(ORDER))),
        "only the same rows can be compared: pass id= to pair them if they are in different orders",
        difference(a(id=np.arange(N)), b(ORDER, id=ORDER)),
        DIFFERENCE,
    ),
    "one with ids": Hinted(
        refused(lambda: compare(a(id=np.arange(N)), b())),
        "a has ids and b has none; pass id= to both, or to neither to pair by order",
        difference(a(), b()),
        DIFFERENCE,
    ),
    "fewer rows": Hinted(
        refused(lambda: compare(a(), b(slice(5, N)))),
        "only the same rows can be compared: pass id= to pair them",
        difference(score(Y[5:], probs=P[5:], id=np.arange(5, N)), b(slice(5, N), id=np.arange(5, N))),
        float((COSTS + np.log(OTHER[np.arange(N), Y]))[5:].mean()),
    ),
    "rows of one alone": Hinted(
        refused(lambda: compare(a(id=np.arange(N)), b(slice(5, N), id=np.arange(5, N)))),
        "compare the rows that both have",
        difference(score(Y[5:], probs=P[5:], id=np.arange(5, N)), b(slice(5, N), id=np.arange(5, N))),
        float((COSTS + np.log(OTHER[np.arange(N), Y]))[5:].mean()),
    ),
    "no id": Hinted(
        refused(lambda: compare(a(id=[None, *range(1, N)]), b(id=[None, *range(1, N)]))),
        "has no id to pair it by; drop such rows",
        difference(score(Y[1:], probs=P[1:], id=np.arange(1, N)), b(slice(1, N), id=np.arange(1, N))),
        float((COSTS + np.log(OTHER[np.arange(N), Y]))[1:].mean()),
    ),
    "clusters of one": Hinted(
        refused(lambda: compare(a(cluster=Y), b())),
        "has none; pass the same cluster= to both",
        difference(a(cluster=Y), b(cluster=Y)),
        DIFFERENCE,
    ),
    "other clusters": Hinted(
        refused(lambda: compare(a(cluster=Y), b(cluster=Y2))),
        "pass the same cluster= to both",
        difference(a(cluster=Y), b(cluster=Y)),
        DIFFERENCE,
    ),
    "infinite in both": Hinted(
        refused(lambda: compare(score(Y, probs=ZEROS), score(Y, probs=ZEROS))),
        "score both with a smallest probability, such as zero=1e-6",
        difference(score(Y, probs=ZEROS, zero=1e-6), score(Y, probs=P, zero=1e-6)),
        FLOORED - float(COSTS.mean()),
    ),
}

CALLS = {
    f"{name}: {entry}": hinted
    for name, table in (
        ("axes", AXES), ("labels", LABELS), ("numbers", NUMBERS), ("arguments", ARGUMENTS), ("pairs", PAIRS)
    )
    for entry, hinted in table.items()
}  # fmt: skip
"""Every hint of a call, by a name."""
