"""Tests of the tests of divergences: code with one mistake must not pass what holds the real one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import crossent.torch as F
from crossent.torch.operators import pair
from crossent.torch.operators.pair import PairCall, PairGradCall, TeacherScores
from crossent.torch.teachers import view
from tests.torch import teaching

swapped, ignored, cotangents = PairCall.swapped.fget, PairCall.ignored.fget, PairGradCall.cotangents.fget
of_scores = TeacherScores.of


def with_the_same_beta(self):
    return dataclasses.replace(swapped(self), beta=self.beta)


def with_the_scores_of_the_student(self):
    return dataclasses.replace(swapped(self), teacher=self.teacher)


def with_roles_kept(self):
    return self


def without_js(self):
    return cotangents(self)._replace(js=None)


def of_the_wrong_way(self):
    found = cotangents(self)
    return found._replace(kl=found.reverse_kl, reverse_kl=found.kl)


def without_the_entropy(self):
    return cotangents(self)._replace(entropy=None)


PROPERTIES = {
    "teacher: the same beta": (PairCall, "swapped", with_the_same_beta),
    "teacher: its own scores for the student's": (PairCall, "swapped", with_the_scores_of_the_student),
    "teacher: roles kept": (PairCall, "swapped", with_roles_kept),
    "ignored rows are kept": (PairCall, "ignored", lambda self: None),
    "js has no gradient": (PairGradCall, "cotangents", without_js),
    "gradients of the wrong way": (PairGradCall, "cotangents", of_the_wrong_way),
    "the entropy has no gradient": (PairGradCall, "cotangents", without_the_entropy),
}
VALUES = {
    "the sums of the teacher are those of the student": (pair, "SWAPPED", [0, 1, 2, 3]),
    "the mixture's sums change places": (pair, "SWAPPED", [1, 0, 2, 3]),
    "the teacher has no softcap": (
        TeacherScores, "of", staticmethod(lambda scores: of_scores(dataclasses.replace(scores, softcap=None))),
    ),
    "the other way round": (view, "_KINDS", {"forward": "reverse_kl", "reverse": "kl", "js": "js"}),
}  # fmt: skip


def passes():
    """Whether statistics, gradients and losses of a call with everything pass."""
    _ = torch.manual_seed(0)
    z, t = (2 * torch.randn(6, 9, dtype=torch.float64) for _ in range(2))
    leaves, exacts = ([x.clone().requires_grad_() for x in (z, t)] for _ in range(2))
    options = {
        "temperature": 0.7, "softcap": 3.0, "teacher_temperature": 1.6, "teacher_softcap": 5.0, "beta": 0.3,
        "target": torch.tensor([1, -100, 8, 0, 3, 3]),
    }  # fmt: skip
    try:
        _, got = F.divergence(*leaves, return_stats=True, **options)
        want = teaching.statistics(*exacts, **options)
        teaching.check(got, leaves, want, exacts)
        for kind, name in teaching.KINDS.items():
            loss, _ = F.divergence(*leaves, kind=kind, reduction="sum", return_stats=True, **options)
            torch.testing.assert_close(loss, want[name].sum())
    except AssertionError:
        return False
    return True


def test_the_real_code_passes():
    assert passes()


@pytest.mark.parametrize("name", PROPERTIES)
def test_no_mutant_of_a_call_survives(name, monkeypatch):
    home, attribute, mutant = PROPERTIES[name]
    monkeypatch.setattr(home, attribute, property(mutant))
    assert not passes()


@pytest.mark.parametrize("name", VALUES)
def test_no_mutant_of_a_value_survives(name, monkeypatch):
    home, attribute, mutant = VALUES[name]
    monkeypatch.setattr(home, attribute, mutant)
    assert not passes()
