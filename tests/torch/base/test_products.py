"""Counters of floating-point operations get to know an operator when they count."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from crossent.torch.base.products import tell_counters


def test_a_counter_that_is_running_counts():
    from torch.utils.flop_counter import FlopCounterMode

    library = torch.library.Library("crossent_products", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: 2 * x, "CPU")
    operator = torch.ops.crossent_products.twice.default
    with FlopCounterMode(display=False) as counter:
        _ = operator(torch.ones(3))
        assert counter.get_total_flops() == 0
        for _ in range(2):
            tell_counters(operator, lambda x, out_val: 7 * x.numel())
        _ = operator(torch.ones(3))
    assert counter.get_total_flops() == 21
    with FlopCounterMode(display=False) as later:
        _ = operator(torch.ones(2))
    assert later.get_total_flops() == 14


@pytest.mark.slow
def test_nobody_who_does_not_count_waits_for_the_counter():
    code = "import sys, crossent.torch; assert 'torch.utils.flop_counter' not in sys.modules"
    _ = subprocess.run([sys.executable, "-c", code], check=True)
