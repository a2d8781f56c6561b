"""Counts how many intervals cover the expected loss.

Many samples of each model go through the package's own sums and intervals at once, each sample as a group; a few of
them also go through `crossent.score`, which must give the same ends.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from scipy import stats

import crossent
from benchmarks.common.records import Record
from benchmarks.coverage.cases import MODELS, Case, Sample, part
from crossent.scoring.sums.interval import Mean, Residuals, mean_of
from crossent.scoring.sums.totals import LossRows, Totals

LEVEL = 0.95
RESAMPLED, RESAMPLES = 1000, 2000
AT_ONCE = 1_000_000
"""Rows that are drawn at a time."""
CHECKED = 2
"""Samples of each block of the first draws that go through `crossent.score` too."""
SAME, ROUNDING = 1e-9, 1e-12
"""By how much of its width, and how much at least, an end may differ between the two: sums about another centre."""
Ends = tuple[Any, Any]


def measure(case: Case, draws: int, random: np.random.Generator) -> list[Record]:
    """Return one record for each model of a case."""
    begin, counts = time.perf_counter(), dict[str, dict[str, Count]]()
    size = getattr(case, "size", 1)
    at_once, done = max(1, min(draws, AT_ONCE // (case.n * size))), 0
    while done < draws:
        replicates = min(at_once, draws - done)
        for model, sample in case.draw(random, replicates):
            loss, skill = case.truth(MODELS.get(model, 1.0))
            count = counts.setdefault(model, {})
            mean = means(sample, replicates)
            ends = mean.interval(LEVEL, 0.0)  # no loss is negative
            count.setdefault("crossent", Count()).add(ends, loss)
            count.setdefault("normal", Count()).add(normal(mean), loss)
            count.setdefault("skewness", Count()).total += float(mean.skew.sum())
            of_skill = skills(sample, replicates) if skill is not None else None
            if of_skill is not None:
                count.setdefault("skill", Count()).add(of_skill, skill)
            if done == 0:
                check(case, sample, ends, of_skill)
                if resampled(case) and model == "calibrated":
                    count["bca"] = bca(sample.loss.reshape(replicates, case.n)[:RESAMPLED], loss, random)
        done += replicates
    seconds = round(time.perf_counter() - begin, 2)
    return [_record(case, model, count, seconds) for model, count in counts.items()]


class Count:
    """How many intervals there were, and how many of them lay above and below what they should cover."""

    def __init__(self) -> None:
        self.n = self.above = self.below = 0
        self.total = 0.0

    def add(self, ends: Ends, truth: float | None) -> None:
        """Count intervals; one that is not there covers nothing, and counts as below."""
        low, high = ends
        self.n += len(low)
        self.above += int((low > truth).sum())
        self.below += int(len(high) - (high >= truth).sum())

    def record(self) -> Record:
        """Return the shares."""
        covered = 1.0 - (self.above + self.below) / self.n
        return {"n": self.n, "covered": covered, "above": self.above / self.n, "below": self.below / self.n}


def _record(case: Case, model: str, counts: dict[str, Count], seconds: float) -> Record:
    skewness = counts.pop("skewness").total / counts["crossent"].n
    about = {"suite": "coverage", "case": case.name, "group": case.group, "n": case.n, "of": case.rows, "model": model}
    shares = {name: count.record() for name, count in counts.items()}
    return {**about, "level": LEVEL, "skewness": round(skewness, 2), "seconds": seconds, "coverage": shares}


def means(sample: Sample, replicates: int) -> Mean:
    """Return the mean loss of each replicate by the package's own sums."""
    totals = Totals(replicates)
    right = np.zeros(len(sample.loss), bool)
    totals.add(LossRows(sample.loss, sample.weight, sample.replicate, right, sample.cluster))
    return totals.means()


def skills(sample: Sample, replicates: int) -> Ends:
    """Return the interval of each replicate's skill: one less that of the ratio of losses to their classes' prices."""
    label = part(sample.label, slice(None))
    classes = int(label.max()) + 1
    place = sample.replicate * classes + label
    counts = np.bincount(place, minlength=replicates * classes).reshape(replicates, classes)
    n = counts.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        price = np.where(counts > 0, -np.log(counts / n[:, None]), 0.0)
        whole = (counts * price).sum(axis=1)
        value = np.bincount(sample.replicate, sample.loss) / whole
        residual = sample.loss - value[sample.replicate] * price.ravel()[place]
        square, cube = (np.bincount(sample.replicate, residual**power) for power in (2, 3))
        cross = np.bincount(sample.replicate, residual * price.ravel()[place])
        low, high = mean_of(value, whole, Residuals(n, square, cube, cross, n)).interval(LEVEL, 0.0)
    known = whole > 0
    return np.where(known, 1.0 - high, np.nan), np.where(known, 1.0 - low, np.nan)


def normal(mean: Mean) -> Ends:
    """Return mean ± 1.96 se."""
    half = stats.norm.ppf((1.0 + LEVEL) / 2.0) * mean.se
    return mean.value - half, mean.value + half


def resampled(case: Case) -> bool:
    """Return whether the bootstrap is tried on a case: it takes a minute for all of them."""
    return case.group == "two classes" and case.n == 500 and case.name.endswith("sharpness 1")


def bca(losses: Any, truth: float, random: np.random.Generator) -> Count:
    """Return how often the bias-corrected and accelerated bootstrap covers (Efron 1987)."""
    count = Count()
    for sample in losses:
        with np.errstate(all="ignore"):
            found = stats.bootstrap(
                (sample,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="BCa", rng=random
            ).confidence_interval
        count.add((np.array([found.low]), np.array([found.high])), truth)
    return count


def check(case: Case, sample: Sample, ends: Ends, of_skill: Ends | None) -> None:
    """Raise if `crossent.score` gives other intervals to some of these samples."""
    for replicate in range(min(CHECKED, int(sample.replicate[-1]) + 1)):
        here = sample.replicate == replicate
        arguments = case.given(sample, here)
        result = crossent.score(arguments.pop("y"), **arguments, ci=LEVEL, worst=0)
        _same(case, result.ci, [end[replicate] for end in ends])
        if of_skill is not None:
            _same(case, result.skill_ci, [end[replicate] for end in of_skill])


def _same(case: Case, given: tuple[float, float], ours: list[float]) -> None:
    allowed = SAME * float(np.nan_to_num(given[1] - given[0])) + ROUNDING
    if not np.allclose(given, ours, rtol=0.0, atol=allowed, equal_nan=True):
        raise RuntimeError(f"{case.name}: crossent.score gives the interval {given}, its sums {tuple(ours)}")
