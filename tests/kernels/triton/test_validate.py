"""CROSSENT_VALIDATE=1: the Triton backend raises what the CPU raises."""

from __future__ import annotations

import itertools
import re

import pytest
import torch

from crossent.kernels import cpu
from crossent.kernels.backend import LossScale
from crossent.spec import Scores, Target
from tests.kernels.triton.calls import INF, NAN, PLAIN, backend

each = pytest.mark.parametrize


@each("wrong", [0.0, -1.0, 2e15, NAN], ids=str)
def test_if_asked_to_validate_it_raises_for_a_temperature_as_the_cpu_does(wrong, monkeypatch):
    monkeypatch.setenv("CROSSENT_VALIDATE", "1")
    T = torch.ones(6, dtype=torch.float64)
    T[[1, 4]] = wrong
    target, scores = Target(torch.tensor([3, -100, 2, 0, 2, 4]), ignore_index=-100), Scores(1.0, None, T)
    logits, record, one = torch.zeros(6, 5), torch.zeros(5, 6, dtype=torch.float64), torch.ones(6)
    calls = (
        lambda where: where.row_stats(logits, target, scores, record),
        lambda where: where.row_loss(logits, target, scores, record, one, mean=True),
        lambda where: where.row_fused(logits, target, scores, LossScale(one), record, torch.zeros(6, 5)),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"temperature must be between .*\(row 4\)") as ours:
            call(backend)
        with pytest.raises(ValueError, match="temperature") as theirs:
            call(cpu)
        assert str(ours.value) == str(theirs.value)


@each("wrong", [-1, 5, 2**40, -0.5, NAN, INF], ids=str)
def test_if_asked_to_validate_it_raises_what_the_cpu_raises(wrong, monkeypatch):
    monkeypatch.setenv("CROSSENT_VALIDATE", "1")
    index, picked, dense = torch.tensor([3, 1, 2, 0, 2, 4]), torch.ones(6, 2), torch.ones(2, 5, 3)
    if isinstance(wrong, int):
        error, index[2] = IndexError, wrong
        targets = {"row 2": Target(index), "(row 2": Target(index.view(6, 1), torch.ones(6, 1))}
    else:
        error, picked[4, 1], dense[1, 4, 0] = ValueError, wrong, wrong
        targets = {
            "row 4, column 1": Target(index[:, None].expand(6, 2), picked),
            "row 3, column 4": Target(prob=dense),
        }
    logits, record, one = torch.zeros(2, 5, 3), torch.zeros(5, 6, dtype=torch.float64), torch.ones(6)
    calls = (
        lambda where, target: where.row_stats(logits, target, PLAIN, record),
        lambda where, target: where.row_fused(logits, target, PLAIN, LossScale(one), record, torch.zeros(2, 5, 3)),
    )
    for (place, target), call in itertools.product(targets.items(), calls):
        with pytest.raises(error, match=rf"{wrong} .*{re.escape(place)}") as ours:
            call(backend, target)
        with pytest.raises(error) as theirs:
            call(cpu, target)
        assert str(ours.value) == str(theirs.value)
