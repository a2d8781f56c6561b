"""The function `score`: predictions in, a `Score` out, in one call."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, overload

from crossent.scoring.multilabel import MultilabelScore, score_labels
from crossent.scoring.parts import Zero
from crossent.scoring.result import Score
from crossent.scoring.state import ScoreState


@overload
def score(
    y: Any,
    *,
    probs: Any = None,
    logits: Any = None,
    logprobs: Any = None,
    classes: Sequence[Hashable] | Mapping[Any, Hashable] | None = None,
    weight: Any = None,
    cluster: Any = None,
    by: Any = None,
    id: Any = None,
    ignore: Any = None,
    normalize: bool = False,
    zero: Zero = "inf",
    ci: float = 0.95,
    worst: int = 10,
    costs: Mapping[str, float] | None = None,
    bins: Mapping[str, int] | None = None,
    multilabel: Literal[False] = False,
) -> Score: ...


@overload
def score(
    y: Any,
    *,
    probs: Any = None,
    logits: Any = None,
    logprobs: Any = None,
    weight: Any = None,
    cluster: Any = None,
    by: Any = None,
    id: Any = None,
    ignore: Any = None,
    zero: Zero = "inf",
    ci: float = 0.95,
    worst: int = 10,
    costs: Mapping[str, float] | None = None,
    bins: Mapping[str, int] | None = None,
    multilabel: Literal[True],
) -> MultilabelScore: ...


def score(
    y: Any,
    *,
    probs: Any = None,
    logits: Any = None,
    logprobs: Any = None,
    classes: Sequence[Hashable] | Mapping[Any, Hashable] | None = None,
    weight: Any = None,
    cluster: Any = None,
    by: Any = None,
    id: Any = None,
    ignore: Any = None,
    normalize: bool = False,
    zero: Zero = "inf",
    ci: float = 0.95,
    worst: int = 10,
    costs: Mapping[str, float] | None = None,
    bins: Mapping[str, int] | None = None,
    multilabel: bool = False,
) -> Score | MultilabelScore:
    """Score predictions of classes: return their mean cross-entropy, its interval and its parts.

    loss = Σ w_i (−log q_i(y_i)) / Σ w_i, where q_i is the predicted distribution of row i, y_i its true class and w_i
    its weight. Nothing is clipped: −log q is the logarithm of the number that was stored, summed in float64.

    Parameters
    ----------
    y
        The true class of each row, (N,): a list, or a column of NumPy, torch, pandas, polars or pyarrow.
    probs, logits, logprobs
        One of the three, (N, V), or (N,) for the positive one of two classes: probabilities, unnormalised
        log-probabilities (for one column log-odds), or log-probabilities. Arrays or frames; or one column whose rows
        name their classes: structs, maps, dictionaries, or lists of `{"label": …, "score": …}`.
    classes
        The classes of the columns, in their order, or a mapping of labels to names, such as a model's `id2label`; by
        default the names of a frame's columns (without their common beginning and end, which labels may have), else
        0 … V − 1. With one column per row, the second class is the positive one.
    weight
        Weight of each row, ≥ 0; a row of weight 0 is left out.
    cluster
        Rows with the same value (a document, a patient) are not independent of each other; intervals allow for it.
    by
        Columns to slice the rows by: one, a mapping of names to columns, or a frame.
    id
        Names of the rows, (N,), for `Score.worst` and `compare`; by default rows are numbered from 0.
    ignore
        A label, or a list of labels, whose rows are left out; `float("nan")` for missing ones.
    normalize
        Divide probabilities by their sum.
    zero
        The smallest probability to charge, or "inf" to charge none, so that a probability of 0 costs infinity.
    ci
        Level of confidence of the intervals: Hall's, corrected for skewness.
    worst
        How many of the most expensive rows to name.
    costs
        What a false positive and a false negative cost, such as {"fp": 1, "fn": 5}, for the thresholds of two classes.
    bins
        How many bins to cut a column of numbers of `by` into, such as {"age": 5}; numbers with more than 50 values are
        cut into five by default.
    multilabel
        y and the predictions are (N, L), of L labels each of which a row may have: y is 1 where it has it, and
        predictions are of that. Columns of two frames belong together by name, y_cat and p_cat.

    Returns
    -------
    Score, or MultilabelScore with multilabel=True
        Loss in nats, with interval, baseline, calibration, parts by class and slice, worst rows and warnings.

    Raises
    ------
    InputError
        If the rows cannot be scored: a ValueError whose text names row, cause and fix.
    InputTypeError
        If an argument has the wrong type: an InputError that is a TypeError too.

    Examples
    --------
    >>> import crossent
    >>> result = crossent.score([1, 0, 2], probs=[[0.2, 0.7, 0.1], [0.6, 0.2, 0.2], [0.6, 0.1, 0.3]])
    >>> round(result.loss, 6), round(result.bits, 6), round(result.accuracy, 3)
    (0.690491, 0.996168, 0.667)
    >>> result.worst[0].id, result.worst[0].label, result.worst[0].predicted
    (2, 2, 0)

    References
    ----------
    Good, "Rational decisions", J. R. Statist. Soc. B 14 (1952), https://doi.org/10.1111/j.2517-6161.1952.tb00104.x
    """
    given: dict[str, Any] = {
        "probs": probs,
        "logits": logits,
        "logprobs": logprobs,
        "weight": weight,
        "cluster": cluster,
        "by": by,
        "id": id,
    }
    if multilabel:
        options: dict[str, Any] = {
            "ignore": ignore,
            "zero": zero,
            "ci": ci,
            "worst": worst,
            "costs": costs,
            "bins": bins,
        }
        return score_labels(y, {**options, "classes": classes, "normalize": normalize}, given)
    state = ScoreState(
        classes=classes, ignore=ignore, normalize=normalize, zero=zero, ci=ci, worst=worst, rows=True, costs=costs,
        bins=bins,
    )  # fmt: skip
    return state.update(y, **given).finalize()
