"""Weights and labels inside torch.compile, where numbers cannot be looked at."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import crossent.torch as F

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet")]

CUT = torch.tensor([0, 4, 4, 9], dtype=torch.int32)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("mean", ["token", "sequence", "sequence-sum"])
def test_one_graph_of_a_loss_of_sequences(mean: Any, dynamic: bool) -> None:
    def loss(z: torch.Tensor, ids: torch.Tensor, cut: torch.Tensor) -> torch.Tensor:
        labels = F.next_token_labels(ids, cu_seqlens=cut)
        weights = F.token_weights(mask=labels != -100, cu_seqlens=cut, mean=mean, normalizer=2.5)
        return F.cross_entropy(z, labels, reduction="sum", sample_weight=weights)

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic)
    z, ids = torch.randn(9, 7, requires_grad=True), torch.randint(7, (9,))
    wanted = loss(z, ids, CUT)
    found = compiled(z, ids, CUT)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, z), torch.autograd.grad(wanted, z))


def test_rows_of_sequences() -> None:
    torch.compiler.reset()
    compiled = torch.compile(F.token_weights, fullgraph=True)
    mask, number = torch.rand(3, 5) < 0.6, torch.tensor(4)
    for mean in ("token", "sequence", "sequence-sum"):
        mean_: Any = mean
        wanted = F.token_weights(mask=mask, mean=mean_, normalizer=number)
        torch.testing.assert_close(compiled(mask=mask, mean=mean_, normalizer=number), wanted)


@pytest.mark.parametrize("cut", [[1, 9], [0, 5, 3, 9], [0, 8], [0, 12], [0, 40, 9]], ids=str)
def test_wrong_boundaries_make_weights_nan_where_they_cannot_be_looked_at(cut: list[int]) -> None:
    torch.compiler.reset()
    compiled = torch.compile(F.token_weights, fullgraph=True)
    for mean in ("token", "sequence", "sequence-sum"):
        mean_: Any = mean
        found = compiled(mask=torch.ones(9), cu_seqlens=torch.tensor(cut), mean=mean_)
        assert found.isnan().all()
