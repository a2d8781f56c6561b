"""A row and its teacher's on every backend: sums that are never negative, gradients, the rules of −∞ and NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crossent import reference
from crossent.kernels.backend import PairCotangents, Teacher
from crossent.spec import Scores, Target
from crossent.stats import FIELDS, PAIR_SUMS, RowStats
from tests import data, oracle
from tests.oracle_pair import LOST, PairTruth, check_pair, no_target, pair_cases

INF, NAN = np.inf, np.nan
SHORT, LONG = (1, 2, 10, 17, 127, 128, 129), (511, 512, 513, 1025, 4097, 5003)
BETA = 0.3
DTYPES = ("float32", "float64", "float16", "bfloat16")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("V", [*SHORT, *(pytest.param(V, marks=pytest.mark.slow) for V in LONG)])
@pytest.mark.parametrize("kind", data.KINDS)
def test_pairs_agree_with_the_reference(kind, V, dtype, backend, each_isa):
    for case in pair_cases(backend, kind, V, dtype, every=4 if V < 600 else 8):
        truth = PairTruth.of(case)
        for _ in each_isa():
            check_pair(backend, case, truth)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("shape", [(3, 21), (70, 2)])
@pytest.mark.parametrize("kind", data.KINDS)
def test_many_pairs_agree_with_the_reference(kind, shape, dtype, backend, each_isa):
    for V in (2, 33, 129):
        for case in pair_cases(backend, kind, V, dtype, shape=shape, every=12):
            truth = PairTruth.of(case)
            for _ in each_isa():
                check_pair(backend, case, truth)


class Pair:
    """Rows of two models on a backend: their records, and what comes of them."""

    def __init__(self, backend, logits, teacher_logits, scores=Scores(), teacher_scores=None, target=None):  # noqa: B008
        self.backend, self.logits, self.scores = backend, logits, scores
        self.rows = logits.shape[0] * (logits.shape[2] if logits.ndim == 3 else 1)
        self.target = target or no_target(self.rows)
        self.record, its = oracle.empty_record(self.rows), oracle.empty_record(self.rows)
        backend.row_stats(logits, self.target, scores, self.record)
        backend.row_stats(teacher_logits, no_target(self.rows), teacher_scores or scores, its)
        self.teacher = Teacher(teacher_logits, teacher_scores or scores, its)

    def sums(self, beta=BETA):
        sums = np.full((PAIR_SUMS, self.rows), NAN)
        self.backend.pair_stats(self.logits, self.scores, self.record, self.teacher, beta, sums)
        return sums

    def grad(self, sums, beta=BETA, *, into=None, **cotangents):
        fill = 0x7FC0 if self.logits.dtype == np.uint16 else NAN
        out = np.full_like(self.logits, fill) if into is None else into
        g = PairCotangents(
            **{name: np.broadcast_to(np.asarray(x, float), (self.rows,)) for name, x in cotangents.items()}
        )
        self.backend.pair_grad(self.logits, self.target, self.scores, self.record, self.teacher, beta, sums, g, out)
        return out

    def swapped(self):
        """The teacher's logits in the place of the student's."""
        other = Pair.__new__(Pair)
        other.backend, other.rows, other.target = self.backend, self.rows, no_target(self.rows)
        other.logits, other.scores, other.record = self.teacher
        other.teacher = Teacher(self.logits, self.scores, self.record)
        return other


def drawn(V, rows=5, dtype="float32", seed=0, near=1.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (rows, V))
    return data.encode(logits, dtype), data.encode(logits + near * rng.normal(size=logits.shape), dtype)


EVERY = {"loss": 0.5, "lse": -1.0, "entropy": 0.25, "kl": 1.0, "reverse_kl": -0.5, "js": 2.0}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("V", [1, 2, 3, 31, 127, 128, 129, 511, 512, 513, 4097])
def test_rows_that_equal_their_teachers_have_no_divergence(V, dtype, backend, each_isa):
    logits, _ = drawn(V, dtype=dtype)
    for scores in (Scores(), Scores(0.7), Scores(1.3, 9.0), Scores(1.0, None, np.linspace(0.3, 2, 5))):
        for _ in each_isa():
            pair = Pair(backend, logits, logits.copy(), scores)
            sums = pair.sums()
            assert not sums.any(), f"{dtype} {scores}"
            assert not data.decode(pair.grad(sums, kl=1.0, reverse_kl=2.0, js=-1.0)).any()


@pytest.mark.parametrize("layout", ["transposed", "classes apart", "rows apart"])
def test_equal_rows_in_another_layout_have_next_to_none(layout, backend, each_isa):
    logits, _ = drawn(700)
    for scores in (Scores(), Scores(0.7), Scores(1.3, 9.0)):
        for _ in each_isa():
            sums = Pair(backend, logits, data.LAYOUTS[layout].hold(logits), scores).sums()
            assert ((sums >= 0) & (sums < (64 * 2.0**-24) ** 2)).all()  # their totals are added up in another order


@pytest.mark.slow
def test_a_vocabulary_of_248320_in_bfloat16(backend, each_isa):
    rng = np.random.default_rng(0)
    logits = data.encode(rng.normal(0, 4, (2, 248320)), "bfloat16")
    other = logits.copy()
    other[:, ::7] ^= 1  # the last bit
    for _ in each_isa():
        assert not Pair(backend, logits, logits.copy()).sums().any()
        near = Pair(backend, logits, other).sums()
        assert ((near > 0) & (near < 1e-2)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("V", [2, 100, 1500])
def test_nearly_equal_rows_have_no_negative_divergence(V, dtype, backend, each_isa):
    for seed, near in enumerate((1e-7, 1e-5, 1e-3, 0.1, 1.0, 50.0)):
        for _ in each_isa():
            logits, teacher_logits = drawn(V, 20, dtype, seed, near)
            for beta in (1e-9, 0.5, 1 - 1e-9):
                for scores in (Scores(), Scores(0.7), Scores(1.0, 9.0)):
                    assert (Pair(backend, logits, teacher_logits, scores).sums(beta) >= 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cold_rows_with_gaps_of_a_hundred_are_finite(dtype, backend):
    rng = np.random.default_rng(0)
    logits, teacher_logits = (rng.choice([0.0, -50.0, -100.0, 3.0], (9, 300)).astype(dtype) for _ in range(2))
    scores = Scores(0.05)
    pair = Pair(backend, logits, teacher_logits, scores)
    sums = pair.sums()
    want = expected(pair)
    assert np.isfinite(sums).all()
    bound = 1e-4 if dtype == "float32" else 1e-11  # scores reach 2060: a rounding there is 1.2e-4, or 2.3e-13
    np.testing.assert_allclose(sums, want, rtol=bound)
    grad = pair.grad(sums, **EVERY)
    assert np.isfinite(grad).all()
    exact = expected_grad(pair, want, **EVERY)
    assert (np.abs(grad - exact) <= bound * np.abs(exact).max(1, keepdims=True)).all()


def rows_of(pair):
    """Student's statistics and the teacher, as the reference makes them."""
    own = reference.row_stats(data.decode(pair.logits), pair.target, pair.scores)
    t = data.decode(pair.teacher.logits)
    its = reference.row_stats(t, no_target(pair.rows), pair.teacher.scores)
    return own, Teacher(t, pair.teacher.scores, np.stack([getattr(its, field) for field in FIELDS]))


def expected(pair, beta=BETA):
    own, teacher = rows_of(pair)
    return reference.pair_stats(data.decode(pair.logits), pair.scores, own, teacher, beta)


def expected_grad(pair, sums, beta=BETA, **cotangents):
    own, teacher = rows_of(pair)
    g = PairCotangents(**{name: np.full(pair.rows, x) for name, x in cotangents.items()})
    return reference.pair_grad(data.decode(pair.logits), pair.target, pair.scores, own, teacher, beta, sums, g)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("V", [3, 40, 600])
def test_classes_that_cannot_be(V, dtype, backend, each_isa):
    rng = np.random.default_rng(V)
    logits, teacher_logits = rng.normal(0, 2, (2, 8, V)).astype(dtype)
    both = rng.random(V) < 0.3
    both[:2] = False
    logits[:, both] = teacher_logits[:, both] = -INF  # rows 0 and 1: padding of both
    logits[2:4, 1] = -INF  # a class that only the teacher has
    teacher_logits[4:6, 0] = -INF  # only the student
    logits[6:, 1], teacher_logits[6:, 0] = -INF, -INF
    for _ in each_isa():
        pair = Pair(backend, logits, teacher_logits)
        sums, want = pair.sums(), expected(pair)
        assert np.isinf(sums[0]).tolist() == [False, False, True, True, False, False, True, True]
        assert np.isinf(sums[1]).tolist() == [False, False, False, False, True, True, True, True]
        assert np.isfinite(sums[2:]).all()
        np.testing.assert_allclose(sums, want, rtol=2e-5 if dtype != "float64" else 1e-13)
        for wanted in ({"kl": 1.0}, {"js": 1.0}, {"kl": 0.5, "js": -1.0, "loss": 0.0}):
            grad = pair.grad(sums, **wanted)
            atol = {"float32": 1e-6, "float64": 1e-14, "float16": 2e-3}[dtype]
            np.testing.assert_allclose(grad, expected_grad(pair, want, **wanted), atol=atol)
            assert not grad[:, both].any()
        finite = slice(0, 4)
        grad = pair.grad(sums, reverse_kl=1.0)
        np.testing.assert_allclose(grad[finite], expected_grad(pair, want, reverse_kl=1.0)[finite], atol=atol)
        assert (grad[4:, 0] != 0).all()  # the reverse divergence is infinite there, and falls with these logits
        assert not np.isfinite(grad[4:, 0]).any()
        assert not grad[:, both].any()


def test_a_target_that_neither_model_can_give_has_no_divergence(backend, each_isa):
    logits, teacher_logits = drawn(600)
    logits[:, 7] = teacher_logits[:, 7] = -INF
    for _ in each_isa():
        pair = Pair(backend, logits, teacher_logits, target=Target(np.full(5, 7)))
        sums = pair.sums()
        grad = pair.grad(sums, kl=1.0, reverse_kl=1.0, js=1.0)
        assert not grad[:, 7].any()
        want = expected_grad(pair, expected(pair), kl=1.0, reverse_kl=1.0, js=1.0)
        np.testing.assert_allclose(grad, want, atol=2e-6)


@pytest.mark.parametrize("where", ["student", "teacher", "both"])
@pytest.mark.parametrize("wrong", [NAN, INF, "all -inf"])
@pytest.mark.parametrize("V", [1, 20, 600])
def test_what_is_no_number_is_none_in_its_row_alone(V, wrong, where, backend, each_isa):
    logits, teacher_logits = drawn(V)
    for x, hit in ((logits, where != "teacher"), (teacher_logits, where != "student")):
        if hit and wrong == "all -inf":
            x[2] = -INF
        elif hit:
            x[2, V // 2] = wrong
    others = [0, 1, 3, 4]
    for _ in each_isa():
        pair = Pair(backend, logits, teacher_logits)
        sums = pair.sums()
        assert np.isnan(sums[:, 2]).all()
        clean = Pair(backend, logits[others], teacher_logits[others])
        np.testing.assert_array_equal(sums[:, others], clean.sums())
        grad = pair.grad(sums, kl=1.0, js=0.5)
        assert np.isnan(grad[2]).all()
        np.testing.assert_array_equal(grad[others], clean.grad(sums[:, others].copy(), kl=1.0, js=0.5))
        if where == "teacher":  # who is not asked says nothing
            assert np.isfinite(pair.grad(sums, lse=1.0, entropy=1.0)[2]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_nobody_asks_for_have_no_gradient(dtype, backend, each_isa):
    logits, teacher_logits = drawn(600, dtype=dtype)
    target = Target(np.array([3, -7, 5, -7, 9]), ignore_index=-7)
    if dtype != "bfloat16":
        logits[1, 3], teacher_logits[3, 5], logits[4, 1] = NAN, NAN, NAN
    for _ in each_isa():
        pair = Pair(backend, logits, teacher_logits, target=target)
        sums = pair.sums()
        g = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
        grad = data.decode(pair.grad(sums, **{name: x * g for name, x in EVERY.items()}))
        assert grad[[0, 2]].any(axis=1).all()
        assert np.isfinite(grad[[0, 2]]).all()
        assert not grad[[1, 3, 4]].any()


def test_a_gradient_without_divergences_is_the_plain_one(backend, each_isa):
    logits, teacher_logits = drawn(1000)
    target = Target(np.array([3, 1, 4, 1, 5]), smoothing=0.1, weight=np.linspace(0.5, 2, 1000, dtype=np.float32))
    for scores in (Scores(), Scores(0.7, 8.0)):
        for _ in each_isa():
            pair = Pair(backend, logits, teacher_logits * NAN, scores, target=target)
            g = {"loss": 0.7, "lse": 0.2, "entropy": -0.4}
            got, want = pair.grad(np.full((PAIR_SUMS, 5), NAN), **g), np.empty_like(logits)
            backend.row_grad(logits, target, scores, pair.record, [np.full(5, x) for x in g.values()], want)
            np.testing.assert_allclose(got, want, rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_a_gradient_may_take_the_place_of_either_models_logits(whose, dtype, backend, each_isa):
    target = Target(np.array([3, 1, 4, 1, 5]))
    for V in (7, 600, 5003):
        for layout in ("rows", "classes in the middle"):
            for _ in each_isa():
                rows = drawn(V, 6, dtype)
                axes = len(data.LAYOUTS[layout].order)
                arrays = [data.LAYOUTS[layout].hold(data.from_rows(x, axes)) for x in rows]
                if dtype == "bfloat16":
                    arrays = [np.ascontiguousarray(data.from_rows(x, axes)) for x in rows]
                index = Target(np.array([3, 1, 4, 1, 5, 2]))
                pair = Pair(backend, *arrays, target=index)
                sums = pair.sums()
                want = pair.grad(sums, **EVERY).copy()
                into = arrays[0] if whose == "student" else arrays[1]
                np.testing.assert_array_equal(pair.grad(sums, into=into, **EVERY), want)
    assert target.kind == "index"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tile_by_tile_is_the_whole(dtype, backend, each_isa):
    logits, teacher_logits = drawn(1300, dtype=dtype)
    eps = float(np.finfo(dtype).eps)
    index = np.array([3, 700, 1299, 0, 512])
    for _ in each_isa():
        pair = Pair(backend, logits, teacher_logits, Scores(0.7), Scores(1.0, 20.0), Target(index))
        whole, parts = pair.sums(), np.full((PAIR_SUMS, 5), NAN)
        grad = pair.grad(whole, **EVERY)
        for begin, end in ((0, 1), (1, 700), (700, 700), (700, 1300)):
            here = slice(begin, end)
            teacher = Teacher(teacher_logits[:, here], pair.teacher.scores, pair.teacher.record)
            backend.pair_stats(logits[:, here], pair.scores, pair.record, teacher, BETA, parts, extend=begin > 0)
            shard, out = Target(index, first_class=begin, num_classes=1300), np.full_like(logits[:, here], NAN)
            g = PairCotangents(*(np.full(5, x) for x in EVERY.values()))
            backend.pair_grad(logits[:, here], shard, pair.scores, pair.record, teacher, BETA, whole, g, out)
            np.testing.assert_array_equal(out, grad[:, here])
        np.testing.assert_allclose(parts, whole, rtol=8 * eps)


def test_no_columns_and_no_rows(backend, each_isa):
    for rows, V in ((3, 0), (0, 4), (0, 0)):
        for _ in each_isa():
            empty = np.zeros((rows, V), np.float32)
            pair = Pair(backend, empty, empty)
            assert not pair.sums().any()
            sums = np.ones((PAIR_SUMS, rows))
            backend.pair_stats(empty, Scores(), pair.record, pair.teacher, BETA, sums, extend=True)
            assert (sums == 1).all()
            assert pair.grad(sums, kl=1.0).shape == (rows, V)


@pytest.mark.parametrize("V", [2, 100, 1500])
def test_a_row_does_not_depend_on_the_rows_beside_it(V, backend, each_isa):
    logits, teacher_logits = drawn(V, 67)
    T, other = np.random.default_rng(V).choice([0.3, 1.0, 2.5], (2, 67))
    for _ in each_isa():
        pair = Pair(backend, logits, teacher_logits, Scores(1.0, None, T), Scores(1.0, 9.0, other))
        sums = pair.sums()
        grad = pair.grad(sums, **EVERY)
        for row in (0, 13, 66):
            here = slice(row, row + 1)
            alone = Pair(backend, logits[here], teacher_logits[here], Scores(T[row]), Scores(other[row], 9.0))
            np.testing.assert_array_equal(alone.sums(), sums[:, here])
            np.testing.assert_array_equal(alone.grad(sums[:, here].copy(), **EVERY), grad[here])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("V", [2, 33, 700])
def test_the_teachers_gradient_is_that_of_the_roles_swapped(V, dtype, backend, each_isa):
    # shifting all logits of either model changes nothing, so its gradient sums to 0; and the reference agrees
    logits, teacher_logits = drawn(V, dtype=dtype)
    for _ in each_isa():
        pair = Pair(backend, logits, teacher_logits, Scores(0.7), Scores(1.0, None))
        sums = pair.sums()[[1, 0, 3, 2]].copy()
        other = pair.swapped()
        grad = other.grad(sums, 1 - BETA, kl=1.0, reverse_kl=0.5, js=-2.0)
        eps = float(np.finfo(dtype).eps)
        want = expected_grad(other, expected(other, 1 - BETA), 1 - BETA, kl=1.0, reverse_kl=0.5, js=-2.0)
        np.testing.assert_allclose(grad, want, atol=64 * eps)
        np.testing.assert_allclose(other.sums(1 - BETA), sums, rtol=64 * eps)
        assert np.abs(grad.sum(1)).max() < 200 * eps


@pytest.mark.parametrize("V", [40, 600])
def test_denormal_logits_and_probabilities(V, backend, each_isa):
    rng = np.random.default_rng(0)
    tiny = np.float32(1e-42)
    logits = (tiny * rng.integers(-9, 9, (4, V))).astype(np.float32)
    for _ in each_isa():
        pair = Pair(backend, logits, -logits)
        assert not pair.sums().any()  # log-probabilities of −log V, which nothing so small changes
        far = np.where(rng.random((4, V)) < 0.5, -101.0, rng.normal(size=(4, V))).astype(np.float32)
        other = np.where(rng.random((4, V)) < 0.5, -95.0, rng.normal(size=(4, V))).astype(np.float32)
        pair = Pair(backend, far, other)
        np.testing.assert_allclose(pair.sums(), expected(pair), rtol=1e-4, atol=V * LOST)


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.5, 2.0, NAN])
def test_a_share_that_leaves_nothing_is_refused(bad, backend):
    logits, teacher_logits = drawn(10)
    pair = Pair(backend, logits, teacher_logits)
    with pytest.raises(ValueError, match="beta"):
        _ = pair.sums(bad)
    assert math.isfinite(pair.sums(0.5).sum())


def test_what_does_not_fit_is_refused(backend):
    logits, teacher_logits = drawn(10)
    pair = Pair(backend, logits, teacher_logits)
    with pytest.raises(ValueError, match="shape of the logits"):
        backend.pair_stats(
            logits, Scores(), pair.record, Teacher(teacher_logits[:, 1:], Scores(), pair.teacher.record), None,
            np.empty((PAIR_SUMS, 5)),
        )  # fmt: skip
    with pytest.raises(ValueError, match="sums"):
        backend.pair_stats(logits, Scores(), pair.record, pair.teacher, None, np.empty((2, 5)))
    with pytest.raises(ValueError, match="js needs its beta"):
        _ = pair.grad(pair.sums(), None, js=1.0)
    assert RowStats(*pair.record).total.shape == (5,)
