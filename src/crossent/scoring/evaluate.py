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
    its weight. Nothing is clipped: −log q is the logarithm of the stored number, summed in float64.

    Parameters
    ----------
    y
        The true class of each row, (N,): a list, or a column of NumPy, torch, pandas, polars or pyarrow.
    probs, logits, logprobs
        One of the three, shape (N, V), or (N,) for the positive one of two classes: probabilities, logits (log-odds if
        one column), or log-probabilities. Arrays or frames; or one column whose rows name their classes: structs, maps,
        dictionaries, or lists of `{"label": …, "score": …}`.
    classes
        The classes in the order of the columns, or a mapping of labels to names, such as a model's `id2label`. By
        default the column names of a frame (without a common prefix and suffix, which labels may have), else 0 … V − 1.
        With one column per row, the second class is the positive one.
    weight
        Weight of each row, ≥ 0; a row of weight 0 is left out.
    cluster
        Cluster id of each row, such as a document or patient. Rows of one cluster are dependent; intervals allow for
        it.
    by
        Columns to slice the rows by: one, a mapping of names to columns, or a frame.
    id
        Ids of the rows, (N,), for `Score.worst` and `compare`; by default rows are numbered from 0.
    ignore
        A label, or a list of labels, whose rows are left out; `float("nan")` for missing ones.
    normalize
        Divide probabilities by their sum.
    zero
        Floor of the probability in the loss, or "inf" for none, so that a probability of 0 costs infinity.
    ci
        Confidence level of the intervals (Hall's, corrected for skewness).
    worst
        Number of rows with the largest loss to list.
    costs
        Costs of a false positive and a false negative, such as {"fp": 1, "fn": 5}; adds decision thresholds for two
        classes.
    bins
        Number of bins for numeric columns of `by`, such as {"age": 5}; by default columns with more than 50 values are
        cut into five.
    multilabel
        Score L labels per row: y and the predictions have shape (N, L), and y is 1 where a row has the label. Columns
        of two frames are matched by name, y_cat with p_cat.

    Returns
    -------
    Score, or MultilabelScore with multilabel=True
        Loss in nats, with interval, baseline, calibration, parts by class and slice, worst rows and warnings.

    Raises
    ------
    InputError
        If the rows cannot be scored: a ValueError that names row, cause and fix.
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
