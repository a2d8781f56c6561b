"""What a backend refuses: an error that names the place, never a crash, and no argument written to.

Targets that do not exist are found by every backend, by a GPU if CROSSENT_VALIDATE=1; only the core, which takes arrays
from anybody, refuses arrays that do not fit.
"""

from __future__ import annotations

import numpy as np
import pytest

from crossent.kernels import cpu
from crossent.kernels.backend import NO_OUTPUTS, Cotangents, LossScale, RowOutputs
from crossent.spec import Scores, Target
from tests.oracle import empty_record

ONE = np.ones(4, np.float32)


@pytest.fixture(autouse=True)
def validated(monkeypatch):
    monkeypatch.setenv("CROSSENT_VALIDATE", "1")


def logits(dtype=np.float32):
    return np.random.default_rng(0).normal(size=(4, 5)).astype(dtype)


def refuses(backend, error, match, *, z=None, target=None, record=None, outputs=NO_OUTPUTS):
    """Both `row_stats` and `row_fused` raise, and say the same."""
    z = logits() if z is None else z
    target = Target(np.zeros(4, int)) if target is None else target
    record = empty_record(4) if record is None else record
    arrays = [a for a in (z, target.index, target.prob, target.weight) if isinstance(a, np.ndarray)]
    before = [a.tobytes() for a in arrays]
    messages = []
    with pytest.raises(error, match=match) as caught:
        backend.row_stats(z, target, Scores(), record, outputs)
    messages.append(str(caught.value))
    if outputs is NO_OUTPUTS:
        with pytest.raises(error, match=match) as caught:
            backend.row_fused(z, target, Scores(), LossScale(ONE), record, np.empty_like(z))
        messages.append(str(caught.value))
    assert [a.tobytes() for a in arrays] == before
    assert len(set(messages)) == 1
    return messages[0]


@pytest.mark.parametrize("value", [5, 6, -1, -100, 2**31, -(2**62), 2**63 - 1])
def test_a_class_that_is_none_is_named_with_its_row(value, backend):
    for K in (None, 1, 3):
        index = np.array([0, 4, value, 1])
        target = Target(index)
        if K is not None:
            index = np.zeros((4, K), int)
            index[2, K - 1] = value
            target = Target(index, np.ones((4, K), np.float32))
        text = refuses(backend, IndexError, "class", target=target)
        for part in (f"class {value} ", "row 2", "5 classes", "[0, 4]"):
            assert part in text
        assert ("ignore_index" in text) == (K is None and value < 2**63 - 1)  # which stands for larger ones too


def test_a_class_counted_from_one_gets_a_hint(backend):
    assert "from 0" in refuses(backend, IndexError, "class 5", target=Target(np.array([1, 2, 3, 5])))


@pytest.mark.parametrize(("integer", "value"), [("uint8", 255), ("int8", -128), ("uint64", 2**63 + 1), ("uint16", 5)])
def test_classes_of_narrow_dtypes_are_checked_too(integer, value, backend):
    index = np.zeros(4, integer)
    index[3] = value
    assert "row 3" in refuses(backend, IndexError, "class", target=Target(index))


def test_only_the_ignored_class_is_ignored(backend):
    index = np.array([-100, 2, -1, 0])
    assert "row 2" in refuses(backend, IndexError, "class -1 ", target=Target(index, ignore_index=-100))
    assert "row 0" in refuses(backend, IndexError, "class -100 ", target=Target(index, ignore_index=-1))
    # an ignore_index beyond the classes is no class
    record = empty_record(4)
    backend.row_stats(logits(), Target(np.array([7, 2, 7, 0]), ignore_index=7), Scores(), record)
    np.testing.assert_array_equal(record[3], [0, 1, 0, 1])


@pytest.mark.parametrize("V", [10, 40])
def test_the_first_of_many_wrong_rows_is_named(V, backend):
    rng = np.random.default_rng(1)
    z = rng.normal(size=(50_000, V)).astype(np.float32)  # enough rows for several threads
    index = rng.integers(0, V, 50_000)
    index[[30_001, 123, 49_999]] = V
    prob = np.full((50_000, V), 0.5, np.float16)
    prob[[30_001, 123, 123, 124], [0, 7, 5, 0]] = -1
    for _ in range(3):
        with pytest.raises(IndexError, match=rf"class {V} \(row 123 of 50000\)"):
            backend.row_stats(z, Target(index), Scores(), empty_record(50_000))
        with pytest.raises(ValueError, match=r"\(row 123, column 5\)"):
            backend.row_stats(z, Target(prob=prob), Scores(), empty_record(50_000))
        with pytest.raises(ValueError, match=r"\(row 123, column 5\)"):
            backend.row_stats(
                np.asfortranarray(z), Target(prob=np.asfortranarray(prob)), Scores(), empty_record(50_000)
            )


def test_classes_of_another_shard_are_no_error_and_others_are(backend):
    target = Target(np.array([0, 99, 10, 14]), first_class=10, num_classes=100)
    record = empty_record(4)
    backend.row_stats(logits(), target, Scores(), record)
    np.testing.assert_array_equal(record[3], [0, 0, 1, 1])
    text = refuses(
        backend, IndexError, "class 100 ", target=Target(np.array([0, 100, 10, 14]), first_class=10, num_classes=100)
    )
    assert "100 classes" in text


@pytest.mark.parametrize("value", [-0.25, -1e-7, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_a_target_that_is_no_probability_is_named_with_its_place(value, dtype, backend):
    prob = np.full((4, 5), 0.2, dtype)
    prob[2, 3] = value
    for wide in (np.float32, np.float64):
        text = refuses(backend, ValueError, "probability", z=logits(wide), target=Target(prob=prob))
        assert "row 2" in text
        assert "column 3" in text
    text = refuses(backend, ValueError, "probability", target=Target(np.zeros((4, 5), int), prob))
    assert "row 2" in text
    assert "column 3" in text
    if value < 0:
        assert "exp" in text


def test_the_place_of_a_wrong_probability_counts_rows_as_the_loss_does(backend):
    z = np.zeros((2, 5000, 3), np.float32)
    prob = np.zeros_like(z)
    prob[1, 4999, 2] = np.nan  # row 1 · 3 + 2
    with pytest.raises(ValueError, match=r"row 5, column 4999"):
        backend.row_stats(z, Target(prob=prob), Scores(), empty_record(6))


def test_zeros_of_either_sign_and_sums_other_than_one_are_targets(backend):
    prob = np.array([[0.0, -0.0, 3.0, 0, 0]] * 4, np.float32)
    record = empty_record(4)
    backend.row_stats(logits(), Target(prob=prob), Scores(), record)
    assert (record[3] == 3).all()


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.complex64, ">f4", "longdouble"])
def test_logits_of_other_dtypes(dtype, isa):
    z = np.zeros((4, 5), dtype)
    with pytest.raises((TypeError, ValueError)):
        cpu.row_stats(z, Target(np.zeros(4, int)), Scores(), empty_record(4))


def test_targets_of_other_dtypes(isa):
    _ = refuses(cpu, TypeError, "index", target=Target(np.zeros(4, np.float32)))
    _ = refuses(cpu, TypeError, "index", target=Target(np.zeros((4, 2), np.float32), np.zeros((4, 2), np.float32)))
    _ = refuses(cpu, TypeError, "prob", target=Target(np.zeros((4, 2), int), np.zeros((4, 2), int)))
    _ = refuses(cpu, TypeError, "prob", target=Target(prob=np.zeros((4, 5), int)))
    _ = refuses(cpu, TypeError, "weight", target=Target(np.zeros(4, int), weight=np.ones(5, int)))
    _ = refuses(cpu, TypeError, "dtype|index", target=Target(np.zeros(4, bool)))


@pytest.mark.parametrize("z", [np.zeros(5, np.float32), np.zeros((4, 5, 1, 1), np.float32), np.float32(1)])
def test_logits_of_other_shapes(z, isa):
    with pytest.raises((ValueError, TypeError)):
        cpu._built().row_stats(
            z, np.zeros(4, int), None, None, 0.0, -100, 0, 5, 1.0, 0.0, empty_record(4), None, None, None
        )


def test_targets_of_other_shapes(isa):
    whole, two = np.zeros((4, 2), np.float32), np.zeros((4, 2), int)
    _ = refuses(cpu, ValueError, "index", target=Target(np.zeros(3, int)))
    _ = refuses(cpu, ValueError, "index", target=Target(np.zeros((4, 1), int)))
    _ = refuses(cpu, ValueError, "index", target=Target(np.zeros((5, 2), int), np.zeros((5, 2), np.float32)))
    _ = refuses(cpu, ValueError, "shape", target=Target(two, whole[:, :1]))
    _ = refuses(cpu, ValueError, "shape", target=Target(prob=np.zeros((4, 4), np.float32)))
    _ = refuses(cpu, ValueError, "shape", target=Target(prob=np.zeros((4, 5, 1), np.float32)))
    _ = refuses(cpu, ValueError, "weight", target=Target(np.zeros(4, int), weight=np.ones(4, np.float32)))
    _ = refuses(cpu, ValueError, "weight", target=Target(np.zeros(4, int), weight=np.ones((5, 1), np.float32)))
    _ = refuses(cpu, ValueError, "columns", target=Target(np.zeros(4, int), num_classes=4))
    _ = refuses(cpu, ValueError, "columns", target=Target(np.zeros(4, int), first_class=2, num_classes=6))
    _ = refuses(cpu, ValueError, "columns", target=Target(np.zeros(4, int), first_class=-1, num_classes=60))


def test_results_that_do_not_fit(isa):
    for record in (
        np.empty((4, 5)),
        empty_record(3),
        empty_record(8)[:, ::2],
        np.empty((4, 5)).T,
        empty_record(4)[..., None],
    ):
        _ = refuses(cpu, ValueError, "record", record=record)
    with pytest.raises((ValueError, TypeError)):
        cpu.row_stats(logits(), Target(np.zeros(4, int)), Scores(), empty_record(4).astype(np.float32))
    for wrong in (np.empty(3, np.float32), np.empty(4), np.empty(8, np.float32)[::2], np.empty((4, 1), np.float32)):
        for k in range(3):
            outputs = RowOutputs(*(wrong if k == at else None for at in range(3)))
            _ = refuses(cpu, ValueError, "loss, lse and entropy", outputs=outputs)
    record = empty_record(4)
    cpu.row_stats(logits(), Target(np.zeros(4, int)), Scores(), record)
    bad = (
        np.empty((4, 4), np.float32),
        np.empty((4, 5)),
        np.empty((4, 5, 1), np.float32),
        np.empty((4, 5), np.float16),
    )
    for grad in bad:
        with pytest.raises(ValueError, match="gradient"):
            cpu.row_grad(logits(), Target(np.zeros(4, int)), Scores(), record, Cotangents(ONE), grad)
    expanded = np.lib.stride_tricks.as_strided(np.empty(5, np.float32), (4, 5), (0, 4))
    with pytest.raises(ValueError, match="expanded"):
        cpu.row_grad(logits(), Target(np.zeros(4, int)), Scores(), record, Cotangents(ONE), expanded)
    for g in (ONE[:3], np.ones((4, 1), np.float32)):
        with pytest.raises(ValueError, match="cotangents"):
            cpu.row_grad(logits(), Target(np.zeros(4, int)), Scores(), record, Cotangents(g), logits())
    with pytest.raises(TypeError, match="g_lse"):
        cpu.row_grad(logits(), Target(np.zeros(4, int)), Scores(), record, Cotangents(lse=np.ones(4, int)), logits())


def test_read_only_results_are_not_written_to(isa):
    record, grad, loss = np.zeros_like(empty_record(4)), np.zeros((4, 5), np.float32), np.zeros(4, np.float32)
    frozen = [a.view() for a in (record, grad, loss)]
    for a in frozen:
        a.flags.writeable = False
    target = Target(np.zeros(4, int))
    with pytest.raises((TypeError, ValueError, BufferError)):
        cpu.row_stats(logits(), target, Scores(), frozen[0])
    with pytest.raises((TypeError, ValueError, BufferError)):
        cpu.row_stats(logits(), target, Scores(), empty_record(4), RowOutputs(frozen[2]))
    with pytest.raises((TypeError, ValueError, BufferError)):
        cpu.row_grad(logits(), target, Scores(), record, Cotangents(ONE), frozen[1])
    with pytest.raises((TypeError, ValueError, BufferError)):
        _ = cpu.binary_loss("logits", (grad, grad, None, None), frozen[1])
    assert all((a == 0).all() for a in (record, grad, loss))


def test_things_that_are_no_arrays(isa):
    for z in ([[0.0, 1.0]], "logits", None, 3.0):
        with pytest.raises(TypeError):
            cpu._built().row_stats(
                z, np.zeros(1, int), None, None, 0.0, -100, 0, 2, 1.0, 0.0, empty_record(1), None, None, None
            )
