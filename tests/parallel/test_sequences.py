"""Means over the sequences of several ranks, of other sequences and of parts of the same; and what is sent."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.distributed as dist

import crossent.torch as F
from tests.parallel.counting import sent

pytestmark = pytest.mark.slow

LENGTHS = [5, 1, 4, 2, 3, 6]
CUT = [0, 5, 6, 10, 12, 15, 21]
N, V, D = 21, 13, 4
MEANS = ["token", "sequence", "sequence-sum"]
PARTS = {2: [0, 2, 6], 3: [0, 1, 4, 6], 4: [0, 1, 1, 4, 6]}
"""Which sequences each rank has; one of four has none."""


def batch():
    torch.manual_seed(0)
    ids, x, head = torch.randint(V, (N,)), torch.randn(N, D, dtype=torch.float64), torch.randn(V, D).double()
    return F.next_token_labels(ids, cu_seqlens=torch.tensor(CUT)), x, head


def definition(mean):
    """The mean of torch's losses in one process, one sequence after the other, and its gradient by the features."""
    labels, x, head = batch()
    x.requires_grad_()
    losses = torch.nn.functional.cross_entropy(x @ head.t(), labels, reduction="none")
    parts = [part[label != -100] for part, label in zip(losses.split(LENGTHS), labels.split(LENGTHS), strict=True)]
    parts = [part for part in parts if len(part)]
    if mean == "token":
        loss = torch.cat(parts).mean()
    else:
        loss = torch.stack([part.mean() if mean == "sequence" else part.sum() for part in parts]).mean()
    return loss.detach(), torch.autograd.grad(loss, x)[0]


def of_other_sequences(group, mean, normalizer):
    """A rank's part of the loss, and of the gradient, if it has some of the sequences."""
    labels, x, head = batch()
    first, last = PARTS[group.size()][group.rank() : group.rank() + 2]
    begin, end = CUT[first], CUT[last]
    labels, x = labels[begin:end], x[begin:end].requires_grad_()
    cut = torch.tensor(CUT[first : last + 1]) - begin
    own = None
    if normalizer:
        own = (labels != -100).sum() if mean == "token" else torch.tensor(sum(n > 1 for n in LENGTHS[first:last]))
    weights, messages = sent(
        lambda: F.token_weights(mask=labels != -100, cu_seqlens=cut, mean=mean, normalizer=own, group=group)
    )
    loss = F.linear_cross_entropy(x, head, labels, reduction="sum", sample_weight=weights)
    loss.backward()
    total = loss.detach().clone()
    dist.all_reduce(total, group=group)
    return total, x.grad, messages


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("normalizer", [False, True])
def test_ranks_with_other_sequences_add_one_number(ranks, n, mean, normalizer):
    wanted, gradient = definition(mean)
    found = ranks.run(n, of_other_sequences, mean, normalizer)
    for loss, _, messages in found:
        torch.testing.assert_close(loss, wanted, rtol=2**-23, atol=0)  # of weights in float32
        assert messages == {("all_reduce", 1): 1}
    torch.testing.assert_close(torch.cat([g for _, g, _ in found]), gradient, rtol=2**-23, atol=2**-26)


def of_parts_of_sequences(group, mean, ring):
    """The same if it has a part of the tokens: one after the other, or two parts from both ends as a ring has them."""
    labels, x, head = batch()
    n, rank = group.size(), group.rank()
    if ring:
        parts = torch.arange(N).tensor_split(2 * n)
        own = torch.cat((parts[rank], parts[2 * n - 1 - rank]))
    else:
        own = torch.arange(N).tensor_split(n)[rank]
    weights, messages = sent(lambda: F.token_weights(mask=labels != -100, cu_seqlens=torch.tensor(CUT), mean=mean)[own])
    x = x[own].requires_grad_()
    loss = F.linear_cross_entropy(x, head, labels[own], reduction="sum", sample_weight=weights)
    loss.backward()
    total = loss.detach().clone()
    dist.all_reduce(total, group=group)
    return total, own, x.grad, messages


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("ring", [False, True])
def test_ranks_with_parts_of_the_same_sequences_send_nothing(ranks, n, mean, ring):
    wanted, gradient = definition(mean)
    found = ranks.run(n, of_parts_of_sequences, mean, ring)
    for loss, own, part, messages in found:
        torch.testing.assert_close(loss, wanted, rtol=2**-23, atol=0)
        torch.testing.assert_close(part, gradient[own], rtol=2**-23, atol=2**-26)
        assert messages == Counter()


def of_own_tokens(group):
    """Under "token" the parts of the mask are enough."""
    labels, _, _ = batch()
    own = torch.arange(N).tensor_split(group.size())[group.rank()]
    return F.token_weights(mask=(labels != -100)[own], group=group)


def test_the_mean_over_tokens_needs_only_the_parts_of_the_mask(ranks):
    labels, _, _ = batch()
    whole = F.token_weights(mask=labels != -100)
    assert torch.equal(torch.cat(ranks.run(3, of_own_tokens)), whole)


def alone(group):
    _, messages = sent(lambda: F.token_weights(mask=torch.ones(3), group=group))
    return messages


def test_a_group_of_one_rank_sends_nothing(ranks):
    assert ranks.run(1, alone) == [Counter()]


def outside(group):
    others = dist.new_group([0])
    if dist.get_rank() == 0:
        return None
    try:
        F.token_weights(mask=torch.ones(3), group=others)
    except (ValueError, TypeError) as error:
        return str(error)
    return "no error"


def test_a_rank_outside_of_the_group_is_told(ranks):
    _, *others = ranks.run(4, outside)
    for text in others:
        assert "group" in text
