"""The temperature T with the least mean cross-entropy of softmax(z / T), exactly.

The loss is convex in β = 1 / T (Guo et al. 2017, https://arxiv.org/abs/1706.04599), so T is where its slope Σ w (E z −
z_y) is 0: found in a sample by steps that cannot leave the interval that holds it, and then in all rows, three or four
passes, by the secant. The last passes are in float64 for any stored dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from crossent.kernels import cpu
from crossent.kernels.backend import RowOutputs
from crossent.scoring.calibration.rows import Piece, Rows, Sample
from crossent.spec import Scores, Target
from crossent.stats import FIELDS, RowStats

CLOSE = 1e-10
"""Relative size of the last step."""
_ROUGH = 1e-4
"""Steps below this are taken in float64."""
_NEAR = 1e-3
"""Relative distance from the optimum at which the sign of a rough slope is right."""
_FLATTEST, _STEEPEST = 2.0**-49, 2.0**49
_BENT = 3.0
"""Relative change of the curvature, about, with a relative change of β: how much a line through two points may miss."""
_MOST = 200
_TOO_FLAT = (
    "the true classes have logits no higher than the average of their rows, so every larger T lowers the loss, until "
    "all "
    "classes "
    "are equally probable; are the classes in the order of the columns?"
)
_TOO_STEEP = "every smaller T lowers the loss: the most probable classes differ only by rounding"


class NoOptimum(Exception):  # noqa: N818  a fact about the data, with a text for users
    """There is no best parameter; the text is the reason."""


class Point(NamedTuple):
    """Mean loss and its slope by β, at a β."""

    beta: float
    loss: float
    slope: float


@dataclass(frozen=True, slots=True)
class Best:
    """The best β, the mean loss there, and the curvature of the loss by β."""

    beta: float
    loss: float
    curvature: float


def at(pieces: Iterable[Piece], beta: float, *, exact: bool = True) -> Point:
    """Return mean loss and slope of rows at a β > 0; not `exact`, in the precision of the logits."""
    losses, slopes, weights = [], [], []
    for piece in pieces:
        loss, slope = _rows(piece, beta, exact)
        losses.append(piece.total(loss))
        slopes.append(piece.total(slope))
        weights.append(piece.mass)
    whole = math.fsum(weights)
    return Point(beta, math.fsum(losses) / whole, math.fsum(slopes) / whole)


def row_losses(piece: Piece, beta: float) -> Any:
    """Return the loss of each row at a β, (n,) float64."""
    return _rows(piece, beta, exact=True)[0]


def _rows(piece: Piece, beta: float, exact: bool) -> tuple[Any, Any]:
    loss, rows = _stats(piece, beta, exact)
    return loss, (rows.tilt / rows.total - rows.target_score) / beta


def _stats(piece: Piece, beta: float, exact: bool) -> tuple[Any, RowStats]:
    logits = piece.logits
    if exact:  # less the true class's, so that each slope has all its digits beside a large common part
        logits = logits.astype(np.float64)
        with np.errstate(invalid="ignore"):  # of a true class with a logit of −∞, whose loss is infinite
            logits -= logits[np.arange(len(piece)), piece.label][:, None]
    record, loss = np.empty((len(FIELDS), len(piece))), np.empty(len(piece), logits.dtype)
    cpu.row_stats(logits, Target(index=piece.label), Scores(1.0 / beta), record, RowOutputs(loss))
    return loss.astype(np.float64), RowStats(*record)


class Look:
    """Results of one pass over rows: their uncalibrated loss, a sample, and whether there is a best temperature."""

    def __init__(self) -> None:
        self.sample = Sample()
        self._losses: list[float] = []
        self._weights: list[float] = []
        self._beaten, self._equal, self._impossible = 0.0, True, False

    def add(self, piece: Piece) -> None:
        """Look at rows."""
        self.sample.add(piece)
        true = piece.logits[np.arange(len(piece)), piece.label]
        self._impossible |= bool(np.isneginf(true).any())
        loss, rows = _stats(piece, 1.0, exact=True)
        self._losses.append(piece.total(loss))
        self._weights.append(piece.mass)
        self._beaten = max(self._beaten, float(-rows.target_score.min()))
        self._equal &= bool(((rows.total == piece.logits.shape[1]) & (rows.tilt == 0.0)).all())

    @property
    def loss(self) -> float:
        """The mean loss at T = 1; NaN if logits of a row are not numbers, or a true class has no logit."""
        return math.fsum(self._losses) / math.fsum(self._weights)

    def start(self) -> Best:
        """Return about the best β, from the sample.

        Raises
        ------
        NoOptimum
            If all rows say that there is none.
        """
        if self._impossible:
            raise NoOptimum("a true class has probability 0, at every temperature")
        if self._equal:
            raise NoOptimum("none changes the loss: all logits of a row are equal")
        if self._beaten == 0.0:
            raise NoOptimum(
                "in every row the true class is the most probable one, so every smaller T lowers the loss further, "
                "towards 0"
            )
        some = self.sample.whole()
        try:
            return _root(lambda beta, exact: at(some, beta, exact=exact), 1.0, None, close=1e-6)
        except NoOptimum:  # of the sample alone; the whole may have one
            return Best(1.0, math.nan, math.nan)


def look_at(rows: Iterable[Piece]) -> Look:
    """Return the results of one pass over the rows."""
    look = Look()
    for piece in rows:
        look.add(piece)
    return look


def fit(rows: Rows, start: Best | None = None, look: Look | None = None) -> Best:
    """Return the best β of rows; `start` is the fit of similar rows, `look` the result of a pass over these.

    Raises
    ------
    NoOptimum
        If every larger or every smaller T cuts the loss further, or none changes it.
    """
    begin = start or (look or look_at(rows)).start()
    return _root(lambda beta, exact: at(rows, beta, exact=exact), begin.beta, begin.curvature)


def _between(low: float, high: float, beta: float, *, first: bool) -> float:
    """Return the next β to try, without a tangent to follow; the first steps are small, for most T are near 1."""
    if first:
        return beta * 1.5 if high == math.inf else beta / 1.5
    if high == math.inf:
        return beta * 8.0
    return _FLATTEST if low == 0.0 else math.sqrt(low * high)


def _root(
    slope_at: Callable[[float, bool], Point], beta: float, curvature: float | None, *, close: float = CLOSE
) -> Best:
    """Return where the slope, which grows with β, is 0.

    Each step goes to the root of the line through the last two points, or with the known curvature through the first,
    if that lies between the largest β with a negative slope and the smallest with a positive one; else by a factor.
    """
    low, high, last, exact, line = 0.0, math.inf, None, False, False
    grade, doubt = curvature if curvature is not None and curvature > 0 else math.nan, 1.0
    for turn in range(_MOST):
        point = slope_at(beta, exact)
        if point.slope < 0.0:
            low = max(low, beta)
        else:
            high = min(high, beta)
        if line and last is not None and point.beta != last.beta:
            grade = (point.slope - last.slope) / (point.beta - last.beta)
            doubt = min(1.0, _BENT * abs(point.beta - last.beta) / beta)
        following = beta - point.slope / grade if grade > 0 else math.nan
        halve = turn % 8 == 7 and low > 0.0 and high < math.inf  # in case the slope is too bent for lines
        straight = low <= following <= high and not halve  # NaN is not between
        if not straight:
            following = _between(low, high, beta, first=last is None)
        if following > _STEEPEST or (point.beta <= _FLATTEST and point.slope >= 0.0):
            raise NoOptimum(_TOO_FLAT if point.slope >= 0.0 else _TOO_STEEP)
        step = abs(following - beta)
        if exact and ((straight and step * doubt <= close * beta) or high - low <= 2.0 * np.spacing(beta)):
            return Best(following, point.loss + 0.5 * point.slope * (following - beta), grade)
        line = exact or step > _ROUGH * beta  # not through points of two precisions, which are near each other
        if not line:  # nor do signs of rough slopes near 0 count
            exact, low, high = True, min(low, beta * (1.0 - _NEAR)), max(high, beta * (1.0 + _NEAR))
        last, beta = point, following
    raise AssertionError("a convex loss has a minimum within these steps")  # pragma: no cover
