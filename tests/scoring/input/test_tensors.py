"""torch tensors of every sort in a score: their numbers, or an error that names the argument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.masked import masked_tensor

import crossent
from crossent.errors import InputTypeError
from crossent.scoring.input.tensors import from_tensor, is_tensor

Y = np.array([0, 1, 1, 2])
P = np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]])
WEIGHT = np.array([1.0, 0.5, 2.0, 1.0])


def test_what_is_a_tensor():
    assert is_tensor(torch.zeros(2))
    assert not is_tensor(P)
    assert not is_tensor([1.0])


def score(**changed):
    given = {"y": Y, "probs": P, "weight": WEIGHT, "cluster": Y, "by": Y, "id": np.arange(4)} | changed
    return crossent.score(given.pop("y"), **given).loss


def negated(x):
    return torch.complex(torch.zeros(x.shape, dtype=torch.float64), -x.double()).conj().imag


SORTS = {
    "float64": lambda x: x.double(),
    "float32": lambda x: x.float(),
    "bfloat16": lambda x: x.bfloat16(),
    "float16": lambda x: x.half(),
    "float8": lambda x: x.to(torch.float8_e5m2),
    "wants a gradient": lambda x: x.double().requires_grad_(),
    "lazily negated": negated,
    "transposed": lambda x: x.mT.contiguous().mT if x.ndim == 2 else x,
    "a parameter": lambda x: torch.nn.Parameter(x.double()),
}


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("name", ["y", "probs", "weight", "cluster", "by", "id"])
def test_tensors_are_scored_as_their_numbers(name, sort):
    numbers = {"probs": P, "weight": WEIGHT, "id": np.arange(4)}.get(name, Y)
    made = SORTS[sort](torch.from_numpy(numbers))
    assert score(**{name: made}) == score()


WRONG = {
    "a sparse_coo tensor": lambda x: x.to_sparse(),
    "a sparse_csr tensor": lambda x: x.to_sparse_csr(),
    "a mkldnn tensor": lambda x: x.float().to_mkldnn(),
    "a nested tensor": lambda x: torch.nested.nested_tensor(list(x)),
    "a MaskedTensor": lambda x: masked_tensor(x.float(), torch.ones_like(x, dtype=torch.bool)),
    "on the meta device": lambda x: x.to("meta"),
    "real numbers, got qint8": lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
    "real numbers, got complex": lambda x: x + 0j,
    "real numbers, got bits8": lambda x: x.to(torch.uint8).view(torch.bits8),
    "its storage was freed": lambda x: freed(x.clone()),
}


def freed(x):
    x.untyped_storage().resize_(0)
    return x


PREDICTIONS = ("probs", "logits", "logprobs")
VECTORS = ("y", "weight", "cluster", "by", "id")


@pytest.mark.parametrize(
    ("name", "words"),
    [(name, words) for name in PREDICTIONS for words in WRONG]
    + [(name, words) for name in VECTORS for words in WRONG if "csr" not in words],  # which vectors are not
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_without_numbers_are_refused_by_name(name, words):
    predictions = name in PREDICTIONS
    numbers = torch.from_numpy({"weight": WEIGHT, "id": np.arange(4)}.get(name, P if predictions else Y))
    changed = {name: WRONG[words](numbers)} | ({"probs": None} if predictions and name != "probs" else {})
    with pytest.raises(InputTypeError, match=f"^{name} .*{words}") as caught:
        _ = score(**changed)
    assert caught.value.argument == name


def test_a_tensor_is_detached_and_on_the_cpu():
    found = from_tensor(torch.ones(2, requires_grad=True), "probs", "probs")
    assert not found.requires_grad
    assert found.is_cpu


def test_classes_may_be_a_tensor_and_are_values():
    assert crossent.score(Y, probs=P, classes=torch.arange(3)).loss == crossent.score(Y, probs=P).loss
    with pytest.raises(InputTypeError, match=r"classes must be values such as texts and numbers, got \[2\]"):
        _ = crossent.score(Y, probs=P, classes=[0, 1, [2]])
