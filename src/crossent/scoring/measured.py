"""The measures of a score beside its loss: of answers, of order and of squares, from the sums of a state."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from crossent.scoring.parts import BalancedLoss, Brier, ClassReliability, Ranking
from crossent.scoring.sums.curve import Points, edges
from crossent.scoring.sums.grid import MOST
from crossent.scoring.sums.proportion import balanced, estimate
from crossent.scoring.sums.ranking import brier_parts, ranking, thresholds
from crossent.scoring.sums.row_sums import RowSums


def measures(sums: RowSums) -> dict[str, Any]:
    """Return the fields of a score that are measured here, by name."""
    assert sums.layout is not None
    classes, level = sums.layout.classes, sums.options.ci
    clustered, loss = sums.layout.clustered, estimate(balanced(sums.totals), level)
    found: dict[str, Any] = {
        "balanced_loss": BalancedLoss(loss.value, loss.ci, loss.se),
        "decisions": sums.outcomes.decisions(classes, level, clustered=clustered),
    }
    if len(classes) > MOST:
        return found
    two, ranks = len(classes) == 2, sums.ranks
    numbers = (1,) if two else range(len(classes))
    curves = [ranks.points(k, sums.details.curve if two else None) for k in numbers]
    exact = ranks.few or (two and sums.details.curve.q is not None)
    rankings = tuple(
        ranking(classes[k], points, exact=exact, lead=ranks.lead(k, two=two))
        for k, points in zip(numbers, curves, strict=True)
    )
    found |= {
        "ranking": rankings,
        "roc_auc": _mean([each.auc for each in rankings]),
        "average_precision": _mean([each.average_precision for each in rankings if _occurs(each)]),
        "brier": _brier(sums, curves, level),
    }
    if two:
        least = curves[0].q if exact else edges(sums.details.curve.filled())
        return found | {"thresholds": thresholds(curves[0], least, *sums.options.costs)}
    return found | {"class_reliability": tuple(_reliability(sums, k) for k in numbers)}


def _occurs(each: Ranking) -> bool:
    return not math.isnan(each.auc)


def _mean(values: list[float]) -> float:
    """Return the mean of the numbers that exist, NaN if there are none."""
    there = [value for value in values if not math.isnan(value)]
    return float(np.mean(there)) if there else math.nan


def _brier(sums: RowSums, curves: list[Points], level: float) -> Brier:
    whole = estimate(sums.brier.overall(), level)
    parts = [brier_parts(points) for points in curves]
    recalibrated, uncertainty = (math.fsum(part) for part in zip(*parts, strict=True))
    return Brier(whole.value, whole.ci, whole.se, whole.value - recalibrated, uncertainty - recalibrated, uncertainty)


def _reliability(sums: RowSums, number: int) -> ClassReliability:
    assert sums.layout is not None
    bins = sums.ranks.reliability(number)
    weight = math.fsum(part.weight for part in bins)
    error = math.fsum(part.weight * abs(part.predicted - part.observed) for part in bins) / weight
    return ClassReliability(sums.layout.classes[number], error, bins)
