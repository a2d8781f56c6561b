"""Rows of the Triton backend have the same bits alone and in any batch, at any place, where rows are whole accesses.

An access has 16 bytes. Rows of another length begin at different places of one, and their columns are summed in another
order: those of few classes and of float64 are read one by one, so that this does not concern them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from crossent.kernels.triton import arguments, functions, task
from crossent.spec import Target
from tests.kernels.triton.calls import evaluate
from tests.torch.alone import Rows, different

CASES = [
    (3, torch.float32, "index", "all"), (48, torch.bfloat16, "dense", "plain"), (100, torch.float32, "index", "plain"),
    (129, torch.float64, "topk", "plain"), (2056, torch.bfloat16, "index", "scaled"),
]  # fmt: skip


@pytest.mark.parametrize(("V", "dtype", "kind", "name"), CASES, ids=str)
def test_rows_of_a_matrix(V: int, dtype: torch.dtype, kind: str, name: str, device: torch.device) -> None:
    rows = Rows(4, V, dtype, kind, name)
    whole = rows.results(torch.arange(4))
    for batch in (torch.tensor([1]), torch.tensor([3, 0])):
        assert different(rows.results(batch), whole, batch) == []


@pytest.mark.parametrize("V", [5, 70])
def test_rows_whose_classes_lie_apart(V: int, device: torch.device) -> None:
    rows = Rows(64, V, torch.float32, "index", "plain")
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    whole, batch = rows.results(torch.arange(64), (2, 32)), order[:32]
    assert different(rows.results(batch, (1, 32)), whole, batch) == []


@pytest.mark.parametrize("kind", ["index", "dense"])
def test_rows_that_several_programs_share(kind: str, monkeypatch: Any, request: Any) -> None:
    """The parts of a row are those of a single one, though many rows fill a GPU without parts."""
    monkeypatch.setattr(task, "_PROGRAMS", 2)
    monkeypatch.setattr(functions, "SHORTEST_PART", 2048)
    arguments.forget()  # whose rows have other parts
    request.addfinalizer(arguments.forget)
    rows = Rows(5, 9000, torch.float32, kind, "plain")

    def results(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        prob = None if rows.prob is None else rows.prob[batch]
        found = evaluate(rows.z[batch].clone(), Target(None if kind == "dense" else rows.index[batch], prob))
        return {name: torch.from_numpy(x).movedim(-1, 0).contiguous() for name, x in found.items()}

    whole = results(torch.arange(5))
    for batch in (torch.tensor([3]), torch.tensor([4, 1])):
        assert different(results(batch), whole, batch) == []
