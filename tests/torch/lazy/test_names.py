"""Names of torch's functions, and lazy arguments of them wherever they stand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from crossent.torch.lazy.logits import LazyLogits
from crossent.torch.lazy.names import GRAPH, METADATA, RAW_MEMORY, name_of, with_numbers
from tests.torch.lazily import pair


def test_they_are_names_of_torch_s_tensors():
    for name in METADATA | GRAPH | RAW_MEMORY - {"__array_interface__"}:
        assert hasattr(Tensor, name), name
    assert not METADATA & GRAPH


def test_an_attribute_has_the_name_of_the_attribute():
    assert name_of(Tensor.grad.__get__) == name_of(Tensor.grad.__set__) == "grad"
    assert name_of(Tensor.tolist) == "tolist"
    assert name_of(torch.autograd.grad) == "grad"


def test_numbers_replace_lazy_logits_in_containers():
    (head, x), (twin, u) = pair()
    z, want = head(x), twin(u)
    found = with_numbers({"list": [z, 1], "tuple": (z, (z, "text")), "dict": {"z": z}, "other": want}, LazyLogits)
    assert found["other"] is want
    for got in (found["list"][0], found["tuple"][0], found["tuple"][1][0], found["dict"]["z"]):
        assert type(got) is Tensor
        assert torch.equal(got, want)
    assert (found["list"][1], found["tuple"][1][1]) == (1, "text")


@pytest.mark.parametrize("name", sorted(RAW_MEMORY & {"data", "numpy", "__array__"}))
def test_what_hands_out_memory(name):
    t = torch.zeros(2)
    memory = getattr(t, name)
    memory = memory() if callable(memory) else memory
    version = t._version
    memory[0] = 1.0  # and the version does not tell
    assert (t[0].item(), t._version) == (1.0, version)
    assert np.isfinite(float(memory[0]))
