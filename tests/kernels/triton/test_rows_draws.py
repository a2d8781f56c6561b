"""Random rows in many small parts, in every order of programs: edges, part borders, masked parts.

Tiles and parts are made small here, so that rows of a few dozen columns have as many parts as rows of a vocabulary.
What is drawn follows the seed that pytest prints.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from crossent import reference
from crossent.kernels.backend import Cotangents, LossScale, RowOutputs
from crossent.kernels.triton import arguments, functions, task
from crossent.spec import Scores, Target
from tests.kernels.triton.calls import INF, NAN, backend, bound, evaluate, in_numpy, same_bits
from tests.kernels.triton.programs import ORDERS, in_order

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:All-NaN slice")]  # of the interpreter
DRAWS = 12
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
KINDS = ("index", "smoothed", "capped", "topk", "dense")


@dataclasses.dataclass(frozen=True)
class Draw:
    """A call, and how its rows are split."""

    logits: Any
    target: Target
    scores: Scores
    cotangents: Any
    parts: int


@pytest.fixture(params=range(DRAWS))
def rng(request):
    """Random numbers of a draw."""
    seed = request.config.getoption("randomly_seed", 0)
    return np.random.default_rng([seed % 2**32, request.param])


@pytest.fixture(autouse=True)
def forgotten():
    """What is remembered of calls is forgotten before tiles become small, and after."""
    arguments.forget()
    yield
    arguments.forget()


def make_small(monkeypatch: Any, rng: Any) -> None:
    """Small tiles, short parts, and a GPU that few or many programs fill."""
    rows = int(rng.choice([1, 4]))
    shape = task._Shape
    for name, value in (
        ("_LONG", shape(rows, 4, 4)), ("_MIDDLE", shape(rows, 4, 4)), ("_ANY", shape(rows, 8, 4)),
        ("_SHORT_ROW", 8), ("_PROGRAMS", int(rng.choice([12, 512]))),
    ):  # fmt: skip
        monkeypatch.setattr(task, name, value)
    monkeypatch.setattr(functions, "SHORTEST_PART", 1)
    monkeypatch.setattr(functions, "_ONE_READ", ((256, 4),) if rng.random() < 0.5 else ())


def rows_of(rng: Any, N: int, V: int, dtype: Any) -> Any:
    """Normal logits of rows that begin anywhere, amid NaN; mostly the first begins at a whole access of a GPU."""
    pad, first = rng.integers(0, 12, 2)
    base = torch.full((N * (V + int(pad)) + 16,), NAN, dtype=dtype)
    logits = base.as_strided((N, V), (V + int(pad), 1), int(first) if rng.random() < 0.1 else 0)
    return logits.copy_(torch.from_numpy(rng.normal(0, 3, (N, V))))


def border(rng: Any, V: int, span: int) -> int:
    """A column at an edge of the row, at the border of a part, or anywhere."""
    inner = span * rng.integers(1, max(2, V // span + 1))
    near = rng.choice([0, V - 1, inner, rng.integers(V)], p=[0.2, 0.4, 0.3, 0.1]) + rng.integers(-8, 9)
    return int(np.clip(near, 0, V - 1))


def spoil(rng: Any, logits: Any, labels: Any, span: int) -> None:
    """Classes that cannot be, in blocks and whole parts; rows of nothing else; NaN and ∞."""
    N, V = logits.shape
    for row in range(N):
        what = rng.integers(8)
        first = span * int(rng.integers(0, V // span + 1)) - int(rng.integers(0, 9))
        length = span * int(rng.integers(1, 4)) + int(rng.integers(0, 9))
        if what < 2:  # but the label
            kept = logits[row, labels[row]].clone()
            logits[row, max(0, first) : first + length] = -INF
            logits[row, labels[row]] = kept
        elif what < 5:
            logits[row] = -INF
            logits[row, labels[row]] = 1.0
        elif what == 5:
            odd = int(rng.integers(3))
            logits[row, border(rng, V, span)] = (NAN, INF, -INF)[odd]
            logits[row] = logits[row] if odd else -INF


def draw(rng: Any) -> Draw:
    dtype, kind = DTYPES[rng.choice(3, p=[0.4, 0.4, 0.2])], KINDS[rng.integers(5)]
    lanes = 8 * 2 if dtype == torch.float64 else 4 * 16 // dtype.itemsize
    V = int(rng.integers(2, 5)) * lanes + int(rng.integers(-9, 10))
    N = int(rng.choice([1, 4, 5]))
    logits = rows_of(rng, N, V, dtype)
    labels = torch.tensor([border(rng, V, lanes) for _ in range(N)])
    spoil(rng, logits, labels, lanes)
    options: dict[str, Any] = {"smoothing": 0.1} if kind in {"smoothed", "topk"} else {}
    if rng.random() < 0.5:
        options["weight"] = torch.from_numpy(rng.uniform(0.5, 2, V).astype(np.float32))
    if kind == "dense":
        p = rng.random((N, V)).astype(np.float32) * (rng.random((N, V)) < 0.5)
        target = Target(prob=torch.from_numpy(p / V), **options)
    elif kind == "topk":
        K = int(rng.integers(1, 5))
        index = torch.tensor([[border(rng, V, lanes) for _ in range(K)] for _ in range(N)])
        index[:, 0] = labels
        target = Target(index, torch.from_numpy(rng.random((N, K)).astype(np.float32)), **options)
    else:
        labels[torch.from_numpy(rng.random(N) < 0.2)] = -100
        target = Target(labels, ignore_index=-100, **options)
    scores = Scores(0.7, 20.0) if kind == "capped" else Scores(float(rng.choice([1.0, 1.7])))
    if rng.random() < 0.3:
        scores = Scores(1.0, scores.softcap, torch.from_numpy(rng.choice([0.7, 1.0, 1.7], N)))
    cotangents = tuple(torch.from_numpy(rng.normal(size=N)) for _ in range(3))
    one = task.Task.of(logits, target, scores)
    return Draw(logits, target, scores, cotangents, one.fixed_parts(one.tile(), 1).number)


def in_place(call: Draw) -> Any:
    """Record and gradients where these take the place of the logits."""
    found = {}
    one = torch.ones(len(call.logits))
    for name in ("grad", "fused"):
        held = call.logits.clone()
        logits = held.as_strided(call.logits.shape, held.stride())
        record = torch.full((5, len(one)), NAN, dtype=torch.float64)
        if name == "fused":
            loss = torch.full(
                (len(one),), NAN, dtype=call.cotangents[0].dtype if logits.dtype == torch.float64 else None
            )
            backend.row_fused(logits, call.target, call.scores, LossScale(one), record, logits, RowOutputs(loss))
            found["loss"] = loss.double().numpy()
        else:
            backend.row_stats(logits, call.target, call.scores, record, RowOutputs())
            backend.row_grad(logits, call.target, call.scores, record, Cotangents(*call.cotangents), logits)
        found[name] = logits.double().numpy().T
    return found


def test_rows_in_many_parts_are_those_of_the_reference_in_every_order(rng, monkeypatch):
    make_small(monkeypatch, rng)
    call = draw(rng)
    arguments = call.logits, call.target, call.scores, Cotangents(*call.cotangents)
    with in_order("given"):
        got, replaced = evaluate(*arguments), in_place(call)
    for order in ORDERS[1:]:
        with in_order(order, int(rng.integers(2**32))):
            same_bits(evaluate(*arguments), got, list(range(len(call.logits))))
    with in_order("shuffled", int(rng.integers(2**32))):
        same_bits(in_place(call), replaced, list(range(len(call.logits))))

    z, plain = call.logits.double().numpy(), in_numpy(call.target)
    stats, g = reference.row_stats(z, plain, call.scores), [x.numpy() for x in call.cotangents]
    one = np.ones(len(z))
    want = {name: getattr(stats, name) for name in ("loss", "lse", "entropy")}
    want["grad"] = reference.row_grad(z, plain, call.scores, stats, tuple(g)).T
    want["fused"] = reference.row_grad(z, plain, call.scores, stats, (one, 0 * one, 0 * one)).T
    limit = bound(torch.cat([call.logits.flatten(), torch.zeros(1, dtype=call.logits.dtype)]))
    for results in (got, replaced):
        for name in want.keys() & results.keys():
            size = limit * (1 + np.abs([*g, one]).sum(0).max())
            rounding = torch.finfo(call.logits.dtype).eps / 2 if name in {"grad", "fused"} else 0.0
            np.testing.assert_allclose(results[name], want[name], rtol=rounding, atol=size, err_msg=name)


def test_most_draws_have_several_parts(monkeypatch):
    numbers = []
    for seed in range(100):
        with monkeypatch.context() as patch:
            rng = np.random.default_rng(seed)
            make_small(patch, rng)
            numbers.append(draw(rng).parts)
    assert np.mean(np.array(numbers) > 1) > 0.5
