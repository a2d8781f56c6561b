"""Engines that free a head's weight: which they are, and what the head does then."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from crossent.torch.lazy import engines
from crossent.torch.lazy.logits import LazyLogits
from tests.torch.lazily import V, others, pair


@pytest.fixture(autouse=True)
def not_warned_yet():
    engines.warn_of.cache_clear()


def as_zero(head):
    """Mark parameters as ZeRO-3 does."""
    for number, p in enumerate(head.parameters()):
        p.ds_id = number


def test_a_weight_that_nobody_frees():
    (head, _), _ = pair()
    assert engines.freeing_engine(head, head.weight) is None
    assert engines.freed_by(head.parameters()) is None
    assert engines.freed_by([torch.empty(0, 3), None]) is None


def test_a_head_whose_weight_zero_frees_multiplies_at_once_and_says_so_once():
    (head, x), (twin, u) = pair()
    as_zero(head)
    with pytest.warns(UserWarning, match=r"ZeRO-3 frees the weight .* unfuse_lm_head") as seen:
        z = head(x)
    assert len(seen) == 1
    assert type(z) is Tensor
    assert torch.equal(z, twin(u))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(head(x)) is Tensor


def test_a_weight_that_is_gone_before_the_loss_is_not_blamed_on_an_optimizer():
    (head, x), _ = pair()
    z = head(x)
    assert isinstance(z, LazyLogits)
    head.weight.data.untyped_storage().resize_(0)
    assert engines.freed_by(head.parameters()) is not None
    for use in (lambda: nnf.cross_entropy(z[0], others().y[0]), lambda: z + 0, lambda: z.view(-1, V).argmax()):
        with pytest.raises(RuntimeError, match=r"engine .* has freed the weight .* unfuse_lm_head") as caught:
            _ = use()
        assert "optimizer" not in str(caught.value)


def test_a_partition_of_zero_has_no_elements():
    (head, _), _ = pair()
    as_zero(head)
    head.weight.data = torch.empty(0, dtype=torch.float64)
    assert engines.freed_by(head.parameters()) == "DeepSpeed ZeRO-3"
