"""The gain of calibration on rows outside its fit: each fold's rows are scored with a fit to the other folds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import numpy as np

from crossent.scoring.calibration.rows import Piece, Rows
from crossent.scoring.parts import Interval
from crossent.scoring.sums.interval import tested
from crossent.scoring.sums.totals import LossRows, Totals

T = TypeVar("T")


class Method(Protocol[T]):
    """A way to calibrate: a fit to rows, which may begin at a fit to nearly the same rows, and its losses of rows."""

    def fit(self, rows: Rows, start: T | None = None) -> T:
        """Return the best parameters of rows."""
        ...

    def losses(self, piece: Piece, found: T | None) -> Any:
        """Return the loss of each row, (n,); None stands for no calibration."""
        ...


@dataclass(frozen=True, slots=True)
class CrossFit:
    """Gain of a calibration on rows outside its fit, in nats per row.

    `loss` is the mean loss of the uncalibrated rows, `calibrated` their loss with fits to the other folds, and `gain`
    the difference, positive if calibration helps; `ci` covers the expected gain with probability `level`, and `p_value`
    tests for no gain. The interval takes the fits as fixed: it shows no gain where there is none, but for gains below
    about 1 / n it is too narrow and too low. The `n` rows, in `clusters` independent clusters if any, were split into
    `folds` folds.
    """

    loss: float
    calibrated: float
    gain: float
    ci: Interval
    p_value: float
    level: float
    n: int
    clusters: int | None
    folds: int

    def to_dict(self) -> dict[str, Any]:
        """Return every number by its name.

        Returns
        -------
        dict
            NaN is None, infinities are "inf" and "-inf".

        Examples
        --------
        >>> CrossFit(0.5, 0.4, 0.1, (0.05, 0.15), 0.01, 0.95, 100, None, 5).to_dict()["gain"]
        0.1
        """
        from crossent.scoring.show.text import json_value

        return {f.name: json_value(getattr(self, f.name)) for f in fields(self)}

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return `to_dict` as JSON.

        Parameters
        ----------
        indent
            Spaces of indentation, or None for one line.

        Returns
        -------
        str
            JSON, without NaN and Infinity, which JSON lacks.

        Examples
        --------
        >>> CrossFit(0.5, 0.4, 0.1, (0.05, 0.15), 0.01, 0.95, 100, None, 5).to_json(indent=None)[:13]
        '{"loss": 0.5,'
        """
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False, ensure_ascii=False)


def cross_fit(
    rows: Rows, method: Method[T], whole: T, *, folds: int, level: float, tell: Callable[[], None] = lambda: None
) -> tuple[CrossFit, list[T]]:
    """Return the gain of a method on rows of folds that its fit did not see, and the parameters of each fold.

    Parameters
    ----------
    rows
        The rows.
    method, whole
        How to calibrate, and its fit to all rows.
    folds
        How many parts the rows are cut into.
    level
        Level of confidence.
    tell
        Called after each fold.

    Raises
    ------
    NoOptimum
        If the rows of some folds have no best parameters.
    """
    found: list[T] = []
    for fold in range(folds):
        found.append(method.fit(rows.without(fold, folds), whole))
        tell()
    before, after, gain = Totals(1), Totals(1), Totals(1)
    for piece in rows:
        old, fold = method.losses(piece, None), piece.fold(folds)
        new = np.empty(len(piece))
        for k in np.unique(fold).tolist():
            here = fold == k
            new[here] = method.losses(piece.take(here), found[k])
        group, right = np.zeros(len(piece), np.int64), np.zeros(len(piece), bool)
        for totals, loss in ((before, old), (after, new), (gain, old - new)):
            totals.add(LossRows(loss, piece.weight, group, right, piece.cluster))
    mean = gain.overall()
    ci, p = tested(mean, level)
    return CrossFit(
        loss=float(before.overall().value[0]),
        calibrated=float(after.overall().value[0]),
        gain=float(mean.value[0]),
        ci=ci,
        p_value=p,
        level=level,
        n=int(gain.count.sum()),
        clusters=gain.clusters,
        folds=folds,
    ), found
