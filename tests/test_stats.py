"""The row record: what is derived from it, how two merge, and that its arrays may be of any library."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from crossent.stats import FIELDS, RowStats


def record(**values):
    """A record of one row with these values, and zeros."""
    return RowStats(**{field: np.array([values.get(field, 0.0)]) for field in FIELDS})


def record_of(scores, target):
    """The record of one row, by its definition."""
    peak = max(scores)
    e = [math.exp(s - peak) for s in scores]
    return record(
        peak=peak,
        total=math.fsum(e),
        target_score=math.fsum(p * (s - peak) for p, s in zip(target, scores, strict=True)),
        mass=math.fsum(target),
        tilt=math.fsum(x * (s - peak) for x, s in zip(e, scores, strict=True)),
    )


NOTHING = record(peak=-np.inf)
SCORES, TARGET = [0.5, -1.0, 2.0, 0.25], [0.1, 0.2, 0.3, 0.15]


def test_fields_are_those_of_the_record_in_its_order():
    assert tuple(field.name for field in dataclasses.fields(RowStats)) == FIELDS
    assert FIELDS[:5] == ("peak", "total", "target_score", "mass", "tilt")


def test_what_is_derived_is_what_its_formula_says():
    r = record_of(SCORES, TARGET)
    lse = math.log(math.fsum(map(math.exp, SCORES)))
    q = [math.exp(s - lse) for s in SCORES]
    assert r.lse[0] == pytest.approx(lse, rel=1e-15)
    assert r.loss[0] == pytest.approx(-math.fsum(p * (s - lse) for p, s in zip(TARGET, SCORES, strict=True)), rel=1e-15)
    assert r.entropy[0] == pytest.approx(-math.fsum(x * math.log(x) for x in q), rel=1e-15)
    assert r.confidence[0] == pytest.approx(max(q), rel=1e-15)


@pytest.mark.parametrize("of", range(3))
def test_coefficients_are_those_of_the_gradient(of):
    # phi = identity: the derivative of each output with respect to each score, by differences
    r = record_of(SCORES, TARGET)
    a, b, c = (x[0] for x in r.coefficients(*(np.array([1.0 if k == of else 0.0]) for k in range(3))))
    lse = float(r.lse[0])
    for v, (s, p) in enumerate(zip(SCORES, TARGET, strict=True)):
        q = math.exp(s - lse)
        h = 1e-6
        near = [
            record_of([x + (sign * h if k == v else 0.0) for k, x in enumerate(SCORES)], TARGET) for sign in (1, -1)
        ]
        up, down = ((x.loss, x.lse, x.entropy)[of][0] for x in near)
        assert q * (a + b * math.log(q)) - c * p == pytest.approx((up - down) / (2 * h), rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_records_of_parts_merge_into_that_of_the_row(cut):
    whole = record_of(SCORES, TARGET)
    parts = record_of(SCORES[:cut], TARGET[:cut]), record_of(SCORES[cut:], TARGET[cut:])
    for merged in (parts[0].merge(parts[1]), parts[1].merge(parts[0]), NOTHING.merge(whole), whole.merge(NOTHING)):
        for field in FIELDS:
            assert getattr(merged, field)[0] == pytest.approx(getattr(whole, field)[0], rel=1e-14), field


def test_merging_with_a_shard_of_impossible_classes():
    # a shard whose logits are all −inf weighs nothing, unless the target lies in it
    some = record(peak=3.0, total=1.5, target_score=-0.25, mass=0.5, tilt=-0.125)
    for merged in (some.merge(NOTHING), NOTHING.merge(some)):
        assert [getattr(merged, field) for field in FIELDS] == [getattr(some, field) for field in FIELDS]
    asked = dataclasses.replace(NOTHING, target_score=np.array([-np.inf]), mass=np.array([0.5]))
    for merged in (some.merge(asked), asked.merge(some)):
        assert merged.loss[0] == np.inf
        assert merged.total[0] == 1.5


@pytest.mark.parametrize("library", ["torch", "jax.numpy"])
def test_arrays_of_other_libraries_stay_what_they_are(library):
    xp = pytest.importorskip(library)
    array = xp.tensor if library == "torch" else xp.array
    ours = [RowStats(*(array(getattr(r, field)) for field in FIELDS)) for r in (record_of(SCORES, TARGET), NOTHING)]
    merged = ours[0].merge(ours[1])
    for value in (merged.loss, merged.lse, merged.entropy, merged.confidence, *merged.coefficients(*[merged.mass] * 3)):
        assert type(value) is type(ours[0].peak)
    assert float(merged.loss[0]) == pytest.approx(float(record_of(SCORES, TARGET).loss[0]), rel=1e-6)
