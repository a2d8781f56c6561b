"""The arguments that cases of a linear layer make, and the sweeps."""

from __future__ import annotations

import pytest
import torch

from benchmarks.linear.cases import BASE, SWEEPS, LinearCase, scaling
from tests.benchmarks.tiny import LINEAR, D, N, V, linear_case


@pytest.mark.parametrize("name", LINEAR)
def test_a_case_makes_the_same_arguments_at_every_call_and_of_its_shape(name: str):
    case = linear_case(name)
    data, again = case.make(), case.make()
    assert [tuple(x.shape) for x in data.leaves] == [(N, D), (V, D)]
    assert all(torch.equal(a, b) for a, b in zip(data.leaves, again.leaves, strict=True))
    assert case.logits_bytes == N * V * data.leaves[0].element_size()
    assert case.weight_bytes == data.leaves[1].nbytes


def test_logits_have_about_the_variance_one():
    features, weight = (x.detach() for x in LinearCase("wide", "none", 200, 100, 200).make().leaves)
    # the squares of 20 000 normal numbers in each operand have a mean with a standard error of a hundredth
    assert float((features @ weight.t()).var()) == pytest.approx(1.0, abs=4 * 0.01 * 2**0.5)


def test_each_point_of_a_sweep_differs_from_the_base_in_one_size():
    shapes = [(case.N, case.D, case.V) for case in scaling()]
    assert len(set(shapes)) == len(shapes)
    for shape in shapes:
        assert sum(a != b for a, b in zip(shape, BASE.values(), strict=True)) <= 1
    assert {shape[1] for shape in shapes} == set(SWEEPS["D"])
