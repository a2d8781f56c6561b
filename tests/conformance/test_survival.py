"""The core under stress: many threads, processes forked off, more logits than 32 bits can count."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from crossent.kernels import cpu
from crossent.kernels.backend import LossScale, RowOutputs
from crossent.spec import Scores, Target
from tests.oracle import empty_record, evaluate


@pytest.mark.slow
def test_concurrent_calls_do_not_meet(isa):
    rng = np.random.default_rng(0)
    calls = []
    for k in range(8):  # some small, some large enough for threads of their own
        N, V = (64, 50) if k % 2 else (400, 3000)
        calls.append(
            (rng.normal(size=(N, V)).astype(np.float32), Target(rng.integers(0, V, N), smoothing=0.1 * (k % 3)))
        )
    alone = [evaluate(cpu, *call) for call in calls]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda call: evaluate(cpu, *call), calls * 4))
    for got, want in zip(together, alone * 4, strict=True):
        for name in ("loss", "lse", "entropy", "grad", "fused"):
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name))


def test_concurrent_errors_stay_apart(isa):
    z = np.zeros((300, 10), np.float32)

    def call(k):
        index = np.zeros(300, int)
        if k % 2:
            index[k] = 10 + k
        try:
            cpu.row_stats(z, Target(index), Scores(), empty_record(300))
        except IndexError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(4) as pool:
        for k, text in enumerate(pool.map(call, range(100))):
            assert (f"class {10 + k} (row {k} of 300)" in text) if k % 2 else text == ""


FORK = """
import os
import sys
import numpy as np
from crossent.kernels import cpu
from crossent.kernels.backend import LossScale
from crossent.spec import Scores, Target
from crossent.stats import FIELDS

rng = np.random.default_rng(0)
logits, index = rng.normal(size=(3000, 2000)).astype(np.float32), rng.integers(0, 2000, 3000)

def compute():
    record, grad = np.empty((len(FIELDS), 3000)), np.empty_like(logits)
    cpu.row_fused(logits, Target(index), Scores(), LossScale(np.ones(3000, np.float32)), record, grad)
    return record.tobytes(), grad.tobytes()

want = compute()
for _ in range(2):
    child = os.fork()
    if child == 0:
        os._exit(0 if compute() == want else 3)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
    assert compute() == want
print("survived")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
def test_a_forked_child_computes_the_same():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORK)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "survived\n", done.stderr


@pytest.mark.slow
def test_more_logits_than_32_bits_count():
    # 2.6 billion, all of them one row of memory
    V, N = 65_536, 40_000
    row = np.random.default_rng(1).normal(size=V).astype(np.float16)
    index = np.arange(N) % V
    record, loss = empty_record(N), np.empty(N, np.float32)
    cpu.row_stats(np.broadcast_to(row, (N, V)), Target(index), Scores(), record, RowOutputs(loss))
    z = row.astype(np.float64)
    lse = np.log(np.exp(z - z.max()).sum()) + z.max()
    np.testing.assert_allclose(loss, lse - z[index], rtol=2e-6)
    assert (record[1] == record[1, 0]).all()


@pytest.fixture
def far():
    """Nine rows or columns more than 2³⁰ elements apart, of memory that is never touched in between."""
    try:
        return np.zeros(9 * (2**28 + 1), np.float16)
    except MemoryError:
        pytest.skip("no room for 4.8 GB of addresses")


@pytest.mark.parametrize("axis", [0, 1])
def test_offsets_beyond_32_bits(far, axis, isa):
    step = 2 * (2**28 + 1)
    strides = (step, 1) if axis == 0 else (1, step)
    near = np.random.default_rng(2).normal(size=(5, 5)).astype(np.float16)

    def spread():
        return np.lib.stride_tricks.as_strided(far, (5, 5), tuple(2 * s for s in strides))

    view = spread()
    view[...] = near
    index = np.array([0, 4, 2, 1, 3])
    want, got = evaluate(cpu, near, Target(index)), evaluate(cpu, view, Target(index))
    np.testing.assert_array_equal(got.loss, want.loss)
    np.testing.assert_array_equal(got.grad, want.grad)
    record = empty_record(5)
    cpu.row_fused(view, Target(index), Scores(), LossScale(np.ones(5, np.float32)), record, view)
    np.testing.assert_array_equal(view, want.grad)
    view[...] = near
    want, got = evaluate(cpu, near, Target(prob=near**2)), evaluate(cpu, near, Target(prob=spread_square(view)))
    np.testing.assert_array_equal(got.loss, want.loss)


def spread_square(view):
    view[...] = view**2
    return view


def test_binary_offsets_beyond_32_bits(far, isa):
    step = 2 * (2**28 + 1)
    view = np.lib.stride_tricks.as_strided(far, (5, 5), (2 * step, 2))
    view[...] = near = np.random.default_rng(3).random((5, 5)).astype(np.float16)
    for kind in ("logits", "probabilities"):
        want = cpu.binary_loss(kind, (near, near, None, None), None)
        assert cpu.binary_loss(kind, (view, view, None, None), None) == want
