"""The order of programs in the interpreter, and races between them: kernels that are wrong are found out."""

# No `from __future__ import annotations`: Triton reads the annotations of kernels.

import importlib.util
import inspect

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from crossent.kernels.triton import arguments, functions
from crossent.kernels.triton import rows as kernels
from crossent.spec import Target
from tests.kernels.triton.calls import evaluate
from tests.kernels.triton.programs import LAUNCHES, ORDERS, Race, in_order, unwatched


@triton.jit
def last_one(data, log):
    """Write the number of the program to the same place, and to a place of its own."""
    number = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(data, number)
    tl.store(log + number, number)


@triton.jit
def neighbours(source, out, distance):
    """Copy what another program of the launch may have written."""
    k = tl.program_id(0)
    tl.store(out + k, tl.load(source + k + distance))


def test_programs_run_in_the_order_that_is_asked_for():
    last = {}
    for order in ORDERS:
        for seed in range(20):
            data, log = torch.zeros(1, dtype=torch.int32), torch.full((6,), -1, dtype=torch.int32)
            with in_order(order, seed), unwatched():
                last_one[(2, 3)](data, log)
            assert log.tolist() == list(range(6))
            last.setdefault(order, []).append(data.item())
    assert set(last["given"]) == {5}
    assert set(last["reversed"]) == {0}
    assert len(set(last["shuffled"])) > 2


def test_the_order_is_the_one_that_was_drawn(program_order):
    assert LAUNCHES.order == program_order


@pytest.mark.parametrize("order", ORDERS)
def test_two_programs_that_write_the_same_place_are_a_race(order):
    data, log = torch.zeros(1, dtype=torch.int32), torch.zeros(6, dtype=torch.int32)
    with in_order(order), pytest.raises(Race, match="last_one: program 1 of 6 writes memory that program 0 writes"):
        last_one[(2, 3)](data, log)
    last_one[(1, 1)](data, log)  # alone it may


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.uint8])
def test_a_program_that_reads_what_another_one_writes_is_a_race(dtype):
    data, other = torch.zeros(20, dtype=dtype), torch.zeros(20, dtype=dtype)
    neighbours[(6,)](data, other, 2)
    neighbours[(6,)](data[2:], data[2:], 0)  # each reads and writes its own
    neighbours[(6,)](data[6:], data, 0)
    with pytest.raises(Race, match=r"neighbours: program \d of 6 reads memory that program \d writes"):
        neighbours[(6,)](data, data, 2)


OWN = "(place >= start) & (place < stop)"


def mutant(tmp_path, function, right, wrong):
    """The kernels of rows with a mistake in one of them."""
    source, whole = inspect.getsource(getattr(kernels, function).fn), inspect.getsource(kernels)
    assert source.count(right) == 1
    path = tmp_path / f"{function}_mutant.py"
    path.write_text(whole.replace(source, source.replace(right, wrong)), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_race_for_the_edge_of_a_row_is_found(tmp_path, monkeypatch, request):
    z = torch.randn(2, 5003, generator=torch.Generator().manual_seed(0))
    target = Target(torch.tensor([[17, 17], [17, 5002]]), torch.full((2, 2), 0.5))
    want = evaluate(z, target)
    monkeypatch.setattr(functions, "rows", mutant(tmp_path, "write_columns", OWN, "(start == 0)"))
    arguments.forget()  # who knows the kernels that are right
    request.addfinalizer(arguments.forget)
    with pytest.raises(Race, match=r"row_grad: program \d of 4 writes memory"):
        _ = evaluate(z, target)
    for order in ORDERS[:2]:
        with unwatched(), in_order(order):
            wrong = np.abs(evaluate(z, target)["grad"] - want["grad"]).max()
        assert (wrong > 0.25) == (order == "reversed")
