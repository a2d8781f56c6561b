"""log Σ q² and its gradient keep their digits where the terms that they are made of are almost equal."""

from __future__ import annotations

import mpmath
import pytest
import torch

from crossent.spec import Scores, Target
from crossent.torch.base.values import new_record
from crossent.torch.operators.rows import RowCall, row_stats
from crossent.torch.sources import squares
from crossent.torch.sources.squares import SquaresRecords
from tests.torch import plain


def records_of(z, target, scores):
    of_rows = (row_stats(RowCall(z, target, s, recorded=True)).record for s in (scores, scores.doubled))
    return SquaresRecords(*of_rows)


def exact(row, temperature=1.0):
    """The value and the gradient of one row in 60 digits."""
    with mpmath.workdps(60):
        e = [mpmath.exp(mpmath.mpf(x) / temperature) for x in row]
        q = [x / sum(e) for x in e]
        square = sum(x * x for x in q)
        return float(mpmath.log(square)), [float(2 * (x * x / square - x) / temperature) for x in q]


ROWS = {
    "confident": [0.0, 9.0, 1.0, -2.0],
    "uniform but for a little": [1.0, 1.0 + 2**-20, 1.0, 1.0],
    "usual": [0.3, -1.0, 2.0, 0.5],
    "two peaks": [5.0, 5.0, -5.0, -9.0],
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", ROWS)
def test_rows_keep_their_digits(name, dtype):
    z, target, scores = torch.tensor([ROWS[name]], dtype=dtype), Target(torch.zeros(1).long()), Scores(0.5)
    records, to = records_of(z, target, scores), torch.empty_like(z)
    squares.write_gradient(z, target, scores, records, torch.ones(1), to)
    value, gradient = exact(ROWS[name], 0.5)
    # a total is known to its last digit, beside which what differs from 1 or 2 equal classes may be little; and that of
    # float32 logits is a sum of float32 exponentials, in which what differs from a uniform row is little
    of_total = 2**-51 / max(map(abs, gradient))
    bound = {torch.float64: of_total, torch.float32: 2e-5 if name.startswith("uniform") else 2e-7 + of_total}[dtype]
    assert records.log_sum_squares().item() == pytest.approx(value, rel=1e-6)
    assert plain.off(to[0], torch.tensor(gradient, dtype=torch.float64)) < bound


@pytest.mark.parametrize("shape", [(7, 11), (3, 11, 2)])
def test_parts_of_rows_are_the_whole(shape, monkeypatch):
    z, number = torch.randn(shape, dtype=torch.float64), shape[0] * (shape[2] if len(shape) == 3 else 1)
    index = torch.randint(11, (number,))
    index[1] = -100
    own = torch.rand(number, dtype=torch.float64) + 0.5
    target, scores = Target(index, ignore_index=-100), Scores(1.0, 4.0, own)
    g = torch.randn(number, dtype=torch.float64)
    g[2] = 0.0
    records = records_of(z, target, scores)
    found = []
    for at_once in (1, 50, 10**6):
        monkeypatch.setitem(squares._AT_ONCE, True, at_once)
        to = torch.full_like(z, torch.nan)
        squares.write_gradient(z, target, scores, records, g, to)
        found.append(to)
    assert all(torch.equal(found[0], other) for other in found[1:])
    rows = found[0] if len(shape) == 2 else found[0].movedim(1, -1).flatten(0, 1)
    assert (rows[1:3] == 0).all()
    assert (rows[3:] != 0).all()
    assert rows.sum(1).abs().max() > 0  # the slope of a softcap is another one in each column


def test_a_row_of_nan_is_nan_and_alone():
    z, target = torch.randn(3, 5), Target(torch.zeros(3).long())
    z[1, 2], z[2, 3] = torch.nan, -torch.inf
    to = new_record(3, z).loss.new_empty(3, 5)
    squares.write_gradient(z, target, Scores(), records_of(z, target, Scores()), torch.ones(3), to)
    assert to[1].isnan().all()
    assert to[[0, 2]].isfinite().all()
    assert to[2, 3] == 0
