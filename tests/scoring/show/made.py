"""Scores of many kinds, put together from their parts in plain NumPy, SciPy and scikit-learn."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.isotonic import IsotonicRegression

from crossent.scoring.parts import Bar, Bin, Calibration, Interval, Row, Slice, Temperature
from crossent.scoring.result import Score

NAN = (math.nan, math.nan)
HOSTILE = (
    "<script>alert(1)</script>",
    "$x_1$",
    "$",
    "& \"quoted\" 'too'",
    "$\\frac{1}{$",
    "猫と犬 🐈 \u200d",
    "قطة كبيرة (1)",
    "a" * 400,
    "many words " * 30,
    "",
    " ",
    "\x00 \x1b[31m \ud800 \u2028",
    "${style} $title $$",
    "</style></svg><h1>",
    "%s {0} \\n",
)


def score_of(y: Any, logits: Any, *, names: Any = None, by: Any = None, clusters: int | None = None) -> Score:
    """A score of real or drawn predictions (N, C), with intervals from the normal distribution."""
    n, c = logits.shape
    names = tuple(range(c)) if names is None else tuple(names)
    log_p = log_softmax(logits, axis=1)
    p, cost = np.exp(log_p), -log_p[np.arange(n), y]
    said = p.argmax(axis=1)
    frequency = np.bincount(y, minlength=c) / n
    baseline = float(-(frequency[frequency > 0] * np.log(frequency[frequency > 0])).sum())

    def part(value: Any, rows: Any) -> Slice:
        if not rows.any():
            return Slice(value, 0, 0.0, math.nan, NAN, math.nan, math.nan)
        mean, ends, se = interval_of(cost[rows])
        return Slice(value, int(rows.sum()), float(rows.sum()), mean, ends, se, float((said == y)[rows].mean()))

    loss, ends, se = interval_of(cost)
    predicted, came = (p[:, 1], y == 1) if c == 2 else (p.max(axis=1), said == y)
    bins = bins_of(predicted, came)
    worst = np.argsort(-cost, kind="stable")[:10]
    return Score(
        loss=loss,
        ci=ends,
        se=se,
        n=n,
        weight=float(n),
        level=0.95,
        baseline=baseline,
        skill=1 - loss / baseline if baseline else math.nan,
        skill_ci=(1 - ends[1] / baseline, 1 - ends[0] / baseline) if baseline else NAN,
        entropy=float(-(p * log_p).sum(axis=1).mean()),
        accuracy=float((said == y).mean()),
        clusters=clusters,
        zero="inf",
        classes=names,
        per_class=tuple(part(names[k], y == k) for k in range(c)),
        by={
            name: tuple(part(value, column == value) for value in dict.fromkeys(column.tolist()))
            for name, column in (by or {}).items()
        },
        calibration=calibration_of(
            predicted, came, bins, temperature_of(y, logits), "positive class" if c == 2 else "top label"
        ),
        reliability=bins,
        histogram=bars_of(cost),
        worst=tuple(
            Row(int(k), float(cost[k]), names[y[k]], float(p[k, y[k]]), names[said[k]], float(p[k, said[k]]))
            for k in worst
        ),
        warnings=(),
    )


def interval_of(cost: Any) -> tuple[float, Interval, float]:
    mean = float(cost.mean())
    if len(cost) < 2:
        return mean, NAN, math.nan
    se = float(cost.std(ddof=1) / math.sqrt(len(cost)))
    return mean, (max(mean - 1.96 * se, 0.0), mean + 1.96 * se), se


def bins_of(predicted: Any, came: Any, count: int = 15) -> tuple[Bin, ...]:
    edges = np.linspace(0, 1, count + 1)
    where = np.minimum((predicted * count).astype(int), count - 1)
    return tuple(
        Bin(
            edges[k],
            edges[k + 1],
            m,
            float(m),
            float(predicted[r].mean()) if m else math.nan,
            float(came[r].mean()) if m else math.nan,
        )
        for k in range(count)
        for r in [where == k]
        for m in [int(r.sum())]
    )


def calibration_of(predicted: Any, came: Any, bins: Any, temperature: Temperature | None, of: Any) -> Calibration:
    def binary(q: Any) -> float:
        return float(-np.log(np.clip(np.where(came, q, 1 - q), 1e-300, 1)).mean())

    fitted = IsotonicRegression(y_min=0, y_max=1).fit_transform(predicted, came)
    loss, best, average = binary(predicted), binary(fitted), binary(np.full(len(came), came.mean()))
    order = np.argsort(predicted)
    curve = tuple(dict.fromkeys((float(predicted[k]), float(fitted[k])) for k in order))
    ece = sum(b.n * abs(b.predicted - b.observed) for b in bins if b.n) / len(came)
    return Calibration(of, loss, loss - best, average - best, average, ece, curve, temperature)


def temperature_of(y: Any, logits: Any) -> Temperature:
    def loss(inverse: float) -> float:
        return float(-log_softmax(inverse * logits, axis=1)[np.arange(len(y)), y].mean())

    best: Any = minimize_scalar(loss, bounds=(0.01, 20), method="bounded")
    return Temperature(1 / best.x, loss(1.0), loss(best.x), len(y), loss(best.x) < 0.99 * loss(1.0))


def bars_of(cost: Any) -> tuple[Bar, ...]:
    """Four bars an octave, those that hold rows, and all below the first together."""
    octaves = 2.0 ** np.arange(-40, 12)
    edges = np.concatenate([[0.0], (octaves[:, None] * (1 + np.arange(4) / 4)).ravel(), [math.inf]])
    heights, _ = np.histogram(np.minimum(cost, 1e300), edges)
    return tuple(Bar(float(a), float(b), float(w)) for a, b, w in zip(edges[:-1], edges[1:], heights, strict=True) if w)


def drawn(n: int, c: int, *, seed: int = 0, sharp: float = 1.6, lift: float = 2.5) -> tuple[Any, Any]:
    """Labels and over-confident logits."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, c)) * lift
    p = softmax(logits, axis=1).cumsum(axis=1)
    y = np.minimum((rng.random((n, 1)) > p).sum(axis=1), c - 1)
    return y, logits * sharp


def binary() -> Score:
    y, z = drawn(1500, 2)
    return score_of(y, z, names=("no", "yes"))


def rare() -> Score:
    """One positive row in a hundred, predicted low."""
    rng = np.random.default_rng(2)
    z = np.stack([np.zeros(5000), rng.normal(-5, 1, 5000)], axis=1)
    return score_of((rng.random(5000) < softmax(z, axis=1)[:, 1]).astype(int), z)


def ten() -> Score:
    y, z = drawn(900, 10)
    rng = np.random.default_rng(1)
    by = {
        "writer": np.array([f"writer {k}" for k in rng.integers(0, 45, 900)]),
        "split": np.where(y % 2, "odd", "even"),
    }
    made = score_of(y, z, by=by, clusters=45)
    return replace(
        made, warnings=("class 7 has only 4 rows, so its interval is rough", "probabilities of row 3 sum to 1.0004")
    )


def thousand() -> Score:
    y, z = drawn(4000, 1000, lift=4.0)
    return score_of(y, z, names=[f"class number {k}" for k in range(1000)])


def one_class() -> Score:
    made = binary()
    some = made.per_class[1]
    return replace(
        made,
        baseline=0.0,
        skill=math.nan,
        skill_ci=NAN,
        per_class=(Slice("no", 0, 0.0, math.nan, NAN, math.nan, math.nan), some),
        calibration=None,
        reliability=(),
        warnings=("skill is undefined, because all rows have the class 'yes'",),
    )


def infinite() -> Score:
    made = ten()
    worst = (Row("row-1", math.inf, 3, 0.0, 5, 1.0), *made.worst[:9])
    calibration = made.calibration
    assert calibration is not None
    assert calibration.temperature is not None
    hurt = replace(made.per_class[3], loss=math.inf, ci=(math.inf, math.inf), se=math.nan)
    return replace(
        made,
        loss=math.inf,
        ci=(math.inf, math.inf),
        se=math.nan,
        skill=-math.inf,
        skill_ci=(-math.inf, -math.inf),
        per_class=(*made.per_class[:3], hurt, *made.per_class[4:]),
        calibration=replace(calibration, loss=math.inf, miscalibration=math.inf, temperature=None),
        histogram=(*made.histogram, Bar(math.inf, math.inf, 12.0)),
        worst=worst,
    )


def single() -> Score:
    made = score_of(np.array([1]), np.array([[0.0, 1.0, -1.0]]))
    return replace(made, calibration=None)


def perfect() -> Score:
    """All probability on the truth."""
    y = np.arange(20) % 2
    made = score_of(y, np.where(np.arange(2) == y[:, None], 2000.0, 0.0))
    return replace(made, calibration=None, skill=1.0, skill_ci=(1.0, 1.0))


def hostile() -> Score:
    y, z = drawn(600, len(HOSTILE))
    made = score_of(y, z, names=HOSTILE, by=dict.fromkeys(HOSTILE, y))
    worst = tuple(replace(row, id=HOSTILE[k]) for k, row in enumerate(made.worst))
    by = {
        name: tuple(replace(part, value=HOSTILE[k]) for k, part in enumerate(parts)) for name, parts in made.by.items()
    }
    return replace(made, worst=worst, warnings=HOSTILE, by=by)


KINDS = {make.__name__: make for make in (binary, rare, ten, thousand, one_class, infinite, single, perfect, hostile)}
