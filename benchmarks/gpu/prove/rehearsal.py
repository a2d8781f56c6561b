"""A rehearsal without a GPU: kernels in Triton's interpreter, on CPU tensors, that go the way of a GPU's.

It needs TRITON_INTERPRET=1 in the environment, before Triton is imported. The interpreter is the one of the tests,
which rounds to bfloat16 as a GPU does.
"""

from __future__ import annotations

import os

import numpy as np

from benchmarks.gpu.prove.truth import of_this_checkout


def on_the_host() -> None:
    """Let the Triton backend and the plans of GPUs serve tensors of the host, in this process for good."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("a rehearsal needs TRITON_INTERPRET=1 in the environment of the process")
    of_this_checkout()
    _ = np.seterr(all="ignore")  # a GPU does not warn of NaN and overflow
    from crossent.torch.base import backends
    from crossent.torch.sources import linear
    from tests.kernels.triton import interpreter

    interpreter.install()
    backends.BACKENDS["cpu"] = "triton"
    linear.CPU = linear.GPU  # of what is fast where a tensor is
