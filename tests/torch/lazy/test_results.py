"""Results that are computed from the layer of lazy logits: gradients reach the operands, and hooks on the logits."""

from __future__ import annotations

import torch

from crossent.torch.lazy.results import results_of
from tests.torch.lazily import pair


def weighted(numbers):
    """Two results that a layer gives without its output: sums of logits and of their rows' first classes."""
    return numbers.sum(-1), numbers[..., 0]


def of_operands(operands):
    x, weight, bias, _ = operands
    return x @ weight.sum(0) + bias.sum(), x @ weight[0] + bias[0]


def test_values_gradients_and_hooks_are_those_of_the_numbers():
    (head, x), (twin, u) = pair()
    z, numbers, seen = head(x), twin(u), []
    for logits in (z, numbers):
        _ = logits.register_hook(lambda g: seen.append(g + 0))
    got, want = results_of(z, weighted, of_operands), weighted(numbers)
    torch.testing.assert_close(got, want)
    assert not z.was_read()
    for results, layer, inputs in ((got, head, x), (want, twin, u)):
        (results[0].sin().sum() + results[1].cos().sum()).backward()
        seen.append((inputs.grad, layer.weight.grad, layer.bias.grad))
    torch.testing.assert_close(seen[0], seen[2])
    torch.testing.assert_close(seen[1], seen[3])


def test_results_without_gradients_are_passed_on():
    (head, x), (twin, u) = pair()
    with torch.no_grad():
        got = results_of(head(x), weighted, of_operands)
        torch.testing.assert_close(got, weighted(twin(u)))
    assert not any(r.requires_grad for r in got)
