"""Tests of the tests of two linear heads: code with one mistake must not pass what holds the real one."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from crossent.torch.call.closings import RowFunction
from crossent.torch.operators.linear_pair_call import LinearPairCall
from crossent.torch.operators.linear_pair_loss import LinearPairLossCall
from crossent.torch.operators.pair import TeacherScores
from crossent.torch.sources import linear, pairs
from crossent.torch.sources.pairs import HeadCotangents, Heads, PairRecords
from crossent.torch.teachers import view
from tests.torch import teaching, two_heads

pytestmark = pytest.mark.slow

N, V = 256, 9
ONE_SWEEP, TWO_SWEEPS = 3 * 8 * V * 128, 3 * 8 * V * 20
"""Bytes of both heads' logits: of 128 rows, which one sweep takes on every processor, and of 20."""

of_scores, head_of_teacher = TeacherScores.of, LinearPairCall.teacher_head.fget
of_teacher, multiply, block_of = pairs._of_teacher, pairs._Sums.multiply, Heads.at
cotangents_of_teacher, closing_of = HeadCotangents.of_teacher.fget, LinearPairLossCall.closing.fget


def first(x, rows):
    """As many as these rows, but always the first."""
    return None if x is None else x[..., : len(range(*rows.indices(x.shape[-1])))]


def with_the_same_beta(task, *rest):
    of_teacher(dataclasses.replace(task, beta=None if task.beta is None else 1 - task.beta), *rest)


def one_chunk_alone(self, heads, places):
    if heads.student.rows.begin == 0:
        multiply(self, heads, places)


def counted_from_the_chunk(self, block):
    return Heads(*(tile._replace(rows=block) for tile in block_of(self, block)))


def over_what_the_teacher_reads(self, tile):
    return tile


def without_its_bias(self):
    return dataclasses.replace(head_of_teacher(self), linear_bias=None)


def of_all_rows(self):
    """The mean counts ignored rows."""
    found = closing_of(self)
    return found._replace(target=dataclasses.replace(found.target, ignore_index=-1))


MUTANTS = {
    "the other way round": (view, "_KINDS", {"forward": "reverse_kl", "reverse": "kl", "js": "js"}),
    "the teacher has no temperature": (
        TeacherScores, "of", staticmethod(lambda scores: of_scores(dataclasses.replace(scores, temperature=1.0))),
    ),
    "the teacher has no softcap": (
        TeacherScores, "of", staticmethod(lambda scores: of_scores(dataclasses.replace(scores, softcap=None))),
    ),
    "the teacher's gradient has the student's beta": (pairs, "_of_teacher", with_the_same_beta),
    "the teacher's gradient has the student's sums": (pairs, "SWAPPED", [0, 1, 2, 3]),
    "gradients of one chunk alone": (pairs._Sums, "multiply", one_chunk_alone),
    "blocks of a chunk count their rows from 0": (Heads, "at", counted_from_the_chunk),
    "the student's gradient in place of logits that the teacher's reads": (
        pairs._Sums, "_spare_tile", over_what_the_teacher_reads,
    ),
    "every chunk has the cotangents of the first rows": (
        HeadCotangents, "at", lambda self, rows: HeadCotangents(*(first(g, rows) for g in self)),
    ),
    "every tile has the records of the first rows": (
        PairRecords, "at", lambda self, rows: PairRecords(*(first(x, rows).contiguous() for x in self)),
    ),
    "every chunk has the operands of the first rows": (
        RowFunction, "take", lambda self, rows: self.map(lambda x: first(x, rows)) if isinstance(rows, slice) else self,
    ),
    "the teacher has no bias": (LinearPairCall, "teacher_head", property(without_its_bias)),
    "the teacher's logarithm of the normaliser has no gradient": (
        HeadCotangents, "of_teacher", property(lambda self: cotangents_of_teacher(self)._replace(lse=None)),
    ),
    "the mean counts ignored rows": (LinearPairLossCall, "closing", property(of_all_rows)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def a_small_cache(monkeypatch):
    """Of 50 rows of both heads, so that chunks have several blocks."""
    monkeypatch.setattr(linear, "CPU", dataclasses.replace(linear.CPU, tile_logits=2 * V * 50))


def mixed(rows, slope):
    return slope * rows.kl - 0.3 * rows.logprob + rows.js * rows.teacher_entropy


def check(chunk_bytes):
    """Hold losses, closings and statistics of a plan, and all gradients, against the truth."""
    _ = torch.manual_seed(0)
    given, slope = two_heads.draw((N,), V), torch.rand(N, dtype=torch.float64)
    exact, samples = two_heads.doubled(given), torch.rand(N, dtype=torch.float64)
    target = torch.where(torch.rand(N) < 0.2, -100, torch.randint(V, (N,)))
    scores = {
        "temperature": 0.7, "softcap": 3.0, "teacher_temperature": 1.6, "teacher_softcap": 5.0, "target": target,
    }  # fmt: skip
    valid = target != -100
    want = two_heads.truth(exact, beta=0.3, **scores)
    for (kind, name), reduction in itertools.product(teaching.KINDS.items(), ("mean", "none")):
        options = {"kind": kind, "beta": 0.3 if kind == "js" else 0.5, "sample_weight": samples, **scores}
        got = two_heads.ours(given, reduction=reduction, chunk_bytes=chunk_bytes, **options)
        two_heads.compare(got, two_heads.reduced(want[name], reduction, samples, valid), given, exact)
    got, found = two_heads.ours(
        given, closing=mixed, operands=(slope,), beta=0.3, return_stats=True, chunk_bytes=chunk_bytes, **scores
    )
    each = slope * want["kl"] - 0.3 * want["logprob"] + want["js"] * want["teacher_entropy"]
    two_heads.compare(got, two_heads.reduced(each, "mean", None, valid), given, exact)
    two_heads.compare(found.teacher_lse, want["teacher_lse"], given, exact)


def passes():
    """Whether both plans pass."""
    try:
        for chunk_bytes in (ONE_SWEEP, TWO_SWEEPS):
            check(chunk_bytes)
    except AssertionError:
        return False
    return True


def test_the_real_code_passes():
    for chunk_bytes in (ONE_SWEEP, TWO_SWEEPS):
        check(chunk_bytes)


@pytest.mark.parametrize("name", MUTANTS)
def test_no_mutant_survives(name, monkeypatch):
    monkeypatch.setattr(*MUTANTS[name])
    assert not passes()
