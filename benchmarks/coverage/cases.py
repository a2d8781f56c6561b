"""Models whose expected loss is known, and samples of their losses: what intervals are tried on.

Expected losses are integrals over a normal distribution by Gauss and Hermite's rule, sums over a finite population, or
written down; none is the mean of a sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy.optimize import brentq
from scipy.special import expit, log_softmax

MODELS = {"calibrated": 1.0, "over-confident": 2.0, "under-confident": 0.5}
"""By what a model multiplies its logits, or the logarithms of its probabilities."""
BALANCED = 9.0
"""Weight of a row of the positive class where classes are balanced at a base rate of 10 %."""
POPULATION = 4000
CORRELATION = 0.3
SCORE = dict[str, Any]
"""The arguments of `crossent.score`."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Rows of many replicates, end to end: the loss and the replicate of each, and the rest where there is some."""

    loss: Any
    replicate: Any
    label: Any | None = None
    weight: Any | None = None
    cluster: Any | None = None
    logits: Any | None = None
    """Log-odds of the rows of two classes."""
    context: Any | None = None
    """The place of a row in a population."""


@dataclass(frozen=True)
class Binary:
    """Two classes: log-odds a + sharpness · N(0, 1), with a so that the base rate comes out."""

    base: float
    sharpness: float
    n: int
    weights: str = ""
    group: ClassVar[str] = "two classes"
    rows: ClassVar[str] = "rows"

    @property
    def name(self) -> str:
        name = f"base rate {100.0 * self.base:g} %, sharpness {self.sharpness:g}"
        return f"{name}, {self.weights}" if self.weights else name

    @cached_property
    def nodes(self) -> tuple[Any, Any]:
        """Log-odds and their weights, for integrals."""
        x, weight = hermegauss(200)
        weight = weight / weight.sum()
        first: Any = brentq(lambda a: weight @ expit(a + self.sharpness * x) - self.base, -50.0, 50.0, xtol=1e-13)
        return first + self.sharpness * x, weight

    def truth(self, factor: float) -> tuple[float, float | None]:
        """Return the expected loss and skill."""
        z, weight = self.nodes
        p = expit(z)
        heavy = BALANCED if self.weights == "classes balanced" else 1.0
        positive, negative = heavy * weight * p, weight * (1.0 - p)
        loss = positive @ np.logaddexp(0.0, -factor * z) + negative @ np.logaddexp(0.0, factor * z)
        loss = float(loss / (positive.sum() + negative.sum()))
        return loss, None if self.weights else 1.0 - loss / entropy(np.array([self.base, 1.0 - self.base]))

    def draw(self, random: np.random.Generator, replicates: int) -> Iterator[tuple[str, Sample]]:
        """Give a sample for each model, all of the same rows."""
        a, total = _middle(self.nodes), replicates * self.n
        z = a + self.sharpness * random.standard_normal(total)
        label = random.random(total) < expit(z)
        replicate, weight = np.repeat(np.arange(replicates), self.n), None
        if self.weights == "classes balanced":
            weight = np.where(label, BALANCED, 1.0)
        elif self.weights:
            weight = random.standard_exponential(total)
        wrong = np.where(label, -z, z)
        for model, factor in MODELS.items():
            loss = np.logaddexp(0.0, factor * wrong)
            yield model, Sample(loss, replicate, label.astype(int), weight, logits=factor * z)

    def given(self, sample: Sample, here: Any) -> SCORE:
        """Return what `crossent.score` needs for the same rows."""
        weight = None if sample.weight is None else sample.weight[here]
        return {"y": part(sample.label, here), "logits": part(sample.logits, here), "weight": weight}


@dataclass(frozen=True)
class Classes:
    """Many classes: logits −log(rank) + sharpness · N(0, 1), of a population from which rows are drawn with return."""

    classes: int
    sharpness: float
    n: int
    group: ClassVar[str] = "many classes"
    rows: ClassVar[str] = "rows"

    @property
    def name(self) -> str:
        return f"{self.classes} classes, sharpness {self.sharpness:g}"

    def truth(self, factor: float) -> tuple[float, float | None]:
        """Return the expected loss and skill."""
        return population(self.classes, self.sharpness).truth[factor]

    def draw(self, random: np.random.Generator, replicates: int) -> Iterator[tuple[str, Sample]]:
        """Give a sample for each model, all of the same rows."""
        everyone, total = population(self.classes, self.sharpness), replicates * self.n
        context = random.integers(POPULATION, size=total)
        place = np.searchsorted(everyone.steps, context + random.random(total), side="right")
        label = np.minimum(place - context * self.classes, self.classes - 1)
        replicate = np.repeat(np.arange(replicates), self.n)
        for model, factor in MODELS.items():
            loss = everyone.loss[factor][context, label]
            yield model, Sample(loss, replicate, label, logits=factor, context=context)

    def given(self, sample: Sample, here: Any) -> SCORE:
        """Return what `crossent.score` needs for the same rows."""
        everyone = population(self.classes, self.sharpness)
        return {"y": part(sample.label, here), "logits": sample.logits * everyone.logprob[part(sample.context, here)]}


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """Log-probabilities of all classes for each member, and what follows from them for each model.

    `steps` are cumulative probabilities, each member's added to its number; `loss` that of each class.
    """

    logprob: Any
    steps: Any
    loss: dict[float, Any]
    truth: dict[float, tuple[float, float]]


@lru_cache(maxsize=1)
def population(classes: int, sharpness: float) -> Population:
    """Return a population, always the same one."""
    logits = sharpness * np.random.default_rng(classes).standard_normal((POPULATION, classes))
    logprob = log_softmax(logits - np.log(np.arange(1, classes + 1)), axis=1)
    p = np.exp(logprob)
    steps = np.cumsum(p, axis=1)
    steps = (np.arange(POPULATION)[:, None] + np.minimum(steps / steps[:, -1:], 1.0)).ravel()
    loss = {factor: -log_softmax(factor * logprob, axis=1) for factor in MODELS.values()}
    expected = {factor: float((p * cost).sum() / POPULATION) for factor, cost in loss.items()}
    baseline = entropy(p.mean(axis=0))
    return Population(logprob, steps, loss, {factor: (x, 1.0 - x / baseline) for factor, x in expected.items()})


@dataclass(frozen=True)
class Clusters:
    """Losses in clusters of mixed (geometric) sizes: those of a cluster share a part, so that they correlate.

    A loss is Gamma(shape): what its cluster has in common is Gamma(0.3 shape), the rest Gamma(0.7 shape), so that the
    correlation within clusters is 0.3. Where losses are tied to sizes, those of large clusters are doubled.
    """

    clusters: int
    size: int
    shape: float
    tied: bool = False
    group: ClassVar[str] = "clusters"
    rows: ClassVar[str] = "clusters"

    @property
    def n(self) -> int:
        return self.clusters

    @property
    def name(self) -> str:
        skewness = 2.0 / self.shape**0.5
        text = f"clusters of {self.size} rows on average, losses of skewness {skewness:.1f}"
        return f"{text}, twice as high in large ones" if self.tied else text

    def truth(self, factor: float) -> tuple[float, float | None]:
        """Return the expected loss."""
        if not self.tied:
            return self.shape, None
        size = np.arange(1, 200 * self.size)
        rows = size * (1.0 - 1.0 / self.size) ** (size - 1.0)
        return float(self.shape * (rows @ self._level(size)) / rows.sum()), None

    def _level(self, size: Any) -> Any:
        return np.where(size > self.size, 2.0, 1.0) if self.tied else np.ones(len(size))

    def draw(self, random: np.random.Generator, replicates: int) -> Iterator[tuple[str, Sample]]:
        """Give one sample."""
        size = random.geometric(1.0 / self.size, replicates * self.clusters)
        common = random.gamma(CORRELATION * self.shape, size=len(size))
        cluster = np.repeat(np.arange(len(size)), size)
        loss = common[cluster] + random.gamma((1.0 - CORRELATION) * self.shape, size=len(cluster))
        loss *= self._level(size)[cluster]
        yield "any", Sample(loss, cluster // self.clusters, cluster=cluster % self.clusters)

    def given(self, sample: Sample, here: Any) -> SCORE:
        """Return what `crossent.score` needs for the same rows: log-probabilities that cost these losses."""
        return {"y": np.ones(len(sample.loss[here]), int), "logprobs": -sample.loss[here],
                "cluster": part(sample.cluster, here)}  # fmt: skip


Case = Binary | Classes | Clusters


def cases() -> list[Case]:
    """Return what intervals are tried on."""
    sizes, sharpness = (500, 2000, 10000), (0.5, 1.0, 2.0)
    found: list[Case] = [Binary(base, s, n) for base in (0.5, 0.1, 0.01) for n in sizes for s in sharpness]
    found += [Binary(0.1, 1.0, n, weights) for weights in ("classes balanced", "random weights") for n in sizes[:2]]
    found += [Classes(classes, s, n) for classes in (10, 1000) for n in sizes[:2] for s in (1.0, 3.0)]
    found += [Clusters(clusters, 12, shape) for clusters in (50, 200) for shape in (4.0, 1.0)]
    found += [Clusters(50, 48, 1.0), Clusters(200, 4, 1.0)]
    return found + [Clusters(clusters, 12, 4.0, tied=True) for clusters in (50, 200)]


def hard() -> list[Case]:
    """Return where an interval made of a sample may fall short."""
    found: list[Case] = [Binary(base, s, 500) for base, s in ((0.01, 4.0), (0.002, 1.0), (0.02, 0.0), (0.01, 0.0))]
    found += [Clusters(10, 50, 1.0), Clusters(50, 12, 0.25), Clusters(200, 12, 0.25)]
    return [*found, Clusters(200, 12, 1.0, tied=True)]


def entropy(p: Any) -> float:
    """Return the entropy of a distribution in nats."""
    return float(-(p * np.log(p)).sum())


def part(array: Any, here: Any) -> Any:
    """Return some rows of an array that must be there."""
    if array is None:
        raise TypeError("this sample does not have that column")
    return array[here]


def _middle(nodes: tuple[Any, Any]) -> float:
    """Return the mean of the log-odds."""
    z, weight = nodes
    return float(weight @ z)
