"""Tests of the tests of log-probabilities: code with one mistake must not pass what holds the real one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as nnf

import crossent.torch as F
from crossent.spec import NO_CLASS, Scores
from crossent.torch.operators import linear_selected, prediction
from crossent.torch.operators import selected as operators
from crossent.torch.sources import beside, most_probable, selected, squares
from crossent.torch.sources.selected import RowCotangents, SelectedCotangents
from tests.torch import logq

HOMES = (selected, beside, operators, linear_selected, most_probable, prediction)
write_gradient, cotangents_of, columns_of = selected.write_gradient, selected.cotangents_of, selected.columns_of
squares_gradient = squares._gradient
logits_at, log_probabilities, peaks_of = selected.logits_at, selected.log_probabilities, most_probable.peaks_of


def not_written(gradient, z, columns, scores, rows):
    pass


def written_at_the_next_row(gradient, z, columns, scores, rows):
    write_gradient(gradient, z, selected.Columns(*(x.roll(1, 0) for x in columns)), scores, rows)


def without_the_slope(gradient, z, columns, scores, rows):
    plain = Scores(scores.temperature)
    write_gradient(gradient, selected.scored(z, scores).score * scores.temperature, columns, plain, rows)


def without_the_entropy(gradient, z, columns, scores, rows):
    write_gradient(gradient, z, columns, scores, rows._replace(cotangents=rows.cotangents._replace(entropy=None)))


def without_the_lse(gradient, z, columns, scores, rows):
    write_gradient(gradient, z, columns, scores, rows._replace(cotangents=rows.cotangents._replace(lse=None)))


def once_for_each_class(g, classes, number):
    found = cotangents_of(g, classes, number)
    return found._replace(of_class=torch.where(classes == NO_CLASS, 0.0, g.double()))


def entries_left_out_count(g, classes, number):
    return cotangents_of(g, torch.where(classes == NO_CLASS, 0, classes), number)


def averaged(g, classes, number):
    return cotangents_of(g.mean().expand(g.shape), classes, number)


def without_their_sum(self, of_classes: SelectedCotangents, like):
    return RowCotangents(*(None if g is None else g.to(like.dtype) for g in self))


def of_the_row_below(tile, columns, bias=None):
    return logits_at(tile.roll(1, 0), columns, bias)


def of_plain_scores(z, scores, record, classes, number):
    return log_probabilities(z, dataclasses.replace(scores, softcap=None), record, classes, number)


def in_bfloat16(z, scores, record, classes, number):
    return log_probabilities(z, scores, record, classes, number).bfloat16().double()


def the_last_of_equals(logits, bias=None):
    found = peaks_of(logits.flip(1), None if bias is None else bias.flip(0))
    return found._replace(at=logits.shape[1] - 1 - found.at)


def squares_without_the_lse(logits, scores, records, g):
    return squares_gradient(logits, scores, records, g) + 2 * g[:, None] * softmax(logits, scores)


def squares_of_plain_scores(logits, scores, records, g):
    return squares_gradient(logits, dataclasses.replace(scores, softcap=None), records, g)


def softmax(logits, scores):
    s, slope = selected.scored(logits, scores)
    return slope * s.softmax(1)


MUTANTS = {
    "not written": {"write_gradient": not_written},
    "written at the next row": {"write_gradient": written_at_the_next_row},
    "without the slope": {"write_gradient": without_the_slope},
    "without the entropy": {"write_gradient": without_the_entropy},
    "without the lse": {"write_gradient": without_the_lse},
    "once for each class": {"cotangents_of": once_for_each_class},
    "entries left out count": {"cotangents_of": entries_left_out_count},
    "averaged": {"cotangents_of": averaged},
    "of the row below": {"logits_at": of_the_row_below},
    "of plain scores": {"log_probabilities": of_plain_scores},
    "in bfloat16": {"log_probabilities": in_bfloat16},
    "the last of equals": {"peaks_of": the_last_of_equals},
    "squares without the lse": {"_gradient": squares_without_the_lse},
    "squares of plain scores": {"_gradient": squares_of_plain_scores},
}


def passes(layer):
    """Whether a call with repeated, left out and equally scored classes passes."""
    _ = torch.manual_seed(0)
    classes = logq.classes_of((6, 9), 3, ignored=-100)
    classes[0], classes[1, :2] = torch.tensor([4, 4, 2]), 3
    if layer:
        leaves = [torch.randn(n, 4, dtype=torch.float64) for n in (6, 9)]
        leaves[1][3] = leaves[1][7]  # classes of one score
        leaves[0][5] = 0.0  # all of them
        leaves = [x.requires_grad_() for x in leaves]
    else:
        z = 2 * torch.randn(6, 9, dtype=torch.float64)
        z[5] = 0.0
        leaves = [z.requires_grad_()]
    exacts = [x.detach().clone().requires_grad_() for x in leaves]
    logits = nnf.linear(*exacts) if layer else exacts[0]
    ours = F.linear_logprobs if layer else F.logprobs
    options = {"chunk_bytes": 200} if layer else {}
    try:
        got = ours(*leaves, classes, temperature=0.7, softcap=3.0, **options)
        logq.check(got, leaves, logq.statistics(logits, classes, 0.7, 3.0), exacts, torch.float64)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("layer", [False, True])
def test_the_real_code_passes(layer):
    assert passes(layer)


@pytest.mark.parametrize("layer", [False, True])
@pytest.mark.parametrize("name", MUTANTS)
def test_no_mutant_survives(name, layer, monkeypatch):
    for attribute, mutant in MUTANTS[name].items():
        for home in HOMES:
            if hasattr(home, attribute):
                monkeypatch.setattr(home, attribute, mutant)
        if attribute == "_gradient":
            monkeypatch.setattr(squares, attribute, mutant)
    assert not passes(layer)


@pytest.mark.parametrize("layer", [False, True])
def test_the_sum_of_the_cotangents_is_one_of_the_lse(layer, monkeypatch):
    monkeypatch.setattr(RowCotangents, "beside", without_their_sum)
    assert not passes(layer)
