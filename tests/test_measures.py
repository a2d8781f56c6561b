"""The measures against mpmath and SciPy; their units, inputs, shapes and errors."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from scipy import special

from crossent.measures import cross_entropy, entropy, js_divergence, kl_divergence, perplexity

PAIRWISE = [cross_entropy, kl_divergence, js_divergence, perplexity]
EVERY = [entropy, *PAIRWISE]
HALVES = [[0.5, 0.5], [0.25, 0.75]]


# The independent: each definition at 50 digits, of the stored values exactly as they are.


def exact_terms(name, p, q):
    with mpmath.workdps(50):
        p, q = ([mpmath.mpf(float(x)) for x in row] for row in (p, q))

        def xlog(x, y):  # x log y
            return mpmath.mpf(0) if x == 0 else mpmath.mpf("-inf") if y == 0 else x * mpmath.log(y)

        terms = {
            "entropy": lambda a, b: -xlog(a, a),
            "cross_entropy": lambda a, b: -xlog(a, b),
            "kl_divergence": lambda a, b: xlog(a, a) - xlog(a, b) - a + b,
            "js_divergence": lambda a, b: (
                (xlog(a, a) + xlog(b, b)) / 2 - (xlog(a, (a + b) / 2) + xlog(b, (a + b) / 2)) / 2
            ),
        }
        return float(mpmath.fsum(terms[name](a, b) for a, b in zip(p, q, strict=True)))


def exact(name, p, q):
    if name == "perplexity":
        with mpmath.workdps(50):
            return float(mpmath.exp(exact_terms("cross_entropy", p, q)))
    return exact_terms(name, p, q)


def apply(function, p, q, **options):
    return function(p, **options) if function is entropy else function(p, q, **options)


# Values


@pytest.mark.parametrize(
    ("value", "truth"),
    [
        (lambda: entropy([0.7, 0.2, 0.1]), "0.80181855254333730856"),
        (lambda: cross_entropy([0.5, 0.5], [0.25, 0.75]), "0.83698821678583577314"),
        (lambda: cross_entropy([1, 0, 0], [0.7, 0.2, 0.1]), "0.35667494393873237891"),
        (lambda: cross_entropy([1, 0, 0], [0.1, 0.3, 0.6]), "2.30258509299404568402"),
        (lambda: cross_entropy([1, 0], [2.0**-1074, 1.0]), "744.44007192138126231"),
        (lambda: kl_divergence([1, 0], [2.0**-1074, 1.0]), "744.44007192138126231"),
        (lambda: entropy(np.full(50257, 1 / 50257)), "10.824905119702080107"),
        (lambda: entropy(np.full(10, 0.1), base=10), "1"),
        (lambda: perplexity(np.full(50257, 1 / 50257)), "50257"),
        (lambda: perplexity([1, 0, 0], [0.1, 0.3, 0.6]), "10"),
    ],
)
def test_known_values(value, truth):
    # a perplexity has the error of its exponent, which grows with the exponent
    truth = float(mpmath.mpf(truth))
    assert float(value()) == pytest.approx(truth, rel=2 * np.finfo(float).eps * max(1.0, math.log(truth)))


def test_exact_units():
    assert entropy([0.5, 0.5], base=2) == 1.0
    assert entropy([0.25] * 4, base=2) == 2.0
    assert js_divergence([1, 0], [0, 1], base=2) == 1.0
    assert js_divergence([1, 0], [0, 1]) == math.log(2)
    assert perplexity([1, 0, 0]) == 1.0


@pytest.mark.parametrize("function", [entropy, cross_entropy, kl_divergence, js_divergence])
@pytest.mark.parametrize("base", [2, 10, math.e, 0.5, 1000, np.float32(3), Fraction(5, 2)])
def test_the_base_divides_by_its_logarithm(function, base):
    nats = exact(function.__name__, *HALVES)
    assert apply(function, *HALVES, base=base) == pytest.approx(nats / float(mpmath.log(float(base))), rel=1e-15)


@pytest.mark.parametrize("base", [0, 1, -2, 1.0, math.nan, math.inf])
def test_an_impossible_base(base):
    with pytest.raises(ValueError, match="base must be a positive finite number other than 1"):
        _ = entropy([0.5, 0.5], base=base)


def distributions(seed, rows, classes, concentration=1.0):
    return np.random.default_rng(seed).dirichlet(np.full(classes, concentration), rows)


def check_against_mpmath(function, convert=lambda x: x):
    """One check for the functions and for the mutants below: ordinary, near, far, sparse and extreme pairs."""
    p = distributions(1, 4, 17)
    near = p * np.exp(1e-7 * np.random.default_rng(2).standard_normal(p.shape))
    pairs = [(p, distributions(3, 4, 17)), (p, near / near.sum(-1, keepdims=True)), (p, p)]
    pairs += [([[0.5, 0.5, 0.0]], [[0.25, 0.75, 0.0]]), ([[0.0, 0.5, 0.5]], [[0.5, 0.0, 0.5]])]
    pairs += [([[1.0, 0.0]], [[1e-12, 1.0 - 1e-12]]), ([[1e-40, 1.0]], [[1e-30, 1.0]])]
    for left, right in pairs:
        a, b = convert(np.asarray(left)), convert(np.asarray(right))
        got = np.asarray(apply(function, a, b))
        truth = np.array([exact(function.__name__, *rows) for rows in zip(np.asarray(a), np.asarray(b), strict=True)])
        assert np.array_equal(np.isinf(got), np.isinf(truth))
        # every term is good to a few units in the last place and none is negative, so their sum is as good
        unit = np.finfo(got.dtype).eps / 2
        finite = np.isfinite(truth)
        assert np.all(abs(got[finite] - truth[finite]) <= 8 * unit * abs(truth[finite]))


@pytest.mark.parametrize("function", EVERY)
def test_float64_within_a_few_units_of_mpmath(function):
    check_against_mpmath(function)
    check_against_mpmath(function, torch.from_numpy)


@pytest.mark.parametrize("function", EVERY)
def test_float32_within_a_few_units_of_mpmath(function):
    check_against_mpmath(function, lambda x: torch.from_numpy(x).float())


def clipped_cross_entropy(p, q):
    return -(p * np.log(np.clip(q, 1e-7, 1 - 1e-7))).sum(-1)


def swapped_cross_entropy(p, q):
    return cross_entropy(q, p)


def classical_kl_divergence(p, q):
    with np.errstate(all="ignore"):
        return np.nansum(p * (np.log(p) - np.log(q)), axis=-1)


def swapped_kl_divergence(p, q):
    return kl_divergence(q, p)


def doubled_js_divergence(p, q):
    return 2 * js_divergence(p, q)


def midpoint_js_divergence(p, q):
    m = (p + q) / 2
    return (classical_kl_divergence(p, m) + classical_kl_divergence(q, m)) / 2


def bits_perplexity(p, q):
    return np.exp(cross_entropy(p, q, base=2))


MUTANTS = [
    clipped_cross_entropy,
    swapped_cross_entropy,
    classical_kl_divergence,
    swapped_kl_divergence,
    doubled_js_divergence,
    midpoint_js_divergence,
    bits_perplexity,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda f: f.__name__)
def test_the_check_catches_mutants(mutant):
    original = mutant.__name__.partition("_")[2]

    def disguised(p, q):
        return mutant(p, q)

    disguised.__name__ = original
    with pytest.raises(AssertionError):
        check_against_mpmath(disguised)


@pytest.mark.parametrize("scale", [1.0, 5.0, 30.0])
def test_no_worse_than_scipy_on_a_long_row(scale):
    logits = scale * np.random.default_rng(4).standard_normal((2, 5000))
    p, q = special.softmax(logits, axis=-1)
    unit = np.finfo(float).eps
    for ours, theirs, name in (
        (entropy(p), special.entr(p).sum(), "entropy"),
        (cross_entropy(p, q), -special.xlogy(p, q).sum(), "cross_entropy"),
        (kl_divergence(p, q), special.kl_div(p, q).sum(), "kl_divergence"),
    ):
        truth = exact(name, p, q)
        assert abs(ours - truth) <= abs(theirs - truth) + 2 * unit * truth


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [1, 3, 8, 17, 1000])
def test_denormal_probabilities(dtype, length):
    smallest = float(np.finfo(dtype).smallest_subnormal)
    p, q = np.zeros((length, 2), dtype), np.ones((length, 2), dtype)
    p[:, 0], q[:, 0] = 1, smallest
    truth = float(-mpmath.log(mpmath.mpf(smallest)))
    for kind in (np.asarray, torch.from_numpy):
        unit = float(np.finfo(np.asarray(cross_entropy(kind(p), kind(q))).dtype).eps)
        for function in (cross_entropy, kl_divergence):
            assert np.asarray(function(kind(p), kind(q))) == pytest.approx(np.full(length, truth), rel=unit)


# Zeros


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_zeros(kind):
    certain, other, half = kind([1.0, 0.0, 0.0]), kind([0.0, 1.0, 0.0]), kind([0.5, 0.5, 0.0])
    assert entropy(certain) == 0.0
    assert math.copysign(1.0, float(entropy(certain))) == 1.0
    assert cross_entropy(certain, certain) == kl_divergence(certain, certain) == js_divergence(certain, certain) == 0.0
    assert cross_entropy(certain, other) == kl_divergence(certain, other) == perplexity(certain, other) == math.inf
    assert cross_entropy(half, certain) == kl_divergence(half, certain) == math.inf
    assert float(kl_divergence(certain, half)) == pytest.approx(math.log(2), rel=1e-7)
    assert float(js_divergence(certain, other)) == pytest.approx(math.log(2), rel=1e-7)


def test_perplexity_overflows_to_infinity_without_a_warning():
    assert perplexity([1, 0], [2.0**-1074, 1.0]) == math.inf


# Inputs


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize("kind", [list, tuple, np.float16, np.float32, np.float64, np.longdouble, ">f8"])
def test_numpy_and_sequences_compute_in_float64(function, kind):
    p, q = ([0.5, 0.5], [0.25, 0.75])  # exact in every type
    convert = kind if kind in (list, tuple) else (lambda x: np.array(x, kind))
    value = apply(function, convert(p), convert(q))
    assert type(value) is np.float64
    assert value == apply(function, np.array(p), np.array(q))


@pytest.mark.parametrize("kind", [list, np.int64, np.uint8, np.int16])
def test_integers_are_certain_distributions(kind):
    onehot = [0, 1, 0]
    onehot = onehot if kind is list else np.array(onehot, kind)
    assert cross_entropy(onehot, [0.25, 0.5, 0.25]) == math.log(2)


def test_anything_that_numpy_takes():
    class Series:
        def __array__(self, dtype=None, copy=None):
            return np.array([0.5, 0.5], dtype)

    assert entropy(Series(), base=2) == 1.0


@pytest.mark.parametrize("function", EVERY)
def test_arguments_are_never_written_to(function):
    p, q = distributions(5, 3, 4), distributions(6, 3, 4)
    before = p.copy(), q.copy()
    tensors = torch.from_numpy(p.copy()), torch.from_numpy(q.copy())
    p.flags.writeable = q.flags.writeable = False
    _ = apply(function, p, q)
    _ = apply(function, *tensors)
    _ = apply(function, tensors[0], q)
    for x, y in zip((*tensors, p, q), before * 2, strict=True):
        assert np.array_equal(x, y)


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_memory_layout_does_not_matter(function, kind):
    p, q = distributions(7, 6, 8), distributions(8, 6, 8)
    truth = apply(function, p, q)
    views = [(np.asfortranarray(p), np.asfortranarray(q))]
    views += [tuple(np.repeat(x, 2, axis=1)[:, ::2] for x in (p, q))]
    for a, b in views:
        assert np.asarray(apply(function, kind(a), kind(b))) == pytest.approx(truth, rel=1e-14)


# Shapes


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_shapes(function, kind):
    p, q = (distributions(seed, 10, 3).reshape(2, 5, 3) for seed in (9, 10))
    last = apply(function, kind(p), kind(q))
    assert tuple(last.shape) == (2, 5)
    for axis in (0, 1, 2, -1, -2, -3):
        moved = apply(function, *(kind(np.moveaxis(x, -1, axis)) for x in (p, q)), axis=axis)
        assert np.asarray(moved) == pytest.approx(np.asarray(last), rel=1e-14)
    assert tuple(apply(function, kind(p[:0]), kind(q[:0])).shape) == (0, 5)
    assert tuple(apply(function, kind(p[0, 0]), kind(q[0, 0])).shape) == ()


@pytest.mark.parametrize("function", PAIRWISE)
def test_the_other_axes_broadcast(function):
    p, q = distributions(11, 5, 3), distributions(12, 4, 3)
    assert function([0.2, 0.3, 0.5], p).shape == (5,)
    assert function(p, [0.2, 0.3, 0.5]).shape == (5,)
    assert function([0.2, 0.3, 0.5], p.T, axis=0).shape == (5,)
    table = function(p[:, None], q)
    assert table.shape == (5, 4)
    assert table[3, 2] == pytest.approx(float(function(p[3], q[2])), rel=1e-14)


def test_one_truth_for_a_batch():
    assert cross_entropy([1, 0, 0], np.full((5, 3), [0.5, 0.25, 0.25])) == pytest.approx(np.full(5, math.log(2)))


# Errors


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
@pytest.mark.parametrize(
    ("p", "text"),
    [
        (
            [0.5, -0.5, 1.0],
            "p holds -0.5 (class 1), which is not a probability (a finite number ≥ 0); pass log-probabilities",
        ),
        (
            [[1.0, 0.0], [math.nan, 1.0]],
            "p holds nan (row 1, class 0), which is not a probability (a finite number ≥ 0); fix",
        ),
        ([[[1.0, 0.0], [math.inf, 1.0]]], "p holds inf (row (0, 1), class 0)"),
        ([[math.inf, -math.inf]], "p holds inf (row 0, class 0)"),
        ([[0.5, 0.5], [1.0, 2.0]], "p sums to 3 (row 1, 2 classes), not to 1; divide it by its sum"),
        ([0.5, 0.48], "p sums to 0.98 (2 classes)"),
        ([0.0, 0.0], "p sums to 0 "),
    ],
)
def test_what_is_not_a_distribution(kind, p, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        _ = entropy(kind(p))
    classes = np.shape(p)[-1]
    with pytest.raises(ValueError, match=re.escape("q" + text[1:])):
        _ = kl_divergence(np.full(classes, 1 / classes), kind(p))


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.5, "p has no axis -1, its shape is ()"),
        ([], "p has no classes, its shape is (0,)"),
        (np.zeros((3, 0)), "p has no classes, its shape is (3, 0)"),
    ],
)
def test_no_classes(kind, p, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        _ = entropy(kind(p))


@pytest.mark.parametrize(
    "p", [["a", "b"], [True, False], [1j, 1.0], [None, 1.0], [Fraction(1)], np.array(["NaT"], "M8")]
)
def test_what_is_not_a_number(p):
    with pytest.raises(TypeError, match=r"p holds .*, not real numbers"):
        _ = entropy(p)


def test_tensors_that_are_not_real():
    for dtype in (torch.bool, torch.complex64):
        with pytest.raises(TypeError, match=f"q holds {str(dtype)[6:]}, not real numbers"):
            _ = cross_entropy([1.0, 0.0], torch.tensor([1, 0]).to(dtype))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_shapes_that_do_not_fit(kind):
    p, q = kind(distributions(15, 5, 3)), kind(distributions(16, 4, 3))
    with pytest.raises(ValueError, match=r"rows of shape \(5,\) and q of \(4,\), which do not broadcast"):
        _ = cross_entropy(p, q)
    for classes in (1, 2):  # one class is not broadcast silently
        with pytest.raises(ValueError, match=f"differ in length, 3 in p and {classes} in q; "):
            _ = cross_entropy(p, kind(np.full((5, classes), 1 / classes)))
    for axis in (2, -3):
        with pytest.raises(np.exceptions.AxisError, match=f"p has no axis {axis}, its shape is"):
            _ = entropy(p, axis=axis)
    with pytest.raises(TypeError):
        _ = entropy(p, axis=0.5)


def test_sums_off_by_rounding_pass_silently():
    assert entropy([0.33, 0.33, 0.33]) == pytest.approx(exact("entropy", [0.33] * 3, [0.33] * 3))
    for dtype in (torch.bfloat16, torch.float16):
        for classes in (10, 50257):
            logits = torch.randn(classes, generator=torch.Generator().manual_seed(0))
            for scale in (0.0, 1.0, 5.0):
                assert entropy((scale * logits).softmax(-1).to(dtype)).isfinite()
    classes = 818_401  # 1 / classes is 20.49998 steps of 2⁻²⁴, the smallest float16: rounding costs 2.4 %
    assert entropy(torch.full((classes,), 1 / classes).half()).isfinite()


@pytest.mark.parametrize("function", [kl_divergence, js_divergence])
def test_divergences_forgive_sums_to_second_order(function):
    p, q = distributions(17, 2, 20)
    truth = exact(function.__name__, p, q)
    for off in (1e-3, -1e-3, 5e-3):
        assert function(p * (1 + off), q) == pytest.approx(truth, abs=off * off + abs(off) * truth)
