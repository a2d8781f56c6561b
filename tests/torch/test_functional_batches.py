"""A row's loss, statistics and gradient have the same bits alone and in any batch, at any place, on any threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import crossent.torch as F
from crossent.kernels import cpu
from tests.torch.alone import KINDS, OPTIONS, Rows, different

pytestmark = pytest.mark.slow

CLASSES = [2, 3, 10, 48, 100, 128, 129, 1000, 50257]
DTYPES = [torch.float32, torch.bfloat16, torch.float64]


@pytest.fixture(params=cpu.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    cpu.use_isa(request.param)
    yield request.param
    cpu.use_isa("")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def number_of_rows(V: int) -> int:
    """Several tiles of 64 rows, and more logits than the way of few takes, where that is not too many."""
    return 150 if V < 1000 else 70 if V == 1000 else 6


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("V", CLASSES)
def test_rows_of_a_matrix(V: int, dtype: torch.dtype, kind: str, name: str, isa: str) -> None:
    N = number_of_rows(V)
    rows = Rows(N, V, dtype, kind, name)
    everything = torch.arange(N)
    whole = rows.results(everything)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    batches = [everything[k : k + 1] for k in (0, 1, 3, N - 1)]
    batches += [order[N // 3 : N // 2 + 1], order]
    for offset, batch in enumerate(batches):
        assert different(rows.results(batch, offset=offset % 2), whole, batch) == []


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("V", [2, 3, 10, 48, 129, 1000])
def test_rows_whose_classes_lie_apart(V: int, dtype: torch.dtype, kind: str, name: str, isa: str) -> None:
    N = 144 if V < 1000 else 24
    rows = Rows(N, V, dtype, kind, name)
    everything = torch.arange(N)
    whole = rows.results(everything, (1, N))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    for shape in ((N // 2, 2), (2, N // 2), (N // 12, 3, 4)):
        assert different(rows.results(order, shape), whole, order) == []
    for batch in (order[:2], order[5:12]):
        assert different(rows.results(batch, (1, len(batch))), whole, batch) == []


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("V", [3, 100, 129, 1000])
def test_any_number_of_threads(V: int, kind: str, name: str, threads: None) -> None:
    N = max(400, 200_000 // V)
    rows = Rows(N, V, torch.float32, kind, name)
    everything, results = torch.arange(N), []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        results.append(rows.results(everything))
    for found in results[1:]:
        assert different(found, results[0], everything) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("V", CLASSES)
def test_the_sum_of_one_loss_is_that_loss(V: int, dtype: torch.dtype, isa: str) -> None:
    """Few logits go a way of their own: with a gradient, without one, and beside others that are ignored."""
    rows = Rows(10, V, dtype, "index", "plain")
    losses = F.cross_entropy(rows.z, rows.index, reduction="none")
    for k in range(10):
        z, y = rows.z[k : k + 1], rows.index[k : k + 1]
        many = 1 + 70_000 // V
        padded, ignored = torch.cat((z, z.expand(many, V))), torch.cat((y, torch.full((many,), -100)))
        for logits, labels in ((z, y), (padded, ignored)):
            for wanted in (False, True):
                total = F.cross_entropy(logits.clone().requires_grad_(wanted), labels, reduction="sum")
                assert torch.equal(total.detach(), losses[k])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("V", [100, 1000])
def test_rows_of_a_linear_layer_are_equal_up_to_rounding(V: int, dtype: torch.dtype) -> None:
    """Products of other shapes add up in another order: the bound is that of a sum of D products of float32."""
    N, D = 40, 64
    x, weight, y = torch.randn(N, D).to(dtype), torch.randn(V, D).to(dtype), torch.randint(V, (N,))
    g = torch.randn(N)

    def results(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        part = x[batch].clone().requires_grad_()
        loss = F.linear_cross_entropy(part, weight, y[batch], reduction="none", chunk_bytes=8 * V * 4)
        return loss.detach(), torch.autograd.grad(loss, part, g[batch])[0].float()

    losses, gradients = results(torch.arange(N))
    size = x.abs().float() @ weight.abs().float().t()  # Σ |x w| of each logit
    off = D * 2.0**-24 * size.amax(1)  # of a logit, hence half of a loss
    half = 2.0**-8 if dtype == torch.bfloat16 else 0.0
    for batch in (torch.tensor([7]), torch.arange(5, 9), torch.randperm(N)):
        loss, gradient = results(batch)
        assert ((loss - losses[batch]).abs() <= 4 * off[batch]).all()
        # dx = Σ (q − p) w: probabilities are off by 2 · off; the product, and a rounding to half precision, add theirs
        scale = weight.float().abs().sum(0) * g[batch].abs()[:, None]
        bound = (4 * off[batch][:, None] + V * 2.0**-24 + 2 * half) * scale
        assert ((gradient - gradients[batch]).abs() <= bound).all()
