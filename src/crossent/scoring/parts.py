"""The frozen pieces of a score, and `ScoreValues`, which holds them all and which pictures, texts and pages read."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Interval = tuple[float, float]
Zero = float | Literal["inf"]
Unit = Literal["nats", "bits"]
"""Units of losses."""
Kind = Literal["probs", "logits", "logprobs"]
"""Kinds of predictions: probabilities, unnormalised log-probabilities, log-probabilities."""
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Slice:
    """The rows of a class, or of a value of a column of `by`. Losses are in nats; `weight` is Σ w."""

    value: Hashable
    n: int
    weight: float
    loss: float
    ci: Interval
    se: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Bin:
    """The n rows whose probability lay in [low, high): the mean probability predicted, and the frequency observed."""

    low: float
    high: float
    n: int
    weight: float
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Bar:
    """The weight of the rows with a loss in [low, high) nats; the last bar may be [inf, inf]."""

    low: float
    high: float
    weight: float


@dataclass(frozen=True, slots=True)
class Row:
    """One row among the worst: its id (its number if it has none), loss in nats, and predictions.

    `probability` is the probability of the true class `label`, `confidence` that of the `predicted` class.
    """

    id: Hashable
    loss: float
    label: Hashable
    probability: float
    predicted: Hashable
    confidence: float


@dataclass(frozen=True, slots=True)
class Floor:
    """The loss in nats with `zero` as the floor of the probability."""

    zero: float
    loss: float


@dataclass(frozen=True, slots=True)
class Blame:
    """The rows of a true class with probability 0: their number out of all `rows` of the class, and their weight."""

    value: Hashable
    n: int
    weight: float
    rows: int


@dataclass(frozen=True, slots=True)
class FiniteRows:
    """The rows with a finite loss, where others have an infinite one, and the loss of all rows at some floors.

    `loss`, its interval `ci` and its standard error `se`, in nats, are those of the `n` rows of total `weight` whose
    true class got a positive probability. `floors` has the loss of all rows for some floors of the probability. `blame`
    counts the rows of infinite loss by true class, and `ids` names them, at most a hundred.
    """

    n: int
    weight: float
    loss: float
    ci: Interval
    se: float
    floors: tuple[Floor, ...]
    blame: tuple[Blame, ...] = ()
    ids: tuple[Hashable, ...] = ()


@dataclass(frozen=True, slots=True)
class Temperature:
    """The temperature T that minimises the loss of softmax(log q / T), from `n` rows, and its effect.

    `loss` is the loss of the same rows at T = 1, `scaled` their loss at T, both in nats. `helps` is whether the gain is
    at least a hundredth of the loss and significant (a likelihood-ratio test at 5 %).
    """

    value: float
    loss: float
    scaled: float
    n: int
    helps: bool

    @property
    def saving(self) -> float:
        """Share of the loss that scaling saves."""
        return 1.0 - self.scaled / self.loss if self.loss > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Decomposition of a binary loss: loss = miscalibration − discrimination + uncertainty, in nats.

    It is the loss of the positive class (`of` = "positive class"), or of “is the most probable class the true one?”
    (`of` = "top label"). `curve` holds the isotonic regression of the truth on the prediction: pairs (probability,
    frequency) in ascending order. `ece` is the expected calibration error of the bins in `Score.reliability`. Where
    `temperature` is None, `no_temperature` holds the reason.
    """

    of: Literal["positive class", "top label"]
    loss: float
    miscalibration: float
    discrimination: float
    uncertainty: float
    ece: float
    curve: tuple[tuple[float, float], ...]
    temperature: Temperature | None
    no_temperature: str | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate with its interval and standard error."""

    value: float
    ci: Interval
    se: float


@dataclass(frozen=True, slots=True)
class BalancedLoss:
    """The mean of the losses of the classes that have rows, in nats, with its interval and standard error."""

    loss: float
    ci: Interval
    se: float


@dataclass(frozen=True, slots=True)
class Macro:
    """Means over the labels: the loss, with an interval that takes rows as independent, and other measures."""

    loss: BalancedLoss
    accuracy: float
    brier: float
    f1: float
    roc_auc: float
    average_precision: float


@dataclass(frozen=True, slots=True)
class Decided:
    """Precision, recall and F1 of a class, with the most probable class as the answer.

    `precision` is the share of the answers of this class that are right, `recall` the share of right answers among its
    rows, with its interval `recall_ci`, and `f1` their harmonic mean: all by weight. `answered` is the weight of the
    rows with this class as their answer, `weight` the weight of the rows of the class.
    """

    value: Hashable
    n: int
    weight: float
    answered: float
    precision: float
    recall: float
    recall_ci: Interval
    f1: float


@dataclass(frozen=True, slots=True)
class Mistake:
    """The rows of the class `label` whose most probable class was `predicted`: their number and their weight."""

    label: Hashable
    predicted: Hashable
    n: int
    weight: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """Confusion matrix: rows by true and predicted class.

    `counts` and `weights` have a row for each true class and a column for each predicted one, in the order of
    `Score.classes`; they are empty beyond a hundred classes. `mistakes` are the most frequent pairs of different
    classes. Each of their weights may be too small by up to `within`, which is 0 as long as all pairs are counted.
    """

    counts: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    mistakes: tuple[Mistake, ...]
    within: float = 0.0


@dataclass(frozen=True, slots=True)
class Decisions:
    """Accuracy measures of the most probable class as the answer.

    `accuracy` and `balanced_accuracy`, the mean recall of the classes that have rows, come with intervals; `f1` is the
    mean over the classes that occur as truth or as answer.
    """

    accuracy: Estimate
    balanced_accuracy: Estimate
    f1: float
    classes: tuple[Decided, ...]
    confusion: Confusion


@dataclass(frozen=True, slots=True)
class Brier:
    """The Brier score, a mean squared error: (q − y)² of the positive one of two classes, else Σ_k (q_k − y_k)².

    value = miscalibration − discrimination + uncertainty, where an isotonic regression for each class is the best
    recalibration: Murphy's reliability, resolution and uncertainty. The parts are None beyond a hundred classes.
    """

    value: float
    ci: Interval
    se: float
    miscalibration: float | None
    discrimination: float | None
    uncertainty: float | None


@dataclass(frozen=True, slots=True)
class Ranking:
    """ROC and precision-recall of a class against the rest.

    `auc` is the area under the ROC curve: the probability that a row of the class has a larger probability than another
    row, with ties counted as half. `average_precision` is Σ (R_j − R_j−1) P_j over the thresholds. The error of each is
    at most its `within`, which is 0 unless probabilities were grouped into the cells of a grid. `roc` has pairs (false
    positive rate, true positive rate), `pr` pairs (recall, precision), from the highest threshold down.
    """

    value: Hashable
    auc: float
    auc_within: float
    average_precision: float
    average_precision_within: float
    roc: tuple[tuple[float, float], ...]
    pr: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Threshold:
    """Results of taking rows as positive if their positive class has a probability of at least `threshold`.

    `cost` is the mean cost of a row.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    cost: float


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Decision thresholds of two classes, for a false positive that costs `fp` and a false negative that costs `fn`.

    `best` has the smallest cost in these rows; it is chosen from many, so new rows will cost a little more.
    `calibrated` is fp / (fp + fn), the best threshold for calibrated probabilities. `table` has some others.
    """

    fp: float
    fn: float
    best: Threshold
    calibrated: Threshold
    table: tuple[Threshold, ...]


@dataclass(frozen=True, slots=True)
class ClassReliability:
    """Calibration of the probability of one class in all rows: its bins, and its expected calibration error."""

    value: Hashable
    ece: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ScoreValues:
    """Numbers, parts and warnings of a score, without the sums behind them and without methods that show them.

    `Score` describes the fields.
    """

    loss: float
    ci: Interval
    se: float
    n: int
    weight: float
    level: float
    baseline: float
    skill: float
    skill_ci: Interval
    entropy: float
    accuracy: float
    clusters: int | None
    zero: Zero
    classes: tuple[Hashable, ...]
    per_class: tuple[Slice, ...]
    by: Mapping[str, tuple[Slice, ...]]
    calibration: Calibration | None
    reliability: tuple[Bin, ...]
    histogram: tuple[Bar, ...]
    worst: tuple[Row, ...]
    warnings: tuple[str, ...]
    finite: FiniteRows | None = None
    balanced_loss: BalancedLoss | None = None
    decisions: Decisions | None = None
    brier: Brier | None = None
    roc_auc: float | None = None
    average_precision: float | None = None
    ranking: tuple[Ranking, ...] = ()
    thresholds: Thresholds | None = None
    class_reliability: tuple[ClassReliability, ...] = ()
    bins: Mapping[str, int] = field(default_factory=dict)

    @property
    def bits(self) -> float:
        """The loss in bits."""
        return bits(self.loss)

    @property
    def bits_ci(self) -> Interval:
        """The interval of the loss in bits."""
        return bits(self.ci[0]), bits(self.ci[1])

    @property
    def perplexity(self) -> float:
        """e^loss: among how many equally probable classes the model hesitates."""
        return perplexity(self.loss)

    @property
    def perplexity_ci(self) -> Interval:
        """The interval of the perplexity."""
        return perplexity(self.ci[0]), perplexity(self.ci[1])


def bits(nats: float) -> float:
    """Return nats in bits."""
    return nats / math.log(2)


def perplexity(nats: float) -> float:
    """Return e^nats, infinity where it is more than a float holds."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
