"""Extra memory of a case: what is beyond inputs and gradients."""

from __future__ import annotations

import pytest

from benchmarks.common import memory
from tests.benchmarks.fresh import in_fresh_process

pytestmark = pytest.mark.slow

IMPORTS = (
    "from benchmarks import peaks; from benchmarks.linear.cases import LinearCase; "
    "from benchmarks.logits.cases import LogitsCase"
)


def test_extra_memory_of_logits_is_what_is_beyond_the_gradient():
    if memory.why_not() is not None:
        pytest.skip(memory.why_not())
    call = 'peaks.measure_here(LogitsCase("large", "none", (64, 2**17)), ["crossent", "eager"])'
    extra = in_fresh_process(IMPORTS, call)["extra_bytes"]
    assert extra["crossent"] <= 4 * memory.RESOLUTION
    assert extra["eager"] >= 2**25  # log_softmax, to say the least


def test_extra_memory_of_a_linear_layer_is_what_is_beyond_the_gradients():
    if memory.why_not() is not None:
        pytest.skip(memory.why_not())
    case = f'LinearCase("large", "none", 512, 8, 2**17, chunk_bytes=({2**22},))'  # twice the default chunk
    extra = in_fresh_process(IMPORTS, f'peaks.measure_here({case}, ["crossent", "crossent 4 MiB", "eager"])')[
        "extra_bytes"
    ]
    logits = 4 * 512 * 2**17
    assert extra["eager"] >= 2 * logits  # the logarithms and their gradient, to say the least
    assert extra["crossent 4 MiB"] < extra["crossent"] < logits


def test_what_a_forward_leaves_to_the_backward_is_counted_whole():
    """Whatever holds it, tensors that autograd saves or others. Torch keeps logarithms, and lets go of the logits."""
    if memory.why_not() is not None:
        pytest.skip(memory.why_not())
    N, V = 2**17, 6
    case = f'LogitsCase("few", "none", ({N}, {V}))'
    imports = IMPORTS + "; from tests.benchmarks import remembers; remembers.take_part()"
    found = in_fresh_process(imports, f'peaks.measure_here({case}, ["crossent", "eager"])')
    page = 2**14  # a few pages
    assert found["kept_bytes"]["eager"] == pytest.approx(4 * N * V, abs=page)
    assert found["held_bytes"]["eager"] == pytest.approx(4 * N * V, abs=page)
    assert found["kept_bytes"]["crossent"] == pytest.approx(8 * N * V, abs=page)  # the float64 that the Function holds
    assert found["held_bytes"]["crossent"] == pytest.approx(12 * N * V, abs=page)  # and the logits
