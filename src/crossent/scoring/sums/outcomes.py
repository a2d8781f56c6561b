"""The most probable classes as answers: confusions, accuracy and recall with intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from crossent.scoring.parts import Confusion, Decided, Decisions, Estimate, Mistake
from crossent.scoring.sums.grid import MOST
from crossent.scoring.sums.interval import even
from crossent.scoring.sums.proportion import (
    frequency,
    mean_of_frequencies,
    normal_quantile,
    rows_as_good,
    wilson,
)
from crossent.scoring.sums.totals import GROUP, ClusterSums, Sum

LISTED = 20
"""Pairs of classes that are listed."""
PAIRS = 1 << 12
"""Pairs of classes that are counted where there are too many classes for a matrix."""


class Outcomes:
    """Counts and weights of answers by true class, which merge.

    `rows` are Σ w, Σ w² and Σ w⁴ of each class, `right` Σ w and Σ w² of its rows that were answered rightly, `answers`
    Σ w of the rows that got it as their answer. Mistakes are counted by key, label · 2³² + predicted, in ascending
    order; `missed` is the weight that any pair may lack, once there were too many pairs for all to be kept.
    """

    def __init__(self) -> None:
        self.count: Any = np.zeros(0, np.int64)
        self.right_count: Any = np.zeros(0, np.int64)
        self.rows, self.right, self.answers = Sum(3, 0), Sum(2, 0), Sum(0)
        self.key: Any = np.empty(0, np.int64)
        self.mistakes: Any = np.empty(0, np.int64)
        self.mistaken: Any = np.empty(0)
        self.missed = 0.0
        self.by_cluster = ClusterSums()

    def grow(self, classes: int) -> None:
        """Make room for this many classes."""
        more = max(0, classes - len(self.count))
        self.count, self.right_count = np.pad(self.count, (0, more)), np.pad(self.right_count, (0, more))
        for part in (self.rows, self.right, self.answers):
            part.grow(classes)

    def add(self, label: Any, predicted: Any, weight: Any | None, cluster: Any | None) -> None:
        """Add rows, (n,) each; weight is None if all are 1, cluster None if rows are independent."""
        classes, right = len(self.count), label == predicted
        if cluster is not None:
            each = np.ones(len(label)) if weight is None else weight
            self.by_cluster.add(label * GROUP + cluster, each * right, each)
        if classes * classes <= 1 << 16:
            place, size = label * classes + predicted, classes * classes
            counts = np.bincount(place, minlength=size).reshape(classes, classes)
            weights = counts if weight is None else np.bincount(place, weight, size).reshape(classes, classes)
            count, hits, answers = counts.sum(axis=1), np.diag(counts), weights.sum(axis=0)
            key = np.flatnonzero(counts - np.diag(hits))
            self._insert(key // classes * GROUP + key % classes, counts.reshape(-1)[key], weights.reshape(-1)[key])
        else:
            count, hits = np.bincount(label, minlength=classes), np.bincount(label[right], minlength=classes)
            answers, wrong = np.bincount(predicted, weight, classes), ~right
            key, place, numbers = np.unique(
                label[wrong] * GROUP + predicted[wrong], return_inverse=True, return_counts=True
            )
            weights = numbers if weight is None else np.bincount(place.reshape(-1), weight[wrong], len(key))
            self._insert(key, numbers, weights)
        self.count, self.right_count = self.count + count, self.right_count + hits
        self.answers.add(answers.astype(float))
        if weight is None:
            self.rows.add(np.stack([count] * 3).astype(float))
            self.right.add(np.stack([hits] * 2).astype(float))
        else:
            self.rows.add(np.stack([np.bincount(label, weight**k, classes) for k in (1, 2, 4)]))
            self.right.add(np.stack([np.bincount(label[right], weight[right] ** k, classes) for k in (1, 2)]))

    def merge(self, other: Outcomes, clusters: Any | None) -> None:
        """Add the counts of other rows, whose clusters have these numbers here."""
        self.count, self.right_count = self.count + other.count, self.right_count + other.right_count
        self.rows.merge(other.rows)
        self.right.merge(other.right)
        self.answers.merge(other.answers)
        self.missed += other.missed
        self._insert(other.key, other.mistakes, other.mistaken)
        if clusters is not None:
            theirs = other.by_cluster.sorted()
            self.by_cluster.add(theirs.group * GROUP + clusters[theirs.cluster], theirs.loss, theirs.weight)

    def _insert(self, key: Any, count: Any, weight: Any) -> None:
        """Add mistakes; of too many pairs the largest stay, less the weight of the largest that goes.

        Misra and Gries (1982), "Finding repeated elements", Sci. Comput. Program. 2, 143–152: so a pair lacks at most
        the weight of all mistakes divided by the number of pairs that are kept, in any order of rows.
        """
        self.key, place = np.unique(np.concatenate([self.key, key]), return_inverse=True)
        place, size = place.reshape(-1), len(self.key)
        self.mistakes = np.bincount(place, np.concatenate([self.mistakes, count]), size).astype(np.int64)
        self.mistaken = np.bincount(place, np.concatenate([self.mistaken, weight]), size)
        if len(self.count) > MOST and size > 2 * PAIRS:
            less = np.partition(self.mistaken, size - PAIRS - 1)[size - PAIRS - 1]
            stay = self.mistaken > less
            self.key, self.mistakes, self.mistaken = (part[stay] for part in (self.key, self.mistakes, self.mistaken))
            self.mistaken = self.mistaken - less
            self.missed += float(less)

    def decisions(self, classes: Sequence[Hashable], level: float, *, clustered: bool) -> Decisions:
        """Return the accuracy measures of the answers."""
        weight, square, _ = self.rows.value
        right, right_square = self.right.value
        answers, there = self.answers.value, np.flatnonzero(self.count)
        z = normal_quantile(level)
        with np.errstate(divide="ignore", invalid="ignore"):
            recall, precision = right / weight, right / answers
            f1 = 2.0 * right / (weight + answers)
            spread = np.maximum(right_square * (1.0 - 2.0 * recall) + recall**2 * square, 0.0) / weight**2
            ends = wilson(recall, rows_as_good(recall, spread, weight**2 / square), z)
            se = np.sqrt(spread * self.count / np.where(self.count > 1, self.count - 1.0, np.nan))
        if clustered:
            accuracy, balanced = (self._of_clusters(level, balanced=each) for each in (False, True))
        else:
            accuracy = self._of_rows(z)
            balanced = mean_of_frequencies(recall[there], (ends[0][there], ends[1][there]), se[there])
        occurs = (weight > 0) | (answers > 0)
        return Decisions(
            accuracy=accuracy,
            balanced_accuracy=balanced,
            f1=float(f1[occurs].mean()),
            classes=tuple(
                Decided(
                    classes[k], int(self.count[k]), float(weight[k]), float(answers[k]), float(precision[k]),
                    float(recall[k]), (float(ends[0][k]), float(ends[1][k])), float(f1[k]),
                )
                for k in range(len(classes))
                if occurs[k]
            ),
            confusion=self._confusion(classes),
        )  # fmt: skip

    def _of_rows(self, z: float) -> Estimate:
        weight, square, _ = self.rows.value.sum(axis=1)
        right, right_square = self.right.value.sum(axis=1)
        value, n = right / weight, int(self.count.sum())
        spread = max(right_square * (1.0 - 2.0 * value) + value**2 * square, 0.0) / weight**2
        found = frequency(float(value), spread, weight**2 / square, z)
        factor = n / (n - 1.0) if n > 1 else float("nan")
        return Estimate(found.value, found.ci, float(found.se * factor**0.5))

    def _of_clusters(self, level: float, *, balanced: bool) -> Estimate:
        """Return the accuracy, or the mean recall of the classes, where clusters are independent of each other."""
        from scipy.special import stdtrit

        weight, right = self.rows.value[0], self.right.value[0]
        there = self.count > 0
        price = np.where(there, 1.0 / np.where(there, weight, 1.0) if balanced else 1.0, 0.0)
        whole = float((price * np.where(there, weight, 0.0)).sum())
        value = float((price * right)[there].sum()) / whole
        found = self.by_cluster.sorted()
        means = np.where(there, right / np.where(there, weight, 1.0), 0.0) if balanced else np.full(len(weight), value)
        u = price[found.group] * (found.loss - means[found.group] * found.weight) / whole
        cluster, place = np.unique(found.cluster, return_inverse=True)
        place, n = place.reshape(-1), len(cluster)
        share = np.bincount(place, price[found.group] * found.weight, n)
        parts = float(even((share**2).sum(), (share**4).sum()))
        size = price[found.group] * (found.loss + means[found.group] * found.weight) / whole
        rounding = (np.bincount(place, minlength=n) + 8.0) * np.finfo(float).eps * np.bincount(place, size, n)
        residual = np.bincount(place, u, n)
        residual[np.abs(residual) <= rounding] = 0.0  # or a spread of 0 would be a tiny one, by the order of the rows
        square = float((residual**2).sum()) * (n / (n - 1.0) if n > 1 else np.nan)
        quantile = float(stdtrit(max(parts - 1.0, 1.0), (1.0 + level) / 2.0))
        if n < 2:
            return Estimate(value, (np.nan, np.nan), np.nan)
        return frequency(value, square, float(share.sum() ** 2 / (share**2).sum()), quantile)

    def _confusion(self, classes: Sequence[Hashable]) -> Confusion:
        n, order = len(classes), np.lexsort((self.key, -self.mistaken))[:LISTED]
        mistakes = tuple(
            Mistake(classes[key // GROUP], classes[key % GROUP], count, weight)
            for key, count, weight in zip(
                *(part[order].tolist() for part in (self.key, self.mistakes, self.mistaken)), strict=True
            )
        )
        if n > MOST:
            return Confusion((), (), mistakes, self.missed)
        counts: Any = np.diag(self.right_count)
        weights: Any = np.diag(self.right.value[0])
        counts[self.key // GROUP, self.key % GROUP] = self.mistakes
        weights[self.key // GROUP, self.key % GROUP] = self.mistaken
        return Confusion(tuple(map(tuple, counts.tolist())), tuple(map(tuple, weights.tolist())), mistakes)
