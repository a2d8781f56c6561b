"""The loss itself: what scikit-learn says on ordinary data and mpmath on extremes, from any container and storage."""

from __future__ import annotations

import math

import narwhals as nw
import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
import torch
from scipy.special import log_softmax
from sklearn.metrics import log_loss

import crossent
from tests.scoring.exact import exact_mean, made, softmax

SMALL_Y = [1, 0, 2]
SMALL_P = [[0.2, 0.7, 0.1], [0.6, 0.2, 0.2], [0.6, 0.1, 0.3]]
SMALL = 0.69049112401021968491


def close(value, expected, rel=1e-13):
    assert abs(value - expected) <= rel * max(abs(expected), 1.0), (value, expected)


# scikit-learn


@pytest.mark.parametrize("classes", [2, 3, 17])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["probs", "logits", "logprobs"])
def test_scikit_learn(classes, weighted, kind):
    y, z = made(classes, 700, classes)
    w = np.random.default_rng(1).gamma(2.0, size=700) if weighted else None
    given = {"probs": softmax(z), "logits": z, "logprobs": log_softmax(z, axis=1)}[kind]
    result = crossent.score(y, **{kind: given}, weight=w)
    close(result.loss, log_loss(y, softmax(z), sample_weight=w, labels=range(classes)), 1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["probs", "logits", "logprobs"])
def test_scikit_learn_binary_column(weighted, kind):
    y, z = made(5, 600, 2)
    w = np.random.default_rng(1).integers(1, 5, size=600) if weighted else None
    odds = z[:, 1] - z[:, 0]
    p = softmax(z)[:, 1]
    given = {"probs": p, "logits": odds, "logprobs": log_softmax(z, axis=1)[:, 1]}[kind]
    close(crossent.score(y, **{kind: given}, weight=w).loss, log_loss(y, p, sample_weight=w), 1e-12)


def test_classes_are_the_columns_not_the_alphabet():
    """scikit-learn sorts labels; here the order of the columns is what the caller says."""
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
    result = crossent.score(["dog", "ant"], probs=p, classes=["dog", "ant", "cat"])
    close(result.loss, exact_mean([0.7, 0.8]))
    assert result.classes == ("dog", "ant", "cat")


# The numbers of the specification


def test_values_of_the_specification():
    binary = crossent.score([1, 0, 0, 1], probs=[[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]])
    close(binary.loss, 0.2161618746805791539)
    close(crossent.score([1, 0, 0, 1], probs=[0.9, 0.1, 0.2, 0.65]).loss, 0.2161618746805791539)
    close(crossent.score(SMALL_Y, probs=SMALL_P).loss, SMALL)
    cross = crossent.score([0, 1], probs=[[0.25, 0.75], [0.25, 0.75]])
    close(cross.loss, 0.83698821678583577314)
    close(crossent.score([0], probs=[[0.7, 0.2, 0.1]]).entropy, 0.80181855254333730856)


@pytest.mark.parametrize("single", [True, False])
def test_the_smallest_positive_number(single):
    tiny = 2.0**-1074
    probs = [tiny] if single else [[1.0, tiny]]
    close(crossent.score([1], probs=probs).loss, 744.44007192138126231, 1e-15)


def test_uniform_over_a_vocabulary():
    v = 50257
    y = [0, 17, v - 1]
    for storage in (np.float64, np.float32, np.float16):
        close(crossent.score(y, logits=np.zeros((3, v), storage)).loss, 10.824905119702080107, 1e-15)
    close(crossent.score(y, probs=np.full((3, v), 1 / v)).loss, 10.824905119702080107, 1e-15)
    close(crossent.score(y, logprobs=np.full((3, v), -math.log(v))).loss, 10.824905119702080107, 1e-15)
    close(crossent.score(y, logits=np.full((3, v), 6e4, np.float16)).loss, 10.824905119702080107, 1e-15)


def test_nothing_is_clipped():
    """scikit-learn charges 11.57 in float64 and 8.02 in float32 for these two rows; Keras at most 16.1."""
    for storage in (np.float64, np.float32):
        p = np.array([1e-10, 0.9], storage)
        close(crossent.score([1, 1], probs=p).loss, exact_mean(p.astype(np.float64)), 1e-15)
    close(crossent.score([1], probs=[1e-300]).loss, exact_mean([1e-300]), 1e-15)
    close(crossent.score([1], logits=[-1e4]).loss, 1e4, 1e-15)
    close(crossent.score([0], logits=[[-1e300, 0.0]]).loss, 1e300, 1e-15)


def test_half_precision_perplexity():
    """The case in which softmax, log and sum in float16 give infinity where the answer is 64."""
    logits = np.zeros((2000, 64), np.float16)
    close(crossent.score(np.arange(2000) % 64, logits=logits).perplexity, 64.0)


def test_mean_of_blocks_of_unequal_size():
    state = crossent.ScoreState()
    state = state.update(np.ones(999, int), probs=np.full(999, math.exp(-0.01)))
    state = state.update([1], probs=[0.01])
    p = [math.exp(-0.01)] * 999 + [0.01]
    close(state.finalize().loss, exact_mean(p))
    close(crossent.score(np.ones(1000, int), probs=p).loss, exact_mean(p))


def test_near_certainty_keeps_its_digits():
    """1 − p in one column; log1p of it. Log-odds of 40 leave a loss of 4e-18, not 0."""
    p = np.array([2.0**-60, 1e-20, 1e-12])
    result = crossent.score([0, 0, 0], probs=p)
    assert abs(result.loss / (p.sum() / 3) - 1) < 1e-11
    sure = crossent.score([1, 1], logits=[40.0, 40.0]).loss
    assert abs(sure / math.log1p(math.exp(-40)) - 1) < 1e-13


@pytest.mark.parametrize("first", [2.0**-1074, 1e-100, 1e-3, 1.0])
@pytest.mark.parametrize("rest", [1 - 2.0**-40, 0.999, 0.5])
def test_cancellation_in_sums(first, rest):
    """One row unlike 20 000 others, first or last: float64 with compensation is right to its last digits."""
    p = np.concatenate([[first], np.full(20_000, rest)])
    expected = (exact_mean([first]) + 20_000 * exact_mean([rest])) / 20_001
    for order in (slice(None), slice(None, None, -1)):
        result = crossent.score(np.ones(p.size, int), probs=p[order])
        assert abs(result.loss / expected - 1) < 1e-13


@pytest.mark.parametrize("shift", [2.0**10, 2.0**20, -(2.0**30)])
def test_a_constant_added_to_logits_changes_nothing(shift):
    y, z = made(6, 50, 4)
    z = np.round(z * 1024) / 1024  # so that adding the constant is exact
    close(crossent.score(y, logits=z + shift).loss, crossent.score(y, logits=z).loss)


def test_zero_probability_is_infinite_and_named():
    result = crossent.score([0, 1, 1], probs=[[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]], id=["a", "b", "c"])
    assert result.loss == math.inf
    assert result.worst[0].id == "b"
    assert result.ci == (math.inf, math.inf)
    assert any("b" in text and "0" in text for text in result.warnings)
    floored = crossent.score([0, 1, 1], probs=[[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]], zero=1e-9)
    assert floored.zero == 1e-9
    close(floored.loss, exact_mean([0.5, 1e-9, 0.5]))


@pytest.mark.parametrize("kind", ["probs", "logits", "logprobs"])
def test_nothing_but_infinite_losses(kind):
    impossible = {"probs": [[1.0, 0.0]], "logits": [[0.0, -math.inf]], "logprobs": [[0.0, -math.inf]]}[kind]
    result = crossent.score([1, 1], **{kind: impossible * 2})
    assert (result.loss, result.n, result.ci) == (math.inf, 2, (math.inf, math.inf))
    assert result.per_class[-1].loss == math.inf


def test_an_infinite_loss_stays_in_its_class_and_slice():
    p = [[0.5, 0.5], [1.0, 0.0], [0.5, 0.5], [0.25, 0.75]]
    result = crossent.score([0, 1, 1, 0], probs=p, by=["a", "b", "a", "a"])
    assert (result.loss, result.n, result.skill) == (math.inf, 4, -math.inf)
    assert [s.loss for s in result.per_class] == [pytest.approx(exact_mean([0.5, 0.25])), math.inf]
    assert [s.loss for s in result.by["by"]] == [pytest.approx(exact_mean([0.5, 0.5, 0.25])), math.inf]
    assert [row.loss for row in result.worst] == sorted((row.loss for row in result.worst), reverse=True)
    close(result.entropy, (2 * math.log(2) + exact_mean([0.25]) / 4 + 0.75 * exact_mean([0.75])) / 4)


@pytest.mark.parametrize("storage", ["int8", "uint8", "float16", "float32", "bool"])
def test_sums_of_narrow_weights_do_not_overflow(storage):
    y, z = made(1, 2000, 3)
    w = np.full(2000, 100).astype(storage)
    result = crossent.score(y, logits=z, weight=w)
    assert result.weight == w.astype(float).sum()
    close(result.loss, crossent.score(y, logits=z).loss)


def test_a_floor_charges_no_less_than_it_says():
    """A probability above the floor is charged as it is, one below as the floor: for logits as for probabilities."""
    p = np.array([[0.999, 0.001], [1 - 1e-12, 1e-12], [0.4, 0.6]])
    expected = exact_mean([1e-3, 1e-6, 0.6])
    close(crossent.score([1, 1, 1], probs=p, zero=1e-6).loss, expected)
    close(crossent.score([1, 1, 1], logits=np.log(p), zero=1e-6).loss, expected, 1e-12)
    close(crossent.score([1, 1, 1], logprobs=np.log(p), zero=1e-6).loss, expected)
    close(crossent.score([1, 1, 1], probs=p[:, 1], zero=1e-6).loss, expected)


def test_normalize():
    counts = np.array([[3, 1], [1, 4], [2, 2]])
    result = crossent.score([0, 1, 1], probs=counts, normalize=True)
    close(result.loss, exact_mean([0.75, 0.8, 0.5]))
    shares = np.array([[30.0, 70.0], [99.0, 1.0]])
    close(crossent.score([1, 0], probs=shares, normalize=True).loss, exact_mean([0.7, 0.99]))


# Storage


@pytest.mark.parametrize("kind", ["probs", "logits", "logprobs"])
@pytest.mark.parametrize("columns", [1, 2, 11])
@pytest.mark.parametrize("narrow", ["float16", "float32", "bfloat16"])
def test_storage_does_not_matter(kind, columns, narrow):
    """The same values stored in a narrow type and in float64 give the same loss."""
    y, z = made(columns, 400, max(columns, 2))
    values = {"probs": softmax(z), "logits": z, "logprobs": log_softmax(z, axis=1)}[kind]
    if columns == 1:
        values = z[:, 1] - z[:, 0] if kind == "logits" else values[:, 1]
    stored = torch.tensor(values).to(getattr(torch, narrow))
    wide = stored.double().numpy()
    expected = crossent.score(y, **{kind: wide}).loss
    close(crossent.score(y, **{kind: stored}).loss, expected)
    if narrow != "bfloat16":
        close(crossent.score(y, **{kind: stored.numpy()}).loss, expected)
    if kind == "probs":
        of_truth = wide[np.arange(400), y] if columns > 1 else np.where(y == 1, wide, 1 - wide)
        close(expected, exact_mean(of_truth) if of_truth.all() else math.inf)


def test_longdouble_and_foreign_byte_order():
    y, z = made(3, 50, 4)
    expected = crossent.score(y, logits=z).loss
    close(crossent.score(y, logits=z.astype(">f8")).loss, expected)
    close(crossent.score(y, logits=z.astype(np.longdouble)).loss, expected)
    close(crossent.score(y.astype(">i4"), logits=z).loss, expected)


# Containers


def arrays(p):
    """The same numbers in every memory layout."""
    n, c = p.shape
    backwards = p[::-1, ::-1].copy()[::-1, ::-1]
    gaps = np.full((2 * n, 3 * c), np.nan)
    gaps[::2, 1::3] = p
    frozen = p.copy()
    frozen.flags.writeable = False
    return {
        "C": p,
        "Fortran": np.asfortranarray(p),
        "transposed": np.ascontiguousarray(p.T).T,
        "backwards": backwards,
        "gaps": gaps[::2, 1::3],
        "read only": frozen,
        "list": p.tolist(),
        "tuple of arrays": tuple(p),
        "torch": torch.tensor(p),
        "torch, transposed": torch.tensor(p.T.copy()).T,
        "torch, grad": torch.tensor(p, requires_grad=True),
        "list of tensors": [torch.tensor(row) for row in p],
        "table": pa.table({f"p_{i}": p[:, i] for i in range(c)}),
        "chunks": pa.concat_tables(pa.table({f"p_{i}": q[:, i] for i in range(c)}) for q in np.array_split(p, 3)),
        "batch": pa.record_batch({f"p_{i}": p[:, i] for i in range(c)}),
        "narwhals": nw.from_native(pa.table({f"p_{i}": p[:, i] for i in range(c)})),
        "lists": pa.array(p.tolist()),
        "fixed lists": pa.FixedSizeListArray.from_arrays(pa.array(p.ravel()), c),
        "chunked lists": pa.chunked_array([p[:5].tolist(), p[5:].tolist()]),
    }


@pytest.mark.parametrize("container", arrays(np.eye(2)))
def test_containers_of_predictions(container):
    y, z = made(9, 60, 3)
    p = softmax(z)
    before = p.copy()
    given = arrays(p)[container]
    close(crossent.score(y, probs=given).loss, exact_mean(p[np.arange(60), y]), 1e-13)
    assert (p == before).all()


LABELS = {
    "list": list,
    "tuple": tuple,
    "uint8": lambda y: np.asarray(y, np.uint8),
    "uint64": lambda y: np.asarray(y, np.uint64),
    "float": lambda y: np.asarray(y, np.float64),
    "bool": lambda y: np.asarray(y, bool),
    "strided": lambda y: np.repeat(y, 2)[::2],
    "column": lambda y: np.asarray(y)[:, None],
    "numpy objects": lambda y: np.array([int(v) for v in y], object),
    "torch": torch.tensor,
    "arrow": lambda y: pa.array(list(map(int, y))),
    "chunked": lambda y: pa.chunked_array([list(map(int, y[:7])), list(map(int, y[7:]))]),
    "dictionary": lambda y: pa.array(list(map(int, y))).dictionary_encode(),
    "series": lambda y: nw.from_native(pa.chunked_array([list(map(int, y))]), series_only=True),
    "range of numpy ints": lambda y: [np.int16(v) for v in y],
}


@pytest.mark.parametrize("container", LABELS)
def test_containers_of_labels_weights_and_more(container):
    y, z = made(11, 40, 2)
    w = np.random.default_rng(0).integers(1, 4, size=40)
    by = np.array(["x", "y"])[np.arange(40) % 2]
    plain = crossent.score(y, logits=z, weight=w, by=by)
    result = crossent.score(LABELS[container](y), logits=z, weight=pa.array(w), by={"by": pa.array(by.tolist())})
    close(result.loss, plain.loss)
    assert [s.loss for s in result.by["by"]] == [s.loss for s in next(iter(plain.by.values()))]


@pytest.mark.parametrize("module", [pandas, polars], ids=["pandas", "polars"])
def test_frames(module):
    y, z = made(4, 30, 3)
    p = softmax(z)
    frame = module.DataFrame({f"p_{name}": p[:, i] for i, name in enumerate(["cat", "dog", "eel"])})
    names = module.Series([["cat", "dog", "eel"][v] for v in y])
    doc = module.Series(np.arange(30) // 3)
    result = crossent.score(names, probs=frame, cluster=doc, by=module.DataFrame({"half": np.arange(30) % 2}))
    close(result.loss, exact_mean(p[np.arange(30), y]))
    assert result.classes == ("cat", "dog", "eel")
    assert result.clusters == 10
    close(
        crossent.score(module.Series(y == 1), probs=frame["p_dog"]).loss,
        exact_mean(np.where(y == 1, p[:, 1], 1 - p[:, 1])),
    )


def test_frame_order_is_that_of_its_columns():
    table = pa.table({"p_dog": [0.7, 0.1], "p_ant": [0.3, 0.9]})
    result = crossent.score(["dog", "ant"], probs=table)
    close(result.loss, exact_mean([0.7, 0.9]))
    assert result.classes == ("dog", "ant")


def test_no_argument_is_written_to():
    y, z = made(2, 100, 5)
    w = np.linspace(0, 1, 100)
    kept = y.copy(), z.copy(), w.copy()
    crossent.score(y, logits=z, weight=w, cluster=y, by=y, id=y)
    crossent.score(y, probs=np.exp(z), weight=w, normalize=True)
    assert all((a == b).all() for a, b in zip(kept, (y, z, w), strict=True))
