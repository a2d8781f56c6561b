"""Which plan a divergence of two layers takes, and what is said of teachers that do not fit."""

from __future__ import annotations

import pytest
import torch

import crossent.torch as F
from crossent.torch.teachers import linear as teachers

N, V, D, D2 = 5, 8, 4, 3


def layers(dtype=torch.float32):
    sizes = ((N, D), (V, D), (N, D2), (V, D2))
    return [torch.randn(*size, dtype=dtype, requires_grad=k < 2) for k, size in enumerate(sizes)]


@pytest.fixture
def taken(monkeypatch):
    """The names of the operators that are called."""
    names: list[str] = []

    def watch(name):
        function = getattr(teachers, name)
        monkeypatch.setattr(teachers, name, lambda *args: names.append(name) or function(*args))

    for name in ("linear_pair_loss", "closed_pair_loss", "linear_pair_stats"):
        watch(name)
    return names


def test_one_sweep_where_it_can_be(taken):
    _ = F.linear_divergence(*layers())
    assert taken == ["linear_pair_loss"]


def test_a_closing_goes_in_the_sweep(taken):
    _ = F.linear_divergence(*layers(), closing=lambda rows: rows.kl)
    assert taken == ["closed_pair_loss"]


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {"reduction": "none"}),
        (torch.bfloat16, {}),
        (torch.float32, {"sample_weight": torch.ones(N, requires_grad=True)}),
        (torch.float32, {"chunk_bytes": 1}),
    ],
    ids=str,
)
def test_two_sweeps_elsewhere(taken, dtype, options):
    _ = F.linear_divergence(*layers(dtype), **options)
    assert taken == ["linear_pair_stats"]


def test_two_sweeps_where_nothing_wants_a_gradient(taken):
    _ = F.linear_divergence(*(x.detach() for x in layers()))
    assert taken == ["linear_pair_stats"]


def test_classes_that_a_capped_teacher_lacks():
    with pytest.raises(NotImplementedError, match=r"teacher_weight\[teacher_classes\]"):
        F.linear_divergence(*layers(), teacher_classes=torch.arange(V), teacher_softcap=2.0)


def test_a_teacher_without_any_of_the_classes():
    """p is empty, and a divergence from nothing is NaN."""
    x, weight, y, other = layers()
    classes = torch.full((V,), -1)
    got = F.linear_divergence(x, weight, y, other, teacher_classes=classes, reduction="none")
    want = F.divergence(x @ weight.T, y @ other.T, teacher_classes=classes, reduction="none")
    assert torch.equal(got.isnan(), want.isnan())


def test_sparse_teachers_need_one_position():
    weight = torch.randn(V, 2, D)
    top = F.TopK(torch.zeros(N, 3, 2, dtype=torch.long), torch.full((N, 3, 2), 0.1))
    with pytest.raises(NotImplementedError, match="one position"):
        F.linear_divergence(torch.randn(N, D), weight, top)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({1: lambda w: w.T}, ValueError, "use linear_weight.t()"),
        ({3: lambda w: w.T}, ValueError, "use teacher_weight.t()"),
        ({3: lambda w: torch.nn.Linear(D2, V)}, TypeError, "pass its .weight"),
        ({2: lambda x: x[None]}, ValueError, "reshape one of the inputs"),
        ({3: lambda w: w[1:]}, ValueError, f"linear_weight of {V} classes do not fit teacher_weight of {V - 1}"),
    ],
)
def test_what_to_do_about_layers_that_do_not_fit(change, error, text):
    operands = [change.get(k, lambda x: x)(x.detach()) for k, x in enumerate(layers())]
    with pytest.raises(error) as caught:
        F.linear_divergence(*operands)
    assert text in str(caught.value)
