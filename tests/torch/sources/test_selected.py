"""Selected classes as functions of tiles: where they lie, their logits, their log-probabilities, and their gradient."""

from __future__ import annotations

import pytest
import torch

from crossent.spec import NO_CLASS, Scores
from crossent.torch.sources.selected import (
    RowCotangents,
    SelectedRows,
    check_classes,
    columns_of,
    cotangents_of,
    log_probabilities,
    logits_at,
    scored,
    write_gradient,
)
from crossent.torch.sources.source import Span

N, V, K = 5, 12, 4


def drawn():
    classes = torch.randint(V, (N, K))
    classes[1, 2] = NO_CLASS
    classes[2] = 7
    return torch.randn(N, V, dtype=torch.float64), classes


def test_logits_come_from_the_tiles_that_hold_them():
    z, classes = drawn()
    bias = torch.randn(V, dtype=torch.float64)
    found = torch.zeros(N, K, dtype=torch.float64)
    for held in (Span(0, 5), Span(5, 6), Span(6, V)):
        columns = columns_of(classes, held)
        found += logits_at(z[:, held.begin : held.end], columns, bias[held.begin : held.end])
        assert torch.equal(columns.here, (classes >= held.begin) & (classes < held.end))
    there = classes != NO_CLASS
    want = (z + bias).gather(1, classes.clamp(min=0))
    torch.testing.assert_close(found, torch.where(there, want, 0.0))


@pytest.mark.parametrize("scores", [Scores(), Scores(0.3), Scores(2.0, 1.5)], ids=str)
def test_scores_and_slopes_are_those_of_autograd(scores):
    z = torch.tensor([[-40.0, -3.0, -1e-3, 0.0, 1e-9, 2.0, 30.0]], dtype=torch.float64, requires_grad=True)
    found = scored(z.detach(), scores)
    want = z / scores.temperature
    if scores.softcap is not None:
        want = scores.softcap * torch.tanh(want / scores.softcap)
    (slope,) = torch.autograd.grad(want.sum(), z)
    torch.testing.assert_close(found.score, want.detach(), rtol=1e-14, atol=0)
    torch.testing.assert_close(found.slope, slope, rtol=1e-9, atol=1e-16)
    if scores.softcap is not None:  # where 1 − tanh² has lost its digits, 4 e^(−2|x|) has not
        assert found.slope[0, 0] > 0


def record_of(s):
    peak = s.amax(1)
    e = (s - peak[:, None]).exp()
    zero = torch.zeros_like(peak)
    return torch.stack([peak, e.sum(1), zero, zero + 1, (e * (s - peak[:, None])).sum(1)])


def test_log_probabilities_from_the_record():
    z, classes = drawn()
    classes[3, 0] = V  # where nobody could raise
    at = logits_at(z, columns_of(classes, Span(0, V)))
    found = log_probabilities(at, Scores(), record_of(z), classes, V)
    want = z.log_softmax(1).gather(1, classes.clamp(0, V - 1))
    assert found[1, 2] == 0
    assert found[3, 0].isnan()
    there = (classes >= 0) & (classes < V)
    torch.testing.assert_close(found[there], want[there])


def test_cotangents_add_up_over_entries_of_the_same_class():
    classes = torch.tensor([[2, 1, 2, 2], [0, NO_CLASS, 3, NO_CLASS], [9, 1, 1, 9]])
    g = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0], [0.0, 1.0, 1.0, 2.0]])
    of_class, total, counts = cotangents_of(g, classes, 5)
    assert of_class[0].tolist() == [8, 2, 8, 8]
    assert of_class[1, [0, 2]].tolist() == [5, 7]
    assert total[:2].tolist() == [10, 12]
    assert total[2].isnan()  # a class that does not exist spoils its row, unless its cotangent is 0
    assert counts.tolist() == [1, 1, 1]
    assert cotangents_of(torch.zeros(3, 4), classes, 5).counts.tolist() == [0, 0, 0]
    assert cotangents_of(torch.zeros(3, 4), classes, 5).total.tolist() == [0, 0, 0]


@pytest.mark.parametrize("g_entropy", [False, True])
@pytest.mark.parametrize("g_lse", [False, True])
@pytest.mark.parametrize("cut", [V, 5, 1])
def test_the_gradient_at_the_classes_is_that_of_autograd(cut, g_lse, g_entropy):
    z, classes = drawn()
    z.requires_grad_()
    s = 3.0 * torch.tanh(z / 2.1)
    logq = s.log_softmax(1)
    g = [torch.randn(shape, dtype=torch.float64) for shape in ((N, K), (N,), (N,))]
    there = classes != NO_CLASS
    outputs = torch.where(there, logq.gather(1, classes.clamp(min=0)), 0.0), s.logsumexp(1), -(logq.exp() * logq).sum(1)
    wanted = (True, g_lse, g_entropy)
    (want,) = torch.autograd.grad(
        [x for x, w in zip(outputs, wanted, strict=True) if w], z, [x for x, w in zip(g, wanted, strict=True) if w]
    )
    found = torch.where(torch.zeros(N, V).scatter(1, classes.clamp(min=0), 1.0) == 1, torch.nan, want)
    found[:, 0] = want[:, 0]  # an entry that was left out stands on no class
    found.scatter_(1, torch.where(there, classes, classes[:, :1].clamp(min=0)), torch.nan)
    rows = SelectedRows(
        record_of(s.detach()),
        RowCotangents(g[1] if g_lse else None, g[2] if g_entropy else None),
        cotangents_of(g[0], classes, V),
    )
    for begin in range(0, V, cut):
        held = Span(begin, min(begin + cut, V))
        columns, tile = columns_of(classes, held), z.detach()[:, held.begin : held.end]
        write_gradient(found[:, held.begin : held.end], logits_at(tile, columns), columns, Scores(0.7, 3.0), rows)
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-12)


def test_the_first_wrong_class_is_named():
    check_classes(torch.tensor([[0, 1], [NO_CLASS, 2]]), 3)
    with pytest.raises(IndexError, match=r"class 3 \(row 1 of 2, entry 0\) is not one of the 3 classes \[0, 2\]"):
        check_classes(torch.tensor([[0, 1], [3, -5]]), 3)
