"""Tests of the tests of a row and its teacher's: a backend with one mistake must not pass the conformance checks."""

from __future__ import annotations

import numpy as np
import pytest

from crossent.spec import Scores
from tests import data
from tests.conformance.adapters import Cpu
from tests.oracle_pair import PairTruth, beside, check_pair


class Core:
    """The real functions; mutants override a step of them."""

    def __init__(self):
        self.core = Cpu("cpu")

    def teacher(self, teacher):
        return teacher

    def beta(self, beta):
        return beta

    def sums(self, sums):
        return sums

    def cotangents(self, cotangents, beta):
        return cotangents

    def after_stats(self, logits, teacher, sums):
        pass

    def after_grad(self, grad):
        pass

    def row_stats(self, logits, target, scores, record):
        self.core.row_stats(logits, target, scores, record)

    def pair_stats(self, logits, scores, record, teacher, beta, sums, *, extend=False):
        self.core.pair_stats(logits, scores, record, self.teacher(teacher), self.beta(beta), sums, extend=extend)
        self.after_stats(logits, teacher, sums)

    def pair_grad(self, logits, target, scores, record, teacher, beta, sums, cotangents, grad):
        given = self.sums(sums), self.cotangents(cotangents, beta)
        self.core.pair_grad(logits, target, scores, record, self.teacher(teacher), self.beta(beta), *given, grad)
        self.after_grad(grad)


class BackwardsDivergence(Core):
    """KL(student‖teacher) under the name of KL(teacher‖student)."""

    def after_stats(self, logits, teacher, sums):
        sums[:2] = sums[[1, 0]]


class OtherShare(Core):
    """β of the student."""

    def beta(self, beta):
        return None if beta is None else 1 - beta


class StudentsTemperature(Core):
    """The teacher's temperature is forgotten."""

    def teacher(self, teacher):
        return teacher._replace(scores=Scores(1.0, teacher.scores.softcap))


class TeacherWithoutCap(Core):
    """The teacher's softcap is forgotten."""

    def teacher(self, teacher):
        own = teacher.scores
        return teacher._replace(scores=Scores(own.temperature, None, own.row_temperature))


class NextRow(Core):
    """The record of the row below."""

    def teacher(self, teacher):
        return teacher._replace(record=np.roll(teacher.record, 1, axis=1).copy())


class DifferenceOfSums(Core):
    """Σ p log p − Σ p log q, in the precision of the logits: negative where rows are nearly equal."""

    def after_stats(self, logits, teacher, sums):
        sums[0] = np.float32(sums[0] + 20) - np.float32(20)


class WithoutItsSum(Core):
    """q δ in place of q (δ + KL(q‖p))."""

    def sums(self, sums):
        return np.stack([sums[0], 0 * sums[1], sums[2], sums[3]])


class WithoutTheMixturesSum(Core):
    """q log (q / m) in place of q (log (q / m) − KL(q‖m))."""

    def sums(self, sums):
        return np.stack([*sums[:3], 0 * sums[3]])


class OtherDirection(Core):
    """Cotangents of the two divergences in each other's place."""

    def cotangents(self, cotangents, beta):
        return cotangents._replace(kl=cotangents.reverse_kl, reverse_kl=cotangents.kl)


class WholeMixture(Core):
    """The derivative of the mixture is not multiplied by the student's share."""

    def cotangents(self, cotangents, beta):
        return cotangents if cotangents.js is None else cotangents._replace(js=cotangents.js / (1 - beta))


class WithoutEntropy(Core):
    """The plain terms are left out beside a divergence."""

    def cotangents(self, cotangents, beta):
        return cotangents._replace(entropy=None)


class RoundedTwice(Core):
    """The gradient is rounded to bfloat16 before it is stored."""

    def after_grad(self, grad):
        if grad.dtype != np.uint16:
            grad[...] = data.decode(data.encode(grad, "bfloat16"))


MUTANTS = Core.__subclasses__()


def cases():
    for kind, V, dtype in (("index", 17, "float32"), ("dense", 129, "float64"), ("index", 10, "float16")):
        for case in data.cases(kind, V, dtype, every=2):
            if "backwards" not in case.name:
                yield beside(case)


@pytest.fixture(scope="module")
def truths():
    return [(case, PairTruth.of(case)) for case in cases()]


def test_the_real_functions_pass(truths):
    for case, truth in truths:
        check_pair(Core(), case, truth)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_mistake_is_found(mutant, truths):
    found = 0
    for case, truth in truths:
        try:
            check_pair(mutant(), case, truth)
        except AssertionError:
            found += 1
    assert found, f"{mutant.__doc__} passes"
