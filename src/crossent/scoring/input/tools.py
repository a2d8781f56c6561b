"""Column names of tools: for each a rule that finds its predictions among the columns of a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from crossent.scoring.input.classes import Classes, of_columns
from crossent.scoring.input.seen import Seen, are_distributions
from crossent.scoring.input.shapes import shape_of
from crossent.scoring.input.text_files import WEKA
from crossent.scoring.parts import Kind


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a table.

    Parameters
    ----------
    tool
        What has written it.
    values, kind
        The columns of predictions, in the order of the classes, and their kind.
    truth
        Columns that hold the true labels if they exist, the likeliest first.
    classes
        The classes, None if they follow from the names of the columns.
    anywhere
        Whether any other column may hold the true labels, with any name: columns of predictions are marked.
    """

    tool: str
    values: tuple[str, ...]
    kind: Kind = "probs"
    truth: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    anywhere: bool = False


class Tool(NamedTuple):
    """A tool, how its tables look, and the rule that finds its predictions."""

    name: str
    columns: str
    rule: Callable[[Seen], list[Reading]]


PREFIXES = (
    "p", "prob", "probs", "proba", "probas", "probability", "probabilities", "pred_prob", "pred_proba", "predict_proba",
    "y_prob", "y_proba", "y_pred_proba", "score", "scores", "softmax", "posterior", "confidence", "conf",
)  # fmt: skip
"""Common beginnings of the names of columns of probabilities."""
PROBABILITIES = (
    "probs",
    "prob",
    "probas",
    "proba",
    "probabilities",
    "probability",
    "y_prob",
    "y_proba",
    "y_pred_proba",
    "predict_proba",
)
LOGITS = ("logits", "logit", "y_logits", "raw_logits")
LOGPROBS = ("logprobs", "log_probs", "log_proba", "logproba", "log_probabilities")
_PREDICTED = re.compile(
    r"pred(ict(ed|ion)?s?)?([ _.]?(label|class|y|target))?s?|y_?hat|y_?pred|guess|i_.*", re.IGNORECASE
)


def _h2o(seen: Seen) -> list[Reading]:
    groups = [tuple(n for n in seen.names if re.fullmatch(rf"{cal}p-?\d+(\.\d+)?", n)) for cal in ("", "cal_")]
    found = [Reading("H2O", group) for group in groups if seen.sum_to_one(group)]
    if "predict" not in seen.columns:
        return found if len(found) > 1 else []
    if found:
        return found
    after = seen.names[seen.names.index("predict") + 1 :]
    run = list(takewhile(lambda name: _in_unit(seen, name), after))
    predicted = set(map(str, seen.labels("predict") or ()))
    for cal in ("", "cal_"):
        levels = [name for name in run if name.startswith("cal_") == bool(cal)]
        ends = [k for k in range(2, len(levels) + 1) if seen.sum_to_one(levels[:k])]
        names = [tuple(name.removeprefix(cal) for name in levels[:k]) for k in ends[:1]]
        if len(ends) == 1 and predicted and predicted <= set(names[0]):
            found.append(Reading("H2O", tuple(levels[: ends[0]]), classes=names[0]))
    return found


def _tidymodels(seen: Seen) -> list[Reading]:
    others = {".pred_class", ".pred_lower", ".pred_upper", ".pred_res"}
    values = tuple(name for name in seen.names if name.startswith(".pred_") and name not in others)
    classes = tuple(name.removeprefix(".pred_") for name in values)
    return [Reading("tidymodels", values, classes=classes, anywhere=True)] if seen.sum_to_one(values) else []


def _caret(seen: Seen) -> list[Reading]:
    if not {"pred", "obs"} <= seen.columns.keys():
        return []
    levels = {str(label) for name in ("pred", "obs") for label in seen.labels(name) or ()}
    wide = [name for name in seen.names if _in_unit(seen, name) and name not in {"pred", "obs", "rowIndex", "weights"}]
    for values in ([name for name in wide if name in levels], wide):
        if levels <= set(values) and seen.sum_to_one(values):
            return [Reading("caret", tuple(values), truth=("obs",), classes=tuple(values))]
    return []


def _mlr3(seen: Seen) -> list[Reading]:
    if not {"truth", "response"} <= seen.columns.keys():
        return []
    return _with_classes(seen, "mlr3", r"prob\.(.+)", ("truth",))


def _knime(seen: Seen) -> list[Reading]:
    targets = dict.fromkeys(f[1] for n in seen.names if (f := re.fullmatch(r"P \((.+?)=.*\)", n)))
    return [
        reading
        for target in targets
        for reading in _with_classes(seen, "KNIME", rf"P \({re.escape(target)}=(.*)\)", (target,))
    ]


def _rapidminer(seen: Seen) -> list[Reading]:
    targets = [f[1] for n in seen.names if (f := re.fullmatch(r"prediction\((.+)\)", n))]
    return _with_classes(seen, "RapidMiner", r"confidence\((.+)\)", tuple(targets)) if len(targets) == 1 else []


def _sas(seen: Seen) -> list[Reading]:
    targets = [f[1] for n in seen.names if (f := re.fullmatch(r"I_(.+)", n))]
    return [
        reading
        for target in targets
        for reading in _with_classes(seen, "SAS", rf"P_{re.escape(target)}(.+)", (target, f"F_{target}"))
    ]


def _azure(seen: Seen) -> list[Reading]:
    return _with_classes(seen, "Azure Machine Learning", r'Scored Probabilities for Class "?(.+?)"?', ())


def _catboost(seen: Seen) -> list[Reading]:
    found = _with_classes(seen, "CatBoost", r"Probability:Class=(.+)", ("Label",))
    single = [n for n in seen.names if n in {"Probability", "Probability:Class=1"} and seen.are_probabilities(n)]
    return found or [Reading("CatBoost", (name,), truth=("Label",)) for name in single if len(single) == 1]


def _weka(seen: Seen) -> list[Reading]:
    values = tuple(name for name in seen.names if name.startswith(WEKA))
    labels = {str(label) for name in ("actual", "predicted") for label in seen.labels(name) or ()} if values else set()
    numbered = [(int(f[1]), f[0]) for label in labels if (f := re.fullmatch(r"(\d+):(?!\?$).+", label))]
    classes = dict(numbered)
    if (
        len(classes) < len(numbered)
        or sorted(classes) != list(range(1, len(values) + 1))
        or not seen.sum_to_one(values)
    ):
        return []
    return [Reading("Weka", values, truth=("actual",), classes=tuple(classes[k] for k in sorted(classes)))]


def _bigquery(seen: Seen) -> list[Reading]:
    found = [(n, f[1]) for n in seen.names if (f := re.fullmatch(r"predicted_(.+)_probs", n)) and _keyed(seen, n)]
    return [Reading("BigQuery ML", (name,), truth=(target,)) for name, target in found]


def _spark(seen: Seen) -> list[Reading]:
    if not {"rawPrediction", "prediction"} & seen.columns.keys() or "probability" not in seen.columns:
        return []
    rows = seen.rows("probability")
    fits = rows is not None and rows[1] is None and are_distributions(rows[0])
    return [Reading("Spark", ("probability",), truth=("label",))] if fits else []


def _trainer(seen: Seen) -> list[Reading]:
    if not {"predictions", "label_ids"} <= seen.columns.keys() or (rows := seen.rows("predictions")) is None:
        return []
    kind: Kind = "probs" if are_distributions(rows[0]) else "logits"
    inside = bool(((rows[0] >= 0) & (rows[0] <= 1)).all())
    fits = rows[1] is None and (kind == "probs" or not inside)
    return [Reading("Hugging Face Trainer", ("predictions",), kind, truth=("label_ids",))] if fits else []


def _keyed_columns(seen: Seen) -> list[Reading]:
    found = [name for name in seen.names if _keyed(seen, name)]
    outermost = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    return [Reading(_writer(seen, name), (name,)) for name in outermost]


def _writer(seen: Seen, name: str) -> str:
    shape = shape_of(seen.columns[name].type)
    if name.rsplit(".", 1)[-1] == "cats":
        return "spaCy"
    known = {"records": "Hugging Face pipeline", "parallel": "Vertex AI"}
    return known.get(str(shape), "")


def _arrays(seen: Seen) -> list[Reading]:
    found: list[Reading] = []
    kinds: tuple[tuple[Sequence[str], Kind], ...] = (
        (PROBABILITIES, "probs"),
        (LOGITS, "logits"),
        (LOGPROBS, "logprobs"),
    )
    for names, kind in kinds:
        for name in seen.names:
            if name.casefold().rsplit(".", 1)[-1] not in names or (rows := seen.rows(name)) is None or rows[1]:
                continue
            given = rows[0] if kind == "probs" else np.exp(rows[0]) if kind == "logprobs" else None
            if are_distributions(rows[0]) if given is None else not are_distributions(given):
                continue
            found.append(Reading("", (name,), kind))
    return found


def prefixed(seen: Seen) -> list[tuple[str, ...]]:
    """Return groups of columns whose names begin or end with the same word for probabilities, such as p_."""
    groups: dict[str, list[str]] = {}
    for name in seen.names:
        begin = re.match(
            rf"({'|'.join(sorted(PREFIXES, key=len, reverse=True))})(?:[_\-. :\[(]+(?=.)|(?=\d+$))", name, re.IGNORECASE
        )
        end = re.search(r"[_\-. :](prob|proba|probs|probability|score)$", name, re.IGNORECASE)
        mark = begin[0] if begin else end[0] if end else None
        if mark is not None and "." not in name.removeprefix(mark):
            groups.setdefault(mark, []).append(name)
    return [tuple(group) for group in groups.values()]


def _prefixed(seen: Seen) -> list[Reading]:
    return [Reading("", group) for group in prefixed(seen) if seen.sum_to_one(group)]


def named_as_labels(seen: Seen) -> list[tuple[str, tuple[str, ...]]]:
    """Return each column that may hold the labels, with the columns of numbers that have labels as names."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for truth in _truths(seen):
        labels = {str(label) for label in seen.labels(truth) or ()}
        found.append((truth, tuple(n for n in seen.names if n in labels and seen.number(n) is not None)))
    return found


def _truths(seen: Seen) -> list[str]:
    return [name for name in seen.names if (is_truth(name) if seen.label is None else name == seen.label)]


def _levels(seen: Seen) -> list[Reading]:
    """Return columns with the labels as their names, as of data frames of `predict_proba`."""
    wide = [name for name in seen.names if _in_unit(seen, name)]
    found: list[Reading] = []
    for truth in _truths(seen):
        labels = {str(label) for label in seen.labels(truth) or ()}
        named = [name for name in wide if name in labels]
        for values in (named, [name for name in wide if name != truth]):
            if len(labels) > 1 and labels <= set(values) and seen.sum_to_one(values):
                found.append(Reading("", tuple(values), truth=(truth,), classes=tuple(values)))
                break
    return found


def _single(seen: Seen) -> list[Reading]:
    """Return the column of probabilities of the positive class, if no column of predicted classes is there.

    With predicted classes it could be the probability of the predicted class; the same if none is below 1/2.
    """
    names = (*PROBABILITIES, "p", "p1", "p_1", "prob_1", "proba_1", "probability_1")
    found = [n for n in seen.names if n.casefold() in names and seen.are_probabilities(n)]
    if len(found) != 1 or any(_PREDICTED.fullmatch(name) for name in seen.names):
        return []
    numbers = seen.number(found[0])
    return [Reading("", (found[0],))] if numbers is not None and float(np.nanmin(numbers)) < 0.5 else []


TOOLS = (
    Tool("H2O", "`predict`, `p0`, `p1`; or `predict` and one column for each class", _h2o),
    Tool("tidymodels", "`.pred_a`, `.pred_b`, `.pred_class`", _tidymodels),
    Tool("caret", "`pred`, `obs`, and one column for each class", _caret),
    Tool("mlr3", "`truth`, `response`, `prob.a`, `prob.b`", _mlr3),
    Tool("KNIME", "`P (y=a)`, `P (y=b)`, `Prediction (y)`", _knime),
    Tool("RapidMiner", "`confidence(a)`, `confidence(b)`, `prediction(y)`", _rapidminer),
    Tool("SAS", "`P_ya`, `P_yb`, `I_y`, `F_y`", _sas),
    Tool("Azure Machine Learning", '`Scored Probabilities for Class "a"`', _azure),
    Tool("CatBoost", "`Probability:Class=a`, `Probability:Class=b`, `Label`", _catboost),
    Tool("Weka", "`actual`, `predicted`, `distribution` (of csv with `-distribution`)", _weka),
    Tool("BigQuery ML", "`predicted_y_probs`, lists of `{label, prob}`", _bigquery),
    Tool("Spark", "`probability` (a vector), `rawPrediction`, `prediction`", _spark),
    Tool("Hugging Face Trainer", "`predictions`, `label_ids`", _trainer),
)
"""Tools with unambiguous column names."""
FORMS = (
    Tool("Hugging Face pipeline, spaCy, Vertex AI", "one column of records, maps or objects", _keyed_columns),
    Tool("arrays of Keras and torch", "one column of lists: `probs`, `logits` or `logprobs`", _arrays),
    Tool(
        "scikit-learn, W&B and others",
        "`p_a`, `p_b`; `prob_a`; `proba_a`; `score_a`; `a_prob`; `PREDICT_PROBA_a`",
        _prefixed,
    ),
    Tool("AutoGluon, ranger and others", "one column for each class, with the class as its name", _levels),
)
"""Forms that many tools write."""
LAST = (Tool("two classes", "one column `prob`, `proba`, `p` or `y_prob`, and no predicted classes", _single),)
"""Forms that are looked for if there is no other."""

_TRUTH = frozenset(
    ("y", "ytrue", "ytest", "yactual", "label", "labels", "truelabel", "labeltrue", "target", "targets", "truetarget",
     "true", "truth", "trueclass", "truey", "actual", "actuals", "actuallabel", "actualclass", "gold", "goldlabel",
     "groundtruth", "observed", "obs", "expected", "reference", "outcome", "labelids", "testlabel", "correctlabel")
)  # fmt: skip


def is_truth(name: str) -> bool:
    """Return whether a column, or the last field of a path, is called as people call true labels."""
    last = name.rsplit(".", 1)[-1] if not name.endswith(".") else name
    return re.sub(r"[\W_]", "", last).casefold() in _TRUTH


def classes_of(reading: Reading, seen: Seen) -> Classes:
    """Return the classes that a reading implies."""
    if reading.classes is not None:
        return Classes(reading.classes)
    if len(reading.values) > 1:
        return of_columns(reading.values)
    rows = seen.rows(next(iter(reading.values)))
    if rows is None:
        return Classes(range(2))
    return rows[1] or Classes(range(rows[0].shape[1]))


def _with_classes(seen: Seen, tool: str, pattern: str, truth: tuple[str, ...]) -> list[Reading]:
    """Return the reading of all columns that a pattern matches, whose group is the class."""
    found = {name: match[1] for name in seen.names if (match := re.fullmatch(pattern, name))}
    if len(set(found.values())) < len(found) or not seen.sum_to_one(list(found)):
        return []
    return [Reading(tool, tuple(found), truth=truth, classes=tuple(found.values()))]


def _keyed(seen: Seen, name: str) -> bool:
    """Return whether a column names the classes of each row, and holds their probabilities."""
    rows = seen.rows(name)
    return rows is not None and rows[1] is not None and are_distributions(rows[0])


def _in_unit(seen: Seen, name: str) -> bool:
    found = seen.number(name)
    return found is not None and bool((np.isnan(found) | ((found >= 0) & (found <= 1))).all())
